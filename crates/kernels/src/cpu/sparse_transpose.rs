//! Transposing rectangles of floats.
#![expect(unsafe_code, reason = "squares of floats in vector registers, at masked edges too")]

#[cfg(target_arch = "x86_64")]
use super::simd::{Level, level};

/// `to[column * to_stride + row] = from[row * stride + column]` for `[rows, columns]` floats.
///
/// # Panics
/// When a slice is shorter than that, or has no rows or columns.
pub(super) fn transpose(
    from: &[f32],
    stride: usize,
    to: &mut [f32],
    to_stride: usize,
    [rows, columns]: [usize; 2],
) {
    assert!((rows - 1) * stride + columns <= from.len(), "{rows} rows of {columns} in {}", from.len());
    assert!((columns - 1) * to_stride + rows <= to.len(), "{columns} rows of {rows} in {}", to.len());
    let (from, to) =
        (ReadAt { at: from.as_ptr(), stride }, WriteAt { at: to.as_mut_ptr(), stride: to_stride });
    #[cfg(target_arch = "x86_64")]
    match level() {
        // SAFETY: the lengths were compared, and the machine has the instructions.
        Level::Vnni | Level::Avx512 => return unsafe { transpose_avx512(from, to, rows, columns) },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { transpose_avx2(from, to, rows, columns) },
        Level::Baseline => {}
    }
    // SAFETY: the lengths were compared.
    unsafe { transpose_plain(from, to, rows, columns) }
}

/// A rectangle in memory: where it begins and how far its rows are apart.
#[derive(Clone, Copy)]
pub(super) struct ReadAt {
    pub(super) at: *const f32,
    pub(super) stride: usize,
}

/// The same, to be written.
#[derive(Clone, Copy)]
pub(super) struct WriteAt {
    pub(super) at: *mut f32,
    pub(super) stride: usize,
}

