//! What becomes of integer sums, with 512-bit vectors: the same operations in the same order as in `outputs` and `math`.
#![expect(unsafe_code, reason = "vector loads and masked stores inside of rows")]

use super::math::{EXP_FIT, GELU_FIT, LN_2_HIGH, LN_2_LOW, ROUND, TWICE_SQRT_2_OVER_PI};
use super::outputs::Scaling;
use super::simd::{Level, level};
use super::tile::WIDTH;
use crate::activation::Activation;
use std::arch::x86_64::*;

/// Lanes of a vector.
const LANES: usize = 16;

/// Scales `sums`, adds the bias, applies the activation and writes as much of each row as `to` has room for; false, and
/// nothing is done, where the machine does not have the instructions.
pub(super) fn finish_sums(
    sums: &[[i32; WIDTH]],
    scaling: &Scaling<'_>,
    bias: &[f32; WIDTH],
    activation: Activation,
    to: &mut [&mut [f32]],
) -> bool {
    if level() < Level::Avx512 {
        return false;
    }
    // SAFETY: the machine has the instructions.
    unsafe {
        match activation {
            Activation::Identity => finish::<0>(sums, scaling, bias, to),
            Activation::Relu => finish::<1>(sums, scaling, bias, to),
            Activation::Gelu => finish::<2>(sums, scaling, bias, to),
            Activation::GeluTanh => finish::<3>(sums, scaling, bias, to),
        }
    }
    true
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn finish<const ACTIVATION: u8>(
    sums: &[[i32; WIDTH]],
    scaling: &Scaling<'_>,
    bias: &[f32; WIDTH],
    to: &mut [&mut [f32]],
) {
    let rows = sums.iter().zip(scaling.inputs).zip(scaling.grids).zip(to);
    for (((sums, input), (grid, _)), to) in rows {
        // Exact modulo 2^32, and the difference fits.
        let correction = _mm512_set1_epi32(input.wrapping_mul(scaling.middle));
        for from in (0..WIDTH).step_by(LANES) {
            let width = to.len().saturating_sub(from).min(LANES);
            let mask = ((1u32 << width) - 1) as u16;
            // SAFETY: `from` is the first of 16 of 32 elements; of a row, the mask selects those that are there.
            unsafe {
                let sum = _mm512_sub_epi32(_mm512_loadu_epi32(sums.as_ptr().add(from)), correction);
                let scale = _mm512_loadu_ps(scaling.scales.as_ptr().add(from));
                let value =
                    _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale), _mm512_set1_ps(*grid));
                let value = _mm512_add_ps(value, _mm512_loadu_ps(bias.as_ptr().add(from)));
                let value = match ACTIVATION {
                    0 => value,
                    1 => _mm512_max_ps(_mm512_setzero_ps(), value),
                    2 => gelu(value),
                    _ => gelu_tanh(value),
                };
                _mm512_mask_storeu_ps(to.as_mut_ptr().wrapping_add(from), mask, value);
            }
        }
    }
}

// Of the operands of a minimum or maximum the second is the result where one is not a number.

/// See `math::exp_within`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn exp_within(x: __m512) -> __m512 {
    let shifted = _mm512_fmadd_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E), _mm512_set1_ps(ROUND));
    let n = _mm512_sub_ps(shifted, _mm512_set1_ps(ROUND));
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN_2_HIGH), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN_2_LOW), r);
    let power = _mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(127));
    let power = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(power));
    let rest = _mm512_fmadd_ps(polynomial(&EXP_FIT, r), _mm512_mul_ps(r, r), r);
    _mm512_mul_ps(_mm512_add_ps(_mm512_set1_ps(1.0), rest), power)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn polynomial<const N: usize>(c: &[f32; N], x: __m512) -> __m512 {
    let mut y = _mm512_set1_ps(c[N - 1]);
    for c in c.iter().rev().skip(1) {
        y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(*c));
    }
    y
}

/// See `math::gelu`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn gelu(x: __m512) -> __m512 {
    let positive = _mm512_max_ps(x, _mm512_setzero_ps());
    let a = _mm512_min_ps(_mm512_set1_ps(13.12), _mm512_abs_ps(x));
    let fitted = _mm512_min_ps(_mm512_set1_ps(5.5), a);
    let half = _mm512_mul_ps(_mm512_set1_ps(0.5), a);
    let exponent = _mm512_fmsub_ps(polynomial(&GELU_FIT, fitted), fitted, _mm512_mul_ps(half, a));
    _mm512_fnmadd_ps(half, exp_within(exponent), positive)
}

/// See `math::gelu_tanh`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn gelu_tanh(x: __m512) -> __m512 {
    let cube = _mm512_mul_ps(_mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(0.044_715), x), x), x);
    let u2 = _mm512_mul_ps(_mm512_set1_ps(TWICE_SQRT_2_OVER_PI), _mm512_add_ps(x, cube));
    let exponent = _mm512_sub_ps(_mm512_set1_ps(-0.0), u2);
    let within = _mm512_max_ps(_mm512_set1_ps(-87.0), exponent);
    let within = _mm512_min_ps(_mm512_set1_ps(88.0), within);
    let above = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(exponent, _mm512_set1_ps(-87.0));
    let power = _mm512_maskz_mov_ps(above, exp_within(within));
    _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0), power))
}

#[cfg(test)]
mod tests {
    use super::super::math;
    use super::*;

    /// Bits, so that it does not matter which of the two a product takes.
    #[test]
    fn results_are_those_of_the_plain_loops() {
        let scales: [f32; WIDTH] = std::array::from_fn(|j| 0.001 + j as f32 * 1e-4);
        let bias: [f32; WIDTH] = std::array::from_fn(|j| j as f32 * 0.25 - 4.0);
        let sums: [[i32; WIDTH]; 7] = std::array::from_fn(|i| {
            std::array::from_fn(|j| ((i * WIDTH + j) as i32).wrapping_mul(40_503) % 200_000 - 100_000)
        });
        let inputs = [3, -7, 0, 100, -2000, 5, 1];
        let grids = [0.01, 0.5, 0.0, f32::NAN, 1e-3, 3e5, f32::INFINITY].map(|grid| (grid, 0.0));
        let scaling = Scaling { inputs: &inputs, grids: &grids, middle: 128, scales: &scales };
        for activation in [Activation::Identity, Activation::Relu, Activation::Gelu, Activation::GeluTanh] {
            for width in [1, 15, 16, 17, WIDTH] {
                let mut got = vec![7.0f32; 7 * (width + 1)];
                let mut rows: Vec<&mut [f32]> =
                    got.chunks_exact_mut(width + 1).map(|row| &mut row[..width]).collect();
                if !finish_sums(&sums, &scaling, &bias, activation, &mut rows) {
                    return;
                }
                for (i, row) in got.chunks_exact(width + 1).enumerate() {
                    assert_eq!(row[width], 7.0, "wrote beyond {width} outputs");
                    for (j, got) in row[..width].iter().enumerate() {
                        let v = (sums[i][j] - 128 * inputs[i]) as f32 * scales[j] * grids[i].0 + bias[j];
                        let expected = match activation {
                            Activation::Identity => v,
                            Activation::Relu => {
                                if v < 0.0 {
                                    0.0
                                } else {
                                    v
                                }
                            }
                            Activation::Gelu => math::gelu::<true>(v),
                            Activation::GeluTanh => math::gelu_tanh::<true>(v),
                        };
                        let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
                        assert!(same, "{activation:?}({v}) = {got}, not {expected}");
                    }
                }
            }
        }
    }
}
