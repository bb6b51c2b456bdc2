//! Binary weights.

use super::Quantized;
use briquette_core::ScaleRule;
use burn::prelude::*;

/// XNOR-Net's binary weights (Rastegari et al. 2016, arXiv 1603.05279, equation 6): the sign times
/// the mean magnitude of the group. Zero counts as positive; in DeepSpeed's code it stays zero.
pub(super) fn quantize<B: Backend>(x: Tensor<B, 2>, rule: ScaleRule) -> Quantized<B> {
    let scale = x.clone().abs().mean_dim(1);
    let sign = x.clone().sign();
    let codes = match rule {
        ScaleRule::DeepSpeed => sign,
        ScaleRule::Paper => sign.mask_fill(x.equal_elem(0.0), 1.0),
    };
    Quantized { codes, scale, zero: None }
}
