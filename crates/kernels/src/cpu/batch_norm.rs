//! Batch normalization while it learns: two passes over the input forward, two backward.
//!
//! A task is a channel, whose sums are in double precision and in an order of their own, so that results do not depend on
//! threads.

use super::memory::{contiguous, filled, from_vec, to_vec};
use super::parallel::{self, Shared};
use super::simd::{LANES, vectorised};
use crate::activation::Activation;
use crate::batch_norm::{BatchNormGradients, BatchNormPass, BatchNormalized};
use burn::backend::Flex;
use burn::prelude::*;
use burn::tensor::TensorPrimitive;

/// Where a channel's pixels lie in a batch of images.
#[derive(Clone, Copy)]
pub(super) struct Channel {
    first: usize,
    /// From an image to the next.
    step: usize,
    images: usize,
    pixels: usize,
}

impl Channel {
    fn new([images, channels, height, width]: [usize; 4], channel: usize) -> Self {
        let pixels = height * width;
        Self { first: channel * pixels, step: channels * pixels, images, pixels }
    }

    /// Where its pixels begin in each image.
    fn starts(self) -> impl Iterator<Item = usize> {
        (0..self.images).map(move |image| self.first + image * self.step)
    }

    fn count(self) -> f64 {
        (self.images * self.pixels) as f64
    }
}

/// Mean and variance of a channel, and what makes its deviation one.
#[derive(Clone, Copy)]
struct Statistics {
    mean: f32,
    variance: f32,
    inverse: f32,
}

impl Statistics {
    fn new(mean: f32, variance: f32, epsilon: f64) -> Self {
        Self { mean, variance, inverse: (1.0 / (f64::from(variance) + epsilon).sqrt()) as f32 }
    }

    /// Of the values of a channel.
    fn of(x: &[f32], channel: Channel, epsilon: f64) -> Self {
        let [sum, squares] = moments(x, channel).map(|sum| sum / channel.count());
        // Squares of floats are exact in double precision. A variance is not below zero, or no number.
        let variance = squares - sum * sum;
        Self::new(sum as f32, if variance < 0.0 { 0.0 } else { variance as f32 }, epsilon)
    }
}

/// Checks that there is a number for each channel.
fn of_channels(name: &str, values: Tensor<Flex, 1>, channels: usize) -> Vec<f32> {
    let values = to_vec(values);
    assert_eq!(values.len(), channels, "{name} of {channels} channels");
    values
}

/// See [`crate::batch_norm_train`]; `x` has floats of 32 bits, as the residual, and none of its sizes is zero.
///
/// # Panics
/// When the shapes do not fit.
#[expect(unsafe_code, reason = "threads write disjoint parts")]
pub(crate) fn train(
    x: Tensor<Flex, 4>,
    gamma: Tensor<Flex, 1>,
    beta: Tensor<Flex, 1>,
    epsilon: f64,
    residual: Option<Tensor<Flex, 4>>,
    activation: Activation,
) -> BatchNormalized<Flex> {
    let (shape, channels) = (x.dims(), x.dims()[1]);
    let (gamma, beta) = (of_channels("gamma", gamma, channels), of_channels("beta", beta, channels));
    let residual = residual.map(|residual| {
        assert_eq!(residual.dims(), shape, "shape of a residual");
        contiguous(residual)
    });
    let residual = residual.as_ref().map(|residual| residual.storage::<f32>());
    let x = contiguous(x);
    let x = x.storage::<f32>();
    let mut moments = vec![0.0; 2 * channels];
    let of = Shared::new(&mut moments);
    let rectifies = activation == Activation::Relu;
    let normalize = |y: &mut [f32]| {
        let y = Shared::new(y);
        parallel::blocks(channels, x.len(), |index| {
            let channel = Channel::new(shape, index);
            let now = Statistics::of(x, channel, epsilon);
            // SAFETY: each task has its own channel.
            let to = unsafe { of.range(2 * index, 2) };
            to.copy_from_slice(&[now.mean, now.variance]);
            let numbers = [now.mean, gamma[index] * now.inverse, beta[index]];
            for from in channel.starts() {
                // SAFETY: as above.
                let y = unsafe { y.range(from, channel.pixels) };
                let residual = residual.map(|residual| &residual[from..][..channel.pixels]);
                normalize_plane(&x[from..][..channel.pixels], residual, numbers, rectifies, y);
            }
        });
    };
    // SAFETY: every pixel of every channel is written, none is read.
    let y = from_vec(unsafe { filled(x.len(), normalize) }, shape);
    let [mean, variance] = [0, 1].map(|which| {
        let values: Vec<f32> = moments.iter().skip(which).step_by(2).copied().collect();
        from_vec(values, [channels])
    });
    BatchNormalized { y: if rectifies { y } else { activation.forward(y) }, mean, variance }
}

