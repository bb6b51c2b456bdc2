//! The loss on hidden states.

use super::mean_squared;
use burn::prelude::*;

/// Mean of the squared differences of one pair of hidden states `[batch, seq, width]` (Jiao et al. 2019,
/// arXiv 1909.10351, equation 8, after the projection). DeepSpeed sums it over the pairs.
///
/// # Panics
/// When the shapes differ.
pub fn hidden_mse<B: Backend>(student: Tensor<B, 3>, teacher: Tensor<B, 3>) -> Tensor<B, 1> {
    mean_squared(student, teacher)
}
