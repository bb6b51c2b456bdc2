//! Which kernels a model runs with.

use briquette_kernels::product_kernel;
use briquette_nn::{Compressible, LayerMut, visit_layers};
use burn::prelude::*;
use std::collections::BTreeMap;

/// What the packed linear layers of a model compute with where their inputs have `rows` rows, and how many layers each.
/// A kernel says why it was taken in place of a faster one.
pub fn product_kernels<B: Backend, M: Module<B> + Compressible<B>>(
    model: &M,
    rows: usize,
    device: &B::Device,
) -> BTreeMap<String, usize> {
    let mut kernels = BTreeMap::new();
    visit_layers(&mut model.clone(), |_, layer| {
        if let LayerMut::Linear(linear) = layer
            && let Some(product) = linear.packed_product(rows)
        {
            *kernels.entry(product_kernel::<B>(product, device)).or_insert(0) += 1;
        }
    });
    kernels
}
