//! A weight of which only the entries that are not zero are kept, and its product.

use crate::portable;
use crate::registry::lookup;
use crate::sparse_layout::{SparseLayout, entries_of};
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use std::sync::Arc;

/// Time of an entry relative to that of an entry of a strip of one output, by the height of the strip: an input that
/// was loaded serves all outputs of a strip.
const COST: [(usize, f64); 3] = [(1, 1.0), (2, 1.3), (4, 1.9)];

/// Time of one weight of the dense product in the same unit, less a margin for what the rest of a product costs.
const DENSE: f64 = 0.3;

/// A weight `[out, in]` without its zeros, laid out for the processor's vectors. Clones share it.
///
/// Not a module: a layer wraps it. It lies in the memory of the host on every backend.
#[derive(Clone, Debug)]
pub struct SparseMatrix<B: Backend> {
    pub(crate) layout: Arc<SparseLayout>,
    device: B::Device,
}

impl<B: Backend> SparseMatrix<B> {
    /// The entries of `values: [out, in]`, row-major, that are not zero.
    ///
    /// Where neighbouring rows have their entries in the same columns, as blocks of 4x1 have, they are kept together.
    ///
    /// # Panics
    /// When the number of values is not that of the shape.
    pub fn new(values: &[f32], shape: [usize; 2], device: &B::Device) -> Self {
        let (height, _) = cheapest(values, shape);
        Self { layout: Arc::new(SparseLayout::new(values, shape, height)), device: device.clone() }
    }

    /// [`new`](Self::new) where [`linear_sparse`] is faster on this backend than the product with all of `values`.
    ///
    /// A rule of the matrix alone, so that a model computes the same bits each time. It asks for 0.7 of the weight to be
    /// zero where entries lie anywhere, and for 0.54 and 0.37 of the blocks where two and four neighbouring rows have
    /// theirs in the same columns. It was made from times of the dense product over those of this one, the fastest of
    /// many calls of each, on two cores with 512-bit vectors that other work shared; `benches/sparse.rs` takes them. The
    /// smallest ratio of weights 384 x 384, 1536 x 384 and 384 x 1536, by rows of inputs:
    ///
    /// | pattern | zeros | 1 | 8 | 16 | 128 | 1024 | computed |
    /// |---|---:|---:|---:|---:|---:|---:|---|
    /// | anywhere | 0.5 | 0.29 | 0.27 | 0.55 | 0.78 | 0.81 | dense |
    /// | anywhere | 0.7 | 0.36 | 0.55 | 1.05 | 1.53 | 1.16 | without zeros |
    /// | anywhere | 0.8 | 0.58 | 0.91 | 1.28 | 1.86 | 1.14 | without zeros |
    /// | anywhere | 0.9 | 0.85 | 1.30 | 1.66 | 2.28 | 1.79 | without zeros |
    /// | 2:4 | 0.5 | 0.30 | 0.55 | 0.84 | 1.08 | 0.81 | dense |
    /// | 2x1 | 0.5 | 0.34 | 0.31 | 0.61 | 0.72 | 0.91 | dense |
    /// | 2x1 | 0.7 | 0.62 | 0.70 | 1.24 | 1.00 | 1.56 | without zeros |
    /// | 4x1 | 0.3 | 0.39 | 0.59 | 0.88 | 1.29 | 1.09 | dense |
    /// | 4x1 | 0.5 | 0.51 | 0.72 | 1.45 | 1.65 | 1.25 | without zeros |
    /// | 4x1 | 0.8 | 0.94 | 1.57 | 1.78 | 2.72 | 2.19 | without zeros |
    ///
    /// With fewer than 16 rows at a time, where lanes of vectors stay empty, it may thus be slower than dense. With 256-bit
    /// vectors for both products, ratios are no smaller.
    ///
    /// # Panics
    /// When the number of values is not that of the shape.
    pub fn if_faster(values: &[f32], shape: [usize; 2], device: &B::Device) -> Option<Self> {
        let (height, cost) = cheapest(values, shape);
        let pays = runs_sparse::<B>() && cost <= DENSE * values.len() as f64 && !values.is_empty();
        pays.then(|| Self {
            layout: Arc::new(SparseLayout::new(values, shape, height)),
            device: device.clone(),
        })
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.layout.shape
    }

    /// How many neighbouring outputs share their columns: 1, 2 or 4.
    pub fn height(&self) -> usize {
        self.layout.height
    }

    /// The weight with its zeros, `[out, in]`, row-major.
    pub fn values(&self) -> Vec<f32> {
        self.layout.values()
    }

    /// Bytes of entries, columns and places.
    pub fn bytes(&self) -> usize {
        self.layout.bytes()
    }

    /// The device of the tensors it is multiplied with.
    pub fn device(&self) -> B::Device {
        self.device.clone()
    }

    /// The same weight for tensors on another device.
    pub fn to_device(&self, device: &B::Device) -> Self {
        Self { layout: self.layout.clone(), device: device.clone() }
    }
}

impl<B: AutodiffBackend> SparseMatrix<B> {
    /// The same weight without the differentiation layer.
    pub fn inner(&self) -> SparseMatrix<B::InnerBackend> {
        SparseMatrix { layout: self.layout.clone(), device: self.device.clone() }
    }

    /// The inverse of [`inner`](Self::inner).
    pub fn from_inner(w: SparseMatrix<B::InnerBackend>) -> Self {
        Self { layout: w.layout, device: w.device }
    }
}

/// Whether [`linear_sparse`] leaves zeros out on this backend and this machine, so that it can be faster than a dense
/// product.
pub fn runs_sparse<B: Backend>() -> bool {
    lookup::<B>().is_some_and(|ops| (ops.runs_sparse)())
}

/// The height of strips at which the product takes least time, and that time.
fn cheapest(values: &[f32], shape: [usize; 2]) -> (usize, f64) {
    let time = |(height, cost): (usize, f64)| (height, cost * entries_of(values, shape, height) as f64);
    COST.map(time).into_iter().reduce(|a, b| if b.1 < a.1 { b } else { a }).unwrap_or((1, 0.0))
}

/// `x W^T + bias` with float inputs and a sparse weight; inputs that meet zeros of the weight only are not looked at,
/// so that infinite ones do not spread as in a dense product.
///
/// `x: [rows, in]`, `bias: [out]` -> `[rows, out]`. On a backend without a product of its own, and on those with
/// gradients, the weight is expanded at each call; gradients reach `x`.
///
/// # Panics
/// When the shapes do not fit.
pub fn linear_sparse<B: Backend>(
    x: Tensor<B, 2>,
    w: &SparseMatrix<B>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, 2> {
    let columns = x.dims()[1];
    assert_eq!(columns, w.shape()[1], "an input of {columns} columns for a weight of shape {:?}", w.shape());
    match lookup::<B>() {
        Some(ops) => (ops.linear_sparse)(x, w, bias),
        None => portable::linear_sparse(x, w, bias),
    }
}
