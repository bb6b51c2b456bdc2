//! A packed weight laid out for the products, once: panels of [`WIDTH`] outputs whose codes lie as the
//! innermost loops read them.

use super::codes::PackedRows;
use super::lines::{Lines, Scratch};
use super::simd::vectorised;
use super::tile::{BytePanel, DEPTH, LONGEST, WIDTH};
use crate::packed_matrix::{Code, PackedMatrix};
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;
use std::sync::Arc;

/// Unpacked bytes of `DEPTH` columns of a panel.
const STEP: usize = DEPTH * WIDTH;

/// Neighbouring columns with one scale, few enough for a 32-bit sum, padded to whole steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Of the weight.
    pub(crate) column: usize,
    /// Of the weight.
    pub(crate) columns: usize,
    /// Of the panel and of quantized inputs, where pieces are padded.
    pub(crate) start: usize,
    /// A multiple of `DEPTH`, at most [`LONGEST`].
    pub(crate) length: usize,
    pub(crate) group: usize,
}

/// Cuts `columns` into groups, and groups that are too long into pieces.
pub(crate) fn pieces(columns: usize, group: usize) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::new();
    for (index, first) in (0..columns).step_by(group).enumerate() {
        for column in (first..first + group).step_by(LONGEST) {
            let columns = LONGEST.min(first + group - column);
            let start = out.last().map_or(0, |p| p.start + p.length);
            let length = columns.next_multiple_of(DEPTH);
            out.push(Piece { column, columns, start, length, group: index });
        }
    }
    out
}

/// A weight in panels. `value = (code - middle) * scale (+ zero)`.
pub(crate) struct Panels {
    source: Source,
    /// `[panel, steps]` of `STEP` codes, several in a byte where they are short.
    codes: Lines<u8>,
    /// Bits of a stored code: 2, 4 or 8.
    bits: usize,
    pub(crate) pieces: Vec<Piece>,
    /// Outputs.
    pub(crate) rows: usize,
    /// Inputs with padding.
    pub(crate) depth: usize,
    pub(crate) groups: usize,
    /// The code of zero.
    pub(crate) middle: i32,
    /// `[panel, groups, WIDTH]`.
    scales: Vec<f32>,
    /// Likewise, `zero_point * scale`; empty where there are none.
    zeros: Vec<f32>,
    /// `[panel, WIDTH]`, sums of the values of each output.
    pub(crate) sums: Vec<f64>,
}

impl Panels {
    /// The panels of `p`: those kept with it, if they are there and nobody changed it since.
    pub(crate) fn of(p: &PackedMatrix<Flex>) -> Arc<Self> {
        let source = Source::new(p);
        p.prepared.get_or_make(|panels: &Self| panels.source.same(&source), || Self::new(p))
    }

    fn new(p: &PackedMatrix<Flex>) -> Self {
        let packed = PackedRows::new(p);
        let groups = packed.groups();
        let pieces = pieces(packed.columns, packed.group);
        let depth = pieces.last().map_or(0, |p| p.start + p.length);
        let bits = match packed.bits {
            1 | 2 => 2,
            3 | 4 => 4,
            _ => 8,
        };
        let count = packed.rows.div_ceil(WIDTH);
        let mut panels = Self {
            source: Source::new(p),
            codes: Lines::zeros(count * depth * WIDTH * bits / 8),
            bits,
            rows: packed.rows,
            depth,
            groups,
            middle: middle(&packed),
            scales: by_panel(packed.scales(), groups, count),
            zeros: by_panel(packed.zeros(), groups, count),
            sums: vec![0.0; count * WIDTH],
            pieces,
        };
        let bytes = panels.panel_bytes().max(1);
        let mut codes = std::mem::replace(&mut panels.codes, Lines::zeros(0));
        let sums = panels.sums.par_chunks_mut(WIDTH);
        codes.par_chunks_mut(bytes).zip(sums).enumerate().for_each(|(panel, (to, sums))| {
            fill_panel(&packed, &panels.pieces, bits, panel, to, sums);
        });
        panels.codes = codes;
        panels
    }

