//! What a model shows of its inside during a forward pass: what distillation compares.

use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;

/// What a forward pass is asked to show beside its logits; nothing by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The hidden states.
    pub hidden: bool,
    /// The attention scores. The attention is then computed step by step, not by the fused kernel.
    pub scores: bool,
    /// The attention's values.
    pub values: bool,
}

/// What a forward pass showed. A list is empty where it was not [`Wanted`] or the model has nothing of the kind.
#[derive(Debug, Clone)]
pub struct Taps<B: Backend> {
    /// `[rows, classes]`: one row per text or image, one per token for language models.
    pub logits: Tensor<B, 2>,
    /// The embeddings' output, then each block's, `[batch, seq, width]`: one more than there are blocks. Padding
    /// tokens have rows like all others.
    pub hidden: Vec<Tensor<B, 3>>,
    /// Of each block: the attention's scores before softmax with its masks added, `[batch, heads, seq, seq]`, the
    /// query before the key.
    pub scores: Vec<Tensor<B, 4>>,
    /// Of each block: the attention's values, `[batch, heads, seq, d_head]`.
    pub values: Vec<Tensor<B, 4>>,
}

impl<B: AutodiffBackend> Taps<B> {
    /// What a model without gradients showed, as constants among tensors with gradients: a teacher's part of a loss.
    pub fn from_inner(taps: Taps<B::InnerBackend>) -> Self {
        Self {
            logits: Tensor::from_inner(taps.logits),
            hidden: taps.hidden.into_iter().map(Tensor::from_inner).collect(),
            scores: taps.scores.into_iter().map(Tensor::from_inner).collect(),
            values: taps.values.into_iter().map(Tensor::from_inner).collect(),
        }
    }
}

/// The sizes of what a model can show. Two models can be compared, and projections between them made, by these
/// alone, before anything is computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapShape {
    /// Columns of the logits.
    pub classes: usize,
    /// Width of each hidden state: one more than there are blocks.
    pub hidden: Vec<usize>,
    /// Positions of the input that each row of a hidden state stands for, as many as there are hidden states: 1 for
    /// every token, 4 after a convolution of stride 2.
    pub positions: Vec<usize>,
    /// Heads of each block's attention; empty for models without attention.
    pub heads: Vec<usize>,
}

impl TapShape {
    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.hidden.len().saturating_sub(1)
    }
}

/// A model that can be distilled, as student or as teacher.
pub trait Tapped<B: Backend> {
    /// What goes in; student and teacher are given the same.
    type Input: Clone;

    /// A forward pass that shows what is wanted. The logits are those of the model's plain forward pass, up to
    /// rounding where the scores are wanted.
    ///
    /// # Panics
    /// When the input is of another kind than the model's or exceeds what it takes.
    fn tapped(&self, input: Self::Input, wanted: Wanted) -> Taps<B>;

    /// The sizes of what it can show. Lazy parameters stay lazy.
    fn tap_shape(&self) -> TapShape;
}

/// Collects what is wanted on the way through a model: the layers are handed one and tell it what they have.
///
/// ```
/// use briquette_nn::{Recorder, Taps, Wanted};
/// use burn::prelude::*;
///
/// fn forward<B: Backend>(embedded: Tensor<B, 3>, wanted: Wanted) -> Taps<B> {
///     let mut seen = Recorder::new(wanted);
///     seen.hidden(&embedded);
///     let x = embedded.tanh();
///     seen.hidden(&x);
///     seen.finish(x.mean_dim(1).squeeze_dim(1))
/// }
///
/// # let x = Tensor::<burn::backend::Flex, 3>::ones([2, 3, 4], &Default::default());
/// assert_eq!(forward(x.clone(), Wanted { hidden: true, ..Wanted::default() }).hidden.len(), 2);
/// assert!(forward(x, Wanted::default()).hidden.is_empty());
/// ```
#[derive(Debug)]
pub struct Recorder<B: Backend> {
    wanted: Wanted,
    hidden: Vec<Tensor<B, 3>>,
    scores: Vec<Tensor<B, 4>>,
    values: Vec<Tensor<B, 4>>,
}

impl<B: Backend> Recorder<B> {
    /// One that keeps what is wanted and drops the rest.
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted, hidden: Vec::new(), scores: Vec::new(), values: Vec::new() }
    }

    /// One that keeps nothing.
    pub fn off() -> Self {
        Self::new(Wanted::default())
    }

    /// What it keeps.
    pub fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// The embeddings' or a block's output, `[batch, seq, width]`.
    pub fn hidden(&mut self, x: &Tensor<B, 3>) {
        if self.wanted.hidden {
            self.hidden.push(x.clone());
        }
    }

    /// A block's attention scores before softmax, masks added, `[batch, heads, seq, seq]`.
    pub fn scores(&mut self, x: &Tensor<B, 4>) {
        if self.wanted.scores {
            self.scores.push(x.clone());
        }
    }

    /// A block's values, `[batch, heads, seq, d_head]`.
    pub fn values(&mut self, x: &Tensor<B, 4>) {
        if self.wanted.values {
            self.values.push(x.clone());
        }
    }

    /// What was seen, with the model's output `[rows, classes]`.
    pub fn finish(self, logits: Tensor<B, 2>) -> Taps<B> {
        Taps { logits, hidden: self.hidden, scores: self.scores, values: self.values }
    }
}
