//! Codes and values of packed rows.

use super::lines::Scratch;
use super::memory::{contiguous, from_vec, in_chunks, rows_per_task};
use super::simd::vectorised;
use crate::packed_matrix::{Code, PackedMatrix};
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;

/// A packed weight as slices of the host.
pub(crate) struct PackedRows {
    words: FlexTensor,
    scales: FlexTensor,
    zeros: Option<FlexTensor>,
    pub(crate) bits: u32,
    pub(crate) code: Code,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) group: usize,
}

impl PackedRows {
    pub(crate) fn new(p: &PackedMatrix<Flex>) -> Self {
        Self {
            words: p.words.clone().into_primitive().to_contiguous(),
            scales: contiguous(p.scales.clone()),
            zeros: p.zeros.clone().map(contiguous),
            bits: p.bits,
            code: p.code,
            rows: p.shape[0],
            columns: p.shape[1],
            group: p.group,
        }
    }

    pub(crate) fn groups(&self) -> usize {
        self.columns / self.group
    }

    /// `[out, groups]`.
    pub(crate) fn scales(&self) -> &[f32] {
        &self.scales.storage::<f32>()[..self.rows * self.groups()]
    }

    /// `[out, groups]`, or empty.
    pub(crate) fn zeros(&self) -> &[f32] {
        self.zeros.as_ref().map_or(&[], |zeros| &zeros.storage::<f32>()[..self.rows * self.groups()])
    }

    /// Bytes of one packed row.
    pub(crate) fn stride(&self) -> usize {
        crate::words_per_row(self.columns, self.bits) * size_of::<u32>()
    }

    /// The bit stream of all rows, each padded to whole words.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.words.bytes()
    }

    fn row_bytes(&self, row: usize) -> &[u8] {
        &self.bytes()[row * self.stride()..][..self.stride()]
    }

    /// Unsigned codes of one row.
    pub(crate) fn codes(&self, row: usize, out: &mut [u8]) {
        unpack_codes(self.row_bytes(row), self.bits, out);
    }

    /// Values of one row; `codes` is room for its codes.
    pub(crate) fn values(&self, row: usize, codes: &mut [u8], out: &mut [f32]) {
        self.codes(row, codes);
        let at = row * self.groups();
        let (scales, zeros) = (&self.scales()[at..at + self.groups()], self.zeros());
        match (self.code, zeros.is_empty()) {
            (Code::Symmetric, _) => {
                scale_codes(codes, (1u32 << (self.bits - 1)) as f32, 1.0, scales, self.group, out)
            }
            (Code::Binary, _) => scale_codes(codes, 1.0, 2.0, scales, self.group, out),
            (Code::Asymmetric, true) => scale_codes(codes, 0.0, 1.0, scales, self.group, out),
            (Code::Asymmetric, false) => {
                shift_codes(codes, scales, &zeros[at..at + self.groups()], self.group, out);
            }
        }
    }
}

/// See [`crate::embedding_packed`].
///
/// # Panics
/// When an id is not below the number of rows.
pub(crate) fn embedding(p: &PackedMatrix<Flex>, ids: Tensor<Flex, 2, Int>) -> Tensor<Flex, 3> {
    let ([batch, seq], [rows, columns]) = (ids.dims(), p.shape);
    let ids: Vec<i64> = ids.into_data().convert::<i64>().into_vec().expect("integers of this type");
    let packed = PackedRows::new(p);
    let values = in_rows(batch * seq, columns, |i, codes, out| {
        let row = usize::try_from(ids[i]).ok().filter(|row| *row < rows);
        packed.values(row.unwrap_or_else(|| panic!("id {} of {rows} rows", ids[i])), codes, out);
    });
    from_vec(values, [batch, seq, columns])
}

pub(crate) fn unpack(p: &PackedMatrix<Flex>) -> Tensor<Flex, 2> {
    let packed = PackedRows::new(p);
    let [rows, columns] = p.shape;
    from_vec(in_rows(rows, columns, |row, codes, out| packed.values(row, codes, out)), [rows, columns])
}

