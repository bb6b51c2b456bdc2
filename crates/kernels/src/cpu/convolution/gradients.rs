//! Gradients of convolutions with one group of channels and no dilation.
//!
//! That of the input is a convolution of the output's gradient with the kernel turned by half a circle (Dumoulin, Visin
//! 2016, arXiv 1603.07285, chapter 4). With a stride, pixels of each phase see elements of the kernel of their own, so that
//! there is one such convolution for each phase and no zeros between pixels are multiplied. That of the weight is, for each
//! channel of the output and each element below, a sum of products over the pixels of all images.

use super::super::lines::Scratch;
use super::super::memory::{contiguous, from_vec};
use super::super::parallel::{self, Shared};
use super::super::tile::Unit;
use super::planes::Geometry;
use super::products::{INPUTS, LANES, OUTPUTS, Rows, products};
use super::{conv2d, fill_planes, geometry, suits};
use crate::convolution::ConvolutionTail;
use burn::backend::Flex;
use burn::prelude::*;
use burn::tensor::ops::PaddedConvOptions;
use std::ops::Range;

/// Elements of the planes and gradients of the images that are multiplied at a time: they stay in a core's cache.
const IMAGES: usize = 1 << 18;

/// Elements of some outputs' gradients that are multiplied with all inputs in a row: they stay in the first-level cache.
const GRADIENTS: usize = 1 << 12;

/// Whether the functions of this module apply to such images and weights.
pub(crate) fn differentiates(x: [usize; 4], weight: [usize; 4], options: &PaddedConvOptions<2>) -> bool {
    let before = options.options.padding;
    let after = options.padding_end.unwrap_or(before);
    let within = |axis: usize| before[axis] < weight[axis + 2] && after[axis] < weight[axis + 2];
    let plain = options.options.groups == 1 && options.options.dilation == [1, 1];
    plain && x[1] == weight[1] && suits(x, weight, options) && within(0) && within(1)
}

/// Pixels of the input, along one axis, that are `stride` apart, and what contributes to their gradient.
#[derive(Clone, Copy)]
struct Phase {
    /// The first pixel.
    pixel: usize,
    pixels: usize,
    stride: usize,
    /// The first element of the kernel that sees them.
    element: usize,
    elements: usize,
    /// Zeros before and after the output's gradient; it is cut where they are negative.
    around: [isize; 2],
}

impl Phase {
    fn new(pixel: usize, size: usize, out: usize, kernel: usize, stride: usize, before: usize) -> Self {
        let (element, shift) = ((pixel + before) % stride, (pixel + before) / stride);
        let elements = kernel.saturating_sub(element).div_ceil(stride);
        let pixels = size.saturating_sub(pixel).div_ceil(stride);
        let around = [elements as isize - 1 - shift as isize, (pixels + shift) as isize - out as isize];
        Self { pixel, pixels, stride, element, elements, around }
    }

    /// The gradients that are not cut off.
    fn kept(&self, out: usize) -> Range<usize> {
        let [before, after] = self.around.map(|zeros| (-zeros).max(0) as usize);
        before..out.saturating_sub(after)
    }

    fn zeros(&self) -> [usize; 2] {
        self.around.map(|zeros| zeros.max(0) as usize)
    }
}

/// Gradient by the input `[batch, channels_in, height, width]` of a convolution that [differentiates], for that of the
/// output.
pub(crate) fn input_gradient(
    unit: Unit,
    shape: [usize; 4],
    weight: Tensor<Flex, 4>,
    dy: Tensor<Flex, 4>,
    options: &PaddedConvOptions<2>,
) -> Tensor<Flex, 4> {
    let (kernel, out, stride) = (weight.dims(), dy.dims(), options.options.stride);
    let phases: [Vec<Phase>; 2] = std::array::from_fn(|axis| {
        let of = |pixel| {
            let before = options.options.padding[axis];
            Phase::new(pixel, shape[axis + 2], out[axis + 2], kernel[axis + 2], stride[axis], before)
        };
        (0..stride[axis].min(shape[axis + 2])).map(of).collect()
    });
    let weight = contiguous(weight);
    let weight = weight.storage::<f32>();
    let part = |phases| phase_gradient(unit, (weight, kernel), dy.clone(), phases);
    if let ([row], [column]) = (&phases[0][..], &phases[1][..])
        && stride == [1, 1]
    {
        return part([*row, *column]).unwrap_or_else(|| Tensor::zeros(shape, &dy.device()));
    }
    let mut dx = vec![0.0; shape.iter().product()];
    for row in &phases[0] {
        for column in &phases[1] {
            if let Some(part) = part([*row, *column]).map(contiguous) {
                let part = part.storage::<f32>();
                spread(part, shape, [*row, *column], &mut dx);
            }
        }
    }
    from_vec(dx, shape)
}

