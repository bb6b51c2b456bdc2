//! Steps of training with simulated quantization beside plain ones, in 32-bit floats.

use crate::clock::median;
use crate::job::Job;
use crate::sizes::TrainedSize;
use crate::{BenchError, Row};
use briquette_composer::{Composer, Recipe, Session};
use briquette_models::{Inputs, ModelConfig, Pretrained, TrainingJob};
use briquette_train::{Grouped, Rule};
use burn::module::AutodiffModule;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use serde_json::{Value, json};
use std::time::Instant;

/// Rounds in which all forms take turns; the median of their times counts.
const ROUNDS: usize = 5;
const RULE: Rule = Rule::AdamW { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
/// Steps of each form before any is timed.
const WARM: usize = 3;
/// So small that weights hardly move: what is timed stays the same.
const LEARNING_RATE: f64 = 1e-6;
/// The common norm that gradients are limited to.
const CLIPPED: f64 = 1.0;

/// What is trained, by its name in tables and bits of the encoder's weights; 8 bits of its inputs. The plain step has
/// 8-bit inputs in the classifier alone: a recipe without steps is none.
const FORMS: [(&str, Option<u32>); 3] = [("plain", None), ("W8A8", Some(8)), ("W1A8", Some(1))];

/// Times all forms in turn. `kind` follows their names.
pub(crate) fn run<B: AutodiffBackend>(
    job: &mut Job<'_>,
    kind: &str,
    device: &B::Device,
) -> Result<(), BenchError> {
    let TrainedSize { name, config, shape: [batch, seq], steps } = job.sizes.trained.clone();
    let config = ModelConfig::from_json(&config).map_err(|e| BenchError::Model(e.to_string()))?;
    let mut times = None;
    let rounds = if job.options.smoke { 1 } else { ROUNDS };
    let until = job.until();
    for (at, (what, _)) in FORMS.into_iter().enumerate() {
        let times = &mut times;
        job.measured(format!("training step {what}{kind}"), || {
            if times.is_none() {
                let work = Turns { config: &config, shape: [batch, seq], steps, rounds, until, device };
                *times = Some(config.run_training::<B, _>(work)?);
            }
            let found = times.as_ref().and_then(|all| all.get(at)).ok_or("no time")?;
            let (what, model, runs) = (format!("{what}{kind}"), name.to_string(), steps * found.len());
            Ok(Row::Step { what, model, batch, seq, median_ms: median(found), runs })
        })?;
    }
    Ok(())
}

/// The recipe of a form.
fn recipe(bits: Option<u32>) -> Value {
    let inputs = |on: &str| json!({"activation_quantization": {"on": [on], "bits": 8}});
    match bits {
        None => json!({"steps": [inputs("classifier")]}),
        Some(bits) => {
            let on = "bert.encoder.layer.**";
            json!({"steps": [{"weight_quantization": {"on": [on], "bits": bits}}, inputs(on)]})
        }
    }
}

/// Trains with all forms in turn.
struct Turns<'a, B: Backend> {
    config: &'a ModelConfig,
    shape: [usize; 2],
    /// Steps of a turn.
    steps: usize,
    rounds: usize,
    /// No step is begun after it, and no round that is not whole counts.
    until: Instant,
    device: &'a B::Device,
}

impl<B: AutodiffBackend> TrainingJob<B> for Turns<'_, B> {
    /// Milliseconds of a step, by form and round.
    type Output = Result<Vec<Vec<f64>>, String>;

    fn run<M>(self, config: &M::Config) -> Self::Output
    where
        M: Pretrained<B> + AutodiffModule<B>,
        M::InnerModule: Pretrained<B::InnerBackend, Config = M::Config>,
    {
        let model = M::init(config, self.device);
        let [batch, seq] = self.shape;
        let inputs =
            Inputs::<B>::dummy(&self.config.task(), batch, seq, self.device).map_err(|e| e.to_string())?;
        let targets: Vec<i32> = (0..batch).map(|i| (i % 2) as i32).collect();
        let targets = Tensor::<B, 1, Int>::from_data(TensorData::new(targets, [batch]), self.device);
        let loss = CrossEntropyLossConfig::new().init(self.device);
        let mut sessions = Vec::new();
        for (_, bits) in FORMS {
            let recipe = Recipe::from_value(&recipe(bits));
            let plan = Composer::builtin().plan(&recipe, &model.view()).map_err(|e| e.to_string())?;
            let optimizer = Grouped::<B>::new(RULE, 1.0).with_clipping(Some(CLIPPED));
            sessions.push((plan.attach_training(&model, 0), optimizer));
        }
        let step = |session: &mut Session<B, M>, optimizer: &mut Grouped<B>| {
            let logits = session.view().logits(inputs.clone());
            let mut gradients = loss.forward(logits, targets.clone()).backward();
            let gradients = session.gradients(&mut gradients);
            session.apply(gradients, optimizer, LEARNING_RATE);
        };
        let mut turn = |form: usize, steps: usize| {
            let (session, optimizer) = &mut sessions[form];
            let synced = || B::sync(self.device).map_err(|e| e.to_string());
            synced()?;
            let begin = Instant::now();
            for _ in 0..steps {
                if Instant::now() >= self.until {
                    return Err("the seconds were over before a round was".to_string());
                }
                step(session, optimizer);
            }
            synced()?;
            Ok(begin.elapsed().as_secs_f64() * 1e3 / steps as f64)
        };
        // They compile and tune.
        for _ in 0..WARM {
            (0..FORMS.len()).try_for_each(|form| turn(form, 1).map(drop))?;
        }
        let mut rounds = Vec::new();
        while rounds.len() < self.rounds {
            match (0..FORMS.len()).map(|form| turn(form, self.steps)).collect::<Result<Vec<f64>, _>>() {
                Ok(round) => rounds.push(round),
                Err(why) if rounds.is_empty() => return Err(why),
                Err(_) => break,
            }
        }
        Ok((0..FORMS.len()).map(|form| rounds.iter().map(|round| round[form]).collect()).collect())
    }
}
