//! Weight quantization: fake-quantized while the session runs, coded at its end.

mod settings;
mod stage;

use crate::bit_schedule::{BitSchedule, Pace};
use crate::estimator::{Binarization, Estimator, ScaleSource};
use crate::fake_quant::Quantizer;
use crate::rounding::layer_seed;
use crate::scheme::{Groups, WeightScheme};
use briquette_core::{
    Attached, CompressionMethod, LayerKind, ModelView, PlanBuilder, Problem, Schedule, Site, StageKind,
    StateBuilder, Step,
};
use burn::prelude::*;
use serde_json::{Map, Value, json};
pub(crate) use settings::read_rule;
use stage::{Falling, WeightStage};

/// Quantizes weights (ZeroQuant, arXiv 2206.01861; ternary and binary as in XTC, 2206.01859).
///
/// | key | default | why |
/// |---|---|---|
/// | `bits` | required | 3 to 8 uniform, 2 ternary, 1 binary |
/// | `symmetric` | `true` | integer kernels need no zero point then |
/// | `granularity` | `"channel"` | free at run time, and all that 8 bits need; or `"tensor"`, `{"groups": n}`, `{"group_size": n}` |
/// | `rounding` | `"nearest"` | least error; `"stochastic"` is for training |
/// | `scale_search` | `"max"` | `"mse"` clips outliers where that lowers the error of the group; pays at 3 and 4 bits |
/// | `arithmetic` | `"paper"` | `"deepspeed"` reproduces DeepSpeed's |
/// | `start` | 0 | optimizer steps before weights are quantized |
///
/// While training, precision can fall step by step (MoQ):
///
/// | key | default | why |
/// |---|---|---|
/// | `start_bits` | `bits` | up to 32; more than 24 change nothing that 32-bit floats can hold |
/// | `period` | none | optimizer steps from `start` to the first bit dropped; doubles with each bit, see [`Pace`] |
/// | `end` | none | instead of `period`: bits fall at equal distances, the last at this optimizer step |
/// | `mixed` | none | `{"change_ratio": 0.001}`: a share of the float weight stays in, 1 at first, less by the ratio at each step, and 1 again whenever a bit is dropped |
///
/// And what weights learn by:
///
/// | key | default | why |
/// |---|---|---|
/// | `scale` | `"range"` | `"learned"`: [`ScaleSource::Learned`], for 2 bits and more |
/// | `binarization` | `"sign"` | or `"mean_centred"`, `"elastic"`: [`Binarization`], for 1 bit |
/// | `gradient` | `"identity"`, `"clipped"` with a learned scale | as the papers of each; see [`Gradient`](crate::Gradient) |
///
/// A session without training, and one that ends before its bits have fallen to `bits`, is coded with `bits` and
/// without a share of the float weight. A learned scale is trained from the first step that quantizes.
///
/// Where DeepSpeed quantizes in the optimizer's step (MoQ), it overwrites the half-precision copy of the weight, and
/// its master weight stays float; here the view is quantized and the session's weight stays float, which is the same
/// arithmetic. The share of `mixed` belongs to each layer here; in DeepSpeed one layer's dropped bit resets it for all.
#[derive(Debug, Clone)]
pub struct WeightQuantization {
    scheme: WeightScheme,
    schedule: Schedule,
    estimator: Estimator,
    falling: Option<BitSchedule>,
    mixed: Option<f64>,
}

impl WeightQuantization {
    /// The JSON key.
    pub const NAME: &'static str = "weight_quantization";

    /// A method with these settings, and the defaults for all others.
    pub fn new(scheme: WeightScheme, schedule: Schedule) -> Self {
        Self { scheme, schedule, estimator: Estimator::default(), falling: None, mixed: None }
    }

    fn quantizer(&self, groups: Groups) -> Quantizer {
        Quantizer { scheme: self.scheme, estimator: self.estimator, groups }
    }

    fn details(&self, groups: Groups) -> Map<String, Value> {
        let scheme = &self.scheme;
        let mut details = Map::new();
        let mut put = |key: &str, value: Value| {
            details.insert(key.into(), value);
        };
        put("code", json!(scheme.code_name()));
        put("bits", json!(scheme.bits));
        put("groups", json!(groups.count));
        put("group_length", json!(groups.length));
        put("rounding", json!(scheme.rounding));
        put("scale_search", json!(scheme.search));
        put("arithmetic", json!(scheme.rule));
        if self.schedule.start > 0 {
            put("start", json!(self.schedule.start));
        }
        if self.estimator.scale != ScaleSource::default() {
            put("scale", json!(self.estimator.scale));
        }
        if self.estimator.binarization != Binarization::default() {
            put("binarization", json!(self.estimator.binarization));
        }
        if self.estimator.gradient != Default::default() {
            put("gradient", json!(self.estimator.gradient));
        }
        if let Some(falling) = &self.falling {
            put("start_bits", json!(falling.from));
            if let Pace::Doubling { period } = falling.pace {
                put("period", json!(period));
            }
            // Sooner than this a session ends with these bits all the same.
            let last = falling.length().and_then(|n| n.checked_add(self.schedule.start));
            put("last_bit_falls_at", json!(last));
        }
        if let Some(ratio) = self.mixed {
            put("mixed_change_ratio", json!(ratio));
        }
        details
    }
}

impl<B: Backend> CompressionMethod<B> for WeightQuantization {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn kind(&self) -> StageKind {
        StageKind::Quantize
    }

    fn plan(&self, _model: &ModelView, selected: &[Site], out: &mut PlanBuilder<'_>) {
        for site in selected {
            if site.kind == LayerKind::BatchNorm {
                let problem = Problem::WrongKind { method: Self::NAME.into(), kind: site.kind.to_string() };
                out.problem_at("on", site, problem);
                continue;
            }
            match self.scheme.granularity.groups(site.kind, site.shape) {
                Ok(groups) => out.step(site, self.details(groups)),
                Err(problem) => out.problem_at("granularity", site, problem),
            }
        }
    }

    fn attach(&self, step: &Step, state: &mut StateBuilder<'_, B>) -> Attached<B> {
        let site = &step.site;
        let groups = self.scheme.granularity.groups(site.kind, site.shape).expect("the plan has checked it");
        let quantizer = self.quantizer(groups);
        let scale = quantizer.first_scale(state.weight.clone()).map(|first| state.learned(first));
        let falling = self.falling.map(|schedule| {
            let first = schedule.first();
            Falling {
                schedule,
                bits: state.counter(f64::from(first.bits)),
                period: state.counter(first.period),
            }
        });
        Attached::Weight(Box::new(WeightStage {
            quantizer,
            schedule: self.schedule,
            falling,
            mixed: self.mixed.map(|ratio| (ratio, state.counter(1.0))),
            scale,
            seed: layer_seed(state.seed, &site.name),
        }))
    }
}

#[cfg(test)]
mod tests;