/// Gradients of the pixels of one phase, `[batch, channels_in, pixels, pixels]`, if any element of the kernel sees them.
fn phase_gradient(
    unit: Unit,
    (weight, kernel): (&[f32], [usize; 4]),
    dy: Tensor<Flex, 4>,
    phases: [Phase; 2],
) -> Option<Tensor<Flex, 4>> {
    let [batch, channels_out, height, width] = dy.dims();
    let [rows, columns] = [phases[0].kept(height), phases[1].kept(width)];
    if phases.iter().any(|phase| phase.elements == 0) || rows.is_empty() || columns.is_empty() {
        return None;
    }
    let whole = rows == (0..height) && columns == (0..width);
    let dy = if whole { dy } else { dy.slice([0..batch, 0..channels_out, rows, columns]) };
    let [row, column] = phases.map(|phase| phase.zeros());
    let around = PaddedConvOptions::asymmetric([1, 1], [row[0], column[0]], [row[1], column[1]], [1, 1], 1);
    let weight = turned(weight, kernel, phases);
    Some(conv2d(unit, dy, weight, None, &around, ConvolutionTail::default()))
}

/// The elements of a kernel that one phase sees, the last one first, as `[channels_in, channels_out, ..]`.
fn turned(weight: &[f32], kernel: [usize; 4], phases: [Phase; 2]) -> Tensor<Flex, 4> {
    let [channels_out, channels_in, height, width] = kernel;
    let [rows, columns] = phases;
    let mut values = Vec::with_capacity(channels_out * channels_in * rows.elements * columns.elements);
    for input in 0..channels_in {
        for output in 0..channels_out {
            let from = &weight[(output * channels_in + input) * height * width..][..height * width];
            for row in (0..rows.elements).rev().map(|at| rows.element + at * rows.stride) {
                let from = &from[row * width..][..width];
                values.extend(
                    (0..columns.elements).rev().map(|at| from[columns.element + at * columns.stride]),
                );
            }
        }
    }
    from_vec(values, [channels_in, channels_out, rows.elements, columns.elements])
}

/// Writes the gradients of one phase to where its pixels lie in `[batch, channels, height, width]`.
#[expect(unsafe_code, reason = "threads write disjoint parts")]
fn spread(part: &[f32], shape: [usize; 4], [rows, columns]: [Phase; 2], dx: &mut [f32]) {
    let [batch, channels, height, width] = shape;
    let (pixels, cost) = (rows.pixels * columns.pixels, dx.len() / 4);
    let dx = Shared::new(dx);
    parallel::blocks(batch * channels, cost, |plane| {
        // SAFETY: each task has a channel of an image of its own.
        let to = unsafe { dx.range(plane * height * width, height * width) };
        let to = to[rows.pixel * width..].chunks_mut(rows.stride * width);
        for (to, from) in to.zip(part[plane * pixels..][..pixels].chunks_exact(columns.pixels)) {
            let to = to[columns.pixel..width].iter_mut().step_by(columns.stride);
            to.zip(from).for_each(|(to, from)| *to = *from);
        }
    });
}

/// Gradient by the weight `[channels_out, channels_in, kh, kw]` of a convolution that [differentiates], for that of the
/// output.
///
/// Sums are in an order that does not depend on the number of threads.
pub(crate) fn weight_gradient(
    unit: Unit,
    x: Tensor<Flex, 4>,
    shape: [usize; 4],
    dy: Tensor<Flex, 4>,
    options: &PaddedConvOptions<2>,
) -> Tensor<Flex, 4> {
    let [batch, channels_in, height, width] = x.dims();
    let [channels_out, _, kernel_height, kernel_width] = shape;
    let geometry =
        geometry([channels_in, channels_in], [height, width], [kernel_height, kernel_width], options);
    let (x, dy) = (contiguous(x), contiguous(dy));
    let (x, dy) = (x.storage::<f32>(), dy.storage::<f32>());
    let sums = Sums { unit, geometry: &geometry, offsets: geometry.offsets(0), channels_out };
    let mut dw = vec![0.0; shape.iter().product()];
    let (length, each) = (geometry.length(LANES), channels_out * sums.positions());
    let at_once = (IMAGES / (length + each)).clamp(1, batch);
    let (mut planes, mut rows) = (Scratch::new(at_once * length), Scratch::new(at_once * each));
    for first in (0..batch).step_by(at_once) {
        let images = first..(first + at_once).min(batch);
        fill_planes(&geometry, (x, 0.0), images.clone(), length, &mut planes);
        sums.lay_out(dy, images.clone(), &mut rows);
        sums.add((&planes, length), (&rows, each), images.len(), &mut dw);
    }
    from_vec(dw, shape)
}

