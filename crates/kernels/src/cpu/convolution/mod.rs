//! Two-dimensional convolutions, as products of the weight with blocks of neighbouring pixels, which are read where they lie
//! or gathered first.
//!
//! Lanes of a tile are neighbouring pixels and its rows channels of the output, so that few channels fill it as well as
//! many: a layer with half of its channels takes half of the time.

mod planes;

use super::lines::Scratch;
use super::memory::{contiguous, filled, from_vec, to_vec};
use super::parallel::{self, Shared};
use super::tile::{FloatPanel, HEIGHT, ScatteredPanel, Starts, Unit, WIDTH};
use burn::backend::Flex;
use burn::prelude::*;
use burn::tensor::ops::PaddedConvOptions;
use planes::Geometry;
use std::ops::Range;

/// Elements of the planes of the images that are convolved at a time: they stay in a core's cache.
const IMAGES: usize = 1 << 18;

/// Elements of the pixels below the kernel in the blocks that pass by a part of the weight while it is in the cache.
const GATHERED: usize = 1 << 16;

/// See [`crate::conv2d`]; the weight has floats of 32 bits like the input.
///
/// # Panics
/// When the shapes do not fit.
#[expect(unsafe_code, reason = "the result is not written twice")]
pub(crate) fn conv2d(
    unit: Unit,
    x: Tensor<Flex, 4>,
    weight: Tensor<Flex, 4>,
    bias: Option<Tensor<Flex, 1>>,
    options: &PaddedConvOptions<2>,
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
    let bias = bias.map_or_else(|| vec![0.0; channels_out], to_vec);
    assert_eq!(bias.len(), channels_out, "bias of {channels_out} outputs");
    let convolution = Convolution {
        unit,
        images: x.storage::<f32>(),
        weight: weight.storage::<f32>(),
        bias: &bias,
        offsets: (0..groups).map(|group| Starts::new(geometry.offsets(group))).collect(),
        geometry,
        channels_out,
    };
    let fill = |y: &mut [f32]| convolution.run(batch, y);
    // SAFETY: every element of every image's channels is written, none is read.
    from_vec(unsafe { filled(shape.iter().product(), fill) }, shape)
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

/// One convolution of a batch.
struct Convolution<'a> {
    unit: Unit,
    /// `[batch, channels, height, width]`.
    images: &'a [f32],
    /// `[channels_out, inputs]`.
    weight: &'a [f32],
    /// `[channels_out]`.
    bias: &'a [f32],
    geometry: Geometry,
    /// For each group of channels, of each input.
    offsets: Vec<Starts>,
    channels_out: usize,
}

/// Pixels of some images, a block of [`WIDTH`] positions each.
struct Blocks {
    /// Of the first image.
    each: usize,
    count: usize,
    /// Blocks that are gathered at once.
    at_once: usize,
}

