//! Activation functions by their Hugging Face names.

use briquette_kernels as kernels;
use burn::prelude::*;

/// An activation function between the two layers of a feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `gelu`: with the normal distribution function.
    Gelu,
    /// `gelu_new`, `gelu_pytorch_tanh`: with the hyperbolic tangent.
    GeluTanh,
    /// `relu`.
    Relu,
}

impl Activation {
    /// The names that a configuration may use.
    pub(crate) const KNOWN: [(&'static str, Self); 4] = [
        ("gelu", Self::Gelu),
        ("gelu_new", Self::GeluTanh),
        ("gelu_pytorch_tanh", Self::GeluTanh),
        ("relu", Self::Relu),
    ];

    /// Applies it to every element.
    pub(crate) fn forward<B: Backend, const D: usize>(self, x: Tensor<B, D>) -> Tensor<B, D> {
        match self {
            Self::Gelu => kernels::gelu(x),
            Self::GeluTanh => kernels::gelu_tanh(x),
            Self::Relu => burn::tensor::activation::relu(x),
        }
    }
}
