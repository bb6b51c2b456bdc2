//! Steps and clipping against PyTorch 2.15: `torch.optim.AdamW`, `torch.optim.SGD(nesterov=True)` and
//! `torch.nn.utils.clip_grad_norm_` on the same numbers.
#![allow(clippy::unwrap_used)]

mod common;

use briquette_composer::{OptimizerKind, Trained};
use briquette_core::{SessionState, StateBuilder, host_floats};
use briquette_train::{Grouped, Rule, clip_by_norm};
use burn::backend::Flex;
use burn::module::{Module, Param};
use burn::optim::{GradientsParams, Optimizer, SimpleOptimizer};
use burn::prelude::*;
use common::*;

const GRADIENTS: [[f32; 4]; 3] = [[0.5, -1.0, 2.0, 0.0], [0.1, 0.2, -0.3, 0.0], [-2.0, 1.0, 0.5, 0.0]];

fn stepped(rule: Rule) -> Vec<f32> {
    let device = Default::default();
    let start = Tensor::<Flex, 1>::from_floats([1.0, -2.0, 3.0, 0.5], &device);
    let step = |(weight, past), gradient: &[f32; 4]| {
        rule.step(0.1, weight, Tensor::from_floats(*gradient, &device), past)
    };
    host_floats(GRADIENTS.iter().fold((start, None), step).0)
}

fn assert_close(found: &[f32], expected: &[f32]) {
    for (f, e) in found.iter().zip(expected) {
        assert!((f - e).abs() < 2e-6, "{found:?} is not {expected:?}");
    }
}

#[test]
fn adamw_steps_as_pytorch_does() {
    let rule = Rule::AdamW { beta_1: 0.8, beta_2: 0.95, epsilon: 1e-8, weight_decay: 0.1 };
    assert_close(&stepped(rule), &[0.848_914_5, -1.822_112_4, 2.708_599, 0.485_149_53]);
}

#[test]
fn sgd_steps_as_pytorch_does() {
    let rule = Rule::Sgd { momentum: 0.9, weight_decay: 0.01 };
    assert_close(&stepped(rule), &[1.173_465_6, -1.885_186_7, 2.276_344_5, 0.495_982_44]);
}

#[derive(Module, Debug)]
struct Two<B: Backend> {
    a: Param<Tensor<B, 1>>,
    b: Param<Tensor<B, 2>>,
}

fn two() -> (Two<A>, GradientsParams) {
    let device = Default::default();
    let two = Two {
        a: Param::from_tensor(Tensor::<A, 1>::ones([2], &device)),
        b: Param::from_tensor(Tensor::<A, 2>::ones([1, 1], &device)),
    };
    let mut gradients = GradientsParams::new();
    gradients.register::<Flex, 1>(two.a.id, Tensor::from_floats([3.0, 4.0], &device));
    gradients.register::<Flex, 2>(two.b.id, Tensor::from_floats([[12.0]], &device));
    (two, gradients)
}

#[test]
fn clipping_scales_all_gradients_by_their_common_norm() {
    for (limit, expected) in [(6.5, [1.5, 2.0, 6.0]), (13.5, [3.0, 4.0, 12.0])] {
        let (module, gradients) = two();
        let clipped = clip_by_norm::<A, _>(&module, gradients, limit);
        let mut found = host_floats(clipped.get::<Flex, 1>(module.a.id).unwrap());
        found.extend(host_floats(clipped.get::<Flex, 2>(module.b.id).unwrap()));
        assert_close(&found, &expected);
    }
}

#[test]
fn clipping_gradients_of_zero_keeps_them() {
    let (module, mut gradients) = two();
    gradients.register::<Flex, 1>(module.a.id, Tensor::zeros([2], &Default::default()));
    gradients.register::<Flex, 2>(module.b.id, Tensor::zeros([1, 1], &Default::default()));
    let clipped = clip_by_norm::<A, _>(&module, gradients, 1.0);
    assert_eq!(host_floats(clipped.get::<Flex, 1>(module.a.id).unwrap()), [0.0, 0.0]);
}

/// A model of a vector and a matrix, all ones, and a learned entry of ones, after one step with gradients of zero.
fn decayed(kind: OptimizerKind) -> [f32; 3] {
    let device = Default::default();
    let mut state = SessionState::default();
    let weight = Tensor::<A, 2>::ones([1, 1], &device);
    StateBuilder::new(&mut state, weight.clone(), briquette_core::Clock::Step(0), 0).learned(weight);
    let trained = Trained { model: two().0, state };
    let loss = trained.model.a.val().sum() + trained.model.b.val().sum() + trained.state.learned(0).sum();
    let gradients = GradientsParams::from_grads((loss * 0.0).backward(), &trained);
    let mut optimizer = Grouped::new(Rule::new(kind, (0.9, 0.999), 0.9, 0.5), 1.0);
    let trained = optimizer.step(0.1, trained, gradients);
    let first = |values: Vec<f32>| values[0];
    [
        first(host_floats(trained.model.a.val())),
        first(host_floats(trained.model.b.val())),
        first(host_floats(trained.state.learned(0))),
    ]
}

#[test]
fn only_weights_decay() {
    for kind in [OptimizerKind::Adamw, OptimizerKind::Sgd] {
        let [vector, weight, learned] = decayed(kind);
        assert_eq!((vector, learned), (1.0, 1.0), "{kind:?}");
        assert!(weight < 0.96, "{kind:?} {weight}");
    }
}

#[test]
fn large_gradients_of_learned_entries_do_not_shrink_a_descent() {
    let device = Default::default();
    let mut state = SessionState::default();
    let weight = Tensor::<A, 2>::ones([1, 1], &device);
    StateBuilder::new(&mut state, weight.clone(), briquette_core::Clock::Step(0), 0).learned(weight);
    let trained = Trained { model: two().0, state };
    let loss = trained.model.a.val().sum() + trained.state.learned(0).sum() * 1000.0;
    let gradients = GradientsParams::from_grads(loss.backward(), &trained);
    let before = host_floats(trained.model.a.val())[0];
    let mut optimizer = Grouped::new(Rule::PLAIN, 0.5).with_clipping(Some(1.0));
    let trained = optimizer.step(0.1, trained, gradients);
    // Two gradients of 1 have a norm of the root of 2.
    assert!((before - host_floats(trained.model.a.val())[0] - 0.1 / 2f32.sqrt()).abs() < 1e-6);
    assert!((1.0 - host_floats(trained.state.learned(0))[0] - 0.05).abs() < 1e-6);
}

#[test]
fn learned_entries_have_their_own_rate() {
    let device = Default::default();
    let moved = |factor: f64| {
        let mut state = SessionState::default();
        let weight = Tensor::<A, 2>::ones([1, 1], &device);
        StateBuilder::new(&mut state, weight.clone(), briquette_core::Clock::Step(0), 0).learned(weight);
        let trained = Trained { model: two().0, state };
        let gradients = GradientsParams::from_grads(trained.state.learned(0).sum().backward(), &trained);
        let trained = Grouped::new(Rule::PLAIN, factor).step(0.1, trained, gradients);
        1.0 - host_floats(trained.state.learned(0))[0]
    };
    assert!((moved(1.0) - 0.1).abs() < 1e-6);
    assert!((moved(0.5) - 0.05).abs() < 1e-6);
}
