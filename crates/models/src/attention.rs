//! What BERT and GPT-2 share of attention.

use briquette_kernels as kernels;
use burn::nn::Dropout;
use burn::prelude::*;
use burn::tensor::activation::softmax;

/// Added to the scores of padding and of the future. Its exponential is 0 in `f32` and it is finite in `f16`, so
/// that a row of nothing but padding gives finite results.
const MASKED: f64 = -1e4;

/// `[batch, seq, heads * d_head]` as `[batch, heads, seq, d_head]`.
pub(crate) fn split_heads<B: Backend>(x: Tensor<B, 3>, heads: usize, d_head: usize) -> Tensor<B, 4> {
    let [batch, seq, _] = x.dims();
    x.reshape([batch, seq, heads, d_head]).swap_dims(1, 2)
}

/// `[batch, heads, seq, d_head]` as `[batch, seq, heads * d_head]`.
pub(crate) fn merge_heads<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 3> {
    let [batch, heads, seq, d_head] = x.dims();
    x.swap_dims(1, 2).reshape([batch, seq, heads * d_head])
}

/// `[batch, seq]` of 1 (token) and 0 (padding) as what is added to scores, `[batch, 1, 1, seq]`.
pub(crate) fn padding_mask<B: Backend>(mask: Tensor<B, 2, Int>) -> Tensor<B, 4> {
    let [batch, seq] = mask.dims();
    ((mask.float() - 1.0) * -MASKED).reshape([batch, 1, 1, seq])
}

/// Attention with dropout of the probabilities where the backend has gradients, the kernel elsewhere.
///
/// `q`, `k`, `v: [batch, heads, seq, d_head]`; `mask` is added to the scores `[batch, heads, seq, seq]`.
pub(crate) fn attention<B: Backend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    mask: Option<Tensor<B, 4>>,
    causal: bool,
    scale: f64,
    dropout: &Dropout,
) -> Tensor<B, 4> {
    let device = q.device();
    if dropout.prob == 0.0 || !B::ad_enabled(&device) {
        return kernels::attention(q, k, v, mask, causal, scale);
    }
    let ([_, _, seq, _], [_, _, keys, _]) = (q.dims(), k.dims());
    let mut scores = q.matmul(k.swap_dims(2, 3)) * scale;
    if let Some(mask) = mask {
        scores = scores + mask;
    }
    if causal {
        let future = Tensor::<B, 2, Bool>::tril_mask([seq, keys], 0, &device).unsqueeze();
        scores = scores.mask_fill(future, MASKED);
    }
    dropout.forward(softmax(scores, 3)).matmul(v)
}
