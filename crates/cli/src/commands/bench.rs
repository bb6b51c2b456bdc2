//! `briquette bench`: time of the forward pass.

use crate::args::BenchArgs;
use crate::backend::{On, Work};
use crate::error::{CliError, write_file};
use crate::model::Opened;
use crate::output::say;
use crate::progress::Progress;
use briquette_composer::report::{product_kernels, sparse_layers};
use briquette_models::{Inputs, ModelJob, Pretrained, Task};
use burn::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Tokens of an example where nothing is said.
const DEFAULT_SEQ: usize = 128;
/// Most runs that are timed.
const MAX_RUNS: usize = 50;
/// Fewest runs that are timed.
const MIN_RUNS: usize = 5;
/// Time after which no further run is begun.
const ENOUGH: Duration = Duration::from_secs(5);

pub(crate) struct Bench<'a>(pub(crate) &'a BenchArgs);

impl Work for Bench<'_> {
    fn run<B: Backend>(self, on: &On<B>) -> Result<(), CliError> {
        let args = self.0;
        let opened = Opened::new(&args.model)?;
        let task = opened.config.task();
        let vision = matches!(task, Task::Vision { .. });
        if vision && args.seq.is_some() {
            return Err(CliError::Usage("--seq: images have no tokens".into()));
        }
        let seq = if vision { 0 } else { args.seq.unwrap_or(DEFAULT_SEQ) };
        let job = Time { opened: &opened, batch: args.batch, seq, budget: ENOUGH, on };
        let Timed { times, sparse, kernels } = opened.config.run(job)?;
        let median_ms = median(&times);
        let (batch, runs) = (args.batch, times.len());
        if let Some(pruned) = opened.artefact.as_ref().map(|a| a.manifest().sparse.len()).filter(|n| *n > 0) {
            say!("{sparse} of {pruned} pruned layers leave their zeros out, the others run dense");
        }
        for (kernel, layers) in &kernels {
            say!("{layers} packed layers: {kernel}");
        }
        say!("{median_ms:.3} ms median of {runs} runs, {batch} x {seq}, {} on {}", on.backend, on.name);
        if let Some(path) = &args.json {
            let value = json!({
                "batch": batch, "seq": seq, "median_ms": median_ms, "min_ms": times.first(), "runs": runs,
                "backend": on.backend, "device": on.name, "sparse_layers": sparse,
                "kernels": kernels, "model_bytes": opened.tensor_bytes()?,
            });
            write_file(path, &format!("{value:#}\n"))?;
        }
        Ok(())
    }
}

/// What timing a model gives.
pub(crate) struct Timed {
    /// Milliseconds, sorted.
    pub(crate) times: Vec<f64>,
    /// How many layers leave zeros out.
    sparse: usize,
    /// What packed layers compute with where inputs have a row for each token of the batch, and how many layers each.
    kernels: BTreeMap<String, usize>,
}

/// Loads a model and times its forward pass.
pub(crate) struct Time<'a, B: Backend> {
    pub(crate) opened: &'a Opened,
    pub(crate) batch: usize,
    /// 0 for images.
    pub(crate) seq: usize,
    pub(crate) budget: Duration,
    pub(crate) on: &'a On<B>,
}

impl<B: Backend> ModelJob<B> for Time<'_, B> {
    type Output = Result<Timed, CliError>;

    fn run<M: Pretrained<B>>(self, config: &M::Config) -> Self::Output {
        let model: M = self.opened.load(config, self.on)?;
        let inputs = Inputs::dummy(&self.opened.config.task(), self.batch, self.seq, &self.on.device)?;
        let rows = self.batch * self.seq.max(1);
        Ok(Timed {
            times: time(&model, &inputs, self.budget),
            sparse: sparse_layers(&model).len(),
            kernels: product_kernels(&model, rows, &self.on.device),
        })
    }
}

/// Milliseconds of forward passes, sorted, after a warm-up. Reading the scores waits for the device.
pub(crate) fn time<B: Backend, M: Pretrained<B>>(
    model: &M,
    inputs: &Inputs<B>,
    budget: Duration,
) -> Vec<f64> {
    let once = || {
        let begin = Instant::now();
        let _ = model.logits(inputs.clone()).into_data();
        begin.elapsed().as_secs_f64() * 1e3
    };
    once();
    once();
    let begin = Instant::now();
    let mut progress = Progress::new("timing");
    let mut times = Vec::new();
    while times.len() < MAX_RUNS && (times.len() < MIN_RUNS || begin.elapsed() < budget) {
        times.push(once());
        progress.at(times.len(), MAX_RUNS);
    }
    times.sort_by(f64::total_cmp);
    times
}

/// The middle of sorted times.
pub(crate) fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
