//! Gradients of convolutions in tiles, beside those of burn.

use super::convolution::cases;
use super::{floats, tensor, values};
use crate::cpu::{convolution, tile::Unit};
use crate::{CompressOps, portable};
use burn::backend::autodiff::checkpoint::strategy::BalancedCheckpointing;
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::module::conv2d;
use burn::tensor::ops::PaddedConvOptions;
use burn::tensor::{DType, activation::relu};

type A = Autodiff<Flex>;
type Case = ([usize; 4], [usize; 4], PaddedConvOptions<2>);

/// Those of the forward pass, and some of which a phase of the input's pixels is seen by no element of the kernel, or the
/// output's gradient is cut at the end or the start.
fn all() -> Vec<Case> {
    let options = PaddedConvOptions::asymmetric;
    let mut all = cases();
    all.extend([
        ([4, 16, 16, 16], [32, 16, 3, 3], options([2, 2], [1, 1], [1, 1], [1, 1], 1)),
        ([2, 3, 8, 8], [5, 3, 3, 3], options([1, 1], [0, 2], [2, 0], [1, 1], 1)),
        ([2, 3, 9, 8], [5, 3, 3, 3], options([3, 2], [2, 2], [2, 2], [1, 1], 1)),
        ([2, 3, 10, 11], [5, 3, 5, 2], options([3, 3], [4, 1], [3, 1], [1, 1], 1)),
        ([2, 3, 11, 7], [4, 3, 2, 3], options([4, 2], [1, 0], [0, 1], [1, 1], 1)),
        ([1, 1, 1, 1], [1, 1, 1, 1], options([2, 2], [0, 0], [0, 0], [1, 1], 1)),
        ([1, 2, 2, 2], [3, 2, 3, 3], options([3, 3], [1, 1], [1, 1], [1, 1], 1)),
    ]);
    all
}

fn shape_of(x: [usize; 4], kernel: [usize; 4], options: &PaddedConvOptions<2>) -> [usize; 4] {
    let (x, w) = (Tensor::<Flex, 4>::zeros(x, &Default::default()), kernel);
    conv2d(x, Tensor::zeros(w, &Default::default()), None, options.clone()).dims()
}

#[track_caller]
fn assert_near(got: Tensor<Flex, 4>, want: Tensor<Flex, 4>, what: &str) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let scale = want.clone().powf_scalar(2.0).mean().sqrt().into_scalar().max(1e-3);
    let worst = (got - want).abs().max().into_scalar();
    assert!(worst <= 1e-5 * scale, "{what}: {worst} of {scale}");
}

#[test]
fn gradients_are_those_of_burn() {
    let mut supported = 0;
    for (shape, kernel, options) in all() {
        let suits = convolution::differentiates(shape, kernel, &options);
        assert_eq!(suits, options.options.groups == 1 && options.options.dilation == [1, 1]);
        let out = shape_of(shape, kernel, &options);
        let of = |shape: [usize; 4], seed| tensor(&values(shape.iter().product(), seed), shape);
        let (x, w, dy) = (of(shape, 1), of(kernel, 2), of(out, 3));
        let dx = portable::conv2d_input_gradient(shape, w.clone(), dy.clone(), &options);
        let dw = portable::conv2d_weight_gradient(x.clone(), kernel, dy.clone(), &options);
        for unit in Unit::available().into_iter().filter(|_| suits) {
            supported += 1;
            let what = format!("{unit:?}, {shape:?} by {kernel:?}, {options:?}");
            let by_input = || convolution::input_gradient(unit, shape, w.clone(), dy.clone(), &options);
            let by_weight = || convolution::weight_gradient(unit, x.clone(), kernel, dy.clone(), &options);
            assert_near(by_input(), dx.clone(), &format!("input, {what}"));
            assert_near(by_weight(), dw.clone(), &format!("weight, {what}"));
            assert_eq!(floats(by_input()), floats(by_input()), "input twice, {what}");
            assert_eq!(floats(by_weight()), floats(by_weight()), "weight twice, {what}");
        }
    }
    assert!(supported > 10, "{supported} gradients in tiles");
}

