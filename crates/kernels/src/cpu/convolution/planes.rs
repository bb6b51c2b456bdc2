//! An image with zeros around it, cut up so that the pixels below an element of the kernel lie side by side.
//!
//! With a stride of `s`, every `s`-th row and column goes into a plane of its own. What an element of the kernel sees is
//! then a whole plane, shifted: output `[row, column]` finds it at `row * pitch + column` behind the element's offset.

use super::super::memory::copy_few;
use std::ops::Range;

/// Sizes of a convolution of one group of channels; axes are height and width.
#[derive(Clone, Debug)]
pub(super) struct Geometry {
    /// Channels that an image has, and those that one output sees.
    pub(super) channels: [usize; 2],
    pub(super) size: [usize; 2],
    pub(super) out: [usize; 2],
    pub(super) kernel: [usize; 2],
    pub(super) stride: [usize; 2],
    pub(super) dilation: [usize; 2],
    pub(super) before: [usize; 2],
    /// Zeros included.
    pub(super) padded: [usize; 2],
}

impl Geometry {
    /// Height and width of a plane.
    fn plane(&self) -> [usize; 2] {
        std::array::from_fn(|axis| self.padded[axis].div_ceil(self.stride[axis]))
    }

    /// From a row of a plane to the next.
    pub(super) fn pitch(&self) -> usize {
        self.plane()[1]
    }

    /// Elements of all planes of a channel.
    fn channel(&self) -> usize {
        self.plane().iter().chain(&self.stride).product()
    }

    /// Outputs of a channel in rows as long as a plane's; those beyond the output's width are nobody's.
    pub(super) fn positions(&self) -> usize {
        self.out[0] * self.pitch()
    }

    /// Where the pixel at `at` of the padded image lies in its channel.
    fn place(&self, at: [usize; 2]) -> usize {
        let [height, width] = self.plane();
        if self.stride == [1, 1] {
            // Without the divisions, which take longer than copying a row.
            return at[0] * width + at[1];
        }
        let phase = at[0] % self.stride[0] * self.stride[1] + at[1] % self.stride[1];
        (phase * height + at[0] / self.stride[0]) * width + at[1] / self.stride[1]
    }

    /// Where output 0 finds its pixel for each input of a group of channels: channel by channel, row by row of the kernel,
    /// as a weight's row lies.
    pub(super) fn offsets(&self, group: usize) -> Vec<usize> {
        let [rows, columns] = self.kernel;
        let element = |channel: usize, row: usize, column: usize| {
            let channel = group * self.channels[1] + channel;
            channel * self.channel() + self.place([row * self.dilation[0], column * self.dilation[1]])
        };
        let elements = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
        (0..self.channels[1])
            .flat_map(|channel| elements.clone().map(move |(row, column)| element(channel, row, column)))
            .collect()
    }

    /// Elements of an image's planes, so many more that blocks of `width` positions can be read whole.
    pub(super) fn length(&self, width: usize) -> usize {
        let last = self.place([0, 1].map(|axis| (self.kernel[axis] - 1) * self.dilation[axis]));
        let phases = self.stride.iter().product::<usize>() * self.plane().iter().product::<usize>();
        (self.channels[0] - 1) * self.channel() + phases.max(last) + self.positions().next_multiple_of(width)
    }

    /// Writes the planes of some channels of an image `[channels, height, width]` to where they belong in `to`, which
    /// begins with the first of them; `outside` is what lies around the image.
    pub(super) fn fill<T: Copy>(&self, image: &[T], channels: Range<usize>, outside: T, to: &mut [T]) {
        to.fill(outside);
        let [height, width] = self.size;
        for (index, channel) in channels.enumerate() {
            let pixels = &image[channel * height * width..][..height * width];
            let to = &mut to[index * self.channel()..];
            for (row, pixels) in pixels.chunks_exact(width).enumerate() {
                let row = row + self.before[0];
                for phase in 0..self.stride[1].min(width) {
                    // The first pixel of this row that belongs to a plane, and every `stride`-th from there on.
                    let to = &mut to[self.place([row, phase + self.before[1]])..];
                    if self.stride[1] == 1 {
                        copy_few(&mut to[..width], pixels);
                    } else {
                        let every = pixels[phase..].iter().step_by(self.stride[1]);
                        to.iter_mut().zip(every).for_each(|(to, pixel)| *to = *pixel);
                    }
                }
            }
        }
    }

    /// Elements of the planes of so many channels, the room behind the last one not included.
    pub(super) fn channels_length(&self, channels: usize) -> usize {
        channels * self.channel()
    }
}
