//! Tiles with 512-bit vectors: two hold a panel's outputs, sums of twelve rows stay in registers.
#![expect(unsafe_code, reason = "vector loads from operands whose bounds were checked")]

use super::{BytePanel, DEPTH, HEIGHT, Rows, Tile, WIDTH};
use std::arch::x86_64::*;

/// Calls a function of `M` rows for a number of rows known at run time.
macro_rules! by_rows {
    ($m:expr, $function:ident $(::<$bits:literal>)? ($($arg:expr),*)) => {
        match $m {
            1 => $function::<1, $($bits)?>($($arg),*),
            2 => $function::<2, $($bits)?>($($arg),*),
            3 => $function::<3, $($bits)?>($($arg),*),
            4 => $function::<4, $($bits)?>($($arg),*),
            5 => $function::<5, $($bits)?>($($arg),*),
            6 => $function::<6, $($bits)?>($($arg),*),
            7 => $function::<7, $($bits)?>($($arg),*),
            8 => $function::<8, $($bits)?>($($arg),*),
            9 => $function::<9, $($bits)?>($($arg),*),
            10 => $function::<10, $($bits)?>($($arg),*),
            11 => $function::<11, $($bits)?>($($arg),*),
            _ => $function::<HEIGHT, $($bits)?>($($arg),*),
        }
    };
}

/// Rows that are addressed from one pointer: at 0, 1 and 2 strides, which instructions can express. One
/// pointer for each row would need more registers than there are.
const NEAR: usize = 3;

/// Pointers to every [`NEAR`]th row.
#[inline(always)]
fn bases<T>(x: &[T], stride: usize) -> [*const T; HEIGHT / NEAR] {
    std::array::from_fn(|i| x.as_ptr().wrapping_add(i * NEAR * stride))
}

/// See [`super::Unit::bytes`].
///
/// # Safety
/// The machine needs AVX-512 F, BW and VNNI; lengths are those that `Unit::bytes` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub(super) unsafe fn bytes(w: BytePanel<'_>, x: &[i8], stride: usize, m: usize, sums: &mut Tile<i32>) {
    // SAFETY: as the caller promises.
    unsafe {
        match w.bits {
            8 => by_rows!(m, byte_rows::<8>(w.codes, x, stride, sums)),
            4 => by_rows!(m, byte_rows::<4>(w.codes, x, stride, sums)),
            _ => by_rows!(m, byte_rows::<2>(w.codes, x, stride, sums)),
        }
    }
}

/// A step of a panel, one code in a byte.
///
/// # Safety
/// `DEPTH * WIDTH` codes of `BITS` bits lie at `w`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn step<const BITS: usize>(w: *const u8) -> [__m512i; 2] {
    // SAFETY: as many bytes as the codes take.
    unsafe {
        match BITS {
            8 => [_mm512_loadu_epi8(w.cast()), _mm512_loadu_epi8(w.add(64).cast())],
            4 => {
                let (both, low) = (_mm512_loadu_epi8(w.cast()), _mm512_set1_epi8(15));
                [_mm512_and_si512(both, low), _mm512_and_si512(_mm512_srli_epi16::<4>(both), low)]
            }
            _ => {
                let all = _mm512_broadcast_i64x4(_mm256_loadu_si256(w.cast()));
                // Halves of a vector are shifted by a code more than one another.
                let shift =
                    |low, high| _mm512_inserti64x4::<1>(_mm512_set1_epi32(low), _mm256_set1_epi32(high));
                [shift(0, 2), shift(4, 6)]
                    .map(|by| _mm512_and_si512(_mm512_srlv_epi32(all, by), _mm512_set1_epi8(3)))
            }
        }
    }
}

/// # Safety
/// `w` holds whole steps of `DEPTH` columns of codes of `BITS` bits, `x` `M` rows of as many columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn byte_rows<const M: usize, const BITS: usize>(
    w: &[u8],
    x: &[i8],
    stride: usize,
    out: &mut Tile<i32>,
) {
    let mut sums = [[_mm512_setzero_si512(); 2]; M];
    let mut rows = bases(x, stride);
    for at in (0..w.len()).step_by(DEPTH * WIDTH * BITS / 8) {
        // SAFETY: the panel holds the codes of a step from `at` on, and each row, to whose column the pointers have
        // come, four more, as the caller promises.
        unsafe {
            let w = step::<BITS>(w.as_ptr().add(at));
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = rows[i / NEAR].add(i % NEAR * stride).cast::<i32>().read_unaligned();
                let x = _mm512_set1_epi32(x);
                sums[0] = _mm512_dpbusd_epi32(sums[0], w[0], x);
                sums[1] = _mm512_dpbusd_epi32(sums[1], w[1], x);
            }
        }
        rows = rows.map(|row| row.wrapping_add(DEPTH));
    }
    for (sums, out) in sums.iter().zip(out) {
        // SAFETY: a row of `out` has room for two vectors.
        unsafe {
            _mm512_storeu_epi32(out.as_mut_ptr(), sums[0]);
            _mm512_storeu_epi32(out.as_mut_ptr().add(16), sums[1]);
        }
    }
}

/// See [`super::Unit::floats`].
///
/// # Safety
/// The machine needs AVX-512 F; lengths are those that `Unit::floats` checks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn floats(
    w: impl Rows,
    x: (&[f32], usize),
    m: usize,
    (to, to_stride): (&mut [f32], usize),
) {
    // SAFETY: as the caller promises.
    unsafe { by_rows!(m, float_rows(w, x, to, to_stride)) }
}

/// # Safety
/// `w` holds `depth` rows of `WIDTH` weights, `x` `M` rows of `depth` columns, `to` room for `M` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn float_rows<const M: usize>(
    w: impl Rows,
    (x, stride): (&[f32], usize),
    to: &mut [f32],
    to_stride: usize,
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    let mut rows = bases(x, stride);
    for k in 0..w.depth() {
        let weights = w.data().as_ptr().wrapping_add(w.start(k));
        // SAFETY: each of `depth` rows of the panel holds `WIDTH` weights, and each row of `x` as many
        // columns, as the caller promises.
        unsafe {
            let w = [_mm512_loadu_ps(weights), _mm512_loadu_ps(weights.add(16))];
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*rows[i / NEAR].add(i % NEAR * stride));
                sums[0] = _mm512_fmadd_ps(x, w[0], sums[0]);
                sums[1] = _mm512_fmadd_ps(x, w[1], sums[1]);
            }
        }
        rows = rows.map(|row| row.wrapping_add(1));
    }
    for (i, sums) in sums.iter().enumerate() {
        // SAFETY: a row of the result has room for two vectors.
        unsafe {
            let to = to.as_mut_ptr().add(i * to_stride);
            _mm512_storeu_ps(to, sums[0]);
            _mm512_storeu_ps(to.add(16), sums[1]);
        }
    }
}
