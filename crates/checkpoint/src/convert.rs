//! Element types and layouts.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

/// Whether elements of this type are read as `f32`.
pub(crate) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
}

/// Halves converted at a time: a whole number of SIMD registers that stays in the first-level cache.
const RUN: usize = 512;

/// Little-endian elements of a float type as `f32`.
///
/// # Panics
/// When `dtype` is not a float type or the lengths differ.
pub(crate) fn decode(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * dtype.bitsize() / 8, "bytes and values differ in number");
    match dtype {
        Dtype::F16 => decode_half(bytes, out, f16::from_le_bytes),
        Dtype::BF16 => decode_half(bytes, out, bf16::from_le_bytes),
        Dtype::F32 => {
            let (words, _) = bytes.as_chunks::<4>();
            out.iter_mut().zip(words).for_each(|(o, w)| *o = f32::from_le_bytes(*w));
        }
        Dtype::F64 => {
            let (words, _) = bytes.as_chunks::<8>();
            out.iter_mut().zip(words).for_each(|(o, w)| *o = f64::from_le_bytes(*w) as f32);
        }
        other => panic!("{other} is not a float type"),
    }
}

fn decode_half<H: Copy + Default>(bytes: &[u8], out: &mut [f32], read: fn([u8; 2]) -> H)
where
    [H]: HalfFloatSliceExt,
{
    let mut run = [H::default(); RUN];
    for (bytes, out) in bytes.chunks(2 * RUN).zip(out.chunks_mut(RUN)) {
        let (pairs, _) = bytes.as_chunks::<2>();
        let run = &mut run[..pairs.len()];
        run.iter_mut().zip(pairs).for_each(|(h, p)| *h = read(*p));
        run.convert_to_f32_slice(out);
    }
}

/// `f32` values as little-endian elements of a float type, or the first finite value that it cannot hold.
///
/// # Panics
/// When `dtype` is not a float type.
pub(crate) fn encode(dtype: Dtype, values: &[f32]) -> Result<Vec<u8>, f32> {
    let lost = |v: &&f32, back: fn(f32) -> f32| v.is_finite() && !back(**v).is_finite();
    let overflow = match dtype {
        Dtype::F16 => values.iter().find(|v| lost(v, |v| f16::from_f32(v).to_f32())),
        Dtype::BF16 => values.iter().find(|v| lost(v, |v| bf16::from_f32(v).to_f32())),
        _ => None,
    };
    if let Some(value) = overflow {
        return Err(*value);
    }
    Ok(match dtype {
        Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::F64 => values.iter().flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
        other => panic!("{other} is not a float type"),
    })
}

/// Side of the squares that a transpose works through: two of them fit in the first-level cache.
const TILE: usize = 32;

/// `[rows, columns]` as `[columns, rows]`, both row-major.
///
/// # Panics
/// When `values` does not hold `rows * columns` values.
pub(crate) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    assert_eq!(values.len(), rows * columns, "a matrix of {rows} x {columns}");
    let mut out = vec![0.0; values.len()];
    if values.is_empty() {
        return out;
    }
    out.par_chunks_mut(TILE * rows).enumerate().for_each(|(block, out)| {
        let first = block * TILE;
        for top in (0..rows).step_by(TILE) {
            let bottom = rows.min(top + TILE);
            for (c, out) in out.chunks_mut(rows).enumerate() {
                let column = values[top * columns + first + c..].iter().step_by(columns);
                out[top..bottom].iter_mut().zip(column).for_each(|(o, v)| *o = *v);
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_float_type_round_trips() {
        let values: Vec<f32> = (0..1500).map(|i| (i as f32 - 700.0) * 0.5).collect();
        for dtype in [Dtype::F16, Dtype::F32, Dtype::F64] {
            let bytes = encode(dtype, &values).expect("all fit");
            let mut back = vec![0.0; values.len()];
            decode(dtype, &bytes, &mut back);
            assert_eq!(back, values, "{dtype}");
        }
        let bytes = encode(Dtype::BF16, &[1.0, -2.5, 3.140625]).expect("all fit");
        let mut back = [0.0; 3];
        decode(Dtype::BF16, &bytes, &mut back);
        assert_eq!(back, [1.0, -2.5, 3.140625]);
    }

    #[test]
    fn a_value_that_halves_cannot_hold_is_named() {
        assert_eq!(encode(Dtype::F16, &[1.0, 70000.0]), Err(70000.0));
        assert!(encode(Dtype::F16, &[f32::INFINITY]).is_ok());
    }

    #[test]
    fn transpose_of_odd_shapes() {
        for (rows, columns) in [(1, 1), (1, 40), (40, 1), (33, 65), (64, 32), (3, 100)] {
            let values: Vec<f32> = (0..rows * columns).map(|v| v as f32).collect();
            let out = transpose(&values, rows, columns);
            for r in 0..rows {
                for c in 0..columns {
                    assert_eq!(out[c * rows + r], values[r * columns + c], "{rows}x{columns} at {r},{c}");
                }
            }
        }
        assert!(transpose(&[], 0, 5).is_empty());
    }
}
