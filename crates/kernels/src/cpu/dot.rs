//! Integer dot products of signed with unsigned bytes: the innermost loop of the integer product.

use super::simd::vectorised;

/// Columns after which a 32-bit sum of byte products could overflow: `2^16 * 128 * 255 < 2^31`.
pub(crate) const LONGEST: usize = 1 << 16;

/// Rows of the activation, and of the weight, in one tile.
pub(crate) const TILE: usize = 4;

/// Rows of bytes; row `i` starts at `i * stride`.
#[derive(Clone, Copy)]
pub(crate) struct ByteMatrix<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) rows: usize,
    pub(crate) stride: usize,
}

impl<'a, T> ByteMatrix<'a, T> {
    /// Some columns of one row.
    fn part(&self, row: usize, piece: &Piece) -> &'a [T] {
        &self.data[row * self.stride + piece.column..][..piece.length]
    }

    /// Where a column of a row is.
    ///
    /// # Safety
    /// The element must be inside.
    #[inline(always)]
    #[expect(unsafe_code, reason = "an inner loop reads rows whose bounds were checked outside of it")]
    pub(super) unsafe fn pointer(&self, row: usize, column: usize) -> *const T {
        // SAFETY: as the caller promises.
        unsafe { self.data.as_ptr().add(row * self.stride + column) }
    }

    /// Whether every row has `columns` columns.
    fn holds(&self, columns: usize) -> bool {
        columns <= self.stride && self.rows.saturating_sub(1) * self.stride + columns <= self.data.len()
    }
}

/// Neighbouring columns with one scale, few enough for a 32-bit sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) column: usize,
    /// At most [`LONGEST`].
    pub(crate) length: usize,
    pub(crate) group: usize,
}

/// Cuts `columns` into groups, and groups that are too long into pieces.
pub(crate) fn pieces(columns: usize, group: usize) -> Vec<Piece> {
    let starts = (0..columns).step_by(group);
    let cut = |(index, start): (usize, usize)| {
        (start..start + group).step_by(LONGEST).map(move |column| Piece {
            column,
            length: LONGEST.min(start + group - column),
            group: index,
        })
    };
    starts.enumerate().flat_map(cut).collect()
}

/// Both operands of a product with scales; their sizes fit each other.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a> {
    x: ByteMatrix<'a, i8>,
    w: ByteMatrix<'a, u8>,
    pieces: &'a [Piece],
    corrections: &'a [i32],
    scales: &'a [f32],
    groups: usize,
}

impl<'a> Operands<'a> {
    /// `x: [rows, columns]` are signed codes of the input, `w: [out, columns]` unsigned codes of the
    /// weight. `corrections: [rows, pieces]` are added to the sums of products, so that the weight's
    /// middle code cancels among integers. `scales: [out, groups]`.
    ///
    /// # Panics
    /// When anything does not fit.
    pub(crate) fn new(
        x: ByteMatrix<'a, i8>,
        w: ByteMatrix<'a, u8>,
        pieces: &'a [Piece],
        corrections: &'a [i32],
        scales: &'a [f32],
    ) -> Self {
        let columns = pieces.iter().map(|p| p.column + p.length).max().unwrap_or(0);
        let groups = pieces.iter().map(|p| p.group + 1).max().unwrap_or(0);
        assert!(pieces.iter().all(|p| p.length <= LONGEST), "a piece too long for 32-bit sums");
        assert!(x.holds(columns) && w.holds(columns), "operands with fewer than {columns} columns");
        assert_eq!(corrections.len(), x.rows * pieces.len(), "corrections of {} rows", x.rows);
        assert_eq!(scales.len(), w.rows * groups, "scales of {} outputs", w.rows);
        Self { x, w, pieces, corrections, scales, groups }
    }

    pub(super) fn x(&self) -> ByteMatrix<'a, i8> {
        self.x
    }

    pub(super) fn w(&self) -> ByteMatrix<'a, u8> {
        self.w
    }

    pub(super) fn pieces(&self) -> &'a [Piece] {
        self.pieces
    }

    #[inline(always)]
    pub(super) fn correction(&self, row: usize, piece: usize) -> i32 {
        self.corrections[row * self.pieces.len() + piece]
    }

    #[inline(always)]
    pub(super) fn scale(&self, out: usize, group: usize) -> f32 {
        self.scales[out * self.groups + group]
    }
}

/// Rows `x ..+ m` of the input against rows `w ..+ n` of the weight, each at most [`TILE`].
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub(crate) x: usize,
    pub(crate) w: usize,
    pub(crate) m: usize,
    pub(crate) n: usize,
}

