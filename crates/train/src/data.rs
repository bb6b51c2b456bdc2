//! What a training run asks of its data.

use burn::prelude::*;

/// Examples to train on.
pub trait TrainingData {
    /// What a model takes in.
    type Input<B: Backend>: Clone;

    /// The batches of one epoch as indices of examples, at most `batch` in each. The same `seed` gives the same
    /// batches in the same order; their number does not depend on it.
    fn epoch(&self, batch: usize, seed: u64) -> Vec<Vec<usize>>;

    /// Some examples and the right class of every row of the output, `[rows]`.
    fn batch<B: Backend>(
        &self,
        examples: &[usize],
        device: &B::Device,
    ) -> (Self::Input<B>, Tensor<B, 1, Int>);

    /// [`batch`](Self::batch) changed at random as `seed` says, where such data are: the same seed gives the same batch.
    /// Default: as it is.
    fn augmented<B: Backend>(
        &self,
        examples: &[usize],
        _seed: u64,
        device: &B::Device,
    ) -> (Self::Input<B>, Tensor<B, 1, Int>) {
        self.batch(examples, device)
    }
}
