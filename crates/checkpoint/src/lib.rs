//! Safetensors files to burn modules and back, by Hugging Face names.
//!
//! - [`TensorFiles`]: one `model.safetensors`, or the shards of a `model.safetensors.index.json`. Opening
//!   checks the headers against the files' lengths; nothing is allocated from what a header claims before that.
//! - [`Naming`]: how the parameters of a burn module are called and laid out in a checkpoint.
//! - [`load_module`]: a module with the values of a checkpoint, or every discrepancy at once.
//! - [`module_tensors`] and [`write()`]: the way back.
//!
//! A Linear weight is `[out, in]` in a checkpoint (`[in, out]` where [`Naming::input_major`] says so) and
//! `[in, out]` in burn. All other tensors have one layout. Values are `f32` in memory and F16, BF16, F32 or F64
//! in files.

mod convert;
mod error;
mod files;
mod header;
mod load;
mod naming;
mod save;

pub use error::{CheckpointError, TensorProblem};
pub use files::{TensorFiles, TensorRef};
pub use load::load_module;
pub use naming::Naming;
pub use safetensors::Dtype;
pub use save::{NamedTensor, module_tensors, write};
