//! Which kernels a model runs with.

use briquette_kernels::{convolution_kernel, product_kernel};
use briquette_nn::{Compressible, LayerMut, visit_layers};
use burn::prelude::*;
use std::collections::BTreeMap;

/// What the packed linear layers of a model compute with where their inputs have `rows` rows, what its packed convolutions
/// compute with, and how many layers each. A kernel says why it was taken in place of a faster one.
pub fn product_kernels<B: Backend, M: Module<B> + Compressible<B>>(
    model: &M,
    rows: usize,
    device: &B::Device,
) -> BTreeMap<String, usize> {
    let mut kernels = BTreeMap::new();
    visit_layers(&mut model.clone(), |_, layer| {
        let kernel = match layer {
            LayerMut::Linear(layer) => {
                layer.packed_product(rows).map(|product| product_kernel::<B>(product, device))
            }
            LayerMut::Conv2d(layer) => layer.packed_convolution().map(convolution_kernel::<B>),
            _ => None,
        };
        if let Some(kernel) = kernel {
            *kernels.entry(kernel).or_insert(0) += 1;
        }
    });
    kernels
}
