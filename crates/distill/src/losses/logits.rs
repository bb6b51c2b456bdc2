//! Losses on the outputs.

use super::{mean_divergence, mean_squared};
use burn::prelude::*;
use burn::tensor::activation::{log_softmax, softmax};
use serde::Serialize;

/// Over what a sum over rows and classes is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// Rows times classes, as DeepSpeed does.
    Mean,
    /// Rows, which makes a cross-entropy of it. PyTorch's `batchmean`.
    BatchMean,
}

/// Cross-entropy with the teacher's probabilities, `-sum softmax(t) log softmax(s)`, divided as `reduction` says
/// (Hinton et al. 2015, arXiv 1503.02531, section 2, at temperature 1). Both are `[rows, classes]`.
///
/// # Panics
/// When the shapes differ.
pub fn soft_cross_entropy<B: Backend>(
    student: Tensor<B, 2>,
    teacher: Tensor<B, 2>,
    reduction: Reduction,
) -> Tensor<B, 1> {
    let classes = student.dims()[1];
    let rows = (softmax(teacher, 1) * log_softmax(student, 1)).sum_dim(1).mean().neg();
    match reduction {
        Reduction::Mean => rows / classes as f64,
        Reduction::BatchMean => rows,
    }
}

/// `T^2 KL(softmax(t / T) || softmax(s / T))`, the mean over rows (Hinton et al. 2015, arXiv 1503.02531, section 2).
/// The factor keeps the size of the gradient when the temperature `T` changes. Both are `[rows, classes]`.
///
/// # Panics
/// When the shapes differ.
pub fn logits_kl<B: Backend>(student: Tensor<B, 2>, teacher: Tensor<B, 2>, temperature: f64) -> Tensor<B, 1> {
    mean_divergence(student / temperature, teacher / temperature) * temperature.powi(2)
}

/// Mean of the squared differences of the logits `[rows, classes]` (Ba and Caruana 2014, arXiv 1312.6184; theirs is half
/// the sum over classes).
///
/// # Panics
/// When the shapes differ.
pub fn logits_mse<B: Backend>(student: Tensor<B, 2>, teacher: Tensor<B, 2>) -> Tensor<B, 1> {
    mean_squared(student, teacher)
}
