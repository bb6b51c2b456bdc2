//! Convolutions of codes, in integers.
//!
//! Codes of four neighbouring channels lie side by side in a position of the planes, as one lane multiplies them: lanes are
//! pixels, rows channels of the output, as for floats. A pixel's code is stored with [`ZERO`] added, so that it is unsigned.

use super::super::codes::PackedRows;
use super::super::lines::Scratch;
use super::super::memory::PARALLEL_FROM;
use super::super::panels::Source;
use super::super::parallel::{self, Shared};
use super::super::quantize::ByteRule;
use super::super::simd::vectorised;
use super::super::tile::{BytePanel, DEPTH, HEIGHT, LONGEST, Tile, Unit, WIDTH};
use super::{Pixels, Weight};
use crate::packed_matrix::{Code, PackedMatrix};
use crate::product_kernel::PackedConvolution;
use crate::quantize::TokenQuant;
use burn::backend::Flex;
use std::sync::Arc;

/// Codes of a pixel in four neighbouring channels.
pub(super) type Quad = [u8; DEPTH];

/// The code of zero.
const ZERO: u8 = 128;

/// Why a convolution has not one sum of whole numbers and one scale for each output, if it has not.
pub(in crate::cpu) fn refuses(convolution: PackedConvolution) -> Option<&'static str> {
    let PackedConvolution { shape: [_, columns], code, group, groups, input } = convolution;
    let Some(q) = input else {
        return Some("inputs are floats");
    };
    let reasons = [
        (groups != 1, "channels are in several groups"),
        (!q.symmetric, "inputs have a zero point"),
        (code == Code::Asymmetric, "the weight has zero points"),
        (group != columns, "an output has several scales"),
        (columns.next_multiple_of(DEPTH) * DEPTH > LONGEST, "an output has more inputs than a sum holds"),
    ];
    reasons.into_iter().find(|(holds, _)| *holds).map(|(_, why)| why)
}

/// Signed codes of a weight, in the order in which pixels are read.
pub(super) struct ByteWeight {
    source: Source,
    /// Of the kernel.
    elements: usize,
    /// `[channels_out, quads, kh, kw, DEPTH]`; channels that fill up a quad are zero.
    codes: Vec<i8>,
    /// `[channels_out]`, what [`ZERO`] in every pixel adds to a sum.
    zeros: Vec<i32>,
    /// `[channels_out]`.
    scales: Vec<f32>,
    /// Codes of an output.
    depth: usize,
}

impl ByteWeight {
    /// For a kernel of so many elements: the one kept with the weight, if it is there and nobody changed it since.
    pub(super) fn of(weight: &PackedMatrix<Flex>, elements: usize) -> Arc<Self> {
        let source = Source::new(weight);
        let valid = |kept: &Self| kept.elements == elements && kept.source.same(&source);
        weight.prepared.get_or_make(valid, || Self::new(weight, elements))
    }

    fn new(weight: &PackedMatrix<Flex>, elements: usize) -> Self {
        let packed = PackedRows::new(weight);
        let channels = packed.columns / elements;
        let depth = channels.div_ceil(DEPTH) * elements * DEPTH;
        let mut codes = vec![0; packed.rows * depth];
        let mut row_codes = vec![0; packed.columns];
        for (row, to) in codes.chunks_exact_mut(depth).enumerate() {
            packed.codes(row, &mut row_codes);
            for (column, code) in row_codes.iter().enumerate() {
                let (channel, element) = (column / elements, column % elements);
                let quad = channel / DEPTH * elements + element;
                to[quad * DEPTH + channel % DEPTH] = signed(*code, packed.bits, packed.code);
            }
        }
        let sum = |codes: &[i8]| codes.iter().map(|code| i32::from(*code)).sum::<i32>();
        let zeros = codes.chunks_exact(depth).map(|codes| i32::from(ZERO) * sum(codes)).collect();
        let source = Source::new(weight);
        Self { source, elements, zeros, scales: packed.scales().to_vec(), codes, depth }
    }
}

/// What an unsigned code of a weight without zero points stands for, in scales.
fn signed(code: u8, bits: u32, kind: Code) -> i8 {
    let value = match kind {
        Code::Binary => 2 * i16::from(code) - 1,
        Code::Symmetric | Code::Asymmetric => i16::from(code) - (1 << (bits - 1)),
    };
    i8::try_from(value).expect("a code of at most 8 bits")
}

