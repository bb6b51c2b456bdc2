//! Tiles with 256-bit vectors: sums of four rows and 8 or 16 outputs stay in registers.
#![expect(unsafe_code, reason = "vector loads from operands whose bounds were checked")]

use super::{DEPTH, Rows, Tile, WIDTH};
use std::arch::x86_64::*;

/// Rows that one pass over a panel serves.
const ROWS: usize = 4;

/// Calls a function of `M` rows for up to [`ROWS`] rows known at run time.
macro_rules! by_rows {
    ($m:expr, $function:ident($($arg:expr),*)) => {
        match $m {
            1 => $function::<1>($($arg),*),
            2 => $function::<2>($($arg),*),
            3 => $function::<3>($($arg),*),
            _ => $function::<ROWS>($($arg),*),
        }
    };
}

/// See [`super::Unit::bytes`].
///
/// # Safety
/// The machine needs AVX2; lengths are those that `Unit::bytes` checks.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn bytes(w: &[u8], x: &[i8], stride: usize, m: usize, sums: &mut Tile<i32>) {
    for from in (0..m).step_by(ROWS) {
        let (x, sums) = (&x[from * stride..], &mut sums[from..m]);
        for lane in (0..WIDTH).step_by(8) {
            // SAFETY: as the caller promises; `lane + 8` is at most `WIDTH`.
            unsafe { by_rows!(sums.len().min(ROWS), byte_rows(w, lane, x, stride, sums)) }
        }
    }
}

/// Outputs `lane ..+ 8` of `M` rows. Bytes become 16-bit numbers: `maddubs` would saturate.
///
/// # Safety
/// `w` holds whole steps of `DEPTH` columns, `x` `M` rows of as many columns, `out` `M` rows.
#[target_feature(enable = "avx2")]
unsafe fn byte_rows<const M: usize>(
    w: &[u8],
    lane: usize,
    x: &[i8],
    stride: usize,
    out: &mut [[i32; WIDTH]],
) {
    // Lanes are pairs of columns: two for each output.
    let mut sums = [[_mm256_setzero_si256(); 2]; M];
    for column in (0..w.len() / WIDTH).step_by(DEPTH) {
        // SAFETY: a step of the panel holds `DEPTH` bytes for each of these outputs, and each row
        // four bytes from `column` on, as the caller promises.
        unsafe {
            let w = w.as_ptr().add(column * WIDTH + lane * DEPTH);
            let w = [
                _mm256_cvtepu8_epi16(_mm_loadu_si128(w.cast())),
                _mm256_cvtepu8_epi16(_mm_loadu_si128(w.add(16).cast())),
            ];
            for (i, sums) in sums.iter_mut().enumerate() {
                let four = x.as_ptr().add(i * stride + column).cast::<i32>().read_unaligned();
                let x = _mm256_cvtepi8_epi16(_mm_set1_epi32(four));
                sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(w[0], x));
                sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(w[1], x));
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        let pairs = _mm256_hadd_epi32(sums[0], sums[1]);
        let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
        // SAFETY: a row of `out` has eight elements from `lane` on.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(lane).cast(), ordered) };
    }
}

/// See [`super::Unit::bytes`].
///
/// # Safety
/// The machine needs AVX2 and AVX-VNNI; lengths are those that `Unit::bytes` checks.
#[target_feature(enable = "avx2,avxvnni")]
pub(super) unsafe fn bytes_vnni(w: &[u8], x: &[i8], stride: usize, m: usize, sums: &mut Tile<i32>) {
    for from in (0..m).step_by(ROWS) {
        let (x, sums) = (&x[from * stride..], &mut sums[from..m]);
        for lane in (0..WIDTH).step_by(16) {
            // SAFETY: as the caller promises; `lane + 16` is at most `WIDTH`.
            unsafe { by_rows!(sums.len().min(ROWS), vnni_rows(w, lane, x, stride, sums)) }
        }
    }
}

/// Outputs `lane ..+ 16` of `M` rows.
///
/// # Safety
/// `w` holds whole steps of `DEPTH` columns, `x` `M` rows of as many columns, `out` `M` rows.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn vnni_rows<const M: usize>(
    w: &[u8],
    lane: usize,
    x: &[i8],
    stride: usize,
    out: &mut [[i32; WIDTH]],
) {
    let mut sums = [[_mm256_setzero_si256(); 2]; M];
    for column in (0..w.len() / WIDTH).step_by(DEPTH) {
        // SAFETY: as in `byte_rows`.
        unsafe {
            let w = w.as_ptr().add(column * WIDTH + lane * DEPTH);
            let w = [_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(32).cast())];
            for (i, sums) in sums.iter_mut().enumerate() {
                let four = x.as_ptr().add(i * stride + column).cast::<i32>().read_unaligned();
                let x = _mm256_set1_epi32(four);
                sums[0] = _mm256_dpbusd_avx_epi32(sums[0], w[0], x);
                sums[1] = _mm256_dpbusd_avx_epi32(sums[1], w[1], x);
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        // SAFETY: a row of `out` has sixteen elements from `lane` on.
        unsafe {
            _mm256_storeu_si256(out.as_mut_ptr().add(lane).cast(), sums[0]);
            _mm256_storeu_si256(out.as_mut_ptr().add(lane + 8).cast(), sums[1]);
        }
    }
}

/// See [`super::Unit::floats`].
///
/// # Safety
/// The machine needs AVX2 and FMA; lengths are those that `Unit::floats` checks.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn floats(
    w: impl Rows,
    (x, stride): (&[f32], usize),
    m: usize,
    (to, to_stride): (&mut [f32], usize),
) {
    for from in (0..m).step_by(ROWS) {
        let x = (&x[from * stride..], stride);
        for lane in (0..WIDTH).step_by(16) {
            let to = &mut to[from * to_stride + lane..];
            // SAFETY: as the caller promises; `lane + 16` is at most `WIDTH`.
            unsafe { by_rows!((m - from).min(ROWS), float_rows(w, lane, x, to, to_stride)) }
        }
    }
}

/// Outputs `lane ..+ 16` of `M` rows.
///
/// # Safety
/// `w` holds `depth` rows of `WIDTH` weights, `x` `M` rows of `depth` columns, `to` room for `M` rows of 16.
#[target_feature(enable = "avx2,fma")]
unsafe fn float_rows<const M: usize>(
    w: impl Rows,
    lane: usize,
    (x, stride): (&[f32], usize),
    to: &mut [f32],
    to_stride: usize,
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    for k in 0..w.depth() {
        // SAFETY: the panel holds `WIDTH` weights from the start of row `k` on, and each row has column `k`,
        // as the caller promises.
        unsafe {
            let w = w.data().as_ptr().add(w.start(k) + lane);
            let w = [_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8))];
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_ps(*x.as_ptr().add(i * stride + k));
                sums[0] = _mm256_fmadd_ps(x, w[0], sums[0]);
                sums[1] = _mm256_fmadd_ps(x, w[1], sums[1]);
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        // SAFETY: a row of the result has sixteen elements here.
        unsafe {
            let to = to.as_mut_ptr().add(i * to_stride);
            _mm256_storeu_ps(to, sums[0]);
            _mm256_storeu_ps(to.add(8), sums[1]);
        }
    }
}
