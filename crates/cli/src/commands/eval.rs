//! `briquette eval`: accuracy or perplexity.

use crate::args::EvalArgs;
use crate::backend::{On, Work};
use crate::error::{CliError, write_file};
use crate::model::Opened;
use crate::output::say;
use crate::progress::Progress;
use briquette_models::{Evaluation, Examples, ModelJob, Pretrained, evaluate};
use burn::prelude::*;
use serde_json::json;
use std::time::Instant;

pub(crate) struct Eval<'a>(pub(crate) &'a EvalArgs);

impl Work for Eval<'_> {
    fn run<B: Backend>(self, on: &On<B>) -> Result<(), CliError> {
        let args = self.0;
        let opened = Opened::new(&args.model)?;
        let examples = opened.examples(&args.data, on)?;
        let job = Measure { opened: &opened, examples: &examples, batch: args.batch, on };
        let (result, seconds) = opened.config.run(job)?;
        say!("{} {:.4} on {} ({seconds:.1} s)", result.metric, result.value, result.n);
        if let Some(path) = &args.json {
            let value = json!({
                "metric": result.metric,
                "value": result.value,
                "n": result.n,
                "seconds": seconds,
                "model_bytes": opened.tensor_bytes()?,
                "backend": on.backend,
                "device": on.name,
            });
            write_file(path, &format!("{value:#}\n"))?;
        }
        Ok(())
    }
}

/// Loads a model and measures it; gives the seconds of the measurement too.
pub(crate) struct Measure<'a, B: Backend> {
    pub(crate) opened: &'a Opened,
    pub(crate) examples: &'a Examples,
    pub(crate) batch: usize,
    pub(crate) on: &'a On<B>,
}

impl<B: Backend> ModelJob<B> for Measure<'_, B> {
    type Output = Result<(Evaluation, f64), CliError>;

    fn run<M: Pretrained<B>>(self, config: &M::Config) -> Self::Output {
        let model: M = self.opened.load(config, self.on)?;
        let begin = Instant::now();
        let mut progress = Progress::new("evaluating");
        let task = self.opened.config.task();
        let shown = &mut |done, total| progress.at(done, total);
        let result = evaluate(&model, &task, self.examples, self.batch, &self.on.device, shown)?;
        Ok((result, begin.elapsed().as_secs_f64()))
    }
}
