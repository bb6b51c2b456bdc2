//! Tensors without zeros to a weight with them.

use super::decode::{MAX_ELEMENTS, wrong};
use super::error::ArtefactError;
use super::sparse_record::{SparseFormat, SparseRecord};
use briquette_checkpoint::{Dtype, TensorFiles, TensorRef};
use briquette_core::{LayerKind, SparsePattern};

/// What is wrong with the record itself, if anything.
pub(super) fn check_record(record: &SparseRecord) -> Result<(), String> {
    let [rows, columns] = record.shape;
    let total = rows.checked_mul(columns).filter(|n| *n <= MAX_ELEMENTS).ok_or("its shape is too large")?;
    if record.kind == LayerKind::BatchNorm {
        return Err(format!("{} has no weight", record.kind));
    }
    if record.kept > total {
        return Err(format!("keeps {} of {total} entries", record.kept));
    }
    if record.format.is_sparse() && !is_float(record.dtype) {
        return Err(format!("{} is no type of a float", record.dtype));
    }
    let pattern = record.pattern;
    match (record.format, pattern) {
        (SparseFormat::TwoOfFour, SparsePattern::RunOf { kept: 2, of: 4 })
            if columns.is_multiple_of(4) && record.kept == total / 2 => {}
        (SparseFormat::Blocks, SparsePattern::Block { rows: r, columns: c })
            if rows.checked_rem(r) == Some(0)
                && columns.checked_rem(c) == Some(0)
                && record.kept.is_multiple_of(r.saturating_mul(c)) => {}
        (SparseFormat::TwoOfFour | SparseFormat::Blocks, _) => {
            return Err(format!("{pattern:?} of {} in {rows} x {columns} has another form", record.kept));
        }
        _ => {}
    }
    Ok(())
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
}

/// The weight `[out, in]`, row-major, of a record whose tensors were found as they are expected. Bits, offsets and shape
/// are compared with the record before the weight is allocated.
pub(super) fn dense(record: &SparseRecord, files: &TensorFiles) -> Result<Vec<f32>, ArtefactError> {
    let get = |part: &str| files.get(&record.tensor(part));
    check_numbers(get("shape")?, &record.shape.map(|n| n as i64))?;
    let bitmask = get("bitmask")?;
    let bits = Bits { bytes: bitmask.bytes()?, columns: record.bits()[1] };
    let counts = bits.counts(record).map_err(|reason| wrong(bitmask.file(), bitmask.name(), reason))?;
    if record.format == SparseFormat::Bitmask {
        let offsets = counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum - count)
        });
        check_numbers(get("row_offsets")?, &offsets.collect::<Vec<i64>>())?;
    }
    Ok(bits.spread(record, &get("compressed")?.to_f32()?))
}

/// Refuses a tensor of integers that are not those expected.
fn check_numbers(tensor: TensorRef<'_>, expected: &[i64]) -> Result<(), ArtefactError> {
    let found = tensor.to_i64()?;
    match found.iter().zip(expected).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(at) => {
            let reason =
                format!("entry {at} is {}, the manifest and the bits ask for {}", found[at], expected[at]);
            Err(wrong(tensor.file(), tensor.name(), reason))
        }
    }
}

/// A bit for each entry or block.
struct Bits {
    bytes: Vec<u8>,
    /// Bits of a row.
    columns: usize,
}

impl Bits {
    fn rows(&self) -> std::slice::ChunksExact<'_, u8> {
        self.bytes.chunks_exact(self.columns.div_ceil(8).max(1))
    }

    /// How many are set in each row, as many in all as the record says.
    fn counts(&self, record: &SparseRecord) -> Result<Vec<i64>, String> {
        let beyond = if self.columns.is_multiple_of(8) { 0 } else { u8::MAX << (self.columns % 8) };
        if self.rows().any(|row| row.last().is_some_and(|last| last & beyond != 0)) {
            return Err(format!("has bits beyond its {} columns", self.columns));
        }
        let two = |byte: &u8| (byte & 15).count_ones() == 2 && (byte >> 4).count_ones() == 2;
        let half = |last: &u8| (last & 15).count_ones() == 2;
        let two_of_four = |row: &[u8]| match (self.columns % 8, row.split_last()) {
            (4, Some((last, rest))) => rest.iter().all(two) && half(last),
            _ => row.iter().all(two),
        };
        if record.format == SparseFormat::TwoOfFour && !self.rows().all(two_of_four) {
            return Err("does not keep two of each four entries".into());
        }
        let counts: Vec<i64> =
            self.rows().map(|row| row.iter().map(|byte| i64::from(byte.count_ones())).sum()).collect();
        let (found, block) = (counts.iter().sum::<i64>(), record.block());
        if found != (record.kept / (block[0] * block[1])) as i64 {
            return Err(format!("has {found} bits set, for {} entries in blocks of {block:?}", record.kept));
        }
        Ok(counts)
    }

    /// The entries at their places.
    fn spread(&self, record: &SparseRecord, entries: &[f32]) -> Vec<f32> {
        let ([rows, columns], [r, c]) = (record.shape, record.block());
        let mut values = vec![0.0; rows * columns];
        let mut blocks = entries.chunks_exact(r * c);
        for (row, bits) in self.rows().enumerate() {
            for column in (0..self.columns).filter(|column| bits[column / 8] >> (column % 8) & 1 == 1) {
                let Some(block) = blocks.next() else { return values };
                for (i, entries) in block.chunks_exact(c).enumerate() {
                    values[(row * r + i) * columns + column * c..][..c].copy_from_slice(entries);
                }
            }
        }
        values
    }
}
