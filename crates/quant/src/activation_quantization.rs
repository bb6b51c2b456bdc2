//! Quantization of layer inputs.

use crate::observers::{self, ObserverKind};
use crate::weight_quantization::read_rule;
use briquette_core::fields::Fields;
use briquette_core::{
    Attached, CompressionMethod, Diagnostics, InputQuantization, InputRange, LayerKind, ModelView,
    PlanBuilder, Problem, Schedule, Site, StageKind, StateBuilder, Step,
};
use burn::prelude::*;
use serde_json::{Map, Value, json};

/// Quantizes what enters a layer: token-wise as it comes (ZeroQuant, arXiv 2206.01861, section 3.2)
/// or within a range fixed beforehand.
///
/// | key | default | why |
/// |---|---|---|
/// | `bits` | 8 | 8 is nearly free of error; 4 is the other choice |
/// | `symmetric` | `true` | integer products need no correction then |
/// | `range` | `"dynamic"` | a range per token (per image for convolutions) needs no data; `"static"` is one range for the tensor, from calibration |
/// | `observer` | `"mse"` | for static ranges: minimises the squared error by construction; accuracy did not tell the observers apart on one model; or `"min_max"`, `"moving_average"`, `"percentile"` |
/// | `momentum` | 0.95 | of `moving_average`, as in DeepSpeed |
/// | `percentile` | 99.99 | of `percentile`: share of the values kept inside the range |
/// | `arithmetic` | `"paper"` | `"deepspeed"` reproduces DeepSpeed's |
/// | `start` | 0 | optimizer steps before inputs are quantized |
#[derive(Debug, Clone)]
pub struct ActivationQuantization {
    quantization: InputQuantization,
    observer: Option<ObserverKind>,
    schedule: Schedule,
}

impl ActivationQuantization {
    /// The JSON key.
    pub const NAME: &'static str = "activation_quantization";

    /// Reads the entry's settings; every mistake goes to `out`.
    pub fn read(value: &Value, place: &str, out: &mut Diagnostics) -> Option<Self> {
        let before = out.len();
        let mut f = Fields::open(value, place, out)?;
        let bits = f.optional::<u64>("bits", out).unwrap_or(8);
        if bits != 4 && bits != 8 {
            let problem = Problem::Range { value: bits.to_string(), expected: "4 or 8 bits".into() };
            out.add(f.place_of("bits"), problem);
        }
        let symmetric = f.optional("symmetric", out).unwrap_or(true);
        let ranges = [("dynamic", false), ("static", true)];
        let calibrated = f.choice("range", &ranges, out).unwrap_or(false);
        let observer = ObserverKind::read(&mut f, calibrated, out);
        let rule = read_rule(&mut f, out);
        let start = f.optional("start", out).unwrap_or(0);
        f.finish(out);
        let range = if calibrated { InputRange::Pending } else { InputRange::Dynamic };
        let quantization = InputQuantization { bits: bits as u32, symmetric, rule, range };
        (out.len() == before).then_some(Self { quantization, observer, schedule: Schedule { start } })
    }

    fn details(&self) -> Map<String, Value> {
        let q = &self.quantization;
        let mut details = Map::new();
        details.insert("bits".into(), json!(q.bits));
        details.insert("symmetric".into(), json!(q.symmetric));
        details.insert("range".into(), json!(if self.observer.is_some() { "static" } else { "dynamic" }));
        if let Some(observer) = &self.observer {
            details.insert("observer".into(), observer.to_json());
        }
        details.insert("arithmetic".into(), json!(q.rule));
        if self.schedule.start > 0 {
            details.insert("start".into(), json!(self.schedule.start));
        }
        details
    }
}

impl<B: Backend> CompressionMethod<B> for ActivationQuantization {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn kind(&self) -> StageKind {
        StageKind::Input
    }

    fn fits(&self, site: &Site) -> bool {
        site.drop_in && matches!(site.kind, LayerKind::Linear | LayerKind::Conv2d)
    }

    fn plan(&self, _model: &ModelView, selected: &[Site], out: &mut PlanBuilder<'_>) {
        for site in selected {
            if !matches!(site.kind, LayerKind::Linear | LayerKind::Conv2d) {
                let problem = Problem::WrongKind { method: Self::NAME.into(), kind: site.kind.to_string() };
                out.problem_at("on", site, problem);
            } else if !site.drop_in {
                let text = "inputs can be quantized in drop-in layers only: use briquette_nn's and derive Compressible";
                out.problem_at("on", site, Problem::Conflict(text.into()));
            } else {
                out.step(site, self.details());
            }
        }
    }

    fn attach(&self, _: &Step, _: &mut StateBuilder<'_, B>) -> Attached<B> {
        Attached::Input {
            quantization: self.quantization,
            observer: self.observer.as_ref().map(|kind| observers::make(kind, &self.quantization)),
            schedule: self.schedule,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(value: Value) -> Vec<String> {
        let mut out = Diagnostics::new();
        let read = ActivationQuantization::read(&value, "a", &mut out);
        assert_eq!(read.is_none(), !out.is_empty());
        out.iter().map(|d| d.to_string()).collect()
    }

    #[test]
    fn settings() {
        assert!(problems(json!({})).is_empty());
        assert!(
            problems(json!({"range": "static", "observer": "percentile", "percentile": 99.9})).is_empty()
        );
        assert_eq!(problems(json!({"bits": 6})), ["a.bits: 6 is not 4 or 8 bits"]);
        assert_eq!(
            problems(json!({"observer": "mse"})),
            ["a.observer: an observer has an effect with `range: static` only"]
        );
        assert_eq!(
            problems(json!({"range": "static", "observer": "mse", "momentum": 0.9})),
            ["a.momentum: has an effect with the observer `moving_average` only"]
        );
        assert_eq!(
            problems(json!({"range": "static", "observer": "percentile", "percentile": 101})).len(),
            1
        );
    }
}
