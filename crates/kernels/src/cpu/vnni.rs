//! Tiles of the integer product with `vpdpbusd`: four byte products and their sum in each of 16
//! lanes at once.
#![expect(unsafe_code, reason = "vector intrinsics on slices whose bounds are checked here")]

use super::dot::{Operands, Piece, TILE, Tile};
use std::arch::x86_64::*;

/// Columns of one step.
const STEP: usize = 64;

/// See [`super::dot::tile`]. Only where `level` is `Vnni`.
pub(super) fn tile(of: &Operands<'_>, at: Tile) -> [[f32; TILE]; TILE] {
    // SAFETY: the caller found AVX-512 F, BW, VL, DQ and VNNI on this machine.
    unsafe { any_tile(of, at) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn any_tile(of: &Operands<'_>, at: Tile) -> [[f32; TILE]; TILE] {
    let mut out = [[0.0; TILE]; TILE];
    // With one piece the sums stay in 16 registers; with more of them, sums and scaled sums share
    // the registers, so that only half the rows fit.
    let height = if of.pieces.len() == 1 { 4 } else { 2 };
    for i in (0..at.m).step_by(height) {
        let (m, out) = (height.min(at.m - i), &mut out[i..]);
        match (m, at.n) {
            (4, 4) => rows::<4, 4>(of, at.x + i, at.w, out),
            (3, 4) => rows::<3, 4>(of, at.x + i, at.w, out),
            (2, 4) => rows::<2, 4>(of, at.x + i, at.w, out),
            (1, 4) => rows::<1, 4>(of, at.x + i, at.w, out),
            _ => singles(of, [at.x + i, at.w], [m, at.n], out),
        }
    }
    out
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn singles(of: &Operands<'_>, [x, w]: [usize; 2], [m, n]: [usize; 2], out: &mut [[f32; TILE]]) {
    for (i, out) in out.iter_mut().enumerate().take(m) {
        for (j, out) in out.iter_mut().enumerate().take(n) {
            let mut single = [[0.0; TILE]];
            rows::<1, 1>(of, x + i, w + j, &mut single);
            *out = single[0][0];
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn rows<const M: usize, const N: usize>(of: &Operands<'_>, x: usize, w: usize, out: &mut [[f32; TILE]]) {
    if let [piece] = of.pieces {
        let sums = products::<M, N>(of, [x, w], piece, 0);
        for i in 0..M {
            let mut four = [_mm512_setzero_si512(); TILE];
            four[..N].copy_from_slice(&sums[i]);
            let sums = reduce(four);
            for j in 0..N {
                out[i][j] = sums[j] as f32 * of.scale(w + j, piece.group);
            }
        }
        return;
    }
    let mut scaled = [[_mm512_setzero_ps(); N]; M];
    for (index, piece) in of.pieces.iter().enumerate() {
        let sums = products::<M, N>(of, [x, w], piece, index);
        for j in 0..N {
            let scale = _mm512_set1_ps(of.scale(w + j, piece.group));
            for i in 0..M {
                scaled[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i][j]), scale, scaled[i][j]);
            }
        }
    }
    for i in 0..M {
        for j in 0..N {
            out[i][j] = _mm512_reduce_add_ps(scaled[i][j]);
        }
    }
}

/// Sums of products over one piece, spread over lanes; the correction is in one of them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn products<const M: usize, const N: usize>(
    of: &Operands<'_>,
    [x, w]: [usize; 2],
    piece: &Piece,
    index: usize,
) -> [[__m512i; N]; M] {
    let xs: [&[i8]; M] = std::array::from_fn(|i| of.x.part(x + i, piece));
    let ws: [&[u8]; N] = std::array::from_fn(|j| of.w.part(w + j, piece));
    let mut sums: [[__m512i; N]; M] = [[_mm512_setzero_si512(); N]; M];
    for (i, sums) in sums.iter_mut().enumerate() {
        *sums = [_mm512_zextsi128_si512(_mm_cvtsi32_si128(of.correction(x + i, index))); N];
    }
    let whole = piece.length - piece.length % STEP;
    let mut k = 0;
    while k < whole {
        step(&mut sums, &xs, &ws, k, !0);
        k += STEP;
    }
    if k < piece.length {
        step(&mut sums, &xs, &ws, k, !0 >> (STEP - (piece.length - k)));
    }
    sums
}

/// Adds the products of the columns `k .. k + 64` that `mask` selects.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn step<const M: usize, const N: usize>(
    sums: &mut [[__m512i; N]; M],
    xs: &[&[i8]; M],
    ws: &[&[u8]; N],
    k: usize,
    mask: __mmask64,
) {
    let mut w = [_mm512_setzero_si512(); N];
    for j in 0..N {
        // SAFETY: the caller selects columns below the length of every row, and a masked load
        // touches only what is selected.
        w[j] = unsafe { _mm512_maskz_loadu_epi8(mask, ws[j].as_ptr().add(k).cast()) };
    }
    for i in 0..M {
        // SAFETY: as above.
        let x = unsafe { _mm512_maskz_loadu_epi8(mask, xs[i].as_ptr().add(k)) };
        for j in 0..N {
            sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], w[j], x);
        }
    }
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
