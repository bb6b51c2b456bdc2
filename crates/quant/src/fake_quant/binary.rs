//! Binary weights.

use super::{Quantized, as_numbers, reduce};
use briquette_core::ScaleRule;
use burn::prelude::*;

/// XNOR-Net's binary weights (Rastegari et al. 2016, arXiv 1603.05279, equation 6): the sign times
/// the mean magnitude of the group. Zero counts as positive; in DeepSpeed's code it stays zero.
pub(super) fn by_sign<B: Backend>(x: Tensor<B, 2>, rule: ScaleRule) -> Quantized<B> {
    let scale = reduce::mean(x.clone().abs());
    let codes = match rule {
        ScaleRule::DeepSpeed => x.sign(),
        ScaleRule::Paper => signs(x),
    };
    Quantized { codes, scale, zero: None }
}

/// The sign of the distance from the group's mean, times the mean distance: as many positive weights as negative
/// ones carry the most information (IR-Net, Qin et al. 2020, arXiv 1909.10788, equations 3 to 5; BiBERT, arXiv
/// 2203.06390). One bit has no place for the mean itself, so the values are centred on zero.
pub(super) fn about_the_mean<B: Backend>(x: Tensor<B, 2>) -> Quantized<B> {
    let mean = reduce::mean(x.clone());
    let centred = x - mean;
    Quantized { scale: reduce::mean(centred.clone().abs()), codes: signs(centred), zero: None }
}

/// The sign times a scale `[groups, 1]` that is learned.
pub(super) fn with_scale<B: Backend>(x: Tensor<B, 2>, scale: Tensor<B, 2>) -> Quantized<B> {
    Quantized { codes: signs(x), scale, zero: None }
}

/// -1 or 1; zero counts as positive.
fn signs<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    as_numbers(x.clone().greater_equal_elem(0.0), &x) * 2.0 - 1.0
}
