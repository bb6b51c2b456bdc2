//! Two-dimensional convolutions, as products of the weight with blocks of neighbouring pixels, which are read where they lie
//! or gathered first.
//!
//! Lanes of a tile are neighbouring pixels and its rows channels of the output, so that few channels fill it as well as
//! many: a layer with half of its channels takes half of the time.

mod bytes;
mod finish;
mod floats;
mod gradients;
mod planes;
mod products;

use super::lines::{Plain, Scratch};
use super::memory::{contiguous, filled, from_vec};
use super::parallel::{self, Shared};
use super::tile::{DEPTH, HEIGHT, Starts, Tile, Unit, WIDTH};
use crate::convolution::ConvolutionTail;
use crate::packed_matrix::PackedMatrix;
use crate::product_kernel::PackedConvolution;
use crate::quantize::TokenQuant;
use burn::backend::Flex;
use burn::prelude::*;
use burn::tensor::ops::PaddedConvOptions;
pub(super) use bytes::refuses;
use bytes::{ByteWeight, Bytes};
use finish::{Block, Finish};
use floats::FloatWeight;
use planes::Geometry;
use std::ops::Range;

pub(crate) use gradients::{differentiates, input_gradient, weight_gradient};

/// Elements of the planes of the images that are convolved at a time: they stay in a core's cache.
const IMAGES: usize = 1 << 18;

/// Elements of the pixels below the kernel in the blocks that pass by a part of the weight while it is in the cache.
const GATHERED: usize = 1 << 16;

/// See [`crate::conv2d_then`]; the weight has floats of 32 bits like the input.
///
/// # Panics
/// When the shapes do not fit.
pub(crate) fn conv2d(
    unit: Unit,
    x: Tensor<Flex, 4>,
    weight: Tensor<Flex, 4>,
    bias: Option<Tensor<Flex, 1>>,
    options: &PaddedConvOptions<2>,
    tail: ConvolutionTail<Flex>,
) -> Tensor<Flex, 4> {
    let ([batch, channels, height, width], [channels_out, seen, kernel_height, kernel_width]) =
        (x.dims(), weight.dims());
    let groups = options.options.groups;
    assert_eq!(channels, seen * groups, "channels of images for a weight of {groups} groups of {seen}");
    assert!(channels_out.is_multiple_of(groups), "{channels_out} outputs of {groups} groups");
    let geometry = geometry([channels, seen], [height, width], [kernel_height, kernel_width], options);
    let [out_height, out_width] = geometry.out;
    let shape = [batch, channels_out, out_height, out_width];
    let (x, weight) = (contiguous(x), contiguous(weight));
    let values = weight.storage::<f32>();
    let weight = FloatWeight { unit, values, depth: seen * kernel_height * kernel_width };
    let finish = Finish::new(bias, tail, shape);
    Convolution::new(x.storage::<f32>(), &weight, &geometry, &finish, groups).run(shape)
}

/// See [`crate::conv2d_quantized`], where [`in_integers`] says so.
///
/// # Panics
/// When the shapes do not fit.
#[expect(clippy::too_many_arguments, reason = "those of the public function, each with a meaning of its own")]
pub(crate) fn conv2d_quantized(
    unit: Unit,
    x: Tensor<Flex, 4>,
    q: TokenQuant,
    weight: &PackedMatrix<Flex>,
    kernel: [usize; 2],
    bias: Option<Tensor<Flex, 1>>,
    options: &PaddedConvOptions<2>,
    tail: ConvolutionTail<Flex>,
) -> Tensor<Flex, 4> {
    let ([batch, channels, height, width], [channels_out, columns]) = (x.dims(), weight.shape);
    let elements = kernel[0] * kernel[1];
    assert_eq!(
        channels * elements,
        columns,
        "{channels} channels below {kernel:?} for a weight of {columns} inputs"
    );
    let quads = channels.div_ceil(DEPTH);
    let geometry = geometry([quads, quads], [height, width], kernel, options);
    let [out_height, out_width] = geometry.out;
    let shape = [batch, channels_out, out_height, out_width];
    let x = contiguous(x);
    let (codes, scales) = bytes::quantize(x.storage::<f32>(), [batch, channels, height * width], q);
    let rows = ByteWeight::of(weight, elements);
    let weight = Bytes { unit, weight: &rows, scales: &scales };
    let finish = Finish::new(bias, tail, shape);
    Convolution::new(&codes, &weight, &geometry, &finish, 1).run(shape)
}

