//! Quantization: schemes, fake quantization, observers, coding.
//!
//! One file or folder per method of the literature; the JSON key of a method is its name.
//!
//! Axes: a weight in the canonical view is `[out, in]`; for quantization it is cut into `groups`
//! equal runs of `length` consecutive values, `[groups, length]`.

pub mod activation_quantization;
mod bit_schedule;
pub mod eigenvalue;
mod estimator;
pub mod fake_quant;
pub mod low_rank_compensation;
pub mod observers;
mod rounding;
mod scheme;
pub mod weight_quantization;

pub use activation_quantization::ActivationQuantization;
pub use bit_schedule::{BitSchedule, Pace};
pub use eigenvalue::Eigenvalue;
pub use estimator::{Binarization, Estimator, Gradient, ScaleSource};
pub use low_rank_compensation::LowRankCompensation;
pub use rounding::Rounding;
pub use scheme::{Granularity, Groups, ScaleSearch, WeightScheme};
pub use weight_quantization::WeightQuantization;
