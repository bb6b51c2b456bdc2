//! What BERT and GPT-2 share of attention.

use briquette_kernels as kernels;
use briquette_nn::Recorder;
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

/// Queries, keys and values of one attention, `[batch, heads, seq, d_head]`, and how they are compared.
pub(crate) struct Attention<B: Backend> {
    pub(crate) q: Tensor<B, 4>,
    pub(crate) k: Tensor<B, 4>,
    pub(crate) v: Tensor<B, 4>,
    /// Added to the scores `[batch, heads, seq, seq]`.
    pub(crate) mask: Option<Tensor<B, 4>>,
    /// Whether no token sees those after it.
    pub(crate) causal: bool,
    /// Factor of the scores.
    pub(crate) scale: f64,
}

impl<B: Backend> Attention<B> {
    /// The weighted sums of the values, `[batch, heads, seq, d_head]`: by the kernel, unless scores are wanted or
    /// probabilities are dropped, which takes a backend with gradients.
    pub(crate) fn forward(self, dropout: &Dropout, seen: &mut Recorder<B>) -> Tensor<B, 4> {
        seen.values(&self.v);
        let drops = dropout.prob > 0.0 && B::ad_enabled(&self.q.device());
        if !drops && !seen.wanted().scores {
            return kernels::attention(self.q, self.k, self.v, self.mask, self.causal, self.scale);
        }
        let scores = masked_scores(self.q, self.k, self.mask, self.causal, self.scale);
        seen.scores(&scores);
        dropout.forward(softmax(scores, 3)).matmul(self.v)
    }
}

/// `q k^T * scale` with the masks, `[batch, heads, seq, seq]`. The future is masked by the constant that masks
/// padding, so that scores of two models are equal where neither looks.
fn masked_scores<B: Backend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    mask: Option<Tensor<B, 4>>,
    causal: bool,
    scale: f64,
) -> Tensor<B, 4> {
    let (seq, device) = (q.dims()[2], q.device());
    let mut scores = q.matmul(k.swap_dims(2, 3)) * scale;
    if let Some(mask) = mask {
        scores = scores + mask;
    }
    if causal {
        let future = Tensor::<B, 2, Bool>::tril_mask([seq, seq], 0, &device).unsqueeze();
        scores = scores.mask_fill(future, MASKED);
    }
    scores
}