/// Whether a convolution of quantized images runs in integers.
pub(crate) fn in_integers(
    x: [usize; 4],
    q: TokenQuant,
    weight: &PackedMatrix<Flex>,
    kernel: [usize; 2],
    options: &PaddedConvOptions<2>,
) -> bool {
    let native = [weight.shape[0], x[1], kernel[0], kernel[1]];
    let convolution = PackedConvolution::of(options.options.groups, Some(q), weight);
    suits(x, native, options) && bytes::refuses(convolution).is_none()
}

/// Whether all sizes of a convolution are such that there is something to compute.
pub(crate) fn suits(x: [usize; 4], weight: [usize; 4], options: &PaddedConvOptions<2>) -> bool {
    let (before, dilation) = (options.options.padding, options.options.dilation);
    let after = options.padding_end.unwrap_or(before);
    let reaches = |axis: usize| {
        dilation[axis] * (weight[axis + 2].max(1) - 1) < x[axis + 2] + before[axis] + after[axis]
    };
    x.iter().chain(&weight).all(|size| *size > 0) && reaches(0) && reaches(1)
}

fn geometry(
    channels: [usize; 2],
    size: [usize; 2],
    kernel: [usize; 2],
    options: &PaddedConvOptions<2>,
) -> Geometry {
    let (before, dilation, stride) =
        (options.options.padding, options.options.dilation, options.options.stride);
    let after = options.padding_end.unwrap_or(before);
    let padded: [usize; 2] = std::array::from_fn(|axis| size[axis] + before[axis] + after[axis]);
    let out = std::array::from_fn(|axis| {
        (padded[axis] - dilation[axis] * (kernel[axis] - 1) - 1) / stride[axis] + 1
    });
    Geometry { channels, size, out, kernel, stride, dilation, before, padded }
}

/// The planes of some images of `[batch, channels, height, width]`, each `length` elements; `outside` lies around an image.
#[expect(unsafe_code, reason = "threads write disjoint parts")]
fn fill_planes<T: Plain + Send + Sync>(
    geometry: &Geometry,
    (pixels, outside): (&[T], T),
    images: Range<usize>,
    length: usize,
    planes: &mut [T],
) {
    let [channels, _] = geometry.channels;
    let [height, width] = geometry.size;
    let to = Shared::new(planes);
    let some = channels.div_ceil(rayon::current_num_threads().div_ceil(images.len()));
    let parts = channels.div_ceil(some);
    parallel::blocks(images.len() * parts, images.len() * length, |task| {
        let (image, from) = (task / parts, task % parts * some);
        let until = (from + some).min(channels);
        let pixels = &pixels[(images.start + image) * channels * height * width..];
        let begin = geometry.channels_length(from);
        // The room behind the last channel goes with it.
        let end = if until == channels { length } else { geometry.channels_length(until) };
        // SAFETY: each task has its own channels of its own image.
        let to = unsafe { to.range(image * length + begin, end - begin) };
        geometry.fill(pixels, from..until, outside, to);
    });
}

/// How pixels are multiplied with a weight.
trait Weight: Sync {
    /// What lies in a position of the planes.
    type Pixel: Plain + Send + Sync;

    /// What lies around an image.
    const OUTSIDE: Self::Pixel;

    /// Whether pixels have to be [gathered](Pixels::Gathered).
    fn gathers(&self) -> bool;

    /// Sums for channels `channel ..+ m` of an image's output at a block of [`WIDTH`] positions, into the first `m` rows.
    fn multiply(
        &self,
        pixels: Pixels<'_, Self::Pixel>,
        image: usize,
        channel: usize,
        m: usize,
        to: &mut Tile<f32>,
    );
}

/// What the elements of a kernel see at a block of [`WIDTH`] positions.
enum Pixels<'a, T> {
    /// `[elements, WIDTH]`.
    Gathered(&'a [T]),
    /// Planes that begin with the block, and where each element's row begins.
    Scattered(&'a [T], &'a Starts),
}

/// One convolution of a batch.
struct Convolution<'a, W: Weight> {
    /// `[batch, channels, height, width]`.
    images: &'a [W::Pixel],
    weight: &'a W,
    geometry: &'a Geometry,
    finish: &'a Finish,
    /// For each group of channels, of each input.
    offsets: Vec<Starts>,
    /// Those of an image.
    blocks: Vec<Block>,
}

/// Pixels of some images, a block of [`WIDTH`] positions each.
struct Blocks {
    count: usize,
    /// Blocks that are gathered at once.
    at_once: usize,
}

impl<'a, W: Weight> Convolution<'a, W> {
    fn new(
        images: &'a [W::Pixel],
        weight: &'a W,
        geometry: &'a Geometry,
        finish: &'a Finish,
        groups: usize,
    ) -> Self {
        let offsets = (0..groups).map(|group| Starts::new(geometry.offsets(group))).collect();
        Self { images, weight, geometry, finish, offsets, blocks: finish::blocks(geometry) }
    }

