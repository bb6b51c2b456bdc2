//! A build that knows no such device.

#![expect(clippy::extra_unused_type_parameters, reason = "what a build with such devices looks at")]

use crate::activation::Activation;
use crate::packed_matrix::{Code, PackedMatrix};
use crate::product_kernel::PackedProduct;
use crate::quantize::TokenQuant;
use burn::prelude::*;
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

/// Why nothing runs here.
const NOT_BUILT: &str = "built without the feature `cuda`";

/// Nothing of any input.
#[derive(Default)]
pub(in crate::cube) struct Prepared(());

impl Prepared {
    /// Nothing.
    #[expect(clippy::unused_self, reason = "what a build with such devices has")]
    pub(in crate::cube) fn times_codes<B: Backend>(
        &mut self,
        _x: &Tensor<B, 2>,
        _q: TokenQuant,
        _p: &PackedMatrix<B>,
        _bias: Option<&Tensor<B, 1>>,
        _activation: Activation,
    ) -> Option<Tensor<B, 2>> {
        None
    }

    /// Nothing.
    #[expect(clippy::unused_self, reason = "what a build with such devices has")]
    pub(in crate::cube) fn times_halves<B: Backend>(
        &mut self,
        _x: &Tensor<B, 2>,
        _p: &PackedMatrix<B>,
        _bias: Option<&Tensor<B, 1>>,
        _activation: Activation,
    ) -> Option<Tensor<B, 2>> {
        None
    }
}

/// Nothing.
pub(in crate::cube) fn one_row<B: Backend>(
    _x: &Tensor<B, 2>,
    _q: Option<TokenQuant>,
    _p: &PackedMatrix<B>,
    _bias: Option<&Tensor<B, 1>>,
    _activation: Activation,
) -> Option<Tensor<B, 2>> {
    None
}

/// Never.
pub(in crate::cube) fn takes_one_row<R: CubeRuntime>(
    _product: PackedProduct,
    _floats: DType,
    _device: &R::Device,
) -> bool {
    false
}

/// Always.
pub(in crate::cube) fn refuses_codes<R: CubeRuntime>(
    _product: PackedProduct,
    _device: &R::Device,
) -> Option<String> {
    Some(NOT_BUILT.into())
}

/// Why not.
pub(in crate::cube) fn halves<R: CubeRuntime>(
    _product: PackedProduct,
    _floats: DType,
    _device: &R::Device,
) -> Result<&'static str, String> {
    Err(NOT_BUILT.into())
}

/// Never.
pub(in crate::cube) fn multiplies_codes<R>(_code: Code, _shape: [usize; 2], _group: usize) -> bool {
    false
}

/// Never.
pub(in crate::cube) fn takes_halves<R: CubeRuntime>(_x: CubeTensor<R>, _shape: [usize; 2]) -> bool {
    false
}

/// Never.
pub(in crate::cube) fn multiplies_halves<R>(_floats: DType, _shape: [usize; 2]) -> bool {
    false
}

/// Never.
pub(in crate::cube) fn attends<R>(_dtype: DType, _width: usize) -> bool {
    false
}

/// Nothing.
pub(in crate::cube) fn attention<B: Backend>(
    _qkv: [&Tensor<B, 4>; 3],
    _mask: Option<&Tensor<B, 4>>,
    _causal: bool,
    _scale: f64,
) -> Option<Tensor<B, 4>> {
    None
}
