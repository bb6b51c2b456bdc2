//! A model as a stack of blocks, to be trained or measured one block at a time.

use burn::prelude::*;

/// What a block computes from.
#[derive(Debug, Clone)]
pub struct BlockState<B: Backend> {
    /// The embeddings' output or the block before's, `[batch, seq, width]`.
    pub hidden: Tensor<B, 3>,
    /// Added to the attention's scores; each axis is 1 or that of the scores `[batch, heads, seq, seq]`. `None`
    /// where the input has no padding. What the model masks in any case, such as the future, is not in it.
    pub mask: Option<Tensor<B, 4>>,
}

impl<B: Backend> BlockState<B> {
    /// What the next block computes from, with the output of this one.
    pub fn with_hidden(&self, hidden: Tensor<B, 3>) -> Self {
        Self { hidden, mask: self.mask.clone() }
    }
}

/// A model whose body is a stack of blocks of one kind, for layer-by-layer work.
///
/// Entering and running all blocks in order gives the hidden states of
/// [`Tapped::tapped`](crate::Tapped::tapped).
pub trait Blocks<B: Backend> {
    /// What goes into the model.
    type Input: Clone;

    /// What enters the first block.
    ///
    /// # Panics
    /// When the input is of another kind than the model's or exceeds what it takes.
    fn enter(&self, input: Self::Input) -> BlockState<B>;

    /// Number of blocks.
    fn num_blocks(&self) -> usize;

    /// Field path of block `index`, a prefix of its parameters' paths: `bert.encoder.layer.3`.
    fn block_path(&self, index: usize) -> String;

    /// Output of block `index`, `[batch, seq, width]`.
    ///
    /// # Panics
    /// When there is no block `index`.
    fn block(&self, index: usize, state: &BlockState<B>) -> Tensor<B, 3>;
}
