//! The innermost loops of all products: a few input rows against one panel of the weight, in
//! versions for the vector units that this crate knows.
//!
//! A panel holds [`WIDTH`] outputs. Its lanes are outputs, so that no sum is ever added across
//! lanes. An integer panel is `[depth / 4, WIDTH, 4]` unsigned bytes, a float panel `[depth, WIDTH]`.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use std::sync::LazyLock;

/// Outputs of a panel.
pub(crate) const WIDTH: usize = 32;

/// Most input rows of a tile.
pub(crate) const HEIGHT: usize = 12;

/// Neighbouring columns whose products one lane adds at once.
pub(crate) const DEPTH: usize = 4;

/// Columns after which a 32-bit sum of byte products could overflow: `2^16 * 128 * 255 < 2^31`.
pub(crate) const LONGEST: usize = 1 << 16;

/// Results of a tile.
pub(crate) type Tile<T> = [[T; WIDTH]; HEIGHT];

/// A set of instructions with loops of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// What the compiler makes of plain loops.
    Portable,
    /// AVX2 and FMA: 16-bit products.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2, FMA and AVX-VNNI: four byte products at once in 8 lanes.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 without VNNI: floats as below, bytes as AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 VNNI: four byte products at once in 16 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// NEON with the dot product extension: four byte products at once in 4 lanes.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

impl Unit {
    /// The fastest that this machine has.
    pub(crate) fn best() -> Self {
        static BEST: LazyLock<Unit> = LazyLock::new(|| *Unit::available().last().expect("at least Portable"));
        *BEST
    }

    /// As the maker calls the instructions.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portable => "plain loops",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => "AVX-VNNI",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "AVX-512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => "AVX-512 VNNI",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => "NEON dot product",
        }
    }

    /// All that this machine has, the fastest last.
    pub(crate) fn available() -> Vec<Self> {
        let mut units = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            units.push(Self::Avx2);
            if is_x86_feature_detected!("avxvnni") {
                units.push(Self::AvxVnni);
            }
            if super::simd::level() >= super::simd::Level::Avx512 {
                units.push(Self::Avx512);
            }
            if super::simd::level() == super::simd::Level::Vnni {
                units.push(Self::Avx512Vnni);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            units.push(Self::NeonDot);
        }
        units
    }

    /// Whether [`bytes`](Self::bytes) reads codes that share bytes.
    pub(crate) fn spreads(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self == Self::Avx512Vnni {
            return true;
        }
        false
    }

    /// `sums[i][j] = sum over k of x[i * stride + k] * w[k / 4, j, k % 4]` for `m` rows; the panel's
    /// length says how many columns.
    ///
    /// # Panics
    /// When `m` is not in `1 ..= HEIGHT`, an operand is too short or too long for exact sums, or codes share bytes that
    /// this unit does not [spread](Self::spreads).
    #[cfg_attr(
        any(target_arch = "x86_64", target_arch = "aarch64"),
        expect(unsafe_code, reason = "calls loops for instructions that were detected")
    )]
    pub(crate) fn bytes(self, w: BytePanel<'_>, x: &[i8], stride: usize, m: usize, sums: &mut Tile<i32>) {
        let depth = w.codes.len() * 8 / (w.bits * WIDTH);
        assert!((1..=HEIGHT).contains(&m), "a tile of {m} rows");
        assert!(w.bits == 8 || self.spreads() && matches!(w.bits, 2 | 4), "codes of {} bits", w.bits);
        assert!(
            depth <= LONGEST && depth.is_multiple_of(DEPTH) && w.codes.len() * 8 == depth * WIDTH * w.bits,
            "a panel of {depth} columns"
        );
        assert!((m - 1) * stride + depth <= x.len(), "{m} rows of {depth} columns in {} bytes", x.len());
        match self {
            Self::Portable => portable::bytes(w.codes, x, stride, m, sums),
            // SAFETY: a `Unit` other than `Portable` comes from `available`, which detected its
            // instructions; the lengths were checked above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::Avx512 => unsafe { avx2::bytes(w.codes, x, stride, m, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => unsafe { avx2::bytes_vnni(w.codes, x, stride, m, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => unsafe { avx512::bytes(w, x, stride, m, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => unsafe { neon::bytes(w.codes, x, stride, m, sums) },
        }
    }

    /// Whether [`floats`](Self::floats) reads rows of weights that lie anywhere.
    pub(crate) fn scatters(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self != Self::Portable {
            return true;
        }
        false
    }

    /// `to[i * to_stride + j] = sum over k < depth of x[i * stride + k] * w.data[w.start(k) + j]` for `m` rows and
    /// [`WIDTH`] outputs.
    ///
    /// # Panics
    /// When `m` is not in `1 ..= HEIGHT`, an operand or the result is too short, or rows lie where this unit does not
    /// [read](Self::scatters) them.
    #[cfg_attr(
        target_arch = "x86_64",
        expect(unsafe_code, reason = "calls loops for instructions that were detected")
    )]
    pub(crate) fn floats(
        self,
        w: impl Rows,
        (x, stride): (&[f32], usize),
        m: usize,
        (to, to_stride): (&mut [f32], usize),
    ) {
        let depth = w.depth();
        assert!((1..=HEIGHT).contains(&m) && depth > 0, "a tile of {m} rows by {depth}");
        assert!(w.last() + WIDTH <= w.data().len(), "a panel of {depth} columns");
        assert!((m - 1) * stride + depth <= x.len(), "{m} rows of {depth} columns in {}", x.len());
        assert!((m - 1) * to_stride + WIDTH <= to.len(), "{m} rows of a tile in {}", to.len());
        match self {
            // SAFETY: a `Unit` other than `Portable` comes from `available`, which detected its
            // instructions; the lengths were checked above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::AvxVnni => unsafe { avx2::floats(w, (x, stride), m, (to, to_stride)) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Vnni => unsafe { avx512::floats(w, (x, stride), m, (to, to_stride)) },
            _ => {
                let panel = w.even().expect("rows that lie side by side, see `scatters`");
                portable::floats(panel, x, stride, m, to, to_stride);
            }
        }
    }
}

