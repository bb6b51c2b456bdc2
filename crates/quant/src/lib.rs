//! Quantization: schemes, fake quantization, observers, coding.
//!
//! One file per method of the literature; the JSON key of a method is its file's name.
//!
//! Axes: a weight in the canonical view is `[out, in]`; for quantization it is cut into `groups`
//! equal runs of `length` consecutive values, `[groups, length]`.

pub mod activation_quantization;
pub mod fake_quant;
pub mod observers;
mod rounding;
mod scheme;
pub mod weight_quantization;

pub use activation_quantization::ActivationQuantization;
pub use rounding::Rounding;
pub use scheme::{Granularity, Groups, ScaleSearch, WeightScheme};
pub use weight_quantization::WeightQuantization;
