//! Convolutions in tiles and as one product of matrices, beside those of burn.

use super::packed::{kinds, weight_on};
use super::{floats, tensor, values};
use crate::cpu::{convolution, tile::Unit};
use crate::portable::unfolded_conv2d;
use crate::{Activation, ChannelNorm, Code, ConvolutionTail, TokenQuant, fake_quantize_rows, unpack};
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use burn::tensor::module::conv2d;
use burn::tensor::ops::PaddedConvOptions;

type A = Autodiff<Flex>;

/// Output, and gradients of input, weight and bias for an output weighted by fixed numbers.
fn passes(
    unfolded: bool,
    shape: [usize; 4],
    kernel: [usize; 4],
    options: &PaddedConvOptions<2>,
) -> [Vec<f32>; 4] {
    let leaf = |seed, shape: [usize; 4]| {
        let x = tensor(&values(shape.iter().product(), seed), shape);
        Tensor::<A, 4>::from_inner(x).require_grad()
    };
    let (x, w) = (leaf(1, shape), leaf(2, kernel));
    let bias = Tensor::<A, 1>::from_inner(tensor(&values(kernel[0], 3), [kernel[0]])).require_grad();
    let y = match unfolded {
        true => unfolded_conv2d(x.clone(), w.clone(), Some(bias.clone()), options),
        false => conv2d(x.clone(), w.clone(), Some(bias.clone()), options.clone()),
    };
    let weights = values(y.shape().num_elements(), 4);
    let gradients = (y.clone() * Tensor::from_inner(tensor(&weights, y.dims()))).sum().backward();
    let of = |t: &Tensor<A, 4>| floats(t.grad(&gradients).unwrap());
    [floats(y.inner()), of(&x), of(&w), floats(bias.grad(&gradients).unwrap())]
}

#[test]
fn a_product_of_matrices_convolves_and_has_the_same_gradients() {
    let options = PaddedConvOptions::asymmetric;
    let cases = [
        ([2, 3, 8, 8], [5, 3, 3, 3], options([1, 1], [1, 1], [1, 1], [1, 1], 1)),
        ([2, 3, 9, 8], [4, 3, 3, 3], options([2, 2], [1, 1], [1, 1], [1, 1], 1)),
        ([1, 2, 7, 10], [3, 2, 1, 1], options([2, 3], [0, 0], [0, 0], [1, 1], 1)),
        ([2, 2, 9, 11], [3, 2, 3, 2], options([1, 2], [0, 1], [0, 1], [2, 3], 1)),
        ([2, 2, 6, 6], [3, 2, 3, 3], options([1, 1], [0, 1], [2, 0], [1, 1], 1)),
    ];
    for (shape, kernel, options) in cases {
        let (got, want) = (passes(true, shape, kernel, &options), passes(false, shape, kernel, &options));
        for (name, (got, want)) in ["output", "input", "weight", "bias"].iter().zip(got.iter().zip(&want)) {
            assert_eq!(got.len(), want.len(), "{name} of {shape:?} by {kernel:?}");
            let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{name} of {shape:?} by {kernel:?}, {options:?}: {worst}");
        }
    }
}

/// Images, kernels and options of convolutions.
pub(super) fn cases() -> Vec<([usize; 4], [usize; 4], PaddedConvOptions<2>)> {
    let options = PaddedConvOptions::asymmetric;
    // More channels than a tile has rows, images as wide as a block of lanes and wider, strides, dilation, groups,
    // depthwise, uneven padding, a kernel as large as the image, and batches of more images than are convolved at once.
    vec![
        ([2, 3, 32, 32], [16, 3, 3, 3], options([1, 1], [1, 1], [1, 1], [1, 1], 1)),
        ([1, 16, 8, 8], [40, 16, 3, 3], options([1, 1], [1, 1], [1, 1], [1, 1], 1)),
        ([3, 5, 9, 70], [7, 5, 3, 3], options([2, 2], [1, 1], [1, 1], [1, 1], 1)),
        ([1, 3, 5, 128], [14, 3, 3, 3], options([2, 2], [1, 1], [1, 1], [1, 1], 1)),
        ([2, 4, 7, 10], [6, 4, 1, 1], options([2, 3], [0, 0], [0, 0], [1, 1], 1)),
        ([1, 2, 19, 21], [3, 2, 3, 2], options([3, 2], [2, 1], [0, 3], [2, 3], 1)),
        ([2, 6, 12, 11], [9, 2, 3, 3], options([1, 2], [1, 0], [2, 1], [1, 1], 3)),
        ([2, 8, 6, 6], [8, 1, 3, 3], options([1, 1], [1, 1], [1, 1], [1, 1], 8)),
        ([1, 3, 5, 4], [2, 3, 5, 4], options([1, 1], [0, 0], [0, 0], [1, 1], 1)),
        ([70, 16, 16, 16], [8, 16, 3, 3], options([1, 1], [1, 1], [1, 1], [1, 1], 1)),
        ([1, 64, 4, 4], [512, 64, 3, 3], options([1, 1], [1, 1], [1, 1], [1, 1], 1)),
    ]
}

