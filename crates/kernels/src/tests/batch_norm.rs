//! Batch normalization as one operation, beside burn's operations.

use super::{floats, tensor, values};
use crate::{Activation, BatchNormPass, BatchNormalized, CompressOps, batch_norm_train, portable};
use burn::backend::autodiff::checkpoint::strategy::BalancedCheckpointing;
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{DType, Distribution};

type A = Autodiff<Flex>;
type Train<B> =
    fn(Tensor<B, 4>, Tensor<B, 1>, Tensor<B, 1>, f64, Option<Tensor<B, 4>>, Activation) -> BatchNormalized<B>;

/// Output, mean, variance, and gradients of input, factors, offsets and residual.
fn passes<B: AutodiffBackend<InnerBackend = Flex>>(
    train: Train<B>,
    shape: [usize; 4],
    residual: bool,
    activation: Activation,
) -> Vec<Vec<f32>> {
    let count = shape.iter().product();
    let images = |seed| Tensor::<B, 4>::from_inner(tensor(&values(count, seed), shape)).require_grad();
    let vector =
        |seed| Tensor::<B, 1>::from_inner(tensor(&values(shape[1], seed), [shape[1]])).require_grad();
    let (x, gamma, beta) = (images(1), vector(2), vector(3));
    let residual = residual.then(|| images(4));
    let result =
        train(x.clone() * 2.0 + 1.0, gamma.clone(), beta.clone(), 1e-3, residual.clone(), activation);
    let weights = Tensor::from_inner(tensor(&values(count, 5), shape));
    let gradients = (result.y.clone() * weights).sum().backward();
    let mut all =
        vec![floats(result.y.inner()), floats(result.mean.inner()), floats(result.variance.inner())];
    all.extend([floats(x.grad(&gradients).unwrap())]);
    all.extend([gamma, beta].map(|v| floats(v.grad(&gradients).unwrap())));
    all.extend(residual.map(|r| floats(r.grad(&gradients).unwrap())));
    all
}

const NAMES: [&str; 7] = ["output", "mean", "variance", "input", "gamma", "beta", "residual"];

#[track_caller]
fn assert_same(got: &[Vec<f32>], want: &[Vec<f32>], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (name, (got, want)) in NAMES.iter().zip(got.iter().zip(want)) {
        assert_eq!(got.len(), want.len(), "{name}, {what}");
        let scale = want.iter().map(|v| v.abs()).fold(1.0, f32::max);
        let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4 * scale, "{name}, {what}: {worst} of {scale}");
    }
}

#[test]
fn one_operation_normalizes_as_many_do() {
    for shape in [[4, 3, 5, 2], [2, 16, 8, 8], [3, 5, 7, 9], [40, 16, 16, 16], [1, 2, 1, 1]] {
        for residual in [false, true] {
            for activation in [Activation::Identity, Activation::Relu, Activation::Gelu] {
                let what = format!("{shape:?}, residual {residual}, {activation:?}");
                let got = passes::<A>(batch_norm_train, shape, residual, activation);
                let want = passes::<A>(portable::batch_norm_train, shape, residual, activation);
                assert_same(&got, &want, &what);
                assert_eq!(got, passes::<A>(batch_norm_train, shape, residual, activation), "twice, {what}");
                type Balanced = Autodiff<Flex, BalancedCheckpointing>;
                let balanced = passes::<Balanced>(batch_norm_train, shape, residual, activation);
                assert_same(&balanced, &want, &what);
            }
        }
    }
}

#[test]
fn gradients_in_terms_of_operations_are_the_same() {
    let shape = [3, 4, 5, 6];
    let of = |seed| tensor(&values(360, seed), shape);
    let vector = |seed| tensor(&values(4, seed), [4]);
    for rectified in [None, Some(of(9))] {
        let pass = BatchNormPass {
            x: of(1),
            rectified,
            gamma: vector(2),
            mean: vector(3),
            variance: vector(4).abs(),
            epsilon: 1e-2,
        };
        let gradients = |by: crate::BatchNormGradients<Flex>| {
            vec![floats(by.x), floats(by.residual.unwrap()), floats(by.gamma), floats(by.beta)]
        };
        let got = gradients(Flex::batch_norm_gradients(pass.clone(), of(5), true));
        assert_same(&got, &gradients(portable::batch_norm_gradients(pass.clone(), of(5), true)), "gradients");
        assert!(Flex::batch_norm_gradients(pass, of(5), false).residual.is_none());
    }
}

#[test]
fn a_mean_far_from_zero_leaves_the_variance_alone() {
    let device = Default::default();
    let x = Tensor::<Flex, 4>::random([8, 2, 16, 16], Distribution::Normal(1000.0, 0.1), &device);
    let result = batch_norm_train(
        x,
        Tensor::ones([2], &device),
        Tensor::zeros([2], &device),
        1e-9,
        None,
        Activation::Identity,
    );
    for variance in floats(result.variance) {
        assert!((0.005..0.02).contains(&variance), "{variance}");
    }
    let largest = result.y.abs().max().into_scalar();
    assert!((1.0..10.0).contains(&largest), "{largest}");
}

#[test]
fn batches_of_nothing_are_left_to_burn() {
    assert!(Flex::trains_batch_norm(DType::F32, [2, 3, 4, 4]));
    assert!(!Flex::trains_batch_norm(DType::F32, [0, 3, 4, 4]));
    assert!(!Flex::trains_batch_norm(DType::F16, [2, 3, 4, 4]));
}
