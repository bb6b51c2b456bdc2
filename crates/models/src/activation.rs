//! Activation functions by their Hugging Face names.

use briquette_kernels as kernels;

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

    /// The kernels' form, which products apply to their results.
    pub(crate) fn kernel(self) -> kernels::Activation {
        match self {
            Self::Gelu => kernels::Activation::Gelu,
            Self::GeluTanh => kernels::Activation::GeluTanh,
            Self::Relu => kernels::Activation::Relu,
        }
    }
}
