//! Steps of optimizers, by the backend's operations on tensors of any rank.

use crate::optimizer::{AdamWState, AdamWStep};
use burn::prelude::*;
use burn::tensor::TensorMetadata;
use burn::tensor::ops::FloatTensor;

pub(crate) fn adamw<B: Backend>(
    state: AdamWState<FloatTensor<B>>,
    gradient: FloatTensor<B>,
    factor: Option<FloatTensor<B>>,
    s: AdamWStep,
) -> AdamWState<FloatTensor<B>> {
    let times = |x, by: f64| B::float_mul_scalar(x, by.into());
    let gradient = match factor {
        Some(factor) => {
            let ones = Shape::from(vec![1; gradient.rank()]);
            B::float_mul(gradient, B::float_reshape(factor, ones))
        }
        None => gradient,
    };
    let square = B::float_mul(gradient.clone(), gradient.clone());
    let first = B::float_add(times(state.first, s.beta_1), times(gradient, 1.0 - s.beta_1));
    let second = B::float_add(times(state.second, s.beta_2), times(square, 1.0 - s.beta_2));
    let size = B::float_div_scalar(B::float_sqrt(second.clone()), s.root.into());
    let size = B::float_add_scalar(size, s.epsilon.into());
    let kept = if s.kept == 1.0 { state.weight } else { times(state.weight, s.kept) };
    let weight = B::float_sub(kept, B::float_div(times(first.clone(), s.rate), size));
    AdamWState { weight, first, second }
}

/// `gradients` is not empty.
pub(crate) fn clip_factor<B: Backend>(gradients: Vec<FloatTensor<B>>, limit: f64) -> FloatTensor<B> {
    let squares = gradients.into_iter().map(|g| B::float_sum(B::float_mul(g.clone(), g)));
    let sum = squares.reduce(B::float_add).expect("gradients to limit");
    // As PyTorch: a little is added, so that a norm of zero divides.
    let norm = B::float_add_scalar(B::float_sqrt(sum), 1e-6.into());
    B::float_clamp_max(B::float_mul_scalar(B::float_recip(norm), limit.into()), 1.0.into())
}
