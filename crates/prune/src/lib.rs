//! Pruning: single weights, rows, heads, channels and hidden width.
//!
//! One file or folder of `methods` per method; the JSON key of a method is its name.
//!
//! - [`importance`]: how much a weight or a unit matters.
//! - [`pattern`]: which weights are removed together.
//! - [`sparsity_schedule`]: how much is removed when.
//! - [`selection`]: which units stay, exactly as many as asked for.
//! - [`budget`]: which units of all groups stay where the whole model is to cost half as much.
//!
//! Whatever removes more than single weights works on groups of dimensions ([`briquette_core::DimensionGroup`]): a mask
//! of the group's units multiplies the columns of every weight that consumes its values. What a masked unit
//! computes is multiplied by zero wherever it goes, so the model computes what it will compute without the unit,
//! whatever biases, normalizations of batches and activations lie between.

pub mod axis;
pub mod budget;
pub mod importance;
pub mod methods;
pub mod pattern;
pub mod scope;
mod seed;
pub mod selection;
pub mod sparsity_schedule;
pub mod structured;
#[cfg(test)]
mod test_kit;

pub use methods::{ChannelPruning, HeadPruning, RowPruning, SparsePruning, StructurePruning, WidthPruning};