/// What follows a convolution with an output of this shape: everything, or the residual alone.
fn tails(shape: [usize; 4]) -> [ConvolutionTail<Flex>; 2] {
    let of_channels = |seed| tensor(&values(shape[1], seed), [shape[1]]);
    let residual = Some(tensor(&values(shape.iter().product(), 9), shape));
    let norm = ChannelNorm {
        gamma: of_channels(10),
        beta: of_channels(11),
        mean: of_channels(12),
        variance: of_channels(13).abs(),
        epsilon: 1e-3,
    };
    [
        ConvolutionTail { norm: Some(norm), residual: residual.clone(), activation: Activation::Relu },
        ConvolutionTail { residual, activation: Activation::Gelu, ..Default::default() },
    ]
}

#[track_caller]
fn assert_near(got: Tensor<Flex, 4>, want: Tensor<Flex, 4>, limit: f32, what: &str) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let worst = (got - want).abs().max().into_scalar();
    assert!(worst < limit, "{what}: {worst}");
}

#[test]
fn tiles_do_what_follows_a_convolution() {
    for (shape, kernel, options) in cases() {
        let (x, w) = (values(shape.iter().product(), 5), values(kernel.iter().product(), 6));
        let (x, w) = (tensor(&x, shape), tensor(&w, kernel));
        let bias = Some(tensor(&values(kernel[0], 7), [kernel[0]]));
        let y = conv2d(x.clone(), w.clone(), bias.clone(), options.clone());
        // Variances begin at zero: a factor is at most `2 / sqrt(1e-3)`.
        let limit = 1e-3 * (kernel[1] * kernel[2] * kernel[3]) as f32;
        for (unit, tail) in Unit::available().into_iter().flat_map(|unit| tails(y.dims()).map(|t| (unit, t)))
        {
            let want = tail.clone().forward(y.clone());
            let got = convolution::conv2d(unit, x.clone(), w.clone(), bias.clone(), &options, tail);
            assert_near(got, want, limit, &format!("{unit:?}, {shape:?} by {kernel:?}"));
        }
    }
}

/// Symmetric codes of so many bits.
fn quant(bits: u32, range: Option<(f32, f32)>) -> TokenQuant {
    TokenQuant { bits, symmetric: true, full_range: false, range }
}

