//! Products of gradients with what a kernel saw, summed over positions: the lanes of a vector are neighbouring positions.

use super::super::simd::vectorised;
use super::super::tile::Unit;

/// Channels of the output whose sums stay in registers.
pub(super) const OUTPUTS: usize = 4;

/// Inputs (a channel below an element of the kernel) whose sums stay in registers.
pub(super) const INPUTS: usize = 6;

/// Positions of a vector: rows of gradients have a multiple of it.
pub(super) const LANES: usize = 16;

/// For each of some outputs, the sum for each of some inputs.
pub(super) type Sums = [[f32; INPUTS]; OUTPUTS];

/// Rows of the same length, in each of some images.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, const N: usize> {
    /// Of all images.
    pub(super) data: &'a [f32],
    /// From an image to the next.
    pub(super) image: usize,
    /// Where they begin in an image.
    pub(super) starts: [usize; N],
}

impl<const N: usize> Rows<'_, N> {
    /// Whether all of them lie inside.
    fn hold(&self, images: usize, length: usize) -> bool {
        let last = self.starts.iter().copied().max().unwrap_or(0);
        images == 0 || (images - 1) * self.image + last + length <= self.data.len()
    }
}

/// The sum of the products of each row of `gradients` with each of `pixels`, over `length` positions of so many images.
///
/// # Panics
/// When rows do not lie inside, or are no whole vectors.
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "calls a loop for instructions that were detected")
)]
pub(super) fn products(
    unit: Unit,
    gradients: Rows<'_, OUTPUTS>,
    pixels: Rows<'_, INPUTS>,
    images: usize,
    length: usize,
) -> Sums {
    assert!(length.is_multiple_of(LANES), "rows of {length} positions");
    assert!(gradients.hold(images, length) && pixels.hold(images, length), "{images} images of {length}");
    match unit {
        // SAFETY: a `Unit` other than `Portable` comes from `available`, which detected its instructions; the lengths were
        // checked above.
        #[cfg(target_arch = "x86_64")]
        Unit::Avx512 | Unit::Avx512Vnni => unsafe { avx512::products(gradients, pixels, images, length) },
        _ => plain(gradients, pixels, images, length),
    }
}

vectorised! {
    /// See [`products`].
    fn plain(gradients: Rows<'_, OUTPUTS>, pixels: Rows<'_, INPUTS>, images: usize, length: usize) -> Sums {
        let mut sums = [[0.0; INPUTS]; OUTPUTS];
        for (j, start) in pixels.starts.iter().enumerate() {
            let mut all = [[0.0f32; LANES]; OUTPUTS];
            for image in 0..images {
                let below = &pixels.data[image * pixels.image + start..][..length];
                for (lanes, start) in all.iter_mut().zip(&gradients.starts) {
                    let row = &gradients.data[image * gradients.image + start..][..length];
                    let mut part = *lanes;
                    for (g, x) in row.as_chunks::<LANES>().0.iter().zip(below.as_chunks::<LANES>().0) {
                        for lane in 0..LANES {
                            part[lane] = match FMA {
                                true => g[lane].mul_add(x[lane], part[lane]),
                                false => part[lane] + g[lane] * x[lane],
                            };
                        }
                    }
                    *lanes = part;
                }
            }
            for (sums, lanes) in sums.iter_mut().zip(all) {
                for sum in lanes {
                    sums[j] += sum;
                }
            }
        }
        sums
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    //! With 512-bit vectors: 24 sums, a vector of each of four rows of gradients and one of pixels fill the registers.
    #![expect(unsafe_code, reason = "vector loads from operands whose bounds were checked")]

    use super::{INPUTS, LANES, OUTPUTS, Rows, Sums};
    use std::arch::x86_64::*;

    /// # Safety
    /// The machine needs AVX-512 F; lengths are those that [`super::products`] checks.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) unsafe fn products(
        gradients: Rows<'_, OUTPUTS>,
        pixels: Rows<'_, INPUTS>,
        images: usize,
        length: usize,
    ) -> Sums {
        let mut sums = [[_mm512_setzero_ps(); INPUTS]; OUTPUTS];
        for image in 0..images {
            let mut rows = [std::ptr::null(); OUTPUTS];
            for (row, start) in rows.iter_mut().zip(gradients.starts) {
                *row = gradients.data.as_ptr().wrapping_add(image * gradients.image + start);
            }
            let mut below = [std::ptr::null(); INPUTS];
            for (below, start) in below.iter_mut().zip(pixels.starts) {
                *below = pixels.data.as_ptr().wrapping_add(image * pixels.image + start);
            }
            for at in (0..length).step_by(LANES) {
                let mut row = [_mm512_setzero_ps(); OUTPUTS];
                for (row, from) in row.iter_mut().zip(rows) {
                    // SAFETY: each row has `length` positions, a multiple of the lanes.
                    *row = unsafe { _mm512_loadu_ps(from.add(at)) };
                }
                for (j, below) in below.iter().enumerate() {
                    // SAFETY: as above.
                    let pixel = unsafe { _mm512_loadu_ps(below.add(at)) };
                    for (sums, row) in sums.iter_mut().zip(row) {
                        sums[j] = _mm512_fmadd_ps(row, pixel, sums[j]);
                    }
                }
            }
        }
        let mut result = [[0.0; INPUTS]; OUTPUTS];
        for (result, sums) in result.iter_mut().zip(sums) {
            for (result, sum) in result.iter_mut().zip(sums) {
                *result = _mm512_reduce_add_ps(sum);
            }
        }
        result
    }
}