/// `[rows, columns]` of what `fill` writes into each row, in parallel; it also gets room for the row's codes.
fn in_rows(rows: usize, columns: usize, fill: impl Fn(usize, &mut [u8], &mut [f32]) + Sync) -> Vec<f32> {
    let mut out = vec![0.0; rows * columns];
    if columns > 0 {
        in_chunks(&mut out, rows_per_task(rows, columns) * columns, |chunk, from| {
            let mut codes = Scratch::new(columns);
            for (j, out) in chunk.chunks_exact_mut(columns).enumerate() {
                fill(from / columns + j, &mut codes, out);
            }
        });
    }
    out
}

/// Eight codes of `BITS` bits are `BITS` bytes.
#[inline(always)]
fn unpack_eights<const BITS: usize>(bytes: &[u8], out: &mut [u8]) {
    let read = |chunk: &[u8]| {
        let mut word = [0u8; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    };
    let mask = (1u64 << BITS) - 1;
    let full = out.len() / 8;
    for (chunk, out) in bytes.chunks_exact(BITS).zip(out.chunks_exact_mut(8)) {
        let word = read(chunk);
        for (j, code) in out.iter_mut().enumerate() {
            *code = ((word >> (BITS * j)) & mask) as u8;
        }
    }
    let rest = &mut out[full * 8..];
    if !rest.is_empty() {
        let bytes = &bytes[full * BITS..];
        let word = read(&bytes[..bytes.len().min(BITS)]);
        for (j, code) in rest.iter_mut().enumerate() {
            *code = ((word >> (BITS * j)) & mask) as u8;
        }
    }
}

/// Codes that do not cross bytes: a loop that compilers turn into interleaved stores.
#[inline(always)]
fn unpack_bytes<const BITS: usize, const CODES: usize>(bytes: &[u8], out: &mut [u8]) {
    let mask = (1u8 << BITS) - 1;
    let full = out.len() / CODES;
    let (whole, rest) = out.split_at_mut(full * CODES);
    for (byte, out) in bytes.iter().zip(whole.as_chunks_mut::<CODES>().0) {
        for (j, code) in out.iter_mut().enumerate() {
            *code = (byte >> (BITS * j)) & mask;
        }
    }
    for (j, code) in rest.iter_mut().enumerate() {
        *code = (bytes[full] >> (BITS * j)) & mask;
    }
}

vectorised! {
    fn unpack_codes(bytes: &[u8], bits: u32, out: &mut [u8]) {
        match bits {
            1 => unpack_bytes::<1, 8>(bytes, out),
            2 => unpack_bytes::<2, 4>(bytes, out),
            3 => unpack_eights::<3>(bytes, out),
            4 => unpack_bytes::<4, 2>(bytes, out),
            5 => unpack_eights::<5>(bytes, out),
            6 => unpack_eights::<6>(bytes, out),
            7 => unpack_eights::<7>(bytes, out),
            _ => out.copy_from_slice(&bytes[..out.len()]),
        }
    }
}

vectorised! {
    /// `(factor * u - offset) * scale`.
    fn scale_codes(codes: &[u8], offset: f32, factor: f32, scales: &[f32], group: usize, out: &mut [f32]) {
        let groups = codes.chunks_exact(group).zip(out.chunks_exact_mut(group)).zip(scales);
        for ((codes, out), scale) in groups {
            for (u, v) in codes.iter().zip(out) {
                *v = (factor * f32::from(*u) - offset) * scale;
            }
        }
    }
}

vectorised! {
    /// `u * scale + zero`.
    fn shift_codes(codes: &[u8], scales: &[f32], zeros: &[f32], group: usize, out: &mut [f32]) {
        let groups = codes.chunks_exact(group).zip(out.chunks_exact_mut(group)).zip(scales).zip(zeros);
        for (((codes, out), scale), zero) in groups {
            for (u, v) in codes.iter().zip(out) {
                *v = f32::from(*u) * scale + zero;
            }
        }
    }
}
