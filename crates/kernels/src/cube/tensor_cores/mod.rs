//! What runs on the tensor cores of one kind of device, where a build knows it and the tensors lie there.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
mod none;

#[cfg(feature = "cuda")]
pub(super) use cuda::{Codes, attends, attention, multiplies_codes, refuses};
#[cfg(not(feature = "cuda"))]
pub(super) use none::{Codes, attends, attention, multiplies_codes, refuses};
