//! Tensors in the layout of compressed-tensors to a packed weight on a device.

use super::error::ArtefactError;
use super::manifest::{Format, LayerRecord, ZeroLayout};
use crate::session::code_of;
use briquette_checkpoint::{Dtype, TensorFiles, TensorRef};
use briquette_core::{CodeKind, LayerKind, LowRank};
use briquette_kernels::{PackedMatrix, pack_rows, unpack_rows, words_per_row};
use burn::prelude::*;
use std::path::Path;

/// Largest number of elements a weight may have, so that sizes cannot overflow.
pub(super) const MAX_ELEMENTS: usize = 1 << 40;

/// What is wrong with the record itself, if anything.
pub(super) fn check_record(record: &LayerRecord) -> Result<(), String> {
    let [rows, columns] = record.shape;
    let total = rows.checked_mul(columns).filter(|n| *n <= MAX_ELEMENTS).ok_or("its shape is too large")?;
    let stored = record.stored_shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    if stored != Some(total) {
        return Err(format!("shapes {:?} and {:?} differ in size", record.shape, record.stored_shape));
    }
    let rank = if record.kind == LayerKind::Conv2d { 4 } else { 2 };
    if record.stored_shape.len() != rank || record.kind == LayerKind::BatchNorm {
        return Err(format!("shape {:?} is not that of {}", record.stored_shape, record.kind));
    }
    if !(1..=8).contains(&record.bits) {
        return Err(format!("{} bits are not 1 to 8", record.bits));
    }
    if columns.checked_rem(record.group) != Some(0) {
        return Err(format!("groups of {} do not divide {columns} columns", record.group));
    }
    if (record.code == CodeKind::Binary) != (record.bits == 1) {
        return Err("binary codes have 1 bit, others more".into());
    }
    if record.format == Format::IntQuantized && record.bits != 8 {
        return Err("int-quantized weights have 8 bits here".into());
    }
    if let Some(rank) = record.low_rank
        && (record.kind != LayerKind::Linear || rank == 0 || rank > rows.min(columns))
    {
        return Err(format!("{} of {rows} x {columns} has no correction of rank {rank}", record.kind));
    }
    if record.zeros.is_some() != (record.code == CodeKind::Asymmetric) {
        return Err("asymmetric codes have zero points, others do not".into());
    }
    Ok(())
}

/// Names, types and shapes that the layer's tensors must have.
pub(super) fn expected(record: &LayerRecord) -> Vec<(String, Dtype, Vec<usize>)> {
    let [rows, columns] = record.shape;
    let groups = columns / record.group;
    let name = |suffix: &str| format!("{}.{suffix}", record.name);
    let mut list = match record.format {
        Format::IntQuantized => vec![(name("weight"), Dtype::I8, record.stored_shape.clone())],
        Format::PackQuantized => vec![
            (name("weight_packed"), Dtype::I32, vec![rows, words_per_row(columns, record.bits)]),
            (name("weight_shape"), Dtype::I64, vec![record.stored_shape.len()]),
        ],
    };
    list.push((name("weight_scale"), Dtype::F32, vec![rows, groups]));
    if let Some(layout) = record.zeros {
        let (dtype, shape) = match (layout, record.format) {
            (ZeroLayout::Plain, _) => (Dtype::I32, vec![rows, groups]),
            (ZeroLayout::Compressed, Format::IntQuantized) => (Dtype::I8, vec![rows, groups]),
            (ZeroLayout::Compressed, Format::PackQuantized) => {
                (Dtype::I32, vec![words_per_row(rows, record.bits), groups])
            }
        };
        list.push((name("weight_zero_point"), dtype, shape));
    }
    if let Some(rank) = record.low_rank {
        list.push((name("low_rank_left"), Dtype::F16, vec![rows, rank]));
        list.push((name("low_rank_right"), Dtype::F16, vec![rank, columns]));
    }
    list
}

