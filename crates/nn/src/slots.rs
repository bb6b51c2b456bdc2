//! What drop-in layers hold beside burn's fields.

use briquette_core::{InputObserver, InputQuantization, InputRange, ScaleRule, host_floats, stop};
use briquette_kernels::{PackedMatrix, SparseMatrix, TokenQuant, fake_quantize_rows, straight_through};
use burn::module::Devices;
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use std::sync::Arc;

/// The kernels' form of bits, symmetry and scale rule; ranges are those of the values at hand.
pub fn token_quant(quantization: &InputQuantization) -> TokenQuant {
    TokenQuant {
        bits: quantization.bits,
        symmetric: quantization.symmetric,
        full_range: quantization.rule == ScaleRule::DeepSpeed,
        range: None,
    }
}

/// How a layer's input is quantized and watched. Clones share the observer.
#[derive(Debug, Clone, Default)]
pub(crate) struct InputSlot {
    pub(crate) quantization: Option<InputQuantization>,
    pub(crate) observer: Option<Arc<dyn InputObserver>>,
}

impl InputSlot {
    /// The kernels' form of the quantization; `None` where inputs pass unchanged.
    pub(crate) fn token_quant(&self) -> Option<TokenQuant> {
        let quantization = self.quantization?;
        let range = match quantization.range {
            InputRange::Dynamic => None,
            InputRange::Static { min, max } => Some((min, max)),
            InputRange::Pending => return None,
        };
        Some(TokenQuant { range, ..token_quant(&quantization) })
    }

    /// Hands the input to the observer, if there is one.
    pub(crate) fn observe<B: Backend, const D: usize>(&self, input: &Tensor<B, D>) {
        if let Some(observer) = &self.observer {
            observer.observe(&host_floats(input.clone()));
        }
    }
}

/// The input as its codes represent it, `[rows, columns]`; gradients pass straight through.
pub(crate) fn simulate<B: Backend>(input: Tensor<B, 2>, quant: TokenQuant) -> Tensor<B, 2> {
    let quantized = fake_quantize_rows(stop(input.clone()), quant);
    straight_through(input, quantized)
}

/// A packed weight in place of the float one, with a correction of low rank where it has one, or the float one without
/// its zeros. No parameter: nothing visits, maps or records it.
#[derive(Debug, Clone)]
pub(crate) struct PackedSlot<B: Backend> {
    matrix: Option<PackedMatrix<B>>,
    low_rank: Option<LowRank<B>>,
    sparse: Option<SparseMatrix<B>>,
}

/// The product of `left` `[out, rank]` and `right` `[rank, in]`.
#[derive(Debug, Clone)]
pub(crate) struct LowRank<B: Backend> {
    pub(crate) left: Tensor<B, 2>,
    pub(crate) right: Tensor<B, 2>,
}

impl<B: Backend> LowRank<B> {
    /// `x (left right)^T`, `[rows, out]` for `x` `[rows, in]`.
    pub(crate) fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        x.matmul(self.right.clone().transpose()).matmul(self.left.clone().transpose())
    }
}

impl<B: Backend> Default for PackedSlot<B> {
    fn default() -> Self {
        Self { matrix: None, low_rank: None, sparse: None }
    }
}

impl<B: Backend> PackedSlot<B> {
    /// Replaces the weight; a correction belongs to the weight before.
    pub(crate) fn set(&mut self, packed: PackedMatrix<B>) {
        *self = Self { matrix: Some(packed), ..Self::default() };
    }

    pub(crate) fn set_sparse(&mut self, sparse: SparseMatrix<B>) {
        *self = Self { sparse: Some(sparse), ..Self::default() };
    }

    pub(crate) fn set_low_rank(&mut self, low_rank: LowRank<B>) {
        self.low_rank = Some(low_rank);
    }

    pub(crate) fn get(&self) -> Option<&PackedMatrix<B>> {
        self.matrix.as_ref()
    }

    pub(crate) fn sparse(&self) -> Option<&SparseMatrix<B>> {
        self.sparse.as_ref()
    }

    pub(crate) fn low_rank(&self) -> Option<&LowRank<B>> {
        self.low_rank.as_ref()
    }

    pub(crate) fn to_device(&self, device: &B::Device) -> Self {
        Self {
            matrix: self.matrix.as_ref().map(|packed| packed.clone().to_device(device)),
            low_rank: self
                .low_rank
                .clone()
                .map(|l| LowRank { left: l.left.to_device(device), right: l.right.to_device(device) }),
            sparse: self.sparse.as_ref().map(|sparse| sparse.to_device(device)),
        }
    }

    pub(crate) fn collect_devices(&self, mut devices: Devices<B>) -> Devices<B> {
        let packed = self.matrix.as_ref().map(|packed| packed.words.device());
        if let Some(device) = packed.or_else(|| self.sparse.as_ref().map(SparseMatrix::device))
            && !devices.contains(&device)
        {
            devices.push(device);
        }
        devices
    }
}

/// What a layer holds beside its parameters, on a backend with gradients.
pub(crate) trait AutodiffSlot<B: AutodiffBackend> {
    /// The same without gradients.
    type Inner;

    fn valid(&self) -> Self::Inner;

    fn from_inner(inner: Self::Inner) -> Self;
}

/// Which entries of the last axis a normalization counts: 1 for those that stay, 0 for those that are masked. No
/// parameter: nothing visits, maps or records it.
#[derive(Debug, Clone)]
pub(crate) struct KeptSlot<B: Backend>(pub(crate) Option<Tensor<B, 1>>);

impl<B: Backend> Default for KeptSlot<B> {
    fn default() -> Self {
        Self(None)
    }
}

impl<B: Backend> KeptSlot<B> {
    pub(crate) fn to_device(&self, device: &B::Device) -> Self {
        Self(self.0.clone().map(|mask| mask.to_device(device)))
    }

    pub(crate) fn collect_devices(&self, devices: Devices<B>) -> Devices<B> {
        // The mask lies where the parameters lie.
        devices
    }
}

impl<B: AutodiffBackend> AutodiffSlot<B> for KeptSlot<B> {
    type Inner = KeptSlot<B::InnerBackend>;

    fn valid(&self) -> Self::Inner {
        KeptSlot(self.0.clone().map(Tensor::inner))
    }

    fn from_inner(inner: Self::Inner) -> Self {
        Self(inner.0.map(Tensor::from_inner))
    }
}

impl<B: AutodiffBackend> AutodiffSlot<B> for PackedSlot<B> {
    type Inner = PackedSlot<B::InnerBackend>;

    fn valid(&self) -> PackedSlot<B::InnerBackend> {
        PackedSlot {
            matrix: self.matrix.as_ref().map(|packed| packed.inner()),
            low_rank: self.low_rank.clone().map(|l| LowRank { left: l.left.inner(), right: l.right.inner() }),
            sparse: self.sparse.as_ref().map(SparseMatrix::inner),
        }
    }

    fn from_inner(slot: PackedSlot<B::InnerBackend>) -> Self {
        Self {
            matrix: slot.matrix.map(PackedMatrix::from_inner),
            low_rank: slot
                .low_rank
                .map(|l| LowRank { left: Tensor::from_inner(l.left), right: Tensor::from_inner(l.right) }),
            sparse: slot.sparse.map(SparseMatrix::from_inner),
        }
    }
}