/// A weight, and the scales of the images that it multiplies.
pub(super) struct Bytes<'a> {
    pub(super) unit: Unit,
    pub(super) weight: &'a ByteWeight,
    /// `[batch]`.
    pub(super) scales: &'a [f32],
}

impl Weight for Bytes<'_> {
    type Pixel = Quad;

    const OUTSIDE: Quad = [ZERO; DEPTH];

    fn gathers(&self) -> bool {
        true
    }

    fn multiply(&self, pixels: Pixels<'_, Quad>, image: usize, channel: usize, m: usize, to: &mut Tile<f32>) {
        let Pixels::Gathered(pixels) = pixels else { unreachable!("see `gathers`") };
        let depth = self.weight.depth;
        let rows = &self.weight.codes[channel * depth..][..m * depth];
        let mut sums = [[0; WIDTH]; HEIGHT];
        let panel = BytePanel { codes: pixels.as_flattened(), bits: 8 };
        self.unit.bytes(panel, rows, depth, m, &mut sums);
        let numbers = (&self.weight.zeros[channel..][..m], &self.weight.scales[channel..][..m]);
        scale_sums(&sums[..m], numbers, self.scales[image], to);
    }
}

/// Codes of images `[batch, channels, pixels]` as `[batch, quads, pixels]`, and each image's scale.
#[expect(unsafe_code, reason = "threads write disjoint parts")]
pub(super) fn quantize(
    images: &[f32],
    [batch, channels, pixels]: [usize; 3],
    q: TokenQuant,
) -> (Scratch<Quad>, Vec<f32>) {
    let rule = ByteRule::new(q);
    let mut scales = vec![0.0; batch];
    let each = channels * pixels;
    {
        let to = Shared::new(&mut scales);
        parallel::blocks(batch, images.len(), |image| {
            // SAFETY: each task has its own image.
            let to = unsafe { to.range(image, 1) };
            to[0] = rule.scale(&images[image * each..][..each]);
        });
    }
    let quads = channels.div_ceil(DEPTH);
    let mut codes = Scratch::new(batch * quads * pixels);
    {
        let to = Shared::new(&mut codes);
        let some = PARALLEL_FROM.div_ceil(DEPTH * pixels).min(batch * quads);
        parallel::blocks((batch * quads).div_ceil(some), images.len(), |task| {
            for quad in task * some..((task + 1) * some).min(batch * quads) {
                let (image, first) = (quad / quads, quad % quads * DEPTH);
                let from = &images[image * each + first * pixels..][..DEPTH.min(channels - first) * pixels];
                // SAFETY: each task has its own quads.
                quantize_quad(from, &rule, scales[image], unsafe { to.range(quad * pixels, pixels) });
            }
        });
    }
    (codes, scales)
}

/// Codes of at most [`DEPTH`] channels side by side.
fn quantize_quad(channels: &[f32], rule: &ByteRule, scale: f32, to: &mut [Quad]) {
    let pixels = to.len();
    let mut codes = Scratch::<i8>::new(DEPTH * pixels);
    let present = channels.len();
    rule.codes(channels, (scale, 0.0), &mut codes[..present]);
    codes[present..].fill(0);
    interleave(&codes, to);
}

vectorised! {
    fn scale_sums(sums: &[[i32; WIDTH]], numbers: (&[i32], &[f32]), scale: f32, to: &mut Tile<f32>) {
        for ((sums, to), (zeros, own)) in sums.iter().zip(to).zip(numbers.0.iter().zip(numbers.1)) {
            let scale = own * scale;
            // Exact modulo 2^32, and the difference fits.
            sums.iter().zip(to).for_each(|(sum, to)| *to = sum.wrapping_sub(*zeros) as f32 * scale);
        }
    }
}

vectorised! {
    fn interleave(codes: &[i8], to: &mut [Quad]) {
        let pixels = to.len();
        let (low, high) = codes.split_at(2 * pixels);
        let ((a, b), (c, d)) = (low.split_at(pixels), high.split_at(pixels));
        for (i, to) in to.iter_mut().enumerate() {
            *to = [a[i], b[i], c[i], d[i]].map(|code| code.cast_unsigned() ^ ZERO);
        }
    }
}