/// Gradients of input, weight and bias of two convolutions on top of one another, the first one of whose inputs may be
/// untracked.
fn passes<B: AutodiffBackend<InnerBackend = Flex>>(
    own: bool,
    (shape, kernel, options): &Case,
    tracked: [bool; 2],
) -> Vec<Option<Vec<f32>>> {
    let leaf = |seed, shape: [usize; 4], tracked: bool| {
        let x = Tensor::<B, 4>::from_inner(tensor(&values(shape.iter().product(), seed), shape));
        if tracked { x.require_grad() } else { x }
    };
    let convolve = |x: &Tensor<B, 4>, w: &Tensor<B, 4>, bias, options: &PaddedConvOptions<2>| match own {
        true => crate::conv2d(x.clone(), w.clone(), bias, options.clone()),
        false => conv2d(x.clone(), w.clone(), bias, options.clone()),
    };
    let (x, w) = (leaf(1, *shape, tracked[0]), leaf(2, *kernel, tracked[1]));
    let bias = Tensor::<B, 1>::from_inner(tensor(&values(kernel[0], 3), [kernel[0]])).require_grad();
    let second = leaf(4, [2, kernel[0], 1, 1], true);
    let plain = PaddedConvOptions::asymmetric([1, 1], [0, 0], [0, 0], [1, 1], 1);
    let y = relu(convolve(&x, &w, Some(bias.clone()), options));
    let y = convolve(&y, &second, None, &plain);
    let weights = values(y.shape().num_elements(), 5);
    let gradients = (y.clone() * Tensor::from_inner(tensor(&weights, y.dims()))).sum().backward();
    let of = |t: &Tensor<B, 4>| t.grad(&gradients).map(floats);
    vec![of(&x), of(&w), of(&second), bias.grad(&gradients).map(floats), Some(floats(y.inner()))]
}

#[track_caller]
fn assert_same_passes<B: AutodiffBackend<InnerBackend = Flex>>(case: &Case, tracked: [bool; 2]) {
    let (got, want) = (passes::<B>(true, case, tracked), passes::<B>(false, case, tracked));
    for (which, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got.is_some(), want.is_some(), "{which} of {case:?}");
        let (Some(got), Some(want)) = (got, want) else { continue };
        assert_eq!(got.len(), want.len(), "{which} of {case:?}");
        let scale = want.iter().map(|v| v.abs()).fold(1e-3, f32::max);
        let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4 * scale, "{which} of {case:?}: {worst} of {scale}");
    }
}

#[test]
fn layers_train_as_those_of_burn() {
    for case in all() {
        assert_same_passes::<A>(&case, [true, true]);
    }
    let case = &all()[0];
    for tracked in [[false, true], [true, false], [false, false]] {
        assert_same_passes::<A>(case, tracked);
        assert_same_passes::<Autodiff<Flex, BalancedCheckpointing>>(case, tracked);
    }
}

#[test]
fn what_is_not_supported_is_left_to_burn() {
    let options = PaddedConvOptions::asymmetric;
    let floats = [DType::F32; 2];
    let trains = |x, w, options| Flex::trains_convolutions(floats, x, w, &options);
    let plain = || options([1, 1], [1, 1], [1, 1], [1, 1], 1);
    assert!(trains([2, 3, 8, 8], [4, 3, 3, 3], plain()));
    assert!(!trains([0, 3, 8, 8], [4, 3, 3, 3], plain()));
    assert!(!trains([2, 4, 8, 8], [4, 3, 3, 3], plain()));
    assert!(!Flex::trains_convolutions([DType::F64; 2], [2, 3, 8, 8], [4, 3, 3, 3], &plain()));
    let wide = ([2, 3, 8, 8], [4, 3, 3, 3], options([1, 1], [3, 1], [1, 1], [1, 1], 1));
    assert!(!trains(wide.0, wide.1, wide.2.clone()));
    assert_same_passes::<A>(&wide, [true, true]);
}