    /// Outputs of a panel that are not padding.
    pub(crate) fn width(&self, panel: usize) -> usize {
        WIDTH.min(self.rows - panel * WIDTH)
    }

    fn panel_bytes(&self) -> usize {
        self.depth * WIDTH * self.bits / 8
    }

    /// Room for the spread codes of a panel: nothing where `spread` is false or they are bytes already.
    pub(crate) fn room(&self, spread: bool) -> Scratch<u8> {
        Scratch::new(if self.bits == 8 || !spread { 0 } else { self.depth * WIDTH })
    }

    /// Codes of a panel, spread into `room` where that was made for it.
    pub(crate) fn codes<'a>(&'a self, panel: usize, room: &'a mut [u8]) -> BytePanel<'a> {
        let codes = &self.codes[panel * self.panel_bytes()..][..self.panel_bytes()];
        if room.is_empty() {
            return BytePanel { codes, bits: self.bits };
        }
        match self.bits {
            4 => spread_halves(codes, room),
            _ => spread_quarters(codes, room),
        }
        BytePanel { codes: room, bits: 8 }
    }

    /// Scales of a group of a panel.
    pub(crate) fn scales(&self, panel: usize, group: usize) -> &[f32; WIDTH] {
        part(&self.scales, panel * self.groups + group)
    }

    /// Zeros of a group of a panel, where the weight has any.
    pub(crate) fn zeros(&self, panel: usize, group: usize) -> Option<&[f32; WIDTH]> {
        (!self.zeros.is_empty()).then(|| part(&self.zeros, panel * self.groups + group))
    }

    /// Values of a panel, `[columns, WIDTH]`, into `out`; `room` is room to spread its codes.
    pub(crate) fn values(&self, panel: usize, room: &mut [u8], out: &mut [f32]) {
        let codes = self.codes(panel, room).codes;
        for piece in &self.pieces {
            let codes = &codes[piece.start * WIDTH..][..piece.length * WIDTH];
            let out = &mut out[piece.column * WIDTH..][..piece.columns * WIDTH];
            let zeros = self.zeros(panel, piece.group).copied().unwrap_or([0.0; WIDTH]);
            dequantize(codes, self.middle as f32, self.scales(panel, piece.group), &zeros, out);
        }
    }
}

/// What a layout was made from: as long as the tensors are held, no others lie at the same places.
pub(super) struct Source {
    words: FlexTensor,
    floats: Vec<FlexTensor>,
    kind: (u32, Code, [usize; 2], usize),
}

impl Source {
    pub(super) fn new(p: &PackedMatrix<Flex>) -> Self {
        let floats = [Some(&p.scales), p.zeros.as_ref()].into_iter().flatten();
        Self {
            words: p.words.clone().into_primitive(),
            floats: floats.map(|t| t.clone().into_primitive().tensor()).collect(),
            kind: (p.bits, p.code, p.shape, p.group),
        }
    }

    pub(super) fn same(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.floats.len() == other.floats.len()
            && same(&self.words, &other.words)
            && self.floats.iter().zip(&other.floats).all(|(a, b)| same(a, b))
    }
}

/// Whether two tensors are one piece of memory seen alike.
fn same(a: &FlexTensor, b: &FlexTensor) -> bool {
    let (x, y) = (a.layout(), b.layout());
    Arc::ptr_eq(&a.data_arc(), &b.data_arc())
        && x.shape() == y.shape()
        && x.strides() == y.strides()
        && x.start_offset() == y.start_offset()
}

fn part(values: &[f32], index: usize) -> &[f32; WIDTH] {
    values[index * WIDTH..][..WIDTH].try_into().expect("a slice of this length")
}

/// The code that stands for zero. Binary codes are stored twice as large: `2 u - 1` has a middle of 1,
/// where that of `u` would be a half.
fn middle(packed: &PackedRows) -> i32 {
    match packed.code {
        Code::Symmetric => 1 << (packed.bits - 1),
        Code::Binary => 1,
        Code::Asymmetric => 0,
    }
}