/// The packed weight of a record whose tensors were found as [`expected`].
pub(super) fn packed<B: Backend>(
    record: &LayerRecord,
    files: &TensorFiles,
    device: &B::Device,
) -> Result<PackedMatrix<B>, ArtefactError> {
    let [rows, columns] = record.shape;
    let get = |suffix: &str| files.get(&format!("{}.{suffix}", record.name));
    let words = match record.format {
        Format::IntQuantized => {
            let codes: Vec<u8> = get("weight")?.bytes()?.iter().map(|q| q.wrapping_add(128)).collect();
            pack_rows(&codes, rows, columns, 8)
        }
        Format::PackQuantized => {
            check_shape(record, get("weight_shape")?)?;
            get("weight_packed")?.to_words()?
        }
    };
    let scale = get("weight_scale")?;
    let scales = scale.to_f32()?;
    if let Some(bad) = scales.iter().find(|s| !s.is_finite() || **s < 0.0) {
        return Err(wrong(scale.file(), scale.name(), format!("{bad} is no scale")));
    }
    let zeros = match record.zeros {
        None => Vec::new(),
        Some(layout) => zeros(record, layout, get("weight_zero_point")?)?,
    };
    let code = code_of(record.code);
    Ok(PackedMatrix::new(words, scales, zeros, record.bits, code, record.shape, record.group, device))
}

/// The correction of a record whose tensors were found as [`expected`], where it has one.
pub(super) fn low_rank(record: &LayerRecord, files: &TensorFiles) -> Result<Option<LowRank>, ArtefactError> {
    let Some(rank) = record.low_rank else { return Ok(None) };
    let factor = |suffix: &str| -> Result<Vec<f32>, ArtefactError> {
        let tensor = files.get(&format!("{}.{suffix}", record.name))?;
        let values = tensor.to_f32()?;
        match values.iter().find(|v| !v.is_finite()) {
            Some(bad) => Err(wrong(tensor.file(), tensor.name(), format!("holds {bad}"))),
            None => Ok(values),
        }
    };
    Ok(Some(LowRank { rank, left: factor("low_rank_left")?, right: factor("low_rank_right")? }))
}

fn check_shape(record: &LayerRecord, tensor: TensorRef<'_>) -> Result<(), ArtefactError> {
    let found = tensor.to_i64()?;
    if found.iter().map(|n| usize::try_from(*n).ok()).eq(record.stored_shape.iter().map(|n| Some(*n))) {
        return Ok(());
    }
    let reason = format!("says {found:?}, the manifest {:?}", record.stored_shape);
    Err(wrong(tensor.file(), tensor.name(), reason))
}

fn zeros(record: &LayerRecord, layout: ZeroLayout, tensor: TensorRef<'_>) -> Result<Vec<i32>, ArtefactError> {
    let (rows, groups) = (record.shape[0], record.shape[1] / record.group);
    Ok(match (layout, record.format) {
        (ZeroLayout::Plain, _) => tensor.to_words()?.iter().map(|w| *w as i32).collect(),
        (ZeroLayout::Compressed, Format::IntQuantized) => {
            tensor.bytes()?.iter().map(|b| -i32::from(*b as i8) - 128).collect()
        }
        (ZeroLayout::Compressed, Format::PackQuantized) => {
            let words = tensor.to_words()?;
            let height = words_per_row(rows, record.bits);
            let column = |g: usize| (0..height).map(move |h| (h, g));
            let transposed: Vec<u32> =
                (0..groups).flat_map(column).map(|(h, g)| words[h * groups + g]).collect();
            let codes = unpack_rows(&transposed, groups, rows, record.bits);
            (0..rows)
                .flat_map(|r| (0..groups).map(move |g| (r, g)))
                .map(|(r, g)| -i32::from(codes[g * rows + r]))
                .collect()
        }
    })
}

pub(super) fn wrong(path: &Path, tensor: &str, reason: String) -> ArtefactError {
    ArtefactError::Tensor { path: path.into(), tensor: tensor.into(), reason }
}
