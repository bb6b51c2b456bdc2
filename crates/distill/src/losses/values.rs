//! The loss on how values relate to each other.

use super::mean_divergence;
use burn::prelude::*;

/// Divergence of the value relations `softmax(V V^T / sqrt(d_head))`, the mean over batch, heads and tokens (Wang et
/// al. 2020, MiniLM, arXiv 2002.10957, section 3.2). Both are `[batch, heads, seq, d_head]`; the two `d_head` may
/// differ.
///
/// # Panics
/// When batch, heads or seq differ.
pub fn value_relation_kl<B: Backend>(student: Tensor<B, 4>, teacher: Tensor<B, 4>) -> Tensor<B, 1> {
    mean_divergence(relation(student), relation(teacher))
}

/// `[batch, heads, seq, d_head]` -> `[batch, heads, seq, seq]`, before softmax.
fn relation<B: Backend>(values: Tensor<B, 4>) -> Tensor<B, 4> {
    let scale = (values.dims()[3] as f64).powf(-0.5);
    values.clone().matmul(values.swap_dims(2, 3)) * scale
}