/// `sum over pieces of scale * (sum over columns of x w + correction)`, the inner sum exact.
///
/// # Panics
/// When the tile is not inside the operands.
pub(crate) fn tile(of: &Operands<'_>, at: Tile) -> [[f32; TILE]; TILE] {
    assert!(at.m <= TILE && at.n <= TILE, "a tile of {} by {}", at.m, at.n);
    assert!(at.x + at.m <= of.x.rows && at.w + at.n <= of.w.rows, "a tile outside of the operands");
    #[cfg(target_arch = "x86_64")]
    if super::simd::level() == super::simd::Level::Vnni {
        return super::vnni::tile(of, at);
    }
    tile_of_dots(of, at)
}

pub(super) fn tile_of_dots(of: &Operands<'_>, at: Tile) -> [[f32; TILE]; TILE] {
    let mut out = [[0.0; TILE]; TILE];
    for (index, piece) in of.pieces.iter().enumerate() {
        for (i, out) in out.iter_mut().enumerate().take(at.m) {
            let x = of.x.part(at.x + i, piece);
            for (j, out) in out.iter_mut().enumerate().take(at.n) {
                let sum = dot(x, of.w.part(at.w + j, piece)) + of.correction(at.x + i, index);
                *out += sum as f32 * of.scale(at.w + j, piece.group);
            }
        }
    }
    out
}

vectorised! {
    fn dot(x: &[i8], w: &[u8]) -> i32 {
        let mut sum = 0i32;
        for (x, w) in x.iter().zip(w) {
            // Wrapping, though nothing wraps: an overflow check in a debug build would keep the
            // loop scalar.
            sum = sum.wrapping_add(i32::from(*x).wrapping_mul(i32::from(*w)));
        }
        sum
    }
}

vectorised! {
    fn sum_signed(codes: &[i8]) -> i32 {
        let mut sum = 0i32;
        for code in codes {
            sum = sum.wrapping_add(i32::from(*code));
        }
        sum
    }
}

vectorised! {
    fn sum_unsigned(codes: &[u8]) -> u32 {
        let mut sum = 0u32;
        for code in codes {
            sum = sum.wrapping_add(u32::from(*code));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every path against 64-bit sums; with scales of 1 the results are integers.
    fn check(shape: [usize; 4], x: impl Fn(usize) -> i8, w: impl Fn(usize) -> u8) {
        let [m, n, columns, group] = shape;
        let stride = columns + 3;
        let x: Vec<i8> = (0..m * stride).map(x).collect();
        let w: Vec<u8> = (0..n * stride).map(w).collect();
        let pieces = pieces(columns, group);
        let corrections: Vec<i32> = (0..m * pieces.len()).map(|i| i as i32 * 5 - 9).collect();
        let scales = vec![1.0; n * columns / group];
        let x_matrix = ByteMatrix { data: x.as_slice(), rows: m, stride };
        let w_matrix = ByteMatrix { data: w.as_slice(), rows: n, stride };
        let of = Operands::new(x_matrix, w_matrix, &pieces, &corrections, &scales);
        let at = Tile { x: 0, w: 0, m, n };
        for got in [tile(&of, at), tile_of_dots(&of, at)] {
            for i in 0..m {
                for j in 0..n {
                    let (x, w) = (&x[i * stride..][..columns], &w[j * stride..][..columns]);
                    let products: i64 = x.iter().zip(w).map(|(x, w)| i64::from(*x) * i64::from(*w)).sum();
                    let count = pieces.len();
                    let added: i64 = corrections[i * count..][..count].iter().map(|c| i64::from(*c)).sum();
                    let (got, exact) = (f64::from(got[i][j]), (products + added) as f64);
                    // Integers are exact; only where they exceed a float's 24 bits it rounds them.
                    let allowed = if exact.abs() < 16_777_216.0 { 0.0 } else { exact.abs() * 2e-7 };
                    assert!((got - exact).abs() <= allowed, "{shape:?} at {i}, {j}: {got}, not {exact}");
                }
            }
        }
    }

    #[test]
    fn groups_become_pieces() {
        let piece = |column, length, group| Piece { column, length, group };
        assert_eq!(pieces(6, 3), [piece(0, 3, 0), piece(3, 3, 1)]);
        assert_eq!(pieces(LONGEST + 1, LONGEST + 1), [piece(0, LONGEST, 0), piece(LONGEST, 1, 0)]);
    }

    #[test]
    fn extremes_do_not_overflow() {
        for columns in [1, 33, 64, 65, LONGEST, LONGEST + 7] {
            check([4, 4, columns, columns], |_| -128, |_| 255);
            check([1, 1, columns, columns], |_| 127, |_| 255);
        }
    }

    proptest! {
        #[test]
        fn equals_the_exact_sums(m in 1usize..=4, n in 1usize..=4, group in 1usize..150, groups in 1usize..4, seed: u32) {
            let hash = |i: usize| (i as u32).wrapping_add(seed).wrapping_mul(2_654_435_761) >> 20;
            check([m, n, group * groups, group], |i| hash(i) as i8, |i| hash(i + 7_777) as u8);
        }
    }
}
