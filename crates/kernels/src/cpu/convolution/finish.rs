//! What becomes of the sums of a tile: normalization, residual, activation, and their place in the result.

use super::super::memory::{contiguous, copy_few, to_vec};
use super::super::outputs::activate_all;
use super::super::parallel::Shared;
use super::super::simd::vectorised;
use super::super::tile::{HEIGHT, Tile, WIDTH};
use super::planes::Geometry;
use crate::activation::Activation;
use crate::convolution::ConvolutionTail;
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::prelude::*;

/// Bias and tail of a convolution: `activation(sum * factor + offset + residual)`.
pub(super) struct Finish {
    /// `[channels]`.
    factor: Vec<f32>,
    /// `[channels]`.
    offset: Vec<f32>,
    /// As the output.
    residual: Option<FlexTensor>,
    activation: Activation,
}

/// A block of [`WIDTH`] neighbouring positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The first one.
    pub(super) first: usize,
    /// Those that are pixels of the output.
    spans: Vec<Span>,
}

/// Neighbouring positions of a block that are pixels of the output, one after the other there too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// The first one's lane.
    lane: usize,
    /// Where it lies in a channel of the output.
    pixel: usize,
    count: usize,
}

impl Finish {
    /// For an output of this shape.
    ///
    /// # Panics
    /// When something does not have a number for each channel, or the residual has another shape.
    pub(super) fn new(bias: Option<Tensor<Flex, 1>>, tail: ConvolutionTail<Flex>, shape: [usize; 4]) -> Self {
        let channels = shape[1];
        let of_channels = |name: &str, values: Vec<f32>| {
            assert_eq!(values.len(), channels, "{name} of {channels} outputs");
            values
        };
        let mut offset = bias.map_or_else(|| vec![0.0; channels], |bias| of_channels("bias", to_vec(bias)));
        let mut factor = vec![1.0; channels];
        if let Some(norm) = tail.norm {
            let [gamma, beta, mean, variance] = [
                ("gamma", norm.gamma),
                ("beta", norm.beta),
                ("mean", norm.mean),
                ("variance", norm.variance),
            ]
            .map(|(name, values)| of_channels(name, to_vec(values)));
            for channel in 0..channels {
                factor[channel] = gamma[channel] / (variance[channel] + norm.epsilon as f32).sqrt();
                offset[channel] = (offset[channel] - mean[channel]) * factor[channel] + beta[channel];
            }
        }
        let residual = tail.residual.map(|residual| {
            assert_eq!(residual.dims(), shape, "shape of a residual");
            contiguous(residual)
        });
        Self { factor, offset, residual, activation: tail.activation }
    }

    /// Stores `m` rows of a tile, channels `channel ..` of an image.
    ///
    /// # Safety
    /// Nobody else may be writing these channels at the positions of the block.
    #[expect(unsafe_code, reason = "tasks write disjoint parts")]
    pub(super) unsafe fn store(
        &self,
        tile: &mut Tile<f32>,
        m: usize,
        (image, channel): (usize, usize),
        Block { spans, .. }: &Block,
        pixels: usize,
        y: &Shared<'_, f32>,
    ) {
        let place = |i: usize, span: &Span| ((image * self.factor.len() + channel + i) * pixels) + span.pixel;
        let mut residual = [[0.0; WIDTH]; HEIGHT];
        let adds = self.residual.as_ref().map(|values| {
            let values = values.storage::<f32>();
            for span in spans {
                for (i, to) in residual[..m].iter_mut().enumerate() {
                    let from = &values[place(i, span)..][..span.count];
                    copy_few(&mut to[span.lane..][..span.count], from);
                }
            }
            &residual[..m]
        });
        let numbers = (&self.factor[channel..][..m], &self.offset[channel..][..m]);
        finish_tile(&mut tile[..m], numbers, adds, self.activation);
        for span in spans {
            for (i, sums) in tile[..m].iter().enumerate() {
                // SAFETY: as the caller promises.
                let to = unsafe { y.range(place(i, span), span.count) };
                copy_few(to, &sums[span.lane..][..span.count]);
            }
        }
    }
}

/// The blocks of an image: where rows are as long as blocks or several times as long, none is of two rows.
pub(super) fn blocks(geometry: &Geometry) -> Vec<Block> {
    let ([height, width], pitch) = (geometry.out, geometry.pitch());
    let block = |first| Block { first, spans: spans(geometry, first) };
    if width.is_multiple_of(WIDTH) {
        let of_row = |row: usize| (0..width).step_by(WIDTH).map(move |column| row * pitch + column);
        (0..height).flat_map(of_row).map(block).collect()
    } else {
        (0..geometry.positions()).step_by(WIDTH).map(block).collect()
    }
}

/// The spans of a block of positions from `first` on.
fn spans(geometry: &Geometry, first: usize) -> Vec<Span> {
    let ([height, width], pitch) = (geometry.out, geometry.pitch());
    let (mut spans, mut lane) = (Vec::new(), 0);
    while lane < WIDTH && (first + lane) / pitch < height {
        let (row, column) = ((first + lane) / pitch, (first + lane) % pitch);
        let count = width.saturating_sub(column).min(WIDTH - lane);
        if count > 0 {
            spans.push(Span { lane, pixel: row * width + column, count });
        }
        // To the next row of the planes.
        lane += pitch - column;
    }
    spans
}

vectorised! {
    fn finish_tile(
        tile: &mut [[f32; WIDTH]],
        numbers: (&[f32], &[f32]),
        residual: Option<&[[f32; WIDTH]]>,
        activation: Activation,
    ) {
        for (sums, (factor, offset)) in tile.iter_mut().zip(numbers.0.iter().zip(numbers.1)) {
            sums.iter_mut().for_each(|sum| *sum = *sum * factor + offset);
        }
        if let Some(residual) = residual {
            for (sums, residual) in tile.iter_mut().zip(residual) {
                sums.iter_mut().zip(residual).for_each(|(sum, residual)| *sum += residual);
            }
        }
        activate_all::<FMA>(tile.as_flattened_mut(), activation);
    }
}
