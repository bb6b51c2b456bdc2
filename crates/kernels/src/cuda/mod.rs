//! Products on the tensor cores of NVIDIA's Hopper chips, and attention, in CUDA C++: cubecl has no name for their
//! instructions.
//!
//! - [`int8`] multiplies an input's codes with a weight's codes.
//! - [`half`] multiplies half floats with the values of a packed weight.
//! - [`one_row`] multiplies up to four rows, quantized or not, with a packed weight's codes.

mod attention;
pub(crate) mod half;
pub(crate) mod int8;
pub(crate) mod one_row;
mod source;
pub(crate) mod variants;

use crate::packed_matrix::{Code, Prepared};
use crate::quantize::TokenQuant;
pub(crate) use attention::{attention, supports as supports_attention};
use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::ComputeClient;
use cubecl::features::Tma;
use cubecl_cuda::CudaRuntime;
use source::floats;
use thiserror::Error;
use variants::{Element, QuantizeRows, ROWS};

type Client = ComputeClient<CudaRuntime>;
type Matrix = CubeTensor<CudaRuntime>;
type Device = <CudaRuntime as cubecl::Runtime>::Device;

/// Rows that lie together in the layout that products read.
const PANEL: usize = 64;

/// Bytes of a row that lie together there.
const BLOCK_BYTES: usize = 128;

/// Bytes of a matrix there whose rows have `bytes` bytes.
fn layout(rows: usize, bytes: usize) -> usize {
    rows.next_multiple_of(PANEL) * bytes.next_multiple_of(BLOCK_BYTES)
}

/// Why a product is not for these kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Unsupported {
    /// They use instructions of one generation of chips.
    #[error("the device is no NVIDIA Hopper GPU")]
    Device,
    /// Floats of another type.
    #[error("elements of type {0:?}")]
    Element(DType),
    /// Sums of whole rows cannot be scaled group by group.
    #[error("scales for groups of {group} of {columns} inputs")]
    Groups {
        /// Inputs that share a scale.
        group: usize,
        /// Inputs in all.
        columns: usize,
    },
    /// Codes with zero points.
    #[error("a weight with zero points")]
    ZeroPoints,
    /// Rows are held in registers.
    #[error("{0} inputs, more than {most}", most = QuantizeRows::WIDEST)]
    Columns(usize),
    /// Nothing to compute.
    #[error("nothing to compute")]
    Empty,
}

/// A weight as these kernels see it.
#[derive(Clone)]
pub(crate) struct Weight {
    /// `[out, words]`.
    pub(crate) words: Matrix,
    /// `[out, groups]`.
    pub(crate) scales: Matrix,
    /// `[out, groups]`, where codes are counted from zero.
    pub(crate) zeros: Option<Matrix>,
    pub(crate) bits: u32,
    pub(crate) code: Code,
    /// `[out, in]`.
    pub(crate) shape: [usize; 2],
    pub(crate) group: usize,
    pub(crate) prepared: Prepared,
}

/// Whether the device has the instructions, the types are known, and there is something to compute.
fn known(x: &Matrix, w: &Weight, bias: Option<&Matrix>) -> Result<(), Unsupported> {
    runs_on(&x.client)?;
    for dtype in [x.dtype, w.scales.dtype].into_iter().chain(bias.map(|bias| bias.dtype)) {
        Element::of(dtype).ok_or(Unsupported::Element(dtype))?;
    }
    if x.meta.num_elements() == 0 { Err(Unsupported::Empty) } else { Ok(()) }
}

/// Whether a device has the instructions.
pub(crate) fn runs_on(client: &Client) -> Result<(), Unsupported> {
    let tma = client.features().tma;
    let hopper = tma.contains(Tma::Base) && !tma.contains(Tma::Im2colWide);
    if hopper { Ok(()) } else { Err(Unsupported::Device) }
}

/// Multiprocessors of a device.
fn multiprocessors(client: &Client) -> usize {
    client.properties().hardware.num_streaming_multiprocessors.unwrap_or(132) as usize
}

/// A matrix whose neighbours in a row are neighbours in memory.
fn neighbours(x: Matrix) -> Matrix {
    if x.meta.strides()[1] == 1 || x.meta.shape()[1] == 1 { x } else { into_contiguous(x) }
}

/// A vector whose neighbours are neighbours in memory.
fn vector(x: Matrix) -> Matrix {
    if x.meta.strides()[0] == 1 { x } else { into_contiguous(x) }
}

/// Scales and zeros of a weight's groups, with rows equally far apart. Where they lie apart by no more than what a device adds
/// to rows, nothing is copied: a copy for each product would cost as much as a product of few rows.
fn scales_and_zeros(w: &Weight) -> (Matrix, Option<Matrix>) {
    let (scales, zeros) = (neighbours(w.scales.clone()), w.zeros.clone().map(neighbours));
    match zeros {
        Some(zeros) if zeros.meta.strides()[0] != scales.meta.strides()[0] => {
            (into_contiguous(scales), Some(into_contiguous(zeros)))
        }
        zeros => (scales, zeros),
    }
}

/// What kernels are told of a quantization: limits of codes, divisor of the range and fixed scale, zero point and offset.
fn how_to_quantize(q: TokenQuant) -> [u64; 3] {
    let (low, high) = q.code_limits();
    let (scale, zero_point) = q.range.map_or((1.0, 0.0), |(min, max)| q.scale_and_zero_point(min, max));
    // Unsigned codes less this fit a signed byte.
    let offset = if q.symmetric { 0.0 } else { q.levels() / 2.0 };
    [floats(low, high), floats(q.divisor(), scale), floats(zero_point, offset)]
}

/// A tensor of any rank whose last axis has neighbours in rows that begin at multiples of 16 bytes.
fn aligned(x: Matrix) -> Matrix {
    let strides = x.meta.strides();
    let (last, before) = (strides.len() - 1, &strides[..strides.len() - 1]);
    let whole = |stride: &usize| (stride * x.dtype.size()).is_multiple_of(16);
    let fits = strides[last] == 1 && before.iter().all(whole);
    // A slice begins where it was cut.
    let begins = x.handle.offset_start.unwrap_or(0).is_multiple_of(16);
    match (fits, begins) {
        (true, true) => x,
        (false, true) => into_contiguous(x),
        (_, false) => into_contiguous(x.copy()),
    }
}

/// Columns of the tiles that take the fewest rounds of all multiprocessors, a round costing what a tile computes and
/// something for its beginning and end.
fn tile_columns(rows: usize, columns: usize, multiprocessors: usize) -> usize {
    const BEGIN_AND_END: usize = 48;
    let cost = |tile: &usize| {
        let tiles = rows.div_ceil(ROWS) * columns.div_ceil(*tile);
        tiles.div_ceil(multiprocessors) * (tile + BEGIN_AND_END)
    };
    [256, 192, 128, 64].into_iter().min_by_key(cost).expect("four of them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fill_the_multiprocessors() {
        for (rows, columns, expected) in [(4096, 4096, 256), (8192, 768, 192), (64, 4096, 64), (1, 64, 64)] {
            assert_eq!(tile_columns(rows, columns, 132), expected, "{rows} x {columns}");
        }
    }
}
