//! Packed weights: unpacking them, and products that unpack them in registers.

mod codes;
mod few_rows;
mod forms;
pub(super) mod tuned;
mod unpack;

pub(super) use few_rows::{Inputs, few_rows};
pub(super) use forms::{Choice, Form, Problem, choose};
pub(super) use unpack::unpack;

use crate::packed_matrix::{Code, PackedMatrix};
use crate::product_kernel::PackedProduct;
use burn::prelude::*;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;

/// A packed weight's tensors below burn's types, and what its codes mean.
pub(super) struct Weight<R: CubeRuntime> {
    /// `[out, words]`.
    words: CubeTensor<R>,
    /// `[out, groups]`.
    scales: CubeTensor<R>,
    /// `[out, groups]`; those of the scales where there are none.
    zeros: CubeTensor<R>,
    coding: Coding,
    /// `[out, in]`.
    shape: [usize; 2],
}

/// What codes mean: known when a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Coding {
    bits: u32,
    code: Code,
    group: usize,
    /// Whether a group is a whole row.
    by_row: bool,
}

impl Coding {
    pub(super) fn of<B: Backend>(p: &PackedMatrix<B>) -> Self {
        Self { bits: p.bits, code: p.code, group: p.group, by_row: p.group == p.shape[1] }
    }

    /// Of a product that is only described.
    fn of_product(product: PackedProduct) -> Self {
        let PackedProduct { bits, code, group, .. } = product;
        Self { bits, code, group, by_row: group == product.shape[1] }
    }

    /// Values are `(code - middle) * unit * scale`, plus the zero where there is one.
    fn middle(self) -> f32 {
        match self.code {
            Code::Symmetric => (1u32 << (self.bits - 1)) as f32,
            Code::Asymmetric => 0.0,
            Code::Binary => 0.5,
        }
    }

    /// See [`middle`](Self::middle).
    fn unit(self) -> f32 {
        if self.code == Code::Binary { 2.0 } else { 1.0 }
    }

    fn has_zeros(self) -> bool {
        self.code == Code::Asymmetric
    }

    /// Whether the codes of a chunk share one scale.
    fn fits_chunks(self) -> bool {
        self.by_row || self.group.is_multiple_of(codes::codes_per_chunk(self.bits))
    }
}

impl<R: CubeRuntime> Weight<R> {
    pub(super) fn of<B>(p: &PackedMatrix<B>) -> Self
    where
        B: Backend<FloatTensorPrimitive = CubeTensor<R>, IntTensorPrimitive = CubeTensor<R>>,
    {
        let scales = p.scales.clone().into_primitive().tensor();
        let zeros = p.zeros.clone().map(|zeros| zeros.into_primitive().tensor());
        Self {
            words: p.words.clone().into_primitive(),
            zeros: zeros.unwrap_or_else(|| scales.clone()),
            scales,
            coding: Coding::of(p),
            shape: p.shape,
        }
    }
}

/// A matrix whose neighbours in a row are neighbours in memory; rows may lie apart.
fn rows_of_neighbours<R: CubeRuntime>(x: CubeTensor<R>) -> CubeTensor<R> {
    if x.meta.strides()[1] == 1 || x.meta.shape()[1] == 1 {
        x
    } else {
        burn_cubecl::kernel::into_contiguous(x)
    }
}