/// See [`crate::CompressOps::batch_norm_gradients`]; tensors have floats of 32 bits, and none of their sizes is zero. The
/// input's gradient takes the place of the output's where nobody else holds that.
///
/// # Panics
/// When the shapes do not fit.
pub(crate) fn gradients(
    pass: BatchNormPass<Flex>,
    dy: Tensor<Flex, 4>,
    residual: bool,
) -> BatchNormGradients<Flex> {
    let (shape, channels) = (pass.x.dims(), pass.x.dims()[1]);
    assert_eq!(dy.dims(), shape, "shape of a gradient");
    let [gamma, mean, variance] = [("gamma", pass.gamma), ("mean", pass.mean), ("variance", pass.variance)]
        .map(|(name, values)| of_channels(name, values, channels));
    let rectified = pass.rectified.map(|y| {
        assert_eq!(y.dims(), shape, "shape of a rectified output");
        contiguous(y)
    });
    let rectified = rectified.as_ref().map(|y| y.storage::<f32>());
    let (x, mut dy) = (contiguous(pass.x), contiguous(dy));
    let x = x.storage::<f32>();
    let mut sums = vec![0.0; 2 * channels];
    let by_residual = {
        let parts = Parts { dy: Shared::new(dy.storage_mut::<f32>()), sums: Shared::new(&mut sums) };
        let task = |index, kept: Option<&Shared<'_, f32>>| {
            let now = Statistics::new(mean[index], variance[index], pass.epsilon);
            parts.channel((x, rectified), (index, Channel::new(shape, index)), now, gamma[index], kept);
        };
        by_channel(x.len(), channels, residual, task)
    };
    let [gamma, beta] = [0, 1].map(|which| {
        let values: Vec<f32> = sums.iter().skip(which).step_by(2).copied().collect();
        from_vec(values, [channels])
    });
    let x = Tensor::from_primitive(TensorPrimitive::Float(dy));
    BatchNormGradients { x, residual: by_residual.map(|values| from_vec(values, shape)), gamma, beta }
}

/// Calls `task` for each channel, perhaps with room for the gradient of the residual, which it fills.
#[expect(unsafe_code, reason = "the residual's gradient is not written twice")]
fn by_channel(
    length: usize,
    channels: usize,
    residual: bool,
    task: impl Fn(usize, Option<&Shared<'_, f32>>) + Sync,
) -> Option<Vec<f32>> {
    if !residual {
        parallel::blocks(channels, 2 * length, |index| task(index, None));
        return None;
    }
    let fill = |kept: &mut [f32]| {
        let kept = Shared::new(kept);
        parallel::blocks(channels, 2 * length, |index| task(index, Some(&kept)));
    };
    // SAFETY: every pixel of every channel is written, none is read.
    Some(unsafe { filled(length, fill) })
}

/// What tasks write parts of.
struct Parts<'a> {
    /// Gradients of the output, then of the input.
    dy: Shared<'a, f32>,
    /// Of each channel's factor and offset.
    sums: Shared<'a, f32>,
}

