//! The losses of distillation, one file a kind. Each is a number, a tensor of shape `[1]`, that is differentiable in
//! the student's part; the teacher's part is a constant when it comes from [`briquette_nn::Taps::from_inner`].
//!
//! Padding tokens count like all others, as in DeepSpeed: their hidden states, and their rows and columns of attention
//! scores, are compared too.

mod attention;
mod hidden;
mod labels;
mod logits;
mod values;

pub use attention::{probabilities_kl, probabilities_mse, scores_mse};
pub use hidden::hidden_mse;
pub use labels::cross_entropy;
pub use logits::{Reduction, logits_kl, logits_mse, soft_cross_entropy};
pub use values::value_relation_kl;

use burn::prelude::*;
use burn::tensor::activation::log_softmax;

/// Mean of the squared differences.
fn mean_squared<B: Backend, const D: usize>(student: Tensor<B, D>, teacher: Tensor<B, D>) -> Tensor<B, 1> {
    let difference = student - teacher;
    (difference.clone() * difference).mean()
}

/// Mean over all rows along the last axis of `KL(softmax(teacher) || softmax(student))`.
fn mean_divergence<B: Backend, const D: usize>(student: Tensor<B, D>, teacher: Tensor<B, D>) -> Tensor<B, 1> {
    let (log_s, log_t) = (log_softmax(student, D - 1), log_softmax(teacher, D - 1));
    (log_t.clone().exp() * (log_t - log_s)).sum_dim(D - 1).mean()
}