#[test]
fn codes_convolve_as_the_floats_that_they_stand_for() {
    let mut in_integers = 0;
    for (shape, kernel, options) in cases() {
        let x = tensor(&values(shape.iter().product(), 5), shape);
        let columns = kernel[1] * kernel[2] * kernel[3];
        let size = [kernel[2], kernel[3]];
        let bias = Some(tensor(&values(kernel[0], 7), [kernel[0]]));
        for (bits, code) in
            [1, 2, 4, 8].into_iter().flat_map(|bits| kinds(bits).into_iter().map(move |c| (bits, c)))
        {
            let (packed, _) = weight_on::<Flex>(kernel[0], columns, bits, code, columns);
            for q in [quant(8, None), quant(4, None), quant(8, Some((-1.0, 1.0)))] {
                let images = x.clone().reshape([shape[0], shape[1] * shape[2] * shape[3]]);
                let seen = fake_quantize_rows(images, q).reshape(shape);
                let y = conv2d(seen, unpack(&packed).reshape(kernel), bias.clone(), options.clone());
                let suits = convolution::in_integers(shape, q, &packed, size, &options);
                assert_eq!(suits, code != Code::Asymmetric && options.options.groups == 1);
                let limit = 1e-5 * columns as f32;
                for unit in Unit::available().into_iter().filter(|_| suits) {
                    in_integers += 1;
                    let what = format!("{unit:?}, {shape:?} by {kernel:?}, {bits} bits {code:?}, {q:?}");
                    let (x, bias) = (x.clone(), bias.clone());
                    let plain = ConvolutionTail::default();
                    let got = convolution::conv2d_quantized(unit, x, q, &packed, size, bias, &options, plain);
                    assert_near(got, y.clone(), limit, &what);
                }
                for tail in tails(y.dims()) {
                    let (x, bias) = (x.clone(), bias.clone());
                    let want = tail.clone().forward(y.clone());
                    let got = crate::conv2d_quantized(x, q, &packed, size, bias, options.clone(), tail);
                    assert_near(
                        got,
                        want,
                        100.0 * limit,
                        &format!("{shape:?} by {kernel:?}, {code:?}, {q:?}"),
                    );
                }
            }
        }
    }
    assert!(in_integers > 100, "{in_integers} convolutions in integers");
}

#[test]
fn an_image_that_is_no_number_convolves_to_none() {
    let options = PaddedConvOptions::asymmetric([1, 1], [1, 1], [1, 1], [1, 1], 1);
    let mut images = values(2 * 3 * 5 * 5, 3);
    images[80] = f32::NAN;
    let (packed, _) = weight_on::<Flex>(4, 27, 8, Code::Symmetric, 27);
    let x = tensor(&images, [2, 3, 5, 5]);
    let tail = ConvolutionTail::default();
    let y = floats(crate::conv2d_quantized(x, quant(8, None), &packed, [3, 3], None, options, tail));
    let (first, second) = y.split_at(y.len() / 2);
    assert!(first.iter().all(|v| v.is_finite()) && second.iter().all(|v| v.is_nan()));
}

#[test]
fn tiles_convolve_as_burn_does() {
    for (shape, kernel, options) in cases() {
        let (x, w) = (values(shape.iter().product(), 5), values(kernel.iter().product(), 6));
        let bias = values(kernel[0], 7);
        let (x, w, bias) = (tensor(&x, shape), tensor(&w, kernel), tensor(&bias, [kernel[0]]));
        let want = conv2d(x.clone(), w.clone(), Some(bias.clone()), options.clone());
        let plain = floats(conv2d(x.clone(), w.clone(), None, options.clone()));
        let none = ConvolutionTail::default;
        for unit in Unit::available() {
            let got = convolution::conv2d(unit, x.clone(), w.clone(), Some(bias.clone()), &options, none());
            assert_eq!(got.dims(), want.dims());
            let limit = 1e-5 * (kernel[1] * kernel[2] * kernel[3]) as f32;
            let near = |got: Vec<f32>, want: &[f32]| {
                let worst = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < limit, "{unit:?}, {shape:?} by {kernel:?}, {options:?}: {worst}");
            };
            near(floats(got), &floats(want.clone()));
            near(floats(convolution::conv2d(unit, x.clone(), w.clone(), None, &options, none())), &plain);
        }
    }
}

#[test]
fn convolutions_of_nothing_are_left_to_the_backend() {
    let options = PaddedConvOptions::asymmetric([1, 1], [0, 0], [0, 0], [1, 1], 1);
    assert!(convolution::suits([1, 3, 4, 4], [2, 3, 4, 4], &options));
    assert!(!convolution::suits([0, 3, 4, 4], [2, 3, 3, 3], &options));
    assert!(!convolution::suits([1, 3, 4, 4], [2, 3, 5, 4], &options));
}

#[test]
#[should_panic(expected = "5 outputs of 2 groups")]
fn groups_divide_the_outputs() {
    let options = PaddedConvOptions::asymmetric([1, 1], [0, 0], [0, 0], [1, 1], 2);
    let (x, w) = (tensor(&values(64, 1), [1, 4, 4, 4]), tensor(&values(10, 2), [5, 2, 1, 1]));
    convolution::conv2d(Unit::best(), x, w, None, &options, ConvolutionTail::default());
}