impl Parts<'_> {
    /// Gradients of a channel: of factor and offset, of the residual in `kept`, of the input in the place of the output's.
    #[expect(unsafe_code, reason = "threads write disjoint parts")]
    fn channel(
        &self,
        (x, rectified): (&[f32], Option<&[f32]>),
        (index, channel): (usize, Channel),
        now: Statistics,
        gamma: f32,
        kept: Option<&Shared<'_, f32>>,
    ) {
        let (mut sums, pixels) = ([[0.0; LANES]; 2], channel.pixels);
        for from in channel.starts() {
            // SAFETY: each task has its own channel.
            let dy = unsafe { self.dy.range(from, pixels) };
            if let Some(y) = rectified {
                rectify(&y[from..][..pixels], dy);
            }
            add_gradients(&x[from..][..pixels], dy, now.mean, &mut sums);
            if let Some(kept) = kept {
                // SAFETY: as above.
                unsafe { kept.range(from, pixels) }.copy_from_slice(dy);
            }
        }
        let [sum, products] = sums.map(|lanes| lanes.iter().sum::<f64>());
        let products = products * f64::from(now.inverse);
        // SAFETY: as above.
        unsafe { self.sums.range(2 * index, 2) }.copy_from_slice(&[products as f32, sum as f32]);
        let slope = products / channel.count() * f64::from(now.inverse);
        let numbers = [now.mean, gamma * now.inverse, (sum / channel.count()) as f32, slope as f32];
        for from in channel.starts() {
            // SAFETY: as above.
            gradient_plane(&x[from..][..pixels], numbers, unsafe { self.dy.range(from, pixels) });
        }
    }
}

vectorised! {
    /// The sums of a channel's values and of their squares.
    fn moments(x: &[f32], channel: Channel) -> [f64; 2] {
        let (mut sums, mut squares) = ([0.0f64; LANES], [0.0f64; LANES]);
        for image in 0..channel.images {
            let plane = &x[channel.first + image * channel.step..][..channel.pixels];
            let (chunks, rest) = plane.as_chunks::<LANES>();
            for chunk in chunks {
                for lane in 0..LANES {
                    let value = f64::from(chunk[lane]);
                    sums[lane] += value;
                    squares[lane] += value * value;
                }
            }
            for (lane, value) in rest.iter().enumerate() {
                let value = f64::from(*value);
                sums[lane] += value;
                squares[lane] += value * value;
            }
        }
        [sums.iter().sum(), squares.iter().sum()]
    }
}

vectorised! {
    /// Adds gradients, and their products with the values' distance from the mean.
    fn add_gradients(x: &[f32], gradient: &[f32], mean: f32, to: &mut [[f64; LANES]; 2]) {
        let [mut sums, mut products] = *to;
        let (x, rest) = x.as_chunks::<LANES>();
        let (gradient, rest_gradient) = gradient.as_chunks::<LANES>();
        for (x, gradient) in x.iter().zip(gradient) {
            for lane in 0..LANES {
                let (x, gradient) = (f64::from(x[lane] - mean), f64::from(gradient[lane]));
                sums[lane] += gradient;
                products[lane] += gradient * x;
            }
        }
        for (lane, (x, gradient)) in rest.iter().zip(rest_gradient).enumerate() {
            let (x, gradient) = (f64::from(*x - mean), f64::from(*gradient));
            sums[lane] += gradient;
            products[lane] += gradient * x;
        }
        *to = [sums, products];
    }
}

vectorised! {
    /// `(x - mean) * factor + offset`, the residual added, perhaps without what is below zero.
    fn normalize_plane(
        x: &[f32],
        residual: Option<&[f32]>,
        numbers: [f32; 3],
        rectifies: bool,
        y: &mut [f32],
    ) {
        let [mean, factor, offset] = numbers;
        let least = if rectifies { 0.0 } else { f32::NEG_INFINITY };
        match residual {
            Some(residual) => {
                for ((y, x), residual) in y.iter_mut().zip(x).zip(residual) {
                    let value = (*x - mean) * factor + offset + *residual;
                    *y = if value < least { least } else { value };
                }
            }
            None => {
                for (y, x) in y.iter_mut().zip(x) {
                    let value = (*x - mean) * factor + offset;
                    *y = if value < least { least } else { value };
                }
            }
        }
    }
}

vectorised! {
    /// `factor * (gradient - its mean - slope * (x - mean))`, in the gradient's place.
    fn gradient_plane(x: &[f32], numbers: [f32; 4], gradient: &mut [f32]) {
        let [mean, factor, level, slope] = numbers;
        for (gradient, x) in gradient.iter_mut().zip(x) {
            *gradient = factor * (*gradient - level - slope * (*x - mean));
        }
    }
}

vectorised! {
    /// Leaves gradients where the output is above zero, and zeros elsewhere.
    fn rectify(y: &[f32], dy: &mut [f32]) {
        for (dy, y) in dy.iter_mut().zip(y) {
            *dy = if *y <= 0.0 { 0.0 } else { *dy };
        }
    }
}
