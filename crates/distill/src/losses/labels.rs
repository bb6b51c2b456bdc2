//! The loss on labels, without a teacher.

use burn::prelude::*;
use burn::tensor::activation::log_softmax;

/// Cross-entropy with the right class, the mean over rows of `-log softmax(logits)[target]`. `logits` are
/// `[rows, classes]`, `targets` `[rows]`.
///
/// # Panics
/// When the numbers of rows differ or a target is not below `classes` (on some backends; others compute anything).
pub fn cross_entropy<B: Backend>(logits: Tensor<B, 2>, targets: Tensor<B, 1, Int>) -> Tensor<B, 1> {
    let (rows, targets_len) = (logits.dims()[0], targets.dims()[0]);
    assert_eq!(rows, targets_len, "rows of logits, and targets");
    log_softmax(logits, 1).gather(1, targets.unsqueeze_dim(1)).mean().neg()
}
