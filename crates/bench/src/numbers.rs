//! Random numbers: never zeros, on which devices compute faster than on data.

use briquette_kernels::{Code, PackedMatrix, words_per_row};
use burn::prelude::*;
use burn::tensor::Distribution;

/// A small generator (Marsaglia 2003, "Xorshift RNGs", the 32-bit form): the same numbers on every machine.
pub(crate) struct Numbers(u32);

impl Numbers {
    pub(crate) fn new(seed: u32) -> Self {
        Self(seed.wrapping_mul(2_654_435_761) | 1)
    }

    pub(crate) fn word(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }

    /// In -1 to 1.
    pub(crate) fn float(&mut self) -> f32 {
        (self.word() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}

/// How a weight is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packing {
    pub(crate) bits: u32,
    pub(crate) code: Code,
    /// Inputs that share a scale; 0 for all of a row.
    pub(crate) group: usize,
}

/// A packed weight before it is on a device.
#[derive(Clone)]
pub(crate) struct HostWeight {
    pub(crate) words: Vec<u32>,
    pub(crate) scales: Vec<f32>,
    pub(crate) zeros: Vec<i32>,
    pub(crate) packing: Packing,
    /// `[out, in]`.
    pub(crate) shape: [usize; 2],
}

impl HostWeight {
    /// Random codes; values of about the size that keeps the variance of what is multiplied with them.
    pub(crate) fn random(shape: [usize; 2], packing: Packing, numbers: &mut Numbers) -> Self {
        let [out, columns] = shape;
        let packing = Packing { group: if packing.group == 0 { columns } else { packing.group }, ..packing };
        let (groups, width) = (out * columns / packing.group, words_per_row(columns, packing.bits));
        let used = columns * packing.bits as usize % 32;
        let last = if used == 0 { u32::MAX } else { (1 << used) - 1 };
        let word = |at: usize, word: u32| if at % width == width - 1 { word & last } else { word };
        let words = (0..out * width).map(|at| word(at, numbers.word())).collect();
        let usual = 2.0 * (3.0 / columns as f32).sqrt() / (1u32 << packing.bits) as f32;
        let scales = (0..groups).map(|_| usual * (1.0 + 0.5 * numbers.float())).collect();
        let middle = -(1i32 << (packing.bits - 1));
        let zeros = match packing.code {
            Code::Asymmetric => (0..groups).map(|at| middle + (at % 2) as i32).collect(),
            Code::Symmetric | Code::Binary => Vec::new(),
        };
        Self { words, scales, zeros, packing, shape }
    }

    pub(crate) fn on<B: Backend>(&self, device: &B::Device) -> PackedMatrix<B> {
        let Packing { bits, code, group } = self.packing;
        let (words, scales, zeros) = (self.words.clone(), self.scales.clone(), self.zeros.clone());
        PackedMatrix::new(words, scales, zeros, bits, code, self.shape, group, device)
    }

    /// Values of the first rows, `[rows, in]`.
    pub(crate) fn head(&self, rows: usize) -> Vec<f32> {
        let ([out, columns], Packing { bits, code, group }) = (self.shape, self.packing);
        let rows = rows.min(out);
        let groups = rows * columns / group;
        let zeros = self.zeros.get(..groups).unwrap_or(&[]);
        let words = &self.words[..rows * words_per_row(columns, bits)];
        let shape = [rows, columns];
        briquette_kernels::oracle::unpack(words, &self.scales[..groups], zeros, bits, code, shape, group)
    }
}

/// A random matrix with entries in `-limit..limit`, made on the device.
pub(crate) fn matrix<B: Backend>(shape: [usize; 2], limit: f64, device: &B::Device) -> Tensor<B, 2> {
    Tensor::random(shape, Distribution::Uniform(-limit, limit), device)
}

/// The matrix with these entries.
pub(crate) fn tensor<B: Backend, const D: usize>(
    values: &[f32],
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// The norm of the difference by the norm of what is right; infinite where anything is no number.
pub(crate) fn difference(found: &[f32], right: &[f64]) -> f64 {
    if found.len() != right.len() {
        return f64::INFINITY;
    }
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let off = squares(&mut found.iter().zip(right).map(|(f, r)| f64::from(*f) - r));
    let size = squares(&mut right.iter().copied());
    let error = if size == 0.0 { off } else { off / size };
    if error.is_nan() { f64::INFINITY } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use briquette_kernels::unpack;
    use burn::backend::Flex;

    #[test]
    fn differences_are_relative_and_never_hide_what_is_no_number() {
        assert!((difference(&[3.0, 4.4], &[3.0, 4.0]) - 0.08).abs() < 1e-6);
        assert_eq!(difference(&[f32::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(difference(&[], &[1.0]), f64::INFINITY);
        assert_eq!(difference(&[0.5], &[0.0]), 0.5);
    }

    #[test]
    fn the_head_of_a_weight_is_what_is_on_the_device() {
        for (bits, code) in [(4, Code::Symmetric), (3, Code::Asymmetric), (1, Code::Binary)] {
            let packing = Packing { bits, code, group: 11 };
            let weight = HostWeight::random([5, 33], packing, &mut Numbers::new(7));
            let all = unpack(&weight.on::<Flex>(&Default::default())).into_data();
            assert_eq!(all.to_vec::<f32>().expect("f32")[..66], weight.head(2)[..]);
        }
    }
}
