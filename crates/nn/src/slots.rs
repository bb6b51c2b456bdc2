//! What drop-in layers hold beside burn's fields.

use briquette_core::{
    InputObserver, InputQuantization, InputRange, ScaleRule, host_floats, stop, straight_through,
};
use briquette_kernels::{PackedMatrix, TokenQuant, fake_quantize_rows};
use burn::module::Devices;
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use std::sync::Arc;

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
        Some(TokenQuant {
            bits: quantization.bits,
            symmetric: quantization.symmetric,
            full_range: quantization.rule == ScaleRule::DeepSpeed,
            range,
        })
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

/// A packed weight in place of the float one. No parameter: nothing visits, maps or records it.
#[derive(Debug, Clone)]
pub(crate) struct PackedSlot<B: Backend>(Option<PackedMatrix<B>>);

impl<B: Backend> Default for PackedSlot<B> {
    fn default() -> Self {
        Self(None)
    }
}

impl<B: Backend> PackedSlot<B> {
    pub(crate) fn set(&mut self, packed: PackedMatrix<B>) {
        self.0 = Some(packed);
    }

    pub(crate) fn get(&self) -> Option<&PackedMatrix<B>> {
        self.0.as_ref()
    }

    pub(crate) fn to_device(&self, device: &B::Device) -> Self {
        Self(self.0.as_ref().map(|packed| packed.clone().to_device(device)))
    }

    pub(crate) fn collect_devices(&self, mut devices: Devices<B>) -> Devices<B> {
        if let Some(device) = self.0.as_ref().map(|packed| packed.words.device())
            && !devices.contains(&device)
        {
            devices.push(device);
        }
        devices
    }
}

impl<B: AutodiffBackend> PackedSlot<B> {
    pub(crate) fn valid(&self) -> PackedSlot<B::InnerBackend> {
        PackedSlot(self.0.as_ref().map(|packed| packed.inner()))
    }

    pub(crate) fn from_inner(slot: PackedSlot<B::InnerBackend>) -> Self {
        Self(slot.0.map(PackedMatrix::from_inner))
    }
}
