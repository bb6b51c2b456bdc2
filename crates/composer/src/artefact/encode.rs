//! A coded weight to tensors in the layout of compressed-tensors.

use super::manifest::{Format, LayerRecord, ZeroLayout};
use crate::session::FinishedLayer;
use briquette_checkpoint::{CheckpointError, Dtype, NamedTensor};
use briquette_core::{CodeKind, CodedWeight, InputQuantization, InputRange, LayerKind, LowRank, Site};
use briquette_kernels::pack_rows;
use briquette_nn::token_quant;

/// How the layer is going to lie in the file.
pub(super) fn record(layer: &FinishedLayer, coded: &CodedWeight, input: bool) -> LayerRecord {
    let site = &layer.site;
    let half = 1i32 << (coded.bits - 1);
    let byte = coded.bits == 8 && (input || site.kind == LayerKind::Embedding);
    let fits = |zero: &i32| (-half..half).contains(&(-zero - half));
    let zeros = (coded.kind == CodeKind::Asymmetric)
        .then(|| if coded.zeros.iter().all(fits) { ZeroLayout::Compressed } else { ZeroLayout::Plain });
    LayerRecord {
        name: site.name.clone(),
        kind: site.kind,
        shape: coded.shape,
        stored_shape: stored_shape(site),
        bits: coded.bits,
        code: coded.kind,
        group: coded.group,
        format: if byte { Format::IntQuantized } else { Format::PackQuantized },
        zeros,
        low_rank: layer.low_rank().map(|l| l.rank),
        relative_error: layer.relative_error,
    }
}

fn stored_shape(site: &Site) -> Vec<usize> {
    match site.kind {
        LayerKind::Conv2d => site.native.clone(),
        _ => site.shape.to_vec(),
    }
}

/// The layer's tensors.
///
/// # Errors
/// When a value does not fit its type, which the checks of the plan exclude.
pub(super) fn tensors(
    record: &LayerRecord,
    coded: &CodedWeight,
) -> Result<Vec<NamedTensor>, CheckpointError> {
    let [rows, columns] = coded.shape;
    let groups = columns / coded.group;
    let name = |suffix: &str| format!("{}.{suffix}", record.name);
    let mut tensors = Vec::new();
    match record.format {
        Format::IntQuantized => {
            let bytes = coded.codes.iter().map(|u| u.wrapping_sub(128)).collect();
            tensors.push(NamedTensor::new(name("weight"), Dtype::I8, record.stored_shape.clone(), bytes)?);
        }
        Format::PackQuantized => {
            let words = pack_rows(&coded.codes, rows, columns, coded.bits);
            let shape = vec![rows, words.len() / rows.max(1)];
            tensors.push(NamedTensor::words(name("weight_packed"), shape, &words)?);
            let shape: Vec<u8> = record.stored_shape.iter().flat_map(|n| (*n as i64).to_le_bytes()).collect();
            let rank = vec![record.stored_shape.len()];
            tensors.push(NamedTensor::new(name("weight_shape"), Dtype::I64, rank, shape)?);
        }
    }
    tensors.push(NamedTensor::floats(name("weight_scale"), Dtype::F32, vec![rows, groups], &coded.scales)?);
    if let Some(layout) = record.zeros {
        tensors.push(zeros(record, coded, layout)?);
    }
    Ok(tensors)
}

/// The factors of a layer's correction. They hold what 16-bit floats can hold, so nothing is lost.
///
/// # Errors
/// When the factors do not have the shape that their record says.
pub(super) fn low_rank_tensors(
    record: &LayerRecord,
    low_rank: &LowRank,
) -> Result<Vec<NamedTensor>, CheckpointError> {
    let ([rows, columns], rank) = (record.shape, low_rank.rank);
    let factor = |suffix: &str, shape: [usize; 2], values: &[f32]| {
        NamedTensor::floats(format!("{}.{suffix}", record.name), Dtype::F16, shape.to_vec(), values)
    };
    Ok(vec![
        factor("low_rank_left", [rows, rank], &low_rank.left)?,
        factor("low_rank_right", [rank, columns], &low_rank.right)?,
    ])
}

/// compressed-tensors means `(q - zero_point) * scale` with signed codes `q = u - 2^(bits-1)`; ours
/// is `u * scale + zero * scale`, so its zero point is `-zero - 2^(bits-1)`.
fn zeros(
    record: &LayerRecord,
    coded: &CodedWeight,
    layout: ZeroLayout,
) -> Result<NamedTensor, CheckpointError> {
    let name = format!("{}.weight_zero_point", record.name);
    let (rows, groups) = (coded.shape[0], coded.shape[1] / coded.group);
    match (layout, record.format) {
        (ZeroLayout::Plain, _) => {
            let words: Vec<u32> = coded.zeros.iter().map(|z| *z as u32).collect();
            NamedTensor::words(name, vec![rows, groups], &words)
        }
        (ZeroLayout::Compressed, Format::IntQuantized) => {
            let bytes = coded.zeros.iter().map(|z| (-z - 128) as u8).collect();
            NamedTensor::new(name, Dtype::I8, vec![rows, groups], bytes)
        }
        (ZeroLayout::Compressed, Format::PackQuantized) => {
            // Packed along the rows: transposed, packed as rows are, transposed back. The offset
            // that makes codes unsigned cancels the one of the zero point.
            let column = |g: usize| (0..rows).map(move |r| (-coded.zeros[r * groups + g]) as u8);
            let transposed: Vec<u8> = (0..groups).flat_map(column).collect();
            let packed = pack_rows(&transposed, groups, rows, coded.bits);
            let height = packed.len() / groups.max(1);
            let words: Vec<u32> = (0..height)
                .flat_map(|h| (0..groups).map(move |g| (h, g)))
                .map(|(h, g)| packed[g * height + h])
                .collect();
            NamedTensor::words(name, vec![height, groups], &words)
        }
    }
}

/// `input_scale` and `input_zero_point` of a static range, for other readers; ours is in the
/// manifest.
pub(super) fn input_tensors(layer: &str, q: &InputQuantization) -> Result<Vec<NamedTensor>, CheckpointError> {
    let InputRange::Static { min, max } = q.range else { return Ok(Vec::new()) };
    let (scale, zero) = token_quant(q).scale_and_zero_point(min, max);
    let mut tensors =
        vec![NamedTensor::floats(format!("{layer}.input_scale"), Dtype::F32, vec![1], &[scale])?];
    if !q.symmetric {
        let half = 1i32 << (q.bits - 1);
        let point = (-(zero as i32) - half).clamp(-half, half - 1) as i8;
        let name = format!("{layer}.input_zero_point");
        tensors.push(NamedTensor::new(name, Dtype::I8, vec![1], vec![point as u8])?);
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests;
