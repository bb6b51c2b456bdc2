//! Quantization of activations, a scale for each row.

use crate::portable;
use crate::registry::lookup;
use burn::prelude::*;

/// How the codes and the scale of an activation follow from its range. `n = 2^bits`.
///
/// Symmetric, `M = max |x|`:
/// - `full_range`: `scale = 2 M / n`, codes `-n/2 ..= n/2 - 1` (DeepSpeed's rule: the largest
///   positive value is clipped);
/// - otherwise `scale = M / (n/2 - 1)`, codes `-(n/2 - 1) ..= n/2 - 1` (ZeroQuant, arXiv
///   2206.01861, section 3.1).
///
/// Asymmetric, codes `0 ..= n - 1`, `zero_point = round(min / scale)`:
/// - `full_range`: `scale = (max - min) / n` (DeepSpeed's rule);
/// - otherwise `scale = (max - min) / (n - 1)` over the range widened to include zero.
///
/// A range of length zero gives scale 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenQuant {
    /// Bits of a code, 2 to 8.
    pub bits: u32,
    /// Whether zero is the middle code.
    pub symmetric: bool,
    /// DeepSpeed's arithmetic instead of the papers'.
    pub full_range: bool,
    /// `(min, max)` fixed for the whole tensor; `None` takes them from each row at hand.
    pub range: Option<(f32, f32)>,
}

impl TokenQuant {
    /// Scale and zero point of values from `min` to `max`: codes stand for `(code + zero_point) * scale`.
    /// The zero point is a whole number, 0 if symmetric. `range` is not looked at.
    ///
    /// The only place where a range becomes a scale outside of tensors: calibration, artefacts and kernels
    /// agree to the last bit.
    ///
    /// # Panics
    /// When `bits` is not in 2 to 8.
    #[inline]
    pub fn scale_and_zero_point(&self, min: f32, max: f32) -> (f32, f32) {
        let or_one = |scale: f32| if scale == 0.0 { 1.0 } else { scale };
        let divisor = self.divisor();
        if self.symmetric {
            return (or_one(min.abs().max(max) / divisor), 0.0);
        }
        let (min, max) = if self.full_range { (min, max) } else { (min.min(0.0), max.max(0.0)) };
        let scale = or_one((max - min) / divisor);
        (scale, (min / scale).round_ties_even())
    }

    /// `2^bits`.
    ///
    /// # Panics
    /// When `bits` is not in 2 to 8.
    pub(crate) fn levels(&self) -> f32 {
        assert!((2..=8).contains(&self.bits), "activations have 2 to 8 bits, not {}", self.bits);
        (1u32 << self.bits) as f32
    }

    /// Smallest and largest code.
    ///
    /// # Panics
    /// When `bits` is not in 2 to 8.
    pub fn code_limits(&self) -> (f32, f32) {
        let n = self.levels();
        match (self.symmetric, self.full_range) {
            (true, true) => (-n / 2.0, n / 2.0 - 1.0),
            (true, false) => (1.0 - n / 2.0, n / 2.0 - 1.0),
            (false, _) => (0.0, n - 1.0),
        }
    }

    /// What the length of the range is divided by: `max |x|` if symmetric, else `max - min`.
    pub(crate) fn divisor(&self) -> f32 {
        let n = self.levels();
        match (self.symmetric, self.full_range) {
            (true, true) => n / 2.0,
            (true, false) => n / 2.0 - 1.0,
            (false, true) => n,
            (false, false) => n - 1.0,
        }
    }
}

/// Rows of integer codes: `value = code * scale (+ zero)`.
#[derive(Clone, Debug)]
pub struct QuantizedRows<B: Backend> {
    /// `[rows, columns]`; signed if symmetric, from 0 otherwise.
    pub codes: Tensor<B, 2, Int>,
    /// `[rows, 1]`.
    pub scale: Tensor<B, 2>,
    /// `[rows, 1]`, `zero_point * scale`; asymmetric only.
    pub zero: Option<Tensor<B, 2>>,
}

impl<B: Backend> QuantizedRows<B> {
    /// The values that the codes stand for, `[rows, columns]`.
    pub fn dequantize(self) -> Tensor<B, 2> {
        let product = self.codes.float() * self.scale;
        match self.zero {
            Some(zero) => product + zero,
            None => product,
        }
    }
}

/// The nearest integer; of two equally near ones the even one. The same on every backend, where
/// burn's `round` follows the device. Zero gradient.
pub fn round_half_even<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    match lookup::<B>() {
        Some(ops) => crate::fused::by_rows(x, ops.round_half_even),
        None => portable::round_half_even(x),
    }
}

/// Quantizes and dequantizes each row: exactly the values of [`quantize_rows`].
///
/// `x: [rows, columns]`, the result likewise. Rows of zeros and constant rows stay finite. Not
/// differentiable in a useful way: put the straight-through estimator around it.
///
/// # Panics
/// When `q.bits` is not in 2 to 8.
pub fn fake_quantize_rows<B: Backend>(x: Tensor<B, 2>, q: TokenQuant) -> Tensor<B, 2> {
    match lookup::<B>() {
        Some(ops) => (ops.fake_quantize_rows)(x, q),
        None => portable::fake_quantize_rows(x, q),
    }
}

/// Binary values of each row: the sign, zero counting as positive, times the mean magnitude (Rastegari et al. 2016,
/// arXiv 1603.05279, equation 6).
///
/// `x: [rows, columns]`, the result likewise. Not differentiable in a useful way, as [`fake_quantize_rows`].
pub fn fake_binarize_rows<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    match lookup::<B>() {
        Some(ops) => (ops.fake_binarize_rows)(x),
        None => portable::fake_binarize_rows(x),
    }
}

/// Ternary values of each row (Li, Liu 2016, arXiv 1605.04711, equations 3 and 6): zero up to the threshold
/// `0.7 mean|x|`, beyond it the sign times the mean magnitude of what is beyond.
///
/// `x: [rows, columns]`, the result likewise. Not differentiable in a useful way, as [`fake_quantize_rows`].
pub fn fake_ternarize_rows<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    match lookup::<B>() {
        Some(ops) => (ops.fake_ternarize_rows)(x),
        None => portable::fake_ternarize_rows(x),
    }
}

/// Whether [`fake_quantize_rows`], [`fake_binarize_rows`] and [`fake_ternarize_rows`] are one pass over memory on this backend.
pub fn rows_in_one_pass<B: Backend>() -> bool {
    lookup::<B>().is_some_and(|ops| (ops.rows_in_one_pass)())
}

/// Quantizes each row of `x: [rows, columns]`.
///
/// # Panics
/// When `q.bits` is not in 2 to 8.
pub fn quantize_rows<B: Backend>(x: Tensor<B, 2>, q: TokenQuant) -> QuantizedRows<B> {
    match lookup::<B>() {
        Some(ops) => (ops.quantize_rows)(x, q),
        None => portable::quantize_rows(x, q),
    }
}
