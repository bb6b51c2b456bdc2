//! Losses on where attention looks. Both models' scores are `[batch, heads, seq, seq]`, before softmax, with the
//! masks added: what is masked has -10000 added on both sides, which cancels in a difference and vanishes in a softmax.

use super::{mean_divergence, mean_squared};
use burn::prelude::*;
use burn::tensor::activation::softmax;

/// Mean of the squared differences of the scores (Jiao et al. 2019, arXiv 1909.10351, equation 7, which says as here
/// that scores fit faster than probabilities). DeepSpeed sums it over the pairs of layers.
///
/// # Panics
/// When the shapes differ.
pub fn scores_mse<B: Backend>(student: Tensor<B, 4>, teacher: Tensor<B, 4>) -> Tensor<B, 1> {
    mean_squared(student, teacher)
}

/// `KL(softmax(teacher) || softmax(student))` over the keys, the mean over batch, heads and queries (Wang et al. 2020,
/// MiniLM, arXiv 2002.10957, section 3.1).
///
/// # Panics
/// When the shapes differ.
pub fn probabilities_kl<B: Backend>(student: Tensor<B, 4>, teacher: Tensor<B, 4>) -> Tensor<B, 1> {
    mean_divergence(student, teacher)
}

/// Mean of the squared differences of the probabilities `softmax(scores)`.
///
/// # Panics
/// When the shapes differ.
pub fn probabilities_mse<B: Backend>(student: Tensor<B, 4>, teacher: Tensor<B, 4>) -> Tensor<B, 1> {
    mean_squared(softmax(student, 3), softmax(teacher, 3))
}
