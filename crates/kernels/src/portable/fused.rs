//! Normalization, activations, attention.

use burn::prelude::*;
use burn::tensor::{DType, activation};

pub(crate) fn layer_norm<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    gamma: Tensor<B, 1>,
    beta: Tensor<B, 1>,
    epsilon: f64,
) -> Tensor<B, D> {
    if x.shape().num_elements() == 0 {
        return x;
    }
    let centred = x.clone() - x.mean_dim(D - 1);
    let variance = (centred.clone() * centred.clone()).mean_dim(D - 1);
    let normal = centred / (variance + epsilon).sqrt();
    normal * gamma.unsqueeze() + beta.unsqueeze()
}

/// `other: [n, width]` added to every `n` rows of `x`.
pub(crate) fn add_to_every<B: Backend>(x: Tensor<B, 2>, other: Tensor<B, 2>) -> Tensor<B, 2> {
    let ([rows, width], [every, _]) = (x.dims(), other.dims());
    if rows == every || rows * width == 0 {
        return x + other.slice([0..rows.min(every), 0..width]);
    }
    (x.reshape([rows / every, every, width]) + other.unsqueeze()).reshape([rows, width])
}

pub(crate) fn gelu<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    activation::gelu(x)
}

pub(crate) fn gelu_tanh<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    const SQRT_2_OVER_PI: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    // A cube by multiplication: `powf` of a negative base is NaN on some devices.
    let cube = x.clone() * x.clone() * x.clone();
    let inner = (x.clone() + cube * 0.044715) * SQRT_2_OVER_PI;
    x * (inner.tanh() + 1.0) * 0.5
}

pub(crate) fn attention<B: Backend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    mask: Option<Tensor<B, 4>>,
    causal: bool,
    scale: f64,
) -> Tensor<B, 4> {
    let [batch, heads, queries, _] = q.dims();
    let [_, _, keys, d_value] = v.dims();
    if batch * heads * queries * keys * d_value == 0 {
        return Tensor::zeros([batch, heads, queries, d_value], (&q.device(), q.dtype()));
    }
    let mut scores = q.matmul(k.swap_dims(2, 3)) * scale;
    let lowest = lowest_score(scores.dtype());
    if let Some(mask) = mask {
        scores = (scores + mask).clamp_min(lowest);
    }
    if causal {
        let future =
            Tensor::<B, 2, Bool>::tril_mask([queries, keys], (keys - queries) as i64, &scores.device());
        // Below every other score, so that even in a row that is masked everywhere none of the
        // future is seen.
        scores = scores.mask_fill(future.unsqueeze::<4>(), 2.0 * lowest);
    }
    activation::softmax(scores, 3).matmul(v)
}

/// A score so low that its exponential vanishes, while twice of it is still finite.
fn lowest_score(dtype: DType) -> f64 {
    if dtype == DType::F16 { -3.0e4 } else { -1.0e30 }
}
