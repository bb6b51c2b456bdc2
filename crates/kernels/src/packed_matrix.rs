//! A weight of few bits on a device.

use crate::packing::{check_bits, words_per_row};
use burn::prelude::*;
use burn::tensor::DType;
use burn::tensor::backend::AutodiffBackend;
use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// What an unsigned code `u` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// `(u - 2^(bits-1)) * scale`.
    Symmetric,
    /// `u * scale + zero`.
    Asymmetric,
    /// 1 bit: `(2 u - 1) * scale`.
    Binary,
}

/// A weight `[out, in]` as packed codes, with a scale for each group of inputs.
///
/// Not a module: a layer wraps it and decides what of it is saved.
#[derive(Clone, Debug)]
pub struct PackedMatrix<B: Backend> {
    /// `[out, words_per_row(in, bits)]`, dtype `I32`: the bits of [`crate::pack_rows`]' words.
    pub words: Tensor<B, 2, Int>,
    /// `[out, in / group]`.
    pub scales: Tensor<B, 2>,
    /// `[out, in / group]`, `zero_point * scale`; asymmetric codes only.
    pub zeros: Option<Tensor<B, 2>>,
    /// Bits of a code, 1 to 8.
    pub bits: u32,
    /// What a code stands for.
    pub code: Code,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Neighbouring inputs that share a scale; divides `in`.
    pub group: usize,
    /// What a backend's products made of it.
    pub(crate) prepared: Prepared,
}

/// A layout that a backend's own products made of a weight, once; clones of the weight share it.
#[derive(Clone, Default)]
pub(crate) struct Prepared(Arc<Mutex<Option<Arc<dyn Any + Send + Sync>>>>);

impl Prepared {
    /// The layout that is there, if it is a `T` and `valid`; else a new one, which replaces it.
    pub(crate) fn get_or_make<T: Send + Sync + 'static>(
        &self,
        valid: impl FnOnce(&T) -> bool,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let slot = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = slot().clone().and_then(|found| found.downcast::<T>().ok());
        if let Some(found) = found.filter(|found| valid(found)) {
            return found;
        }
        // Not under the lock: making it runs in parallel, and a waiting thread might come by here again.
        let made = Arc::new(make());
        *slot() = Some(made.clone());
        made
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prepared")
    }
}

impl<B: Backend> PackedMatrix<B> {
    /// Puts a packed weight on a device.
    ///
    /// `words: [out, words_per_row(in, bits)]` as [`crate::pack_rows`] makes them,
    /// `scales: [out, in / group]`, `zeros: [out, in / group]` integer zero points for asymmetric
    /// codes and empty otherwise; all row-major.
    ///
    /// # Panics
    /// When a length does not fit the shape, `bits` is not in 1 to 8 (not 1 for binary codes), or
    /// `group` does not divide `in`. What comes from a file must be checked before.
    #[expect(clippy::too_many_arguments, reason = "the parts of a packed weight, each once, at one place")]
    pub fn new(
        words: Vec<u32>,
        scales: Vec<f32>,
        zeros: Vec<i32>,
        bits: u32,
        code: Code,
        shape: [usize; 2],
        group: usize,
        device: &B::Device,
    ) -> Self {
        check_bits(bits);
        assert!(code != Code::Binary || bits == 1, "binary codes have 1 bit, not {bits}");
        let [out, columns] = shape;
        assert!(group > 0 && columns % group == 0, "groups of {group} do not divide {columns} inputs");
        let width = words_per_row(columns, bits);
        let groups = columns / group;
        assert_eq!(words.len(), out * width, "words do not have the shape [{out}, {width}]");
        assert_eq!(scales.len(), out * groups, "scales do not have the shape [{out}, {groups}]");
        let expected = if code == Code::Asymmetric { scales.len() } else { 0 };
        assert_eq!(zeros.len(), expected, "zero points of a weight with {code:?} codes");
        let zeros = (code == Code::Asymmetric).then(|| {
            let values: Vec<f32> = zeros.iter().zip(&scales).map(|(z, s)| *z as f32 * s).collect();
            floats([out, groups], values, device)
        });
        let words: Vec<i32> = words.into_iter().map(u32::cast_signed).collect();
        Self {
            words: Tensor::from_data(TensorData::new(words, [out, width]), (device, DType::I32)),
            scales: floats([out, groups], scales, device),
            zeros,
            bits,
            code,
            shape,
            group,
            prepared: Prepared::default(),
        }
    }

    /// The same weight on another device.
    pub fn to_device(self, device: &B::Device) -> Self {
        Self {
            words: self.words.to_device(device),
            scales: self.scales.to_device(device),
            zeros: self.zeros.map(|z| z.to_device(device)),
            ..self
        }
    }

    /// The device it is on.
    pub fn device(&self) -> B::Device {
        self.scales.device()
    }

    /// Bytes of words, scales and zeros.
    pub fn bytes(&self) -> usize {
        let groups = self.scales.shape().num_elements();
        let floats = if self.zeros.is_some() { 2 * groups } else { groups };
        self.words.shape().num_elements() * size_of::<i32>() + floats * self.scales.dtype().size()
    }

    /// Groups of a row.
    pub(crate) fn groups(&self) -> usize {
        self.shape[1] / self.group
    }
}

impl<B: AutodiffBackend> PackedMatrix<B> {
    /// The same weight without the differentiation layer.
    pub fn inner(&self) -> PackedMatrix<B::InnerBackend> {
        PackedMatrix {
            words: self.words.clone().inner(),
            scales: self.scales.clone().inner(),
            zeros: self.zeros.clone().map(Tensor::inner),
            bits: self.bits,
            code: self.code,
            shape: self.shape,
            group: self.group,
            prepared: self.prepared.clone(),
        }
    }

    /// The inverse of [`inner`](Self::inner).
    pub fn from_inner(p: PackedMatrix<B::InnerBackend>) -> Self {
        Self {
            words: Tensor::from_inner(p.words),
            scales: Tensor::from_inner(p.scales),
            zeros: p.zeros.map(Tensor::from_inner),
            bits: p.bits,
            code: p.code,
            shape: p.shape,
            group: p.group,
            prepared: p.prepared,
        }
    }
}

fn floats<B: Backend>(shape: [usize; 2], values: Vec<f32>, device: &B::Device) -> Tensor<B, 2> {
    Tensor::from_data(TensorData::new(values, shape), device)
}
