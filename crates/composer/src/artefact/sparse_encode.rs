//! A weight with zeros to tensors without them, where that takes fewer bytes.

use super::sparse_record::{SparseFormat, SparseRecord};
use crate::session::FinishedLayer;
use briquette_checkpoint::{CheckpointError, Dtype, NamedTensor};
use briquette_core::{CodedWeight, LayerKind, SparsePattern, SparseWeight};

/// What the manifest says of a weight with zeros that is stored as `tensor` so far, and the tensors to store in its
/// place where they are smaller. Nothing where the weight holds more than its mask says.
///
/// `input_major`: the tensor is `[in, out]`.
///
/// # Errors
/// When a value does not fit its type, which the weight's own tensor excludes.
pub(super) fn stored(
    layer: &FinishedLayer,
    sparse: &SparseWeight,
    tensor: &NamedTensor,
    input_major: bool,
) -> Result<Option<(SparseRecord, Vec<NamedTensor>)>, CheckpointError> {
    let size = tensor.dtype().bitsize() / 8;
    let transposed = input_major && layer.site.kind == LayerKind::Linear;
    let bytes = canonical(tensor.bytes(), sparse.shape, size, transposed);
    let fits = bytes.len() == sparse.kept.len() * size;
    if !fits || !bytes.chunks_exact(size).zip(&sparse.kept).all(|(entry, kept)| *kept || is_zero(entry)) {
        return Ok(None);
    }
    let mut record = record(layer, sparse, tensor.dtype(), tensor.bytes().len() as u64);
    let tensors = tensors(&record, sparse, &bytes)?;
    record.sparse_bytes = tensors.iter().map(|t| t.bytes().len() as u64).sum();
    if record.sparse_bytes < record.dense_bytes {
        return Ok(Some((record, tensors)));
    }
    record.format = SparseFormat::Dense;
    Ok(Some((record, Vec::new())))
}

/// What the manifest says of a weight with zeros that was quantized: its codes, zeros among them.
pub(super) fn coded(layer: &FinishedLayer, sparse: &SparseWeight, codes: &CodedWeight) -> SparseRecord {
    let [rows, columns] = sparse.shape;
    let bytes = |count: usize| (count as u64 * u64::from(codes.bits)).div_ceil(8);
    let record = record(layer, sparse, Dtype::U8, bytes(rows * columns));
    let bits = (rows * columns.div_ceil(8)) as u64;
    SparseRecord { format: SparseFormat::Codes, sparse_bytes: bytes(record.kept) + bits, ..record }
}

fn record(layer: &FinishedLayer, sparse: &SparseWeight, dtype: Dtype, dense_bytes: u64) -> SparseRecord {
    let format = match sparse.pattern {
        SparsePattern::RunOf { kept: 2, of: 4 } => SparseFormat::TwoOfFour,
        SparsePattern::Block { .. } => SparseFormat::Blocks,
        _ => SparseFormat::Bitmask,
    };
    SparseRecord {
        name: layer.site.name.clone(),
        kind: layer.site.kind,
        shape: sparse.shape,
        dtype,
        pattern: sparse.pattern,
        kept: sparse.kept.iter().filter(|kept| **kept).count(),
        format,
        dense_bytes,
        sparse_bytes: 0,
    }
}

/// Whether a little-endian float is zero of either sign.
fn is_zero(entry: &[u8]) -> bool {
    entry.split_last().is_some_and(|(top, rest)| top & 0x7F == 0 && rest.iter().all(|byte| *byte == 0))
}

/// Entries of `size` bytes as `[out, in]`.
fn canonical(bytes: &[u8], [rows, columns]: [usize; 2], size: usize, transposed: bool) -> Vec<u8> {
    if !transposed || bytes.len() != rows * columns * size {
        return bytes.to_vec();
    }
    let at = |row: usize, column: usize| &bytes[(column * rows + row) * size..][..size];
    (0..rows).flat_map(|row| (0..columns).flat_map(move |column| at(row, column))).copied().collect()
}

/// The record's tensors; `bytes` are the entries `[out, in]`.
fn tensors(
    record: &SparseRecord,
    sparse: &SparseWeight,
    bytes: &[u8],
) -> Result<Vec<NamedTensor>, CheckpointError> {
    let size = record.dtype.bitsize() / 8;
    let [bit_rows, bit_columns] = record.bits();
    let [r, c] = record.block();
    let columns = record.shape[1];
    let entry = |row: usize, column: usize| row * columns + column;
    let mut bitmask = vec![0u8; bit_rows * bit_columns.div_ceil(8)];
    let (mut compressed, mut offsets, mut count) = (Vec::new(), Vec::new(), 0i64);
    for row in 0..bit_rows {
        offsets.extend(count.to_le_bytes());
        for column in (0..bit_columns).filter(|column| sparse.kept[entry(row * r, column * c)]) {
            bitmask[row * bit_columns.div_ceil(8) + column / 8] |= 1 << (column % 8);
            for at in (row * r..(row + 1) * r).map(|row| entry(row, column * c)) {
                compressed.extend(&bytes[at * size..(at + c) * size]);
            }
            count += 1;
        }
    }
    let shape: Vec<u8> = record.shape.iter().flat_map(|n| (*n as i64).to_le_bytes()).collect();
    let content = |name: &str| match name.rsplit_once('.').map_or(name, |(_, part)| part) {
        "compressed" => compressed.clone(),
        "bitmask" => bitmask.clone(),
        "row_offsets" => offsets.clone(),
        _ => shape.clone(),
    };
    let expected = record.expected().into_iter();
    expected
        .map(|(name, dtype, shape)| NamedTensor::new(name.clone(), dtype, shape, content(&name)))
        .collect()
}
