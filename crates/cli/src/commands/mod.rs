//! The commands, one file each.

pub(crate) mod bench;
pub(crate) mod compress;
pub(crate) mod eval;
pub(crate) mod inspect;
mod layer_by_layer;
pub(crate) mod plan;
mod scan;
mod training;
