//! What an optimizer does to every parameter in every step, as few operations instead of many.

use crate::portable;
use crate::registry::lookup;
use burn::prelude::*;
use burn::tensor::TensorPrimitive;
use burn::tensor::ops::FloatTensor;

/// The numbers of one step of AdamW, worked out on the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Weight of the past in the mean of gradients.
    pub beta_1: f64,
    /// Weight of the past in the mean of squared gradients.
    pub beta_2: f64,
    /// Added to the root of the mean square.
    pub epsilon: f64,
    /// What a weight is multiplied with first: `1 - lr * weight_decay`.
    pub kept: f64,
    /// `lr / (1 - beta_1^t)`.
    pub rate: f64,
    /// `sqrt(1 - beta_2^t)`.
    pub root: f64,
}

/// A parameter and what AdamW remembers of it, all of one shape.
#[derive(Debug, Clone)]
pub struct AdamWState<T> {
    /// The parameter.
    pub weight: T,
    /// Mean of its gradients.
    pub first: T,
    /// Mean of its squared gradients.
    pub second: T,
}

/// One step of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2), as PyTorch computes it:
///
/// `m = beta_1 m + (1 - beta_1) g`, `v = beta_2 v + (1 - beta_2) g^2`,
/// `w = kept w - rate m / (sqrt(v) / root + epsilon)`, where `g` is `gradient` times `factor`, a tensor `[1]`.
pub fn adamw<B: Backend, const D: usize>(
    state: AdamWState<Tensor<B, D>>,
    gradient: Tensor<B, D>,
    factor: Option<Tensor<B, 1>>,
    step: AdamWStep,
) -> AdamWState<Tensor<B, D>> {
    let AdamWState { weight, first, second } = state;
    let state = AdamWState { weight: float(weight), first: float(first), second: float(second) };
    let (gradient, factor) = (float(gradient), factor.map(float));
    let AdamWState { weight, first, second } = match lookup::<B>() {
        Some(ops) => (ops.adamw)(state, gradient, factor, step),
        None => portable::adamw::<B>(state, gradient, factor, step),
    };
    AdamWState { weight: tensor(weight), first: tensor(first), second: tensor(second) }
}

/// What all of `gradients` together are multiplied with so that their common norm is at most `limit`, `[1]`
/// (Pascanu et al. 2013, arXiv 1211.5063, algorithm 1): `min(1, limit / (norm + 1e-6))`, as PyTorch computes it.
/// Nothing is read back from the device. Without gradients there is nothing to limit: `None`.
pub fn clip_factor<B: Backend>(gradients: Vec<FloatTensor<B>>, limit: f64) -> Option<Tensor<B, 1>> {
    if gradients.is_empty() {
        return None;
    }
    Some(tensor(match lookup::<B>() {
        Some(ops) => (ops.clip_factor)(gradients, limit),
        None => portable::clip_factor::<B>(gradients, limit),
    }))
}

fn float<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

fn tensor<B: Backend, const D: usize>(primitive: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}