    /// The whole result, `[batch, channels_out, height, width]`.
    #[expect(unsafe_code, reason = "the result is not written twice")]
    fn run(&self, shape: [usize; 4]) -> Tensor<Flex, 4> {
        let [batch, channels_out, ..] = shape;
        // SAFETY: every element of every image's channels is written, none is read.
        from_vec(unsafe { filled(shape.iter().product(), |y| self.fill(batch, channels_out, y)) }, shape)
    }

    /// Writes it.
    #[expect(unsafe_code, reason = "threads write disjoint parts")]
    fn fill(&self, batch: usize, channels_out: usize, y: &mut [f32]) {
        let length = self.geometry.length(WIDTH);
        let at_once = (IMAGES / length).clamp(1, batch);
        let mut planes = Scratch::new(at_once * length);
        let y = Shared::new(y);
        for first in (0..batch).step_by(at_once) {
            let images = at_once.min(batch - first);
            fill_planes(self.geometry, (self.images, W::OUTSIDE), first..first + images, length, &mut planes);
            let blocks = self.blocks(images);
            let runs = blocks.count.div_ceil(blocks.at_once);
            let parts = self.parts(runs, channels_out);
            let depth = self.offsets[0].len();
            let cost = images * self.geometry.positions() * channels_out * depth / 64;
            parallel::blocks(runs * parts.len(), cost, |task| {
                let from = task / parts.len() * blocks.at_once;
                let run = from..(from + blocks.at_once).min(blocks.count);
                let part = &parts[task % parts.len()];
                // SAFETY: tasks differ in their positions or channels.
                unsafe { self.task(first, (&planes, length), run, part, &y) };
            });
        }
    }

    fn blocks(&self, images: usize) -> Blocks {
        let count = images * self.blocks.len();
        let fits = (GATHERED / (self.offsets[0].len() * WIDTH)).max(1);
        // Enough for all threads.
        let shared = count.div_ceil(2 * rayon::current_num_threads());
        Blocks { count, at_once: fits.min(shared).max(1) }
    }

    /// Channels of the output for each task of a run of blocks, and their group: all of them, unless there are too few
    /// runs.
    fn parts(&self, runs: usize, channels_out: usize) -> Vec<(usize, Range<usize>)> {
        let groups = self.offsets.len();
        let own = channels_out / groups;
        let wanted = (2 * rayon::current_num_threads()).div_ceil(runs).div_ceil(groups);
        let some = own.div_ceil(wanted.min(own.div_ceil(HEIGHT)));
        let of = |group: usize| {
            let from = group * own;
            (0..own).step_by(some).map(move |at| (group, from + at..from + (at + some).min(own)))
        };
        (0..groups).flat_map(of).collect()
    }

    /// Some channels of the output, of one group, at some blocks of positions.
    ///
    /// # Safety
    /// Nobody else may be writing these.
    #[expect(unsafe_code, reason = "tasks write disjoint parts")]
    unsafe fn task(
        &self,
        first: usize,
        (planes, length): (&[W::Pixel], usize),
        run: Range<usize>,
        (group, channels): &(usize, Range<usize>),
        y: &Shared<'_, f32>,
    ) {
        let (offsets, each) = (&self.offsets[*group], self.blocks.len());
        let depth = offsets.len();
        let below = |block: usize| &planes[block / each * length + self.blocks[block % each].first..];
        let gathers = self.weight.gathers();
        let mut gathered = Scratch::<W::Pixel>::new(if gathers { run.len() * depth * WIDTH } else { 0 });
        if gathers {
            for (block, to) in run.clone().zip(gathered.chunks_exact_mut(depth * WIDTH)) {
                for (offset, to) in offsets.iter().zip(to.chunks_exact_mut(WIDTH)) {
                    to.copy_from_slice(&below(block)[offset..][..WIDTH]);
                }
            }
        }
        let height = channels.len().div_ceil(channels.len().div_ceil(HEIGHT));
        let pixels = self.geometry.out.iter().product();
        let mut tile = [[0.0; WIDTH]; HEIGHT];
        for channel in channels.clone().step_by(height) {
            let m = height.min(channels.end - channel);
            for (index, block) in run.clone().enumerate() {
                let from = match gathers {
                    true => Pixels::Gathered(&gathered[index * depth * WIDTH..][..depth * WIDTH]),
                    false => Pixels::Scattered(below(block), offsets),
                };
                let image = first + block / each;
                self.weight.multiply(from, image, channel, m, &mut tile);
                let block = &self.blocks[block % each];
                // SAFETY: as the caller promises.
                unsafe { self.finish.store(&mut tile, m, (image, channel), block, pixels, y) };
            }
        }
    }
}
