//! Accuracy and perplexity.

use crate::error::ModelError;
use crate::examples::Examples;
use crate::pretrained::Pretrained;
use crate::task::{Batch, Task};
use briquette_core::host_floats;
use burn::prelude::*;

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// `accuracy` or `perplexity`.
    pub metric: &'static str,
    /// Share of right answers in 0..1, or `exp` of the mean negative log-likelihood per token.
    pub value: f64,
    /// Number of texts, images or predicted tokens.
    pub n: usize,
}

/// Measures a model on labelled data, at most `batch` examples at a time. `progress` is told how many examples are
/// done and how many there are.
///
/// # Errors
/// When `batch` is 0, or the model computes something that is not finite.
///
/// # Panics
/// When `examples` were read for another task than the model's.
pub fn evaluate<B: Backend, M: Pretrained<B>>(
    model: &M,
    task: &Task,
    examples: &Examples,
    batch: usize,
    device: &B::Device,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluation, ModelError> {
    if batch == 0 {
        return Err(ModelError::Batch("a batch of 0 examples".into()));
    }
    let is_language = matches!(task, Task::LanguageModel { .. });
    let (mut sum, mut n, mut done) = (0.0, 0, 0);
    for part in examples.by_length(batch) {
        let Batch { inputs, targets } = examples.batch(&part, device);
        n += targets.dims()[0];
        let logits = model.logits(inputs);
        let found =
            if is_language { negative_log_likelihood(logits, targets) } else { hits(logits, targets) };
        sum += found.ok_or_else(|| ModelError::NotFinite { what: format!("examples {part:?}") })?;
        done += part.len();
        progress(done, examples.len());
    }
    let mean = sum / n as f64;
    let value = if is_language { mean.exp() } else { mean };
    Ok(Evaluation { metric: task.metric(), value, n })
}

/// Number of rows of `logits: [rows, classes]` whose largest entry is the target's, the first of several largest
/// ones. `None` when an entry is not finite.
fn hits<B: Backend>(logits: Tensor<B, 2>, targets: Tensor<B, 1, Int>) -> Option<f64> {
    let classes = logits.dims()[1];
    let targets: Vec<i64> = targets.into_data().iter::<i64>().collect();
    let logits = host_floats(logits);
    if !logits.iter().all(|v| v.is_finite()) {
        return None;
    }
    let best = |row: &[f32]| {
        row.iter().enumerate().fold(0, |best, (i, v)| if *v > row[best] { i } else { best }) as i64
    };
    let hits = logits.chunks(classes).zip(&targets).filter(|(row, target)| best(row) == **target).count();
    Some(hits as f64)
}

/// Sum over the rows of `-log softmax(logits)[target]`, summed in `f64`. `None` when it is not finite.
fn negative_log_likelihood<B: Backend>(logits: Tensor<B, 2>, targets: Tensor<B, 1, Int>) -> Option<f64> {
    let shifted = logits.clone() - logits.max_dim(1);
    let target = shifted.clone().gather(1, targets.unsqueeze_dim(1));
    let each = shifted.exp().sum_dim(1).log() - target;
    let sum: f64 = host_floats(each).into_iter().map(f64::from).sum();
    sum.is_finite().then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;

    fn logits(rows: &[[f32; 3]]) -> Tensor<Flex, 2> {
        let data = TensorData::new(rows.concat(), [rows.len(), 3]);
        Tensor::from_data(data, &Default::default())
    }

    fn targets(values: &[i32]) -> Tensor<Flex, 1, Int> {
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &Default::default())
    }

    #[test]
    fn ties_go_to_the_lowest_class() {
        let rows = [[0.0, 1.0, 0.5], [2.0, 2.0, 1.0], [2.0, 2.0, 1.0]];
        assert_eq!(hits(logits(&rows), targets(&[1, 0, 1])), Some(2.0));
        assert_eq!(hits(logits(&[[0.0, f32::NAN, 1.0]]), targets(&[2])), None);
    }

    #[test]
    fn likelihood_is_stable_for_large_logits() {
        let rows = [[1000.0, 1000.0, 1000.0], [-2000.0, 0.0, -2000.0]];
        let sum = negative_log_likelihood(logits(&rows), targets(&[2, 1])).expect("finite");
        assert!((sum - 3f64.ln()).abs() < 1e-6, "{sum}");
        assert_eq!(negative_log_likelihood(logits(&[[f32::NAN, 0.0, 0.0]]), targets(&[0])), None);
    }
}