/// Unsigned codes of [`WIDTH`] outputs, `[depth / DEPTH, WIDTH, DEPTH]`. Where codes have 4 or 2 bits, those of a step of
/// `DEPTH` columns that share a byte are as many apart as the step has bytes.
#[derive(Clone, Copy)]
pub(crate) struct BytePanel<'a> {
    pub(crate) codes: &'a [u8],
    /// 8, or 4 or 2 where the unit spreads them.
    pub(crate) bits: usize,
}

/// `depth` rows of [`WIDTH`] weights, `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct FloatPanel<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) depth: usize,
}

#[expect(unsafe_code, reason = "see the trait")]
// SAFETY: places grow with the row.
unsafe impl Rows for FloatPanel<'_> {
    fn data(&self) -> &[f32] {
        self.data
    }

    fn depth(self) -> usize {
        self.depth
    }

    #[inline(always)]
    fn start(self, k: usize) -> usize {
        k * self.stride
    }

    fn last(self) -> usize {
        (self.depth - 1) * self.stride
    }

    fn even(&self) -> Option<FloatPanel<'_>> {
        Some(*self)
    }
}

/// Where rows of [`WIDTH`] weights begin, and the last of these places.
#[derive(Debug)]
pub(crate) struct Starts {
    at: Vec<usize>,
    last: usize,
}

impl Starts {
    pub(crate) fn new(at: Vec<usize>) -> Self {
        let last = at.iter().copied().max().unwrap_or(0);
        Self { at, last }
    }

    /// Rows.
    pub(crate) fn len(&self) -> usize {
        self.at.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.at.iter().copied()
    }
}

/// Rows of [`WIDTH`] weights that lie anywhere and may overlap.
#[derive(Clone, Copy)]
pub(crate) struct ScatteredPanel<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) starts: &'a Starts,
}

#[expect(unsafe_code, reason = "see the trait")]
// SAFETY: `Starts::new` finds the largest, and nothing changes them afterwards.
unsafe impl Rows for ScatteredPanel<'_> {
    fn data(&self) -> &[f32] {
        self.data
    }

    fn depth(self) -> usize {
        self.starts.at.len()
    }

    #[inline(always)]
    fn start(self, k: usize) -> usize {
        self.starts.at[k]
    }

    fn last(self) -> usize {
        self.starts.last
    }

    fn even(&self) -> Option<FloatPanel<'_>> {
        None
    }
}

/// Rows of [`WIDTH`] weights.
///
/// # Safety
/// No row begins behind [`last`](Self::last): loops read them without looking.
#[expect(unsafe_code, reason = "loops rely on what is promised")]
pub(crate) unsafe trait Rows: Copy {
    fn data(&self) -> &[f32];

    /// Rows.
    fn depth(self) -> usize;

    /// Where row `k` begins, `k` below [`depth`](Self::depth).
    fn start(self, k: usize) -> usize;

    /// The largest of these places; there is at least one row.
    fn last(self) -> usize;

    /// The same, if rows are as far apart as one another.
    fn even(&self) -> Option<FloatPanel<'_>>;
}

#[cfg(test)]
mod tests;
