//! Low-rank compensation: what quantization took away, given back by a product of two thin matrices.

mod factorize;

use briquette_core::fields::Fields;
use briquette_core::{
    Attached, Compensation, CompressionMethod, Diagnostics, LayerKind, ModelView, PlanBuilder, Problem, Site,
    StageKind, StateBuilder, Step,
};
use burn::prelude::*;
use burn::tensor::f16;
use factorize::Matrix;
use serde_json::{Map, Value, json};

/// LoRC (ZeroQuant-V2, Yao et al. 2023, arXiv 2303.08302, section 4): the error `E = W - Q(W)` of a weight's
/// quantization is cut down to its largest singular values, `E ~ U S V^T`, and the layer computes with
/// `Q(W) + (U sqrt(S)) (sqrt(S) V^T)`. It follows a quantizer on the same layer.
///
/// | key | default | why |
/// |---|---|---|
/// | `rank` | 8 | the paper's: beyond it little is gained |
///
/// Factors are rounded to 16-bit floats, 11 significant bits, which changes each entry by at most a part in 2048 and is
/// what artefacts store. A layer grows by `2 rank (out + in)` bytes and computes two thin products more.
#[derive(Debug, Clone)]
pub struct LowRankCompensation {
    rank: usize,
}

impl LowRankCompensation {
    /// The JSON key.
    pub const NAME: &'static str = "low_rank_compensation";

    /// A method that gives back `rank` singular values.
    pub fn new(rank: usize) -> Self {
        Self { rank }
    }

    /// Reads the entry's settings; every mistake goes to `out`.
    pub fn read(value: &Value, place: &str, out: &mut Diagnostics) -> Option<Self> {
        let before = out.len();
        let mut f = Fields::open(value, place, out)?;
        let rank = f.optional("rank", out).unwrap_or(8);
        if rank == 0 {
            let problem = Problem::Range { value: "0".into(), expected: "at least 1".into() };
            out.add(f.place_of("rank"), problem);
        }
        f.finish(out);
        (out.len() == before).then_some(Self { rank })
    }
}

impl<B: Backend> CompressionMethod<B> for LowRankCompensation {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn kind(&self) -> StageKind {
        StageKind::Compensate
    }

    fn fits(&self, site: &Site) -> bool {
        site.kind == LayerKind::Linear
    }

    fn plan(&self, _model: &ModelView, selected: &[Site], out: &mut PlanBuilder<'_>) {
        for site in selected {
            let smaller = site.shape[0].min(site.shape[1]);
            if site.kind != LayerKind::Linear {
                let problem = Problem::WrongKind { method: Self::NAME.into(), kind: site.kind.to_string() };
                out.problem_at("on", site, problem);
            } else if self.rank > smaller {
                let expected = format!("at most {smaller}, the smaller side of the weight");
                out.problem_at("rank", site, Problem::Range { value: self.rank.to_string(), expected });
            } else {
                out.step(site, Map::from_iter([("rank".to_string(), json!(self.rank))]));
            }
        }
    }

    fn attach(&self, _step: &Step, _state: &mut StateBuilder<'_, B>) -> Attached<B> {
        Attached::Compensation(Box::new(Correction { rank: self.rank }))
    }
}

struct Correction {
    rank: usize,
}

impl<B: Backend> Compensation<B> for Correction {
    fn factors(&self, original: Tensor<B, 2>, quantized: Tensor<B, 2>) -> [Tensor<B, 2>; 2] {
        let (device, dtype) = (original.device(), original.dtype());
        // Pruning may have left less than the plan saw.
        let [rows, columns] = original.dims();
        let factors = factorize::largest(original - quantized, self.rank.min(rows).min(columns));
        factors.map(|factor| {
            let Matrix { rows, columns, values } = factor;
            let stored: Vec<f32> = values.into_iter().map(stored).collect();
            Tensor::from_data(TensorData::new(stored, [rows, columns]), (&device, dtype))
        })
    }
}

/// The nearest value that a 16-bit float holds.
fn stored(value: f64) -> f32 {
    let largest = f64::from(f16::MAX.to_f32());
    f16::from_f64(value.clamp(-largest, largest)).to_f32()
}

#[cfg(test)]
mod tests;
