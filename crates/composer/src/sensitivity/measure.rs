//! How far logits are from those of the whole model.

use briquette_core::host_floats;
use burn::prelude::*;
use burn::tensor::activation::{log_softmax, softmax};

/// Sums over the batches seen so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums {
    /// Of squares of the logits' changes.
    changes: f64,
    /// Of the divergences of the rows.
    divergences: f64,
    /// Rows that are right now, less those that were right.
    right: f64,
}

/// What the whole model says of one batch.
pub(super) struct Reference<B: Backend> {
    logits: Tensor<B, 2>,
    log_probabilities: Tensor<B, 2>,
    labels: Option<Tensor<B, 1, Int>>,
    right: f64,
}

impl<B: Backend> Reference<B> {
    /// `logits: [rows, classes]`, `labels: [rows]`.
    pub(super) fn new(logits: Tensor<B, 2>, labels: Option<Tensor<B, 1, Int>>) -> Self {
        let right = labels.as_ref().map_or(0.0, |labels| right(&logits, labels));
        Self { log_probabilities: log_softmax(logits.clone(), 1), logits, labels, right }
    }

    /// Rows, and the sum of squares of the logits.
    pub(super) fn size(&self) -> (usize, f64) {
        (self.logits.dims()[0], sum(self.logits.clone().square()))
    }

    /// Adds what `logits: [rows, classes]` of a changed model are away.
    pub(super) fn compare(&self, logits: Tensor<B, 2>, sums: &mut Sums) {
        sums.changes += sum((logits.clone() - self.logits.clone()).square());
        let difference = self.log_probabilities.clone() - log_softmax(logits.clone(), 1);
        sums.divergences += sum(softmax(self.logits.clone(), 1) * difference);
        if let Some(labels) = &self.labels {
            sums.right += right(&logits, labels) - self.right;
        }
    }
}

impl Sums {
    /// Relative error, mean divergence and change of the accuracy over `rows` rows whose logits' squares add up to
    /// `squares`.
    pub(super) fn result(&self, rows: usize, squares: f64) -> [f64; 3] {
        let rows = rows.max(1) as f64;
        let error = if squares > 0.0 { (self.changes / squares).sqrt() } else { 0.0 };
        // Rounding can leave a little less than nothing.
        [error, (self.divergences / rows).max(0.0), self.right / rows]
    }
}

fn right<B: Backend>(logits: &Tensor<B, 2>, labels: &Tensor<B, 1, Int>) -> f64 {
    let said = logits.clone().argmax(1).reshape([-1]);
    sum(said.equal(labels.clone()).float().reshape([1, -1]))
}

fn sum<B: Backend>(values: Tensor<B, 2>) -> f64 {
    host_floats(values.sum()).first().copied().map_or(0.0, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;

    #[test]
    fn changes_are_those_worked_out_by_hand() {
        let logits = |values: [[f32; 2]; 2]| Tensor::<Flex, 2>::from_floats(values, &Default::default());
        let labels = Tensor::from_ints([0, 1], &Default::default());
        let whole = Reference::new(logits([[2.0, 0.0], [0.0, 1.0]]), Some(labels));
        assert_eq!(whole.size(), (2, 5.0));
        let mut sums = Sums::default();
        whole.compare(logits([[2.0, 0.0], [0.0, 1.0]]), &mut sums);
        assert_eq!(sums.result(2, 5.0), [0.0; 3]);
        whole.compare(logits([[2.0, 0.0], [1.0, 0.0]]), &mut sums);
        let p = 1.0 / (1.0 + (-1f64).exp());
        let divergence = p * (p / (1.0 - p)).ln() + (1.0 - p) * ((1.0 - p) / p).ln();
        let [error, found, accuracy] = sums.result(2, 5.0);
        assert!((error - (2.0f64 / 5.0).sqrt()).abs() < 1e-6);
        assert!((found - divergence / 2.0).abs() < 1e-6, "{found} {divergence}");
        assert_eq!(accuracy, -0.5);
    }
}
