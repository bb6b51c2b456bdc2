//! Forward passes of models with random weights.

use crate::clock::median;
use crate::forms::{Form, INPUT_SETTING};
use crate::job::{Floats, Job, Timed};
use crate::numbers::{HostWeight, Numbers};
use crate::{BenchError, Row};
use briquette_models::{Inputs, ModelConfig, ModelJob, Pretrained};
use briquette_nn::{LayerMut, visit_layers};
use burn::prelude::*;
use std::time::{Duration, Instant};

/// Fewest and most forward passes that are timed.
const RUNS: [usize; 2] = [5, 50];

/// Times every model at every shape.
pub(crate) fn run<B: Backend>(
    job: &mut Job<'_>,
    floats: Floats,
    device: &B::Device,
) -> Result<(), BenchError> {
    let models = std::mem::take(&mut job.sizes.models);
    let group = job.sizes.storage.group;
    for size in &models {
        let config = ModelConfig::from_json(&size.config).map_err(|e| BenchError::Model(e.to_string()))?;
        for form in in_turn(floats) {
            let (what, budget) = (named(form, floats), job.budget());
            for &[batch, seq] in size.shapes {
                let place = format!("{what} {} {batch} x {seq}", size.name);
                let shape = [batch, seq];
                job.measured(place, || {
                    let pass: Pass<'_, B> = Pass { config: &config, form, group, shape, budget, device };
                    let times = config.run(pass)?;
                    let (median_ms, runs) = (median(&times), times.len());
                    let min_ms = times.into_iter().fold(f64::INFINITY, f64::min);
                    let (what, model) = (what.clone(), size.name.to_string());
                    Ok(Row::Model { what, model, batch, seq, median_ms, min_ms, runs })
                })?;
            }
        }
    }
    job.sizes.models = models;
    Ok(())
}

/// Compressed layers are timed in the floats that they are meant for, and with 8 bits in any.
pub(crate) fn timed(form: Form, floats: Floats) -> bool {
    let both = Form::Packed { bits: 8, grouped: false, quantized: true };
    let weight_only = Form::Packed { bits: 8, grouped: false, quantized: false };
    form == Form::Float
        || (form == both && floats.timed != Timed::Floats)
        || (floats.timed == Timed::All && form != weight_only)
}

/// The forms that are timed, floats last: a backend that tries out its kernels for products of floats takes its time, and
/// what is not measured in time is left out.
pub(crate) fn in_turn(floats: Floats) -> Vec<Form> {
    let mut forms: Vec<Form> = Form::ALL.into_iter().filter(|f| timed(*f, floats)).collect();
    forms.sort_by_key(|form| *form == Form::Float);
    forms
}

/// A form as in the tables, with the type of floats where it is not the usual one.
pub(crate) fn named(form: Form, floats: Floats) -> String {
    match form {
        Form::Float => form.name(floats.name),
        Form::Packed { .. } if floats.timed == Timed::All => form.name(floats.name),
        Form::Packed { .. } => format!("{} {}", form.name(floats.name), floats.name),
    }
}

/// Builds a model and times its forward pass.
struct Pass<'a, B: Backend> {
    config: &'a ModelConfig,
    form: Form,
    group: usize,
    shape: [usize; 2],
    budget: Duration,
    device: &'a B::Device,
}

impl<B: Backend> ModelJob<B> for Pass<'_, B> {
    type Output = Result<Vec<f64>, String>;

    fn run<M: Pretrained<B>>(self, config: &M::Config) -> Self::Output {
        let mut model = M::init(config, self.device);
        compress(&mut model, self.form, self.group, self.device);
        let [batch, seq] = self.shape;
        let inputs =
            Inputs::dummy(&self.config.task(), batch, seq, self.device).map_err(|e| e.to_string())?;
        let logits = model.logits(inputs.clone());
        let columns = logits.dims()[1];
        let first = briquette_core::host_floats(logits.narrow(0, 0, 1));
        if first.len() != columns || first.iter().any(|v| !v.is_finite()) {
            return Err("scores that are no numbers".into());
        }
        let sync = || B::sync(self.device).map_err(|e| e.to_string());
        let once = || {
            let begin = Instant::now();
            let logits = model.logits(inputs.clone());
            sync()?;
            let ms = begin.elapsed().as_secs_f64() * 1e3;
            drop(logits);
            Ok::<f64, String>(ms)
        };
        for _ in 0..3 {
            once()?;
        }
        let (begin, mut times) = (Instant::now(), Vec::new());
        while times.len() < RUNS[0] || (times.len() < RUNS[1] && begin.elapsed() < self.budget) {
            times.push(once()?);
        }
        Ok(times)
    }
}

/// Gives every linear layer of the encoder, or of the blocks, random packed weights.
fn compress<B: Backend, M: Pretrained<B>>(model: &mut M, form: Form, group: usize, device: &B::Device) {
    let Some(packing) = form.packing(group) else { return };
    let mut numbers = Numbers::new(11);
    visit_layers(model, |at, layer| {
        let inside = at.name().contains(".layer.") || at.name().contains(".h.");
        if let LayerMut::Linear(layer) = layer
            && inside
        {
            layer.set_packed(HostWeight::random(layer.shape(), packing, &mut numbers).on(device));
            layer.set_input_quantization(form.quantized().then_some(INPUT_SETTING));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_timed_in_these_forms() {
        let named_in = |floats| in_turn(floats).into_iter().map(|f| named(f, floats)).collect::<Vec<_>>();
        let bf16 = named_in(Floats { name: "bf16", timed: Timed::All });
        assert_eq!(bf16, ["W8A8", "W4A16", "W4A8", "burn bf16"]);
        assert_eq!(named_in(Floats { name: "f32", timed: Timed::Eight }), ["W8A8 f32", "burn f32"]);
        assert_eq!(named_in(Floats { name: "bf16 fused", timed: Timed::Floats }), ["burn bf16 fused"]);
    }
}