impl Convolution<'_> {
    /// Writes the whole result, `[batch, channels_out, height, width]`.
    #[expect(unsafe_code, reason = "threads write disjoint parts")]
    fn run(&self, batch: usize, y: &mut [f32]) {
        let length = self.geometry.length(WIDTH);
        let at_once = (IMAGES / length).clamp(1, batch);
        let mut planes = Scratch::new(at_once * length);
        let y = Shared::new(y);
        for first in (0..batch).step_by(at_once) {
            let images = at_once.min(batch - first);
            self.fill_planes(first, images, length, &mut planes);
            let blocks = self.blocks(images);
            let runs = blocks.count.div_ceil(blocks.at_once);
            let parts = self.parts(runs);
            let cost = images * self.geometry.positions() * self.weight.len() / 64;
            parallel::blocks(runs * parts.len(), cost, |task| {
                let from = task / parts.len() * blocks.at_once;
                let run = from..(from + blocks.at_once).min(blocks.count);
                let channels = parts[task % parts.len()].clone();
                // SAFETY: tasks differ in their positions or channels.
                unsafe { self.task(first, &planes, (length, blocks.each), run, channels, &y) };
            });
        }
    }

    /// The planes of some images, each `length` elements.
    #[expect(unsafe_code, reason = "threads write disjoint parts")]
    fn fill_planes(&self, first: usize, images: usize, length: usize, planes: &mut [f32]) {
        let [channels, _] = self.geometry.channels;
        let [height, width] = self.geometry.size;
        let to = Shared::new(planes);
        let some = channels.div_ceil(rayon::current_num_threads().div_ceil(images));
        let parts = channels.div_ceil(some);
        parallel::blocks(images * parts, images * length, |task| {
            let (image, from) = (task / parts, task % parts * some);
            let until = (from + some).min(channels);
            let pixels = &self.images[(first + image) * channels * height * width..];
            let begin = self.geometry.channels_length(from);
            // The room behind the last channel goes with it.
            let end = if until == channels { length } else { self.geometry.channels_length(until) };
            // SAFETY: each task has its own channels of its own image.
            let to = unsafe { to.range(image * length + begin, end - begin) };
            self.geometry.fill(pixels, from..until, to);
        });
    }

    fn blocks(&self, images: usize) -> Blocks {
        let each = self.geometry.positions().div_ceil(WIDTH);
        let count = images * each;
        let fits = (GATHERED / (self.offsets[0].len() * WIDTH)).max(1);
        // Enough for all threads.
        let shared = count.div_ceil(2 * rayon::current_num_threads());
        Blocks { each, count, at_once: fits.min(shared).max(1) }
    }

    /// Channels of the output for each task of a run of blocks: all of them, unless there are too few runs.
    fn parts(&self, runs: usize) -> Vec<Range<usize>> {
        let groups = self.offsets.len();
        let own = self.channels_out / groups;
        let wanted = (2 * rayon::current_num_threads()).div_ceil(runs).div_ceil(groups);
        let some = own.div_ceil(wanted.min(own.div_ceil(HEIGHT)));
        let of = |group: usize| {
            (0..own).step_by(some).map(move |from| group * own + from..group * own + (from + some).min(own))
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
        planes: &[f32],
        (length, each): (usize, usize),
        blocks: Range<usize>,
        channels: Range<usize>,
        y: &Shared<'_, f32>,
    ) {
        let offsets = &self.offsets[channels.start / (self.channels_out / self.offsets.len())];
        let depth = offsets.len();
        let below = |block: usize| &planes[block / each * length + block % each * WIDTH..];
        let gathered = !self.unit.scatters();
        let mut pixels = Scratch::<f32>::new(if gathered { blocks.len() * depth * WIDTH } else { 0 });
        if gathered {
            for (block, to) in blocks.clone().zip(pixels.chunks_exact_mut(depth * WIDTH)) {
                for (offset, to) in offsets.iter().zip(to.chunks_exact_mut(WIDTH)) {
                    to.copy_from_slice(&below(block)[offset..][..WIDTH]);
                }
            }
        }
        let height = channels.len().div_ceil(channels.len().div_ceil(HEIGHT));
        let mut tile = [[0.0; WIDTH]; HEIGHT];
        for channel in channels.clone().step_by(height) {
            let m = height.min(channels.end - channel);
            let weight = (&self.weight[channel * depth..][..m * depth], depth);
            for (index, block) in blocks.clone().enumerate() {
                let to = (tile.as_flattened_mut(), WIDTH);
                if gathered {
                    let data = &pixels[index * depth * WIDTH..][..depth * WIDTH];
                    self.unit.floats(FloatPanel { data, stride: WIDTH, depth }, weight, m, to);
                } else {
                    let panel = ScatteredPanel { data: below(block), starts: offsets };
                    self.unit.floats(panel, weight, m, to);
                }
                let image = first + block / each;
                // SAFETY: as the caller promises.
                unsafe { self.store(&tile[..m], image, channel, block % each * WIDTH, y) };
            }
        }
    }

    /// Adds the bias to a tile of an image and stores the positions that are pixels of the output.
    ///
    /// # Safety
    /// Nobody else may be writing these.
    #[expect(unsafe_code, reason = "tasks write disjoint parts")]
    unsafe fn store(
        &self,
        tile: &[[f32; WIDTH]],
        image: usize,
        channel: usize,
        first: usize,
        y: &Shared<'_, f32>,
    ) {
        let ([height, width], pitch) = (self.geometry.out, self.geometry.pitch());
        let mut lane = 0;
        while lane < WIDTH {
            let (row, column) = ((first + lane) / pitch, (first + lane) % pitch);
            let count = width.saturating_sub(column).min(WIDTH - lane);
            if row >= height {
                break;
            }
            for (i, sums) in tile.iter().enumerate().filter(|_| count > 0) {
                let at = ((image * self.channels_out + channel + i) * height + row) * width + column;
                // SAFETY: as the caller promises.
                let to = unsafe { y.range(at, count) };
                let bias = self.bias[channel + i];
                to.iter_mut().zip(&sums[lane..]).for_each(|(to, sum)| *to = sum + bias);
            }
            lane += count.max(1);
            // To the next row of the planes.
            if (first + lane) % pitch >= width {
                lane += pitch - (first + lane) % pitch;
            }
        }
    }
}
