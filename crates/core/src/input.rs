//! How a layer's input is quantized: the vocabulary that recipes, layers and kernels share.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// How a range becomes a scale. `n = 2^bits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRule {
    /// Symmetric: `max|x| / (n/2 - 1)`, codes in `-(n/2-1) ..= n/2-1`, so that the largest value is
    /// exact (ZeroQuant, arXiv 2206.01861, section 3.1). Asymmetric: `(max - min) / (n - 1)` over a
    /// range that includes zero.
    Paper,
    /// DeepSpeed's arithmetic. Symmetric: `2 max|x| / n`, codes in `-n/2 ..= n/2-1`, so that the
    /// positive maximum is clipped. Asymmetric: `(max - min) / n`, offset `round(min/s) * s`.
    DeepSpeed,
}

/// Where the range of an activation comes from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputRange {
    /// From the values at hand: one range per token (per image for convolutions).
    Dynamic,
    /// Fixed beforehand for the whole tensor.
    Static {
        /// Smallest value represented.
        min: f32,
        /// Largest value represented.
        max: f32,
    },
    /// To be fixed by calibration; until then inputs pass unchanged.
    Pending,
}

/// Quantization of a layer's input.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct InputQuantization {
    /// Bit width: 8 or 4.
    pub bits: u32,
    /// Whether zero is the middle code.
    pub symmetric: bool,
    /// How ranges become scales.
    pub rule: ScaleRule,
    /// Where ranges come from.
    pub range: InputRange,
}

/// Watches the values that enter a layer, to fix a static range.
///
/// Must be deterministic, and its result may depend on the order of the calls.
pub trait InputObserver: fmt::Debug + Send + Sync {
    /// Takes in one batch of values, in the layer's own order.
    fn observe(&self, values: &[f32]);
    /// The range found so far, `None` before the first call.
    fn range(&self) -> Option<(f32, f32)>;
    /// A fresh observer with the same settings.
    fn fresh(&self) -> Arc<dyn InputObserver>;
    /// Everything it has taken in, to be kept while a session is interrupted.
    fn save(&self) -> Value;
    /// Goes on from what [`save`](Self::save) gave; `false`, and nothing done, where it is not that.
    fn restore(&self, saved: &Value) -> bool;
}
