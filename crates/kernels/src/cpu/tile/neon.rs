//! Integer tiles with NEON's dot product of four signed bytes.
#![expect(unsafe_code, reason = "vector loads from operands whose bounds were checked")]

use super::{DEPTH, Tile, WIDTH};
use std::arch::aarch64::*;

/// Rows that one pass over a panel serves.
const ROWS: usize = 4;
/// Vectors of four outputs in one pass: sums of four rows then fill half of the registers.
const VECTORS: usize = 4;

/// See [`super::Unit::bytes`].
///
/// # Safety
/// The machine needs NEON with dot products; lengths are those that `Unit::bytes` checks.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn bytes(w: &[u8], x: &[i8], stride: usize, m: usize, sums: &mut Tile<i32>) {
    for from in (0..m).step_by(ROWS) {
        let (x, sums) = (&x[from * stride..], &mut sums[from..m]);
        for lane in (0..WIDTH).step_by(4 * VECTORS) {
            // SAFETY: as the caller promises; `lane + 16` is at most `WIDTH`.
            unsafe {
                match sums.len() {
                    1 => rows::<1>(w, lane, x, stride, sums),
                    2 => rows::<2>(w, lane, x, stride, sums),
                    3 => rows::<3>(w, lane, x, stride, sums),
                    _ => rows::<ROWS>(w, lane, x, stride, sums),
                }
            }
        }
    }
}

/// Outputs `lane ..+ 16` of `M` rows. Both operands of the instruction are signed: weights are lowered
/// by 128, and 128 times the sum of the row is added.
///
/// # Safety
/// `w` holds whole steps of `DEPTH` columns, `x` `M` rows of as many columns, `out` `M` rows.
#[target_feature(enable = "neon,dotprod")]
unsafe fn rows<const M: usize>(w: &[u8], lane: usize, x: &[i8], stride: usize, out: &mut [[i32; WIDTH]]) {
    let depth = w.len() / WIDTH;
    let mut sums = [[vdupq_n_s32(0); VECTORS]; M];
    for (i, sums) in sums.iter_mut().enumerate() {
        let sum: i32 = x[i * stride..][..depth].iter().map(|x| i32::from(*x)).sum();
        *sums = [vdupq_n_s32(sum.wrapping_mul(128)); VECTORS];
    }
    for column in (0..depth).step_by(DEPTH) {
        // SAFETY: a step of the panel holds `DEPTH` bytes for each of these outputs, and each row
        // four bytes from `column` on, as the caller promises.
        unsafe {
            let w = w.as_ptr().add(column * WIDTH + lane * DEPTH);
            let lowered: [int8x16_t; VECTORS] = std::array::from_fn(|v| {
                vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w.add(16 * v)), vdupq_n_u8(128)))
            });
            for (i, sums) in sums.iter_mut().enumerate() {
                let four = x.as_ptr().add(i * stride + column).cast::<i32>().read_unaligned();
                let x = vreinterpretq_s8_s32(vdupq_n_s32(four));
                for (sum, w) in sums.iter_mut().zip(&lowered) {
                    *sum = dot(*sum, *w, x);
                }
            }
        }
    }
    for (sums, out) in sums.iter().zip(out) {
        for (v, sum) in sums.iter().enumerate() {
            // SAFETY: a row of `out` has sixteen elements from `lane` on.
            unsafe { vst1q_s32(out.as_mut_ptr().add(lane + 4 * v), *sum) };
        }
    }
}

/// Adds four byte products to each lane. The compiler's own name for the instruction is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes these registers only.
    unsafe {
        std::arch::asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
