//! Outlier clipping: the weights of each row are kept within some standard deviations of their mean.

use briquette_core::{
    Attached, Clock, CompressionMethod, LayerKind, Left, ModelView, Outcome, PlanBuilder, Problem, Schedule,
    SessionState, Site, Stage, StageKind, StateBuilder, Step, stop,
};
use briquette_kernels::straight_through;
use burn::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Clips each row of a weight at `deviations` standard deviations from the row's mean.
///
/// A quantizer that has few codes and a row to span wastes them on the row's few largest weights.
/// Clipping these costs an error on them and lowers the error of all others; ACIQ (Banner, Nahshan and
/// Soudry, arXiv 1810.05723) works out where both together are least. For bell-shaped weights that is at
/// 1.711, 2.152 and 2.559 standard deviations for 2, 3 and 4 bits, which its authors cut to 1.71, 2.15 and
/// 2.55.
///
/// | key | default | why |
/// |---|---|---|
/// | `deviations` | 2.55 | the authors' value for 4 bits |
/// | `start` | 0 | optimizer steps before weights are clipped |
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutlierClipping {
    #[serde(default = "four_bits")]
    deviations: f64,
    #[serde(default)]
    start: usize,
}

fn four_bits() -> f64 {
    2.55
}

impl OutlierClipping {
    /// The JSON key.
    pub const NAME: &'static str = "outlier_clipping";

    fn acts_on(site: &Site) -> bool {
        matches!(site.kind, LayerKind::Linear | LayerKind::Conv2d)
    }

    fn check(&self, out: &mut PlanBuilder<'_>) {
        if !(self.deviations.is_finite() && self.deviations > 0.0) {
            let value = self.deviations.to_string();
            out.problem("deviations", Problem::Range { value, expected: "a positive number".into() });
        }
    }

    /// The settings as the plan and the manifest state them.
    fn details(&self) -> Map<String, Value> {
        let mut details = Map::new();
        details.insert("deviations".into(), json!(self.deviations));
        if self.start > 0 {
            details.insert("start".into(), json!(self.start));
        }
        details
    }
}

impl<B: Backend> CompressionMethod<B> for OutlierClipping {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    /// A transform comes after pruning and before quantization; the plan sees to it.
    fn kind(&self) -> StageKind {
        StageKind::Transform
    }

    fn fits(&self, site: &Site) -> bool {
        Self::acts_on(site)
    }

    fn plan(&self, _model: &ModelView, selected: &[Site], out: &mut PlanBuilder<'_>) {
        self.check(out);
        for site in selected {
            if Self::acts_on(site) {
                out.step(site, self.details());
            } else {
                let (method, kind) = (Self::NAME.into(), site.kind.to_string());
                out.problem_at("on", site, Problem::WrongKind { method, kind });
            }
        }
    }

    fn attach(&self, _step: &Step, _state: &mut StateBuilder<'_, B>) -> Attached<B> {
        let schedule = Schedule { start: self.start };
        Attached::Weight(Box::new(ClippingStage { deviations: self.deviations, schedule }))
    }
}

/// Clipping at work on one weight. It learns nothing and remembers nothing: the limits follow the weight.
struct ClippingStage {
    deviations: f64,
    schedule: Schedule,
}

impl<B: Backend> Stage<B> for ClippingStage {
    /// Gradients pass straight through, so that a clipped weight can come back.
    fn apply(&self, _: &SessionState<B>, clock: Clock, weight: Tensor<B, 2>) -> Tensor<B, 2> {
        if !self.schedule.active(clock) {
            return weight;
        }
        let clipped = clip_rows(stop(weight.clone()), self.deviations);
        straight_through(weight, clipped)
    }

    fn constant(&self, clock: Clock) -> bool {
        self.schedule.settled(clock)
    }

    fn finish(self: Box<Self>, _: &SessionState<B>, weight: Tensor<B, 2>) -> Outcome<B> {
        Outcome { weight: clip_rows(weight, self.deviations), left: Left::Baked }
    }
}

/// `weight` `[out, in]` with each row clipped at `deviations` standard deviations from the row's mean.
pub fn clip_rows<B: Backend>(weight: Tensor<B, 2>, deviations: f64) -> Tensor<B, 2> {
    let mean = weight.clone().mean_dim(1);
    let variance = (weight.clone() - mean.clone()).square().mean_dim(1);
    let reach = variance.sqrt() * deviations;
    weight.max_pair(mean.clone() - reach.clone()).min_pair(mean + reach)
}
