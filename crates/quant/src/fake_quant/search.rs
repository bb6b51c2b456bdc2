//! The range with the least squared error.

use super::uniform;
use crate::scheme::WeightScheme;
use burn::prelude::*;

/// For every group of `x` `[groups, length]` the fraction of its range, among 1.00, 0.98 ... 0.50, with the smallest
/// squared error; the largest of equally good ones. `[groups, 1]`.
pub(super) fn shrink<B: Backend>(x: &Tensor<B, 2>, scheme: &WeightScheme, seed: u64) -> Tensor<B, 2> {
    let fraction = |value: f32| Tensor::full([x.dims()[0], 1], value, (&x.device(), x.dtype()));
    let error = |shrink: &Tensor<B, 2>| {
        let q = uniform(x.clone(), scheme, scheme.rounding, Some(shrink.clone()), seed);
        (q.values() - x.clone()).square().sum_dim(1)
    };
    let mut best = fraction(1.0);
    let mut least = error(&best);
    for step in 1..=25 {
        let next = fraction(1.0 - 0.02 * step as f32);
        let e = error(&next);
        let better = e.clone().lower(least.clone());
        best = best.mask_where(better.clone(), next);
        least = least.mask_where(better, e);
    }
    best
}
