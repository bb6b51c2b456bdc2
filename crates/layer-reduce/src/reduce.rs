//! Dropping blocks of a model.

use briquette_nn::{Compressible, LayerMut, visit_layers};
use burn::prelude::*;

/// Why a model cannot lose blocks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReduceError {
    /// No list of blocks is at this path.
    #[error("the model has no list of blocks at `{path}`")]
    NoList {
        /// Field path in the Rust model.
        path: String,
    },
    /// A block that is not there.
    #[error("`{path}` has {len} blocks, counted from 0; there is no block {index}")]
    NoBlock {
        /// Field path of the list.
        path: String,
        /// How many blocks it holds.
        len: usize,
        /// The number of the missing one.
        index: usize,
    },
    /// No block at all, one twice, or one before an earlier one.
    #[error("blocks {indices:?} of `{path}` are not a strictly increasing list of at least one")]
    Order {
        /// Field path of the list.
        path: String,
        /// The numbers as given.
        indices: Vec<usize>,
    },
}

/// Keeps of the list of blocks at the field path `list` only those at `indices`, counted from 0 and strictly
/// increasing. What stands beside the list is left alone, numbers of blocks that other fields hold included.
///
/// Only the list gets shorter: parameters keep their tensors, ids and requirement of gradients, and lazy ones stay
/// lazy. Any number of lists can be reduced one after the other.
///
/// # Errors
/// When there is no such list, or it does not have these blocks; the model is then as it was.
pub fn reduce<B: Backend, M: Compressible<B>>(
    model: &mut M,
    list: &str,
    indices: &[usize],
) -> Result<(), ReduceError> {
    let path = list.to_string();
    if indices.is_empty() || indices.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(ReduceError::Order { path, indices: indices.to_vec() });
    }
    let mut done = Err(ReduceError::NoList { path: path.clone() });
    visit_layers(model, |at, layer| {
        if let LayerMut::Layers(blocks) = layer
            && at.path() == list
        {
            let len = blocks.len();
            done = match indices.iter().find(|index| **index >= len) {
                Some(index) => Err(ReduceError::NoBlock { path: path.clone(), len, index: *index }),
                None => {
                    blocks.keep(indices);
                    Ok(())
                }
            };
        }
    });
    done
}

/// How many blocks the list at a field path holds; `None` where there is no list.
pub(crate) fn count<B: Backend, M: Compressible<B> + Clone>(model: &M, list: &str) -> Option<usize> {
    let mut count = None;
    // The walk may change layers, so a clone is walked; tensors are shared.
    visit_layers(&mut model.clone(), |at, layer| {
        if let LayerMut::Layers(blocks) = layer
            && at.path() == list
        {
            count = Some(blocks.len());
        }
    });
    count
}