/// The gradient of a weight.
struct Sums<'a> {
    unit: Unit,
    geometry: &'a Geometry,
    /// Where each input of an output begins in an image's planes.
    offsets: Vec<usize>,
    channels_out: usize,
}

impl Sums<'_> {
    /// Of one channel's gradients as they are laid out.
    fn positions(&self) -> usize {
        self.geometry.positions().next_multiple_of(LANES)
    }

    /// Gradients of the output of some images, their rows as far apart as those of planes, with zeros between.
    #[expect(unsafe_code, reason = "threads write disjoint parts")]
    fn lay_out(&self, dy: &[f32], images: Range<usize>, rows: &mut [f32]) {
        let ([height, width], pitch, length) = (self.geometry.out, self.geometry.pitch(), self.positions());
        let (count, cost) = (images.len() * self.channels_out, images.len() * self.channels_out * length);
        let rows = Shared::new(rows);
        parallel::blocks(count, cost, |channel| {
            let from = &dy[(images.start * self.channels_out + channel) * height * width..][..height * width];
            // SAFETY: each task has a channel of an image of its own.
            let to = unsafe { rows.range(channel * length, length) };
            for (to, from) in to.chunks_mut(pitch).zip(from.chunks_exact(width)) {
                to[..width].copy_from_slice(from);
                to[width..].fill(0.0);
            }
            to[height * pitch..].fill(0.0);
        });
    }

    /// Adds the sums over some images: tasks have outputs and inputs of their own.
    #[expect(unsafe_code, reason = "threads write disjoint parts")]
    fn add(&self, planes: (&[f32], usize), rows: (&[f32], usize), images: usize, dw: &mut [f32]) {
        let depth = self.offsets.len();
        let outputs = self.channels_out.div_ceil(OUTPUTS);
        let blocks = depth.div_ceil(INPUTS);
        let parts = (4 * rayon::current_num_threads()).div_ceil(outputs).min(blocks);
        let some = blocks.div_ceil(parts) * INPUTS;
        let parts = depth.div_ceil(some);
        let cost = images * self.positions() * self.channels_out * depth / 64;
        let dw = Shared::new(dw);
        parallel::blocks(outputs * parts, cost, |task| {
            let (output, input) = (task / parts * OUTPUTS, task % parts * some);
            let inputs = input..(input + some).min(depth);
            // SAFETY: tasks differ in their outputs or inputs.
            unsafe { self.add_some(planes, rows, images, (output, inputs), &dw) };
        });
    }

    /// # Safety
    /// Nobody else may be writing these outputs' sums for these inputs.
    #[expect(unsafe_code, reason = "tasks write disjoint parts")]
    unsafe fn add_some(
        &self,
        (planes, length): (&[f32], usize),
        (rows, each): (&[f32], usize),
        images: usize,
        (output, inputs): (usize, Range<usize>),
        dw: &Shared<'_, f32>,
    ) {
        let (positions, depth) = (self.positions(), self.offsets.len());
        let at_once = (GRADIENTS / (OUTPUTS * positions)).clamp(1, images);
        // Those beyond the last one are the last one once more.
        let starts = std::array::from_fn(|i| (output + i).min(self.channels_out - 1) * positions);
        for first in (0..images).step_by(at_once) {
            let images = at_once.min(images - first);
            let gradients = Rows { data: &rows[first * each..], image: each, starts };
            for input in inputs.clone().step_by(INPUTS) {
                let starts = std::array::from_fn(|j| self.offsets[(input + j).min(inputs.end - 1)]);
                let pixels = Rows { data: &planes[first * length..], image: length, starts };
                let sums = products(self.unit, gradients, pixels, images, positions);
                let count = INPUTS.min(inputs.end - input);
                for (row, sums) in (output..self.channels_out).zip(sums) {
                    // SAFETY: as the caller promises.
                    let to = unsafe { dw.range(row * depth + input, count) };
                    to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
                }
            }
        }
    }
}
