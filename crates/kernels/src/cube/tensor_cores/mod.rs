//! What runs on the tensor cores of one kind of device, where a build knows it and the tensors lie there.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
mod none;

#[cfg(feature = "cuda")]
pub(super) use cuda::{
    Prepared, attends, attention, halves, multiplies_codes, multiplies_halves, one_row, refuses_codes,
    takes_halves, takes_one_row,
};
#[cfg(not(feature = "cuda"))]
pub(super) use none::{
    Prepared, attends, attention, halves, multiplies_codes, multiplies_halves, one_row, refuses_codes,
    takes_halves, takes_one_row,
};
