//! Codes of a row with 512-bit vectors.
#![expect(unsafe_code, reason = "vector loads and stores under masks that stay inside of the slices")]

use super::simd::{Level, level};
use std::arch::x86_64::*;

/// Whether [`codes`] may be called: on this machine, and with a scale whose reciprocal and remainders
/// neither overflow nor lose bits.
pub(super) fn applies(scale: f32) -> bool {
    level() >= Level::Avx512 && (1e-18..1e18).contains(&scale)
}

/// Signed bytes `clamp(round((x - zero) / scale), low, high) - lowered` for `[scale, zero, low, high, lowered]`,
/// rounded half to even, and their sum. `x` is at most a few hundred scales.
///
/// # Panics
/// Where [`applies`] is false, or `out` is shorter than `x`.
pub(super) fn codes(x: &[f32], grid: [f32; 5], out: &mut [i8]) -> i32 {
    assert!(applies(grid[0]) && out.len() >= x.len(), "{} codes in {} bytes", x.len(), out.len());
    // SAFETY: `applies` found the instructions, and the lengths were just compared.
    unsafe { wide(x, grid, out) }
}

/// Division by the reciprocal, corrected twice by its remainder: the second correction of a quotient
/// that is off by at most one unit in the last place is correctly rounded (Markstein 1990, theorem 8.2).
/// So the codes are those of a division, which takes several times as long.
///
/// # Safety
/// The machine needs AVX-512 F, BW and VL; `out` is not shorter than `x`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn wide(x: &[f32], [scale, zero, low, high, lowered]: [f32; 5], out: &mut [i8]) -> i32 {
    let (s, y) = (_mm512_set1_ps(scale), _mm512_set1_ps(1.0 / scale));
    let (zero, low, high) = (_mm512_set1_ps(zero), _mm512_set1_ps(low), _mm512_set1_ps(high));
    let lowered = _mm512_set1_epi32(lowered as i32);
    let mut sums = _mm512_setzero_si512();
    for at in (0..x.len()).step_by(16) {
        let mask: __mmask16 = if x.len() - at >= 16 { !0 } else { (1 << (x.len() - at)) - 1 };
        // SAFETY: the mask selects elements of the slice only.
        let v = unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr().add(at)) };
        let t = _mm512_sub_ps(v, zero);
        let q = _mm512_mul_ps(t, y);
        let q = _mm512_fmadd_ps(_mm512_fnmadd_ps(q, s, t), y, q);
        let q = _mm512_fmadd_ps(_mm512_fnmadd_ps(q, s, t), y, q);
        let q = _mm512_min_ps(_mm512_max_ps(q, low), high);
        let code = _mm512_sub_epi32(_mm512_cvtps_epi32(q), lowered);
        sums = _mm512_mask_add_epi32(sums, mask, sums, code);
        // SAFETY: as above; `out` is at least as long.
        unsafe { _mm512_mask_cvtepi32_storeu_epi8(out.as_mut_ptr().add(at).cast(), mask, code) };
    }
    _mm512_reduce_add_epi32(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounding at and beside halves, where a quotient that is off by the last place shows.
    #[test]
    fn codes_are_those_of_a_division() {
        if !applies(1.0) {
            return;
        }
        for i in 1..4000u32 {
            let scale = f32::from_bits(0x3c00_0000 + i.wrapping_mul(2_654_435_761) % 0x0180_0000);
            let at = |k: i32| (k as f32 * 0.5 * scale).to_bits();
            let near = (-255..=255).flat_map(|k| (0..3).map(move |d| (k, d)));
            let x: Vec<f32> =
                near.map(|(k, d)| f32::from_bits(at(k).wrapping_add(d).wrapping_sub(1))).collect();
            let x: Vec<f32> = x.into_iter().filter(|v| v.abs() <= 128.0 * scale).collect();
            let mut got = vec![0i8; x.len()];
            let sum = codes(&x, [scale, 0.0, -127.0, 127.0, 0.0], &mut got);
            let expected: Vec<i8> =
                x.iter().map(|v| (v / scale).round_ties_even().clamp(-127.0, 127.0) as i8).collect();
            assert_eq!(got, expected, "scale {scale}");
            assert_eq!(sum, expected.iter().map(|c| i32::from(*c)).sum::<i32>());
        }
    }
}
