//! A model with the layers that a plan keeps.

use crate::plan::Plan;
use briquette_layer_reduce::reduce;
use briquette_nn::{Compressible, LayerMut, visit_layers};
use burn::prelude::*;

/// A copy of `model`, reduced as the plan says where it still has all of its layers.
pub(super) fn reduced<B: Backend, M: Module<B> + Compressible<B>>(plan: &Plan<B>, model: &M) -> M {
    let mut copy = model.clone();
    let Some((reduction, kept)) = plan.layer_reduction().and_then(|r| Some((r, r.indices()?))) else {
        return copy;
    };
    let mut blocks = None;
    visit_layers(&mut copy, |at, layer| {
        if let LayerMut::Layers(list) = layer
            && at.path() == reduction.path
        {
            blocks = Some(list.len());
        }
    });
    if blocks == Some(reduction.of) {
        reduce(&mut copy, &reduction.path, kept).expect("the plan was made for this list of blocks");
    }
    copy
}
