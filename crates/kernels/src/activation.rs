//! Functions that products apply to their results.

use burn::prelude::*;

/// A function applied to every element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x`.
    #[default]
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// [`gelu`](crate::gelu).
    Gelu,
    /// [`gelu_tanh`](crate::gelu_tanh).
    GeluTanh,
}

impl Activation {
    /// Applies it to every element of `x`, of any shape.
    pub fn forward<B: Backend, const D: usize>(self, x: Tensor<B, D>) -> Tensor<B, D> {
        match self {
            Self::Identity => x,
            Self::Relu => burn::tensor::activation::relu(x),
            Self::Gelu => crate::gelu(x),
            Self::GeluTanh => crate::gelu_tanh(x),
        }
    }
}