/// `to[column][row] = from[row][column]` for `rows` x `columns` floats, one by one.
///
/// # Safety
/// `from` must be valid for `rows` rows of `columns` floats, `to` for `columns` rows of `rows` floats.
#[inline(always)]
pub(super) unsafe fn transpose_plain(from: ReadAt, to: WriteAt, rows: usize, columns: usize) {
    for row in 0..rows {
        for column in 0..columns {
            // SAFETY: the caller's word.
            unsafe { *to.at.add(column * to.stride + row) = *from.at.add(row * from.stride + column) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{transpose_avx2, transpose_avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{ReadAt, WriteAt, transpose_plain};
    use std::arch::x86_64::*;

    /// As [`transpose_plain`], in squares of 8.
    ///
    /// # Safety
    /// As [`transpose_plain`]; the machine must have AVX2.
    #[target_feature(enable = "avx2")]
    pub(in crate::cpu) unsafe fn transpose_avx2(from: ReadAt, to: WriteAt, rows: usize, columns: usize) {
        // SAFETY: all parts lie within the two rectangles.
        unsafe {
            let part = |row: usize, column: usize| {
                (
                    ReadAt { at: from.at.add(row * from.stride + column), ..from },
                    WriteAt { at: to.at.add(column * to.stride + row), ..to },
                )
            };
            let (full_rows, full_columns) = (rows / 8 * 8, columns / 8 * 8);
            for row in (0..full_rows).step_by(8) {
                for column in (0..full_columns).step_by(8) {
                    let (from, to) = part(row, column);
                    square_of_8(from, to);
                }
                let (from, to) = part(row, full_columns);
                transpose_plain(from, to, 8, columns - full_columns);
            }
            let (from, to) = part(full_rows, 0);
            transpose_plain(from, to, rows - full_rows, columns);
        }
    }

    /// Pairs, fours and halves are exchanged.
    ///
    /// # Safety
    /// As [`transpose_plain`] for 8 x 8 floats.
    #[target_feature(enable = "avx2")]
    unsafe fn square_of_8(from: ReadAt, to: WriteAt) {
        let mut r = [_mm256_setzero_ps(); 8];
        for (i, r) in r.iter_mut().enumerate() {
            // SAFETY: the caller's word.
            *r = unsafe { _mm256_loadu_ps(from.at.add(i * from.stride)) };
        }
        let mut pairs = r;
        for i in (0..8).step_by(2) {
            pairs[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
            pairs[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
        }
        let mut fours = r;
        for i in (0..8).step_by(4) {
            fours[i] = _mm256_shuffle_ps::<0x44>(pairs[i], pairs[i + 2]);
            fours[i + 1] = _mm256_shuffle_ps::<0xEE>(pairs[i], pairs[i + 2]);
            fours[i + 2] = _mm256_shuffle_ps::<0x44>(pairs[i + 1], pairs[i + 3]);
            fours[i + 3] = _mm256_shuffle_ps::<0xEE>(pairs[i + 1], pairs[i + 3]);
        }
        for i in 0..4 {
            let low = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
            let high = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
            // SAFETY: the caller's word.
            unsafe {
                _mm256_storeu_ps(to.at.add(i * to.stride), low);
                _mm256_storeu_ps(to.at.add((i + 4) * to.stride), high);
            }
        }
    }

    /// As [`transpose_plain`], in squares of 16 of which those at the edges are masked.
    ///
    /// # Safety
    /// As [`transpose_plain`]; the machine must have AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(in crate::cpu) unsafe fn transpose_avx512(from: ReadAt, to: WriteAt, rows: usize, columns: usize) {
        for row in (0..rows).step_by(16) {
            for column in (0..columns).step_by(16) {
                // SAFETY: the square lies within the two rectangles.
                unsafe {
                    let from = ReadAt { at: from.at.add(row * from.stride + column), ..from };
                    let to = WriteAt { at: to.at.add(column * to.stride + row), ..to };
                    match ((rows - row).min(16), (columns - column).min(16)) {
                        (16, 16) => square_of_16::<true>(from, to, 16, 16),
                        (rows, columns) => square_of_16::<false>(from, to, rows, columns),
                    }
                }
            }
        }
    }

    /// Pairs and fours are exchanged within quarters of a vector, then the quarters.
    ///
    /// # Safety
    /// As [`transpose_plain`]; at most 16 rows and columns, and that many where `FULL`.
    #[target_feature(enable = "avx512f")]
    unsafe fn square_of_16<const FULL: bool>(from: ReadAt, to: WriteAt, rows: usize, columns: usize) {
        // Rows and columns beyond the rectangle get an empty mask: the loops always run to the end, so that all of it
        // stays in registers.
        let mask = |i: usize, count: usize, of: usize| match (FULL, i < count) {
            (true, _) => u16::MAX,
            (false, true) => u16::MAX >> (16 - of),
            (false, false) => 0,
        };
        let mut r = [_mm512_setzero_ps(); 16];
        for (i, r) in r.iter_mut().enumerate() {
            let at = from.at.wrapping_add(i * from.stride);
            // SAFETY: the caller's word; what the mask leaves out is not touched.
            *r = unsafe { _mm512_maskz_loadu_ps(mask(i, rows, columns), at) };
        }
        let mut pairs = r;
        for i in (0..16).step_by(2) {
            pairs[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
            pairs[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
        }
        let mut fours = r;
        for i in (0..16).step_by(4) {
            fours[i] = _mm512_shuffle_ps::<0x44>(pairs[i], pairs[i + 2]);
            fours[i + 1] = _mm512_shuffle_ps::<0xEE>(pairs[i], pairs[i + 2]);
            fours[i + 2] = _mm512_shuffle_ps::<0x44>(pairs[i + 1], pairs[i + 3]);
            fours[i + 3] = _mm512_shuffle_ps::<0xEE>(pairs[i + 1], pairs[i + 3]);
        }
        let mut out = r;
        for i in 0..4 {
            let [a, b] = [(0, 4), (8, 12)].map(|(x, y)| {
                let (x, y) = (fours[x + i], fours[y + i]);
                (_mm512_shuffle_f32x4::<0x88>(x, y), _mm512_shuffle_f32x4::<0xDD>(x, y))
            });
            out[i] = _mm512_shuffle_f32x4::<0x88>(a.0, b.0);
            out[i + 4] = _mm512_shuffle_f32x4::<0x88>(a.1, b.1);
            out[i + 8] = _mm512_shuffle_f32x4::<0xDD>(a.0, b.0);
            out[i + 12] = _mm512_shuffle_f32x4::<0xDD>(a.1, b.1);
        }
        for (i, out) in out.iter().enumerate() {
            let at = to.at.wrapping_add(i * to.stride);
            // SAFETY: as above.
            unsafe { _mm512_mask_storeu_ps(at, mask(i, columns, rows), *out) };
        }
    }
}
