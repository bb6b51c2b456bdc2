//! The integer product for many rows with `vpdpbusd`: the weight is laid out so that a vector holds
//! four columns of 16 outputs, whose sums then need no adding across lanes, however small the groups.
#![expect(unsafe_code, reason = "vector loads from operands whose bounds were checked")]

use super::dot::{ByteMatrix, LONGEST, Piece};
use rayon::prelude::*;
use std::arch::x86_64::*;

/// Outputs of a panel: two vectors.
pub(crate) const WIDTH: usize = 32;

/// Input rows of a tile: twelve sums, twelve scaled sums, two weights and an input fit 32 registers.
pub(crate) const HEIGHT: usize = 6;

/// Neighbouring columns that one lane multiplies and adds.
const DEPTH: usize = 4;

/// Bytes of `DEPTH` columns of a panel.
const STEP: usize = DEPTH * WIDTH;

/// A weight in panels: `[panel, columns / DEPTH, WIDTH, DEPTH]`, outputs padded with zeros.
pub(crate) struct Panels<'a> {
    codes: Vec<u8>,
    /// `[panel, groups, WIDTH]`.
    scales: Vec<f32>,
    pieces: &'a [Piece],
    columns: usize,
    groups: usize,
    /// Panels.
    count: usize,
}

impl<'a> Panels<'a> {
    /// `w: [out, columns]`, `scales: [out, groups]`. `None` where this layout does not apply:
    /// without the instructions, or when a group is no multiple of four columns.
    pub(crate) fn new(w: ByteMatrix<'_, u8>, scales: &[f32], pieces: &'a [Piece]) -> Option<Self> {
        let apply = super::simd::level() == super::simd::Level::Vnni;
        if !apply || pieces.is_empty() || pieces.iter().any(|p| p.length % DEPTH != 0) {
            return None;
        }
        let columns = pieces.iter().map(|p| p.length).sum();
        let groups = scales.len() / w.rows.max(1);
        let inside = |p: &Piece| p.column + p.length <= columns && p.group < groups && p.length <= LONGEST;
        assert!(pieces.iter().all(inside), "pieces of {columns} columns in {groups} groups");
        let count = w.rows.div_ceil(WIDTH);
        let mut codes = vec![0u8; count * columns * WIDTH];
        codes.par_chunks_mut(columns * WIDTH).enumerate().for_each(|(panel, to)| {
            for lane in 0..WIDTH.min(w.rows - panel * WIDTH) {
                let row = &w.data[(panel * WIDTH + lane) * w.stride..][..columns];
                let to = to[lane * DEPTH..].chunks_mut(STEP);
                for (four, to) in row.chunks_exact(DEPTH).zip(to) {
                    to[..DEPTH].copy_from_slice(four);
                }
            }
        });
        let mut panel_scales = vec![0.0f32; count * groups * WIDTH];
        for (out, scales) in scales.chunks_exact(groups).enumerate() {
            let (panel, lane) = (out / WIDTH, out % WIDTH);
            for (group, scale) in scales.iter().enumerate() {
                panel_scales[(panel * groups + group) * WIDTH + lane] = *scale;
            }
        }
        Some(Self { codes, scales: panel_scales, pieces, columns, groups, count })
    }

    /// `sum over pieces of scale * (sum over columns of x w + correction)` for rows `row ..+ m` of
    /// `x` and the outputs of one panel. `corrections: [rows, pieces]`.
    ///
    /// # Panics
    /// When anything is out of bounds, or `m` is not in `1 ..= HEIGHT`.
    pub(crate) fn tile(
        &self,
        x: ByteMatrix<'_, i8>,
        corrections: &[i32],
        [row, m]: [usize; 2],
        panel: usize,
    ) -> [[f32; WIDTH]; HEIGHT] {
        assert!(row + m <= x.rows && panel < self.count, "a tile outside of the operands");
        let rows = &x.data[row * x.stride..][..(m - 1) * x.stride + self.columns];
        let count = self.pieces.len();
        let of = Part {
            panels: self,
            codes: &self.codes[panel * self.columns * WIDTH..][..self.columns * WIDTH],
            scales: &self.scales[panel * self.groups * WIDTH..][..self.groups * WIDTH],
            rows,
            stride: x.stride,
            corrections: &corrections[row * count..][..m * count],
        };
        // SAFETY: `new` found AVX-512 VNNI; `rows` holds `m` rows of `columns` columns.
        unsafe {
            match m {
                1 => of.tile::<1>(),
                2 => of.tile::<2>(),
                3 => of.tile::<3>(),
                4 => of.tile::<4>(),
                5 => of.tile::<5>(),
                6 => of.tile::<6>(),
                _ => panic!("a tile of {m} rows"),
            }
        }
    }
}

/// One panel and the rows it is multiplied with.
struct Part<'a> {
    panels: &'a Panels<'a>,
    codes: &'a [u8],
    scales: &'a [f32],
    rows: &'a [i8],
    stride: usize,
    corrections: &'a [i32],
}

impl Part<'_> {
    /// # Safety
    /// `rows` and `corrections` must hold `M` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn tile<const M: usize>(&self) -> [[f32; WIDTH]; HEIGHT] {
        let mut scaled = [[_mm512_setzero_ps(); 2]; M];
        for (index, piece) in self.panels.pieces.iter().enumerate() {
            let mut sums: [[__m512i; 2]; M] = std::array::from_fn(|i| {
                [_mm512_set1_epi32(self.corrections[i * self.panels.pieces.len() + index]); 2]
            });
            for column in (piece.column..piece.column + piece.length).step_by(DEPTH) {
                // SAFETY: the length of a piece is a multiple of `DEPTH`, so that `column + DEPTH`
                // is at most `columns`, which is what the panel and each of the rows hold.
                unsafe {
                    let w = self.codes.as_ptr().add(column * WIDTH);
                    let w = [_mm512_loadu_epi8(w.cast()), _mm512_loadu_epi8(w.add(STEP / 2).cast())];
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let four: *const i32 = self.rows.as_ptr().add(i * self.stride + column).cast();
                        let x = _mm512_set1_epi32(four.read_unaligned());
                        sums[0] = _mm512_dpbusd_epi32(sums[0], w[0], x);
                        sums[1] = _mm512_dpbusd_epi32(sums[1], w[1], x);
                    }
                }
            }
            let scales = load(&self.scales[piece.group * WIDTH..][..WIDTH]);
            for (scaled, sums) in scaled.iter_mut().zip(&sums) {
                scaled[0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[0]), scales[0], scaled[0]);
                scaled[1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[1]), scales[1], scaled[1]);
            }
        }
        let mut out = [[0.0; WIDTH]; HEIGHT];
        for (scaled, out) in scaled.iter().zip(&mut out) {
            // SAFETY: a row of `out` has room for two vectors.
            unsafe {
                _mm512_storeu_ps(out.as_mut_ptr(), scaled[0]);
                _mm512_storeu_ps(out.as_mut_ptr().add(WIDTH / 2), scaled[1]);
            }
        }
        out
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(values: &[f32]) -> [__m512; 2] {
    assert_eq!(values.len(), WIDTH, "two vectors");
    // SAFETY: just checked.
    unsafe { [_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values.as_ptr().add(WIDTH / 2))] }
}
