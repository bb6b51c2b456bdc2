//! Learned scores (movement pruning, Sanh et al. 2020, arXiv 2005.07683; over blocks Lagunas et al. 2021, arXiv
//! 2109.04838).
//!
//! A weight or unit computes while its score is among the highest. Its score learns whether it does or not: the
//! gradient of the mask is passed to it straight through, the sum of `dL/dW' W` over what the mask multiplies. So a
//! score grows where training moves the weights away from zero.

use crate::sparsity_schedule::SparsitySchedule;
use briquette_core::{Clock, stop};
use burn::prelude::*;

/// Scores at first, from magnitudes: 0.01 times the distance from their mean in standard deviations.
///
/// They make the mask a sensible one before anything is learned; DeepSpeed draws them, so that at the offset a random
/// half of a model is cut. The factor is a few hundred times a usual learning rate (5e-5), so that units move
/// past each other within a few hundred steps of Adam, which moves each score by about the learning rate.
pub fn from_magnitudes<B: Backend>(magnitudes: Tensor<B, 2>) -> Tensor<B, 2> {
    let count = magnitudes.dims().iter().product::<usize>().max(1) as f64;
    let mean = magnitudes.clone().sum().reshape([1, 1]) / count;
    let distance = magnitudes - mean;
    let variance = distance.clone().square().sum().reshape([1, 1]) / count;
    // Of equal magnitudes all distances are zero but for rounding, and stay small.
    distance / (variance.sqrt() + 1e-12) * 0.01
}

/// `mask`, 0 or 1 exactly, with the gradient going to `scores` straight through.
pub fn with_gradient<B: Backend>(mask: Tensor<B, 2>, scores: Tensor<B, 2>) -> Tensor<B, 2> {
    // The difference is exactly zero.
    mask + (scores.clone() - stop(scores))
}

/// Scores that the optimizer trains.
pub(crate) struct Learned {
    /// The learned entry.
    pub(crate) scores: usize,
    /// Whether they learn before anything is removed.
    pub(crate) early: bool,
}

impl Learned {
    /// The learned entry, while it is trained: until the schedule has run out.
    pub(crate) fn trained(&self, schedule: &SparsitySchedule, clock: Clock) -> Option<usize> {
        let moving = !schedule.settled(clock) && (self.early || schedule.event(clock).is_some());
        moving.then_some(self.scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use briquette_core::host_floats;
    use burn::backend::{Autodiff, Flex};

    #[test]
    fn magnitudes_give_scores_of_one_scale() {
        let magnitudes = Tensor::<Flex, 2>::from_floats([[1.0, 3.0], [5.0, 7.0]], &Default::default());
        let scores = host_floats(from_magnitudes(magnitudes.clone()));
        let unit = 0.01 / 5f32.sqrt();
        for (found, expected) in scores.iter().zip([-3.0, -1.0, 1.0, 3.0]) {
            assert!((found - expected * unit).abs() < 1e-8, "{scores:?}");
        }
        let scaled = host_floats(from_magnitudes(magnitudes * 1000.0));
        assert!(scaled.iter().zip(&scores).all(|(a, b)| (a - b).abs() < 1e-8));
        let equal = Tensor::<Flex, 2>::full([2, 3], 0.1, &Default::default());
        assert!(host_floats(from_magnitudes(equal)).iter().all(|v| v.is_finite()));
    }

    #[test]
    fn the_gradient_of_the_mask_reaches_the_scores() {
        let d = Default::default();
        let scores = Tensor::<Autodiff<Flex>, 2>::from_floats([[0.3, -0.1, 0.8]], &d).require_grad();
        let mask = Tensor::from_floats([[1.0, 0.0, 1.0]], &d);
        let soft = with_gradient(mask, scores.clone());
        assert_eq!(host_floats(soft.clone()), [1.0, 0.0, 1.0]);
        let factors = Tensor::from_floats([[2.0, 5.0, -3.0]], &d);
        let gradients = (soft * factors).sum().backward();
        let found = scores.grad(&gradients).expect("a gradient");
        assert_eq!(host_floats(found), [2.0, 5.0, -3.0]);
    }
}
