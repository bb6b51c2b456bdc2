//! Layer reduction: a student with fewer blocks than its teacher.
//!
//! - [`LayerReduction`]: the settings as a recipe has them; [`LayerReduction::resolve`] checks them against a model
//!   and makes [`ReducedLayers`] of them.
//! - [`reduce`] drops the other blocks of a model; [`initialise_from`] fills a student from a teacher of its own.
//! - [`BlockInfluence`] measures on data which blocks do most.
//!
//! A student is a model of the same type with a shorter list. Its blocks are numbered from 0, and whatever else a
//! recipe says speaks of those numbers.

mod block_influence;
mod reduce;
mod resolve;
mod settings;
mod student;

pub use block_influence::{BlockInfluence, InfluenceError};
pub use reduce::{ReduceError, reduce};
pub use resolve::{Kept, ReducedLayers};
pub use settings::{Choice, Keep, LayerReduction};
pub use student::{InitialiseError, Mismatch, initialise_from};
