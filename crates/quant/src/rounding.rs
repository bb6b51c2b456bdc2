//! Nearest-even and stochastic rounding.

use briquette_kernels::round_half_even;
use burn::prelude::*;
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
                let noise = Tensor::from_data(dither(x.dims(), seed), &x.device());
                round_half_even(x + noise)
            }
        }
    }
}

/// Uniform values in `[-1/2, 1/2)` by counting: value `i` depends on `seed` and `i` alone.
fn dither(shape: [usize; 2], seed: u64) -> TensorData {
    let count = shape[0] * shape[1];
    let value = |i: usize| {
        let bits = mix(seed ^ mix(i as u64 + 1)) >> 40;
        bits as f32 / (1u64 << 24) as f32 - 0.5
    };
    TensorData::new((0..count).map(value).collect::<Vec<f32>>(), shape)
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
}
