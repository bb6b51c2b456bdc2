//! Plain loops compiled once for each vector width, chosen at run time.

/// Vector units this crate compiles loops for.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// SSE2, which every x86-64 has.
    Baseline,
    /// 256 bits, with fused multiply-adds.
    Avx2,
    /// 512 bits.
    Avx512,
    /// 512 bits and four byte products at once.
    Vnni,
}

/// The widest of them that this machine has.
#[cfg(target_arch = "x86_64")]
pub(crate) fn level() -> Level {
    use std::sync::LazyLock;
    static LEVEL: LazyLock<Level> = LazyLock::new(|| {
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        match (avx512, is_x86_feature_detected!("avx512vnni"), avx2) {
            (true, true, _) => Level::Vnni,
            (true, false, _) => Level::Avx512,
            (false, _, true) => Level::Avx2,
            (false, _, false) => Level::Baseline,
        }
    });
    *LEVEL
}

/// Defines a function whose body is compiled for each [`Level`].
///
/// The operations and their order are those of the source in every version, so that all machines compute the
/// same bits; except where the body asks for `FMA`, a constant that says whether fused multiply-adds are there.
macro_rules! vectorised {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[cfg_attr(
            target_arch = "x86_64",
            expect(unsafe_code, reason = "calls versions of itself for vector units that were detected")
        )]
        pub(crate) fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
                fn wide($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn medium($($arg: $ty),*) $(-> $ret)? { body::<true>($($arg),*) }
                use $crate::cpu::simd::{Level, level};
                match level() {
                    // SAFETY: `level` detected the features that the function needs.
                    Level::Vnni | Level::Avx512 => return unsafe { wide($($arg),*) },
                    // SAFETY: as above.
                    Level::Avx2 => return unsafe { medium($($arg),*) },
                    Level::Baseline => {}
                }
            }
            body::<false>($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// Independent accumulators of a reduction: one for each lane of the widest vectors, so that the
/// order of a sum does not depend on the machine.
pub(crate) const LANES: usize = 16;

/// The sum over `f` of every element, in [`LANES`] interleaved partial sums of double precision.
#[inline(always)]
pub(crate) fn lane_sum(values: &[f32], f: impl Fn(f32) -> f64) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += f(*value);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest element that is a number; `-inf` if there is none.
#[inline(always)]
pub(crate) fn lane_max(values: &[f32]) -> f32 {
    let mut high = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (high, v) in high.iter_mut().zip(chunk) {
            *high = if *v > *high { *v } else { *high };
        }
    }
    for (high, v) in high.iter_mut().zip(rest) {
        *high = if *v > *high { *v } else { *high };
    }
    high.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The smallest and the largest element, and whether all are numbers; `(inf, -inf)` of nothing.
#[inline(always)]
pub(crate) fn lane_range(values: &[f32]) -> (f32, f32, bool) {
    let mut low = [f32::INFINITY; LANES];
    let mut high = [f32::NEG_INFINITY; LANES];
    let mut nan = [0u32; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            let v = chunk[i];
            low[i] = if v < low[i] { v } else { low[i] };
            high[i] = if v > high[i] { v } else { high[i] };
            nan[i] |= u32::from(v.is_nan());
        }
    }
    for (i, &v) in rest.iter().enumerate() {
        low[i] = if v < low[i] { v } else { low[i] };
        high[i] = if v > high[i] { v } else { high[i] };
        nan[i] |= u32::from(v.is_nan());
    }
    let min = low.iter().copied().fold(f32::INFINITY, f32::min);
    let max = high.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (min, max, nan.iter().all(|n| *n == 0))
}