/// `[out, groups]` to `[panel, groups, WIDTH]`.
fn by_panel(values: &[f32], groups: usize, count: usize) -> Vec<f32> {
    if values.is_empty() {
        return Vec::new();
    }
    let mut out = vec![0.0; count * groups * WIDTH];
    for (row, values) in values.chunks_exact(groups).enumerate() {
        for (group, value) in values.iter().enumerate() {
            out[(row / WIDTH * groups + group) * WIDTH + row % WIDTH] = *value;
        }
    }
    out
}

/// Stores the codes of a panel's outputs, and sums their values.
fn fill_panel(
    packed: &PackedRows,
    pieces: &[Piece],
    bits: usize,
    panel: usize,
    to: &mut [u8],
    sums: &mut [f64],
) {
    let factor = if packed.code == Code::Binary { 2 } else { 1 };
    let (mut codes, mut values) = (vec![0u8; packed.columns], vec![0.0f32; packed.columns]);
    let lanes = WIDTH.min(packed.rows - panel * WIDTH);
    for (lane, sum) in sums.iter_mut().enumerate().take(lanes) {
        packed.values(panel * WIDTH + lane, &mut codes, &mut values);
        *sum = values.iter().map(|v| f64::from(*v)).sum();
        for piece in pieces {
            for (k, code) in codes[piece.column..][..piece.columns].iter().enumerate() {
                let column = piece.start + k;
                let at = lane * DEPTH + column % DEPTH;
                // Codes of a step that share a byte are as far apart as there are bytes: spreading
                // them is a shift of whole vectors.
                let bytes = STEP * bits / 8;
                to[column / DEPTH * bytes + at % bytes] |= (code * factor) << (at / bytes * bits);
            }
        }
    }
}

vectorised! {
    /// From two codes in a byte to one.
    fn spread_halves(bytes: &[u8], out: &mut [u8]) {
        for (bytes, out) in bytes.chunks_exact(STEP / 2).zip(out.chunks_exact_mut(STEP)) {
            let (low, high) = out.split_at_mut(STEP / 2);
            for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
                *low = byte & 15;
                *high = byte >> 4;
            }
        }
    }
}

vectorised! {
    /// From four codes in a byte to one.
    fn spread_quarters(bytes: &[u8], out: &mut [u8]) {
        for (bytes, out) in bytes.chunks_exact(STEP / 4).zip(out.chunks_exact_mut(STEP)) {
            for (shift, out) in out.chunks_exact_mut(STEP / 4).enumerate() {
                for (byte, out) in bytes.iter().zip(out) {
                    *out = byte >> (2 * shift) & 3;
                }
            }
        }
    }
}

vectorised! {
    /// `[length / DEPTH, WIDTH, DEPTH]` codes to `[columns, WIDTH]` values.
    fn dequantize(codes: &[u8], middle: f32, scales: &[f32; WIDTH], zeros: &[f32; WIDTH], out: &mut [f32]) {
        for (codes, out) in codes.chunks_exact(STEP).zip(out.chunks_mut(STEP)) {
            for (column, out) in out.chunks_exact_mut(WIDTH).enumerate() {
                for j in 0..WIDTH {
                    let four = u32::from_le_bytes([
                        codes[j * DEPTH],
                        codes[j * DEPTH + 1],
                        codes[j * DEPTH + 2],
                        codes[j * DEPTH + 3],
                    ]);
                    let code = (four >> (8 * column)) & 255;
                    out[j] = (code.cast_signed() as f32 - middle) * scales[j] + zeros[j];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_become_pieces() {
        let piece = |column, columns, start, length, group| Piece { column, columns, start, length, group };
        assert_eq!(pieces(6, 3), [piece(0, 3, 0, 4, 0), piece(3, 3, 4, 4, 1)]);
        assert_eq!(pieces(8, 8), [piece(0, 8, 0, 8, 0)]);
        let long = pieces(LONGEST + 1, LONGEST + 1);
        assert_eq!(long, [piece(0, LONGEST, 0, LONGEST, 0), piece(LONGEST, 1, LONGEST, 4, 0)]);
    }
}
