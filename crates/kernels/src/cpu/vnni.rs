//! Tiles of the integer product with `vpdpbusd`: four byte products and their sum in each of 16
//! lanes at once.
#![expect(unsafe_code, reason = "vector loads from operands whose bounds were checked")]

use super::dot::{Operands, Piece, TILE, Tile};
use std::arch::x86_64::*;

/// Columns of one step.
const STEP: usize = 64;

/// Rows of a tile with several pieces: sums and scaled sums share the 32 registers.
const GROUPED: usize = 2;

/// See [`super::dot::tile`], which has checked `at`. Only where `level` is `Vnni`.
pub(super) fn tile(of: &Operands<'_>, at: Tile) -> [[f32; TILE]; TILE] {
    // SAFETY: the caller found AVX-512 F, BW, VL, DQ and VNNI on this machine, and checked that the
    // tile is inside the operands.
    unsafe {
        match of.pieces() {
            [piece] => whole_tile(of, at, piece),
            _ => grouped_tile(of, at),
        }
    }
}

/// # Safety
/// The tile must be inside the operands.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn whole_tile(of: &Operands<'_>, at: Tile, piece: &Piece) -> [[f32; TILE]; TILE] {
    let mut out = [[0.0; TILE]; TILE];
    // SAFETY: as the caller promises; edges are cut into smaller tiles inside.
    unsafe {
        match (at.m, at.n) {
            (4, 4) => whole::<4, 4>(of, [at.x, at.w], piece, &mut out, 0),
            (3, 4) => whole::<3, 4>(of, [at.x, at.w], piece, &mut out, 0),
            (2, 4) => whole::<2, 4>(of, [at.x, at.w], piece, &mut out, 0),
            (1, 4) => whole::<1, 4>(of, [at.x, at.w], piece, &mut out, 0),
            _ => {
                for i in 0..at.m {
                    for j in 0..at.n {
                        whole::<1, 1>(of, [at.x + i, at.w + j], piece, &mut out[i..], j);
                    }
                }
            }
        }
    }
    out
}

/// # Safety
/// The tile must be inside the operands.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn grouped_tile(of: &Operands<'_>, at: Tile) -> [[f32; TILE]; TILE] {
    let mut out = [[0.0; TILE]; TILE];
    for i in (0..at.m).step_by(GROUPED) {
        let (x, out) = (at.x + i, &mut out[i..]);
        // SAFETY: as the caller promises; edges are cut into smaller tiles.
        unsafe {
            match (GROUPED.min(at.m - i), at.n) {
                (2, 4) => grouped::<2, 4>(of, [x, at.w], out, 0),
                (1, 4) => grouped::<1, 4>(of, [x, at.w], out, 0),
                (m, n) => {
                    for i in 0..m {
                        for j in 0..n {
                            grouped::<1, 1>(of, [x + i, at.w + j], &mut out[i..], j);
                        }
                    }
                }
            }
        }
    }
    out
}

/// `M` by `N` results over one piece, into columns `to ..` of `out`.
///
/// # Safety
/// Rows `x ..+ M` and `w ..+ N` must be inside the operands.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn whole<const M: usize, const N: usize>(
    of: &Operands<'_>,
    [x, w]: [usize; 2],
    piece: &Piece,
    out: &mut [[f32; TILE]],
    to: usize,
) {
    // SAFETY: as the caller promises.
    let sums = unsafe { products::<M, N, false>(of, [x, w], piece, 0) };
    for i in 0..M {
        let mut four = [_mm512_setzero_si512(); TILE];
        four[..N].copy_from_slice(&sums[i]);
        let sums = reduce(four);
        for j in 0..N {
            out[i][to + j] = sums[j] as f32 * of.scale(w + j, piece.group);
        }
    }
}

/// `M` by `N` results over many pieces, into columns `to ..` of `out`. Integer sums become floats
/// lane by lane; lanes are added once at the end.
///
/// # Safety
/// Rows `x ..+ M` and `w ..+ N` must be inside the operands.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn grouped<const M: usize, const N: usize>(
    of: &Operands<'_>,
    [x, w]: [usize; 2],
    out: &mut [[f32; TILE]],
    to: usize,
) {
    let mut scaled = [[_mm512_setzero_ps(); N]; M];
    for (index, piece) in of.pieces().iter().enumerate() {
        // SAFETY: as the caller promises.
        let sums = unsafe { products::<M, N, true>(of, [x, w], piece, index) };
        for j in 0..N {
            let scale = _mm512_set1_ps(of.scale(w + j, piece.group));
            for i in 0..M {
                scaled[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i][j]), scale, scaled[i][j]);
            }
        }
    }
    for i in 0..M {
        for j in 0..N {
            out[i][to + j] = _mm512_reduce_add_ps(scaled[i][j]);
        }
    }
}

/// Sums of products over one piece, spread over lanes; the correction is in one of them.
///
/// `_CALLER` makes a copy for each of the two callers: with one caller each, both are inlined, and
/// the sums stay in registers.
///
/// # Safety
/// Rows `x ..+ M` and `w ..+ N` must be inside the operands.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn products<const M: usize, const N: usize, const _CALLER: bool>(
    of: &Operands<'_>,
    [x, w]: [usize; 2],
    piece: &Piece,
    index: usize,
) -> [[__m512i; N]; M] {
    // SAFETY: `Operands` checked that every row has the columns of every piece, and the caller that
    // there are these rows.
    let xs: [*const i8; M] = std::array::from_fn(|i| unsafe { of.x().pointer(x + i, piece.column) });
    // SAFETY: as above.
    let ws: [*const u8; N] = std::array::from_fn(|j| unsafe { of.w().pointer(w + j, piece.column) });
    let mut sums: [[__m512i; N]; M] = [[_mm512_setzero_si512(); N]; M];
    for (i, sums) in sums.iter_mut().enumerate() {
        *sums = [_mm512_zextsi128_si512(_mm_cvtsi32_si128(of.correction(x + i, index))); N];
    }
    let mut k = 0;
    while k < piece.length {
        let mask: __mmask64 = if piece.length - k >= STEP { !0 } else { !0 >> (STEP - (piece.length - k)) };
        let mut w = [_mm512_setzero_si512(); N];
        for j in 0..N {
            // SAFETY: the mask selects columns of the piece only, and a masked load touches only
            // what is selected.
            w[j] = unsafe { _mm512_maskz_loadu_epi8(mask, ws[j].add(k).cast()) };
        }
        for i in 0..M {
            // SAFETY: as above.
            let x = unsafe { _mm512_maskz_loadu_epi8(mask, xs[i].add(k)) };
            for j in 0..N {
                sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], w[j], x);
            }
        }
        k += STEP;
    }
    sums
}

/// The sums of the lanes of four vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn reduce(v: [__m512i; 4]) -> [i32; 4] {
    let half = |v| _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64::<1>(v));
    let (a, b, c, d) = (half(v[0]), half(v[1]), half(v[2]), half(v[3]));
    let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let mut out = [0; 4];
    // SAFETY: `out` has room for the 16 bytes, and the store needs no alignment.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), sums) };
    out
}
