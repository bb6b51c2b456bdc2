//! The commands, one file each.

pub(crate) mod bench;
pub(crate) mod compress;
pub(crate) mod eval;
pub(crate) mod inspect;
pub(crate) mod plan;
mod training;
