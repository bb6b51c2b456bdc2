//! Which kernel computes a product with a packed weight.

use crate::packed_matrix::{Code, PackedMatrix};
use crate::quantize::TokenQuant;
use crate::registry::lookup;
use burn::prelude::*;

/// A product with a packed weight, as far as the choice of a kernel looks at it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PackedProduct {
    /// Rows of the input.
    pub rows: usize,
    /// `[out, in]` of the weight.
    pub shape: [usize; 2],
    /// Bits of a code.
    pub bits: u32,
    /// What a code stands for.
    pub code: Code,
    /// Neighbouring inputs that share a scale.
    pub group: usize,
    /// How inputs are quantized; `None` for products with float inputs.
    pub input: Option<TokenQuant>,
}

impl PackedProduct {
    /// The product of `rows` rows with `p`, their entries quantized by `input` if at all.
    pub fn of<B: Backend>(rows: usize, input: Option<TokenQuant>, p: &PackedMatrix<B>) -> Self {
        Self { rows, shape: p.shape, bits: p.bits, code: p.code, group: p.group, input }
    }
}

/// What [`linear_packed`](crate::linear_packed) or [`linear_quantized`](crate::linear_quantized) computes a product with, in
/// a few words, and why not with what would be faster.
pub fn product_kernel<B: Backend>(product: PackedProduct, device: &B::Device) -> String {
    match lookup::<B>() {
        Some(ops) => (ops.product_kernel)(product, device),
        None => PORTABLE.into(),
    }
}

/// A convolution with a packed weight, as far as the choice of a kernel looks at it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PackedConvolution {
    /// `[channels_out, channels_in / groups * kh * kw]` of the weight.
    pub shape: [usize; 2],
    /// What a code stands for.
    pub code: Code,
    /// Neighbouring inputs of an output that share a scale.
    pub group: usize,
    /// Groups of channels.
    pub groups: usize,
    /// How images are quantized; `None` for convolutions of floats.
    pub input: Option<TokenQuant>,
}

impl PackedConvolution {
    /// The convolution with `p`, in so many groups of channels, of images that are quantized by `input` if at all.
    pub fn of<B: Backend>(groups: usize, input: Option<TokenQuant>, p: &PackedMatrix<B>) -> Self {
        Self { shape: p.shape, code: p.code, group: p.group, groups, input }
    }
}

/// What a convolution with a packed weight is computed with where no gradients are asked for, in a few words, and why not with
/// what would be faster.
pub fn convolution_kernel<B: Backend>(convolution: PackedConvolution) -> String {
    match lookup::<B>() {
        Some(ops) => (ops.convolution_kernel)(convolution),
        None => FLOAT_CONVOLUTION.into(),
    }
}

/// Where a backend has no convolution of codes.
pub(crate) const FLOAT_CONVOLUTION: &str = "a convolution of floats with the unpacked weight";

/// The portable bodies.
pub(crate) const PORTABLE: &str = "portable operations on the unpacked weight";

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::{Autodiff, Flex};

    #[test]
    fn names_follow_what_runs() {
        let input = TokenQuant { bits: 8, symmetric: true, full_range: false, range: None };
        let product = PackedProduct {
            rows: 16,
            shape: [8, 64],
            bits: 4,
            code: Code::Symmetric,
            group: 64,
            input: None,
        };
        let name = |product| product_kernel::<Flex>(product, &Default::default());
        assert!(name(product).starts_with("float tiles, "), "{}", name(product));
        let many = PackedProduct { rows: 4096, ..product };
        assert_eq!(name(many), "gemm on blocks unpacked on the way");
        let quantized = PackedProduct { input: Some(input), ..many };
        assert!(name(quantized).starts_with("int8 tiles, "), "{}", name(quantized));
        assert_eq!(product_kernel::<Autodiff<Flex>>(quantized, &Default::default()), PORTABLE);
    }

    #[test]
    fn convolutions_say_why_they_are_not_computed_in_integers() {
        let input = TokenQuant { bits: 8, symmetric: true, full_range: false, range: None };
        let convolution = PackedConvolution {
            shape: [8, 36],
            code: Code::Symmetric,
            group: 36,
            groups: 1,
            input: Some(input),
        };
        let name = convolution_kernel::<Flex>;
        assert!(name(convolution).starts_with("int8 tiles, "), "{}", name(convolution));
        for (other, why) in [
            (PackedConvolution { input: None, ..convolution }, "inputs are floats"),
            (PackedConvolution { groups: 2, ..convolution }, "channels are in several groups"),
            (PackedConvolution { group: 9, ..convolution }, "an output has several scales"),
            (PackedConvolution { code: Code::Asymmetric, ..convolution }, "the weight has zero points"),
            (
                PackedConvolution { input: Some(TokenQuant { symmetric: false, ..input }), ..convolution },
                "inputs have a zero point",
            ),
        ] {
            let found = name(other);
            assert!(found.starts_with("float tiles of the unpacked weight, "), "{found}");
            assert!(found.ends_with(&format!("; not int8: {why}")), "{found}");
        }
        assert_eq!(convolution_kernel::<Autodiff<Flex>>(convolution), FLOAT_CONVOLUTION);
    }
}
