//! Nearest-even and stochastic rounding.

use briquette_kernels::round_half_even;
use burn::prelude::*;
use burn::tensor::DType;
use serde::{Deserialize, Serialize};

/// How a value between two codes is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// To the nearest code, ties to the even one.
    Nearest,
    /// Up with the probability of the fraction, so that the expectation is the value itself:
    /// `round(x + u)`, `u` uniform in `[-1/2, 1/2)`.
    Stochastic,
}

impl Rounding {
    /// Whole numbers near `x` `[groups, length]`. `seed` is the only source of randomness; the same
    /// seed gives the same result on every backend up to the backend's own arithmetic.
    pub fn round<B: Backend>(self, x: Tensor<B, 2>, seed: u64) -> Tensor<B, 2> {
        match self {
            Rounding::Nearest => round_half_even(x),
            Rounding::Stochastic => {
                let noise = dither(x.dims(), seed, &x.device()).cast(x.dtype());
                round_half_even(x + noise)
            }
        }
    }
}

/// Uniform values in `[-1/2, 1/2)`, any two of them independent: the fraction of `a[row] + b[column]` over a layout
/// as square as the number of values allows, with uniform `a` and `b`.
///
/// A training step draws them anew for every weight. Numbers for each value would have to come from the host, one
/// by one; here the host draws as many as rows and columns and the device does the rest. Rounding errors of two
/// weights are as independent as with a number for each, so sums of them spread alike; only four values on the
/// corners of a rectangle know of each other. All steps are exact, so backends agree.
fn dither<B: Backend>(shape: [usize; 2], seed: u64, device: &B::Device) -> Tensor<B, 2> {
    let [rows, columns] = square(shape[0] * shape[1]);
    let drawn = |from: usize, count: usize| {
        let value = |i: usize| (mix(seed ^ mix((from + i) as u64 + 1)) >> 41) as f32 / (1u32 << 23) as f32;
        (0..count).map(value).collect::<Vec<f32>>()
    };
    let tensor = |values: Vec<f32>, shape: [usize; 2]| {
        Tensor::<B, 2>::from_data(TensorData::new(values, shape), (device, DType::F32))
    };
    let sum = tensor(drawn(0, rows), [rows, 1]) + tensor(drawn(rows, columns), [1, columns]);
    (sum.clone() - sum.floor() - 0.5).reshape(shape)
}

/// The two factors of `count` that are closest to each other.
fn square(count: usize) -> [usize; 2] {
    let small = (1..=count.isqrt()).rev().find(|d| count.is_multiple_of(*d)).unwrap_or(1);
    [small, count / small]
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014), which scrambles a counter.
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A seed for one layer, from the session's seed and the layer's name (FNV-1a).
pub(crate) fn layer_seed(seed: u64, name: &str) -> u64 {
    name.bytes().fold(mix(seed), |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use briquette_core::host_floats;
    use burn::backend::Flex;

    #[test]
    fn stochastic_rounding_is_unbiased_and_repeatable() {
        let d = Default::default();
        let x = Tensor::<Flex, 2>::full([100, 1000], 2.3, &d);
        let a = Rounding::Stochastic.round(x.clone(), 7);
        let b = Rounding::Stochastic.round(x.clone(), 7);
        assert_eq!(a.to_data(), b.to_data());
        let other = Rounding::Stochastic.round(x, 8);
        assert_ne!(a.to_data(), other.into_data());
        let v = host_floats(a);
        assert!(v.iter().all(|v| *v == 2.0 || *v == 3.0));
        let mean = v.iter().sum::<f32>() / v.len() as f32;
        assert!((mean - 2.3).abs() < 0.01, "mean {mean}");
    }

    fn drawn(shape: [usize; 2], seed: u64) -> Vec<f32> {
        host_floats(dither::<Flex>(shape, seed, &Default::default()))
    }

    #[test]
    fn every_value_is_uniform_over_seeds() {
        let seeds = 4000;
        let draws: Vec<Vec<f32>> = (0..seeds).map(|seed| drawn([3, 10], seed)).collect();
        for i in 0..30 {
            let mut tenths = [0; 10];
            for draw in &draws {
                assert!((-0.5..0.5).contains(&draw[i]));
                tenths[((draw[i] + 0.5) * 10.0) as usize] += 1;
            }
            // 400 are expected in each, give or take 19.
            assert!(tenths.iter().all(|n| (310..490).contains(n)), "{tenths:?}");
        }
    }

    #[test]
    fn any_two_values_are_independent() {
        let seeds = 4000;
        let draws: Vec<Vec<f32>> = (0..seeds).map(|seed| drawn([5, 6], seed)).collect();
        for (i, j) in (0..30).flat_map(|i| (0..i).map(move |j| (i, j))) {
            // Whether both fall on the same side is a coin: 2000 give or take 32.
            let same = draws.iter().filter(|d| (d[i] < 0.0) == (d[j] < 0.0)).count();
            assert!((1840..2160).contains(&same), "{i} and {j}: {same}");
        }
    }

    #[test]
    fn the_layout_is_as_square_as_can_be() {
        assert_eq!(square(1), [1, 1]);
        assert_eq!(square(0), [1, 0]);
        assert_eq!(square(12), [3, 4]);
        assert_eq!(square(768 * 3072), [1536, 1536]);
        assert_eq!(square(97), [1, 97]);
    }
}
