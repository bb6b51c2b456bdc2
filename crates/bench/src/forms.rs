//! How a linear layer computes.

use crate::numbers::{HostWeight, Numbers, Packing, difference, matrix, tensor};
use briquette_core::host_floats;
use briquette_core::{InputQuantization, InputRange, ScaleRule};
use briquette_kernels::{
    Activation, Code, PackedMatrix, TokenQuant, linear, linear_all, linear_packed, linear_quantized, oracle,
};
use burn::prelude::*;

/// Inputs of 8 bits, symmetric, a scale for each row from its values.
pub(crate) const INPUT: TokenQuant = TokenQuant { bits: 8, symmetric: true, full_range: false, range: None };
/// The same as a layer's setting.
pub(crate) const INPUT_SETTING: InputQuantization =
    InputQuantization { bits: 8, symmetric: true, rule: ScaleRule::Paper, range: InputRange::Dynamic };

/// Outputs that a timed layer is compared in.
const COMPARED: usize = 16;
/// Largest relative difference of those: rounding to bf16 and of inputs to 8 bits are below, a wrong result is above.
const ACCEPTED: f64 = 0.05;

/// How a linear layer computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// burn's product of floats.
    Float,
    /// A packed weight.
    Packed {
        /// Bits of a weight's code.
        bits: u32,
        /// Whether a scale holds for a group of inputs instead of a row.
        grouped: bool,
        /// Whether inputs are quantized to 8 bits.
        quantized: bool,
    },
}

impl Form {
    /// All of them; the first is what others are compared with.
    pub(crate) const ALL: [Self; 5] = [
        Self::Float,
        Self::Packed { bits: 8, grouped: false, quantized: true },
        Self::Packed { bits: 8, grouped: false, quantized: false },
        Self::Packed { bits: 4, grouped: true, quantized: false },
        Self::Packed { bits: 4, grouped: false, quantized: true },
    ];

    /// As in tables, where floats are of type `float`.
    pub(crate) fn name(self, float: &str) -> String {
        match self {
            Self::Float => format!("burn {float}"),
            Self::Packed { bits, quantized: true, .. } => format!("W{bits}A8"),
            Self::Packed { bits, quantized: false, .. } => format!("W{bits}A16"),
        }
    }

    /// How the weight is packed, if it is; `group` inputs share a scale where groups do.
    pub(crate) fn packing(self, group: usize) -> Option<Packing> {
        match self {
            Self::Float => None,
            Self::Packed { bits, grouped, .. } => {
                Some(Packing { bits, code: Code::Symmetric, group: if grouped { group } else { 0 } })
            }
        }
    }

    /// Whether inputs are quantized.
    pub(crate) fn quantized(self) -> bool {
        matches!(self, Self::Packed { quantized: true, .. })
    }
}

/// A weight on a device.
enum Weight<B: Backend> {
    Float(Tensor<B, 2>),
    Packed(PackedMatrix<B>),
}

/// A linear layer with several copies of its weight, and an input.
pub(crate) struct Layer<B: Backend> {
    form: Form,
    x: Tensor<B, 2>,
    bias: Tensor<B, 1>,
    copies: Vec<Weight<B>>,
    /// Values of the weight's first rows, `[out, in]`.
    head: Vec<f32>,
    activation: Activation,
}

/// What a layer is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerSize {
    pub(crate) d_input: usize,
    pub(crate) d_output: usize,
    /// Rows of its input.
    pub(crate) rows: usize,
    pub(crate) storage: Storage,
}

/// How weights are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Storage {
    /// Inputs that share a scale where groups do.
    pub(crate) group: usize,
    /// Bytes that the copies of a weight take together.
    pub(crate) rotated: usize,
}

impl<B: Backend> Layer<B> {
    pub(crate) fn new(form: Form, size: LayerSize, activation: Activation, device: &B::Device) -> Self {
        let LayerSize { d_input, d_output, rows, .. } = size;
        let x = matrix([rows, d_input], 1.0, device);
        // Small beside the products, which are compared.
        let bias = tensor(&Numbers::new(3).floats(d_output), [d_output], device) * 0.1;
        let float_bytes = x.dtype().size();
        let many = |bytes: usize| size.storage.rotated.div_ceil(bytes).max(2);
        let (copies, head) = match form.packing(size.storage.group) {
            None => {
                let limit = (3.0 / d_input as f64).sqrt();
                let count = many(d_input * d_output * float_bytes);
                let made: Vec<_> = (0..count).map(|_| matrix([d_input, d_output], limit, device)).collect();
                let first: Tensor<B, 2> = made[0].clone();
                let head = host_floats(first.narrow(1, 0, COMPARED.min(d_output)).transpose());
                (made.into_iter().map(Weight::Float).collect(), head)
            }
            Some(packing) => {
                let host = HostWeight::random([d_output, d_input], packing, &mut Numbers::new(5));
                let first = host.on::<B>(device);
                let count = many(first.bytes());
                let more = (1..count).map(|_| host.on(device));
                let copies = std::iter::once(first).chain(more).map(Weight::Packed).collect();
                (copies, host.head(COMPARED))
            }
        };
        Self { form, x, bias, copies, head, activation }
    }

    /// How many copies of the weight there are.
    pub(crate) fn copies(&self) -> usize {
        self.copies.len()
    }

    /// The output with the copy that comes at this place, all taking turns.
    pub(crate) fn forward(&self, at: usize) -> Tensor<B, 2> {
        let (x, bias) = (self.x.clone(), Some(self.bias.clone()));
        match (&self.copies[at % self.copies.len()], self.activation) {
            (Weight::Float(w), activation) => linear(x, w.clone(), bias, activation),
            (Weight::Packed(p), Activation::Identity) if self.form.quantized() => {
                linear_quantized(x, INPUT, p, bias)
            }
            (Weight::Packed(p), Activation::Identity) => linear_packed(x, p, bias),
            (Weight::Packed(p), activation) => {
                let quant = self.form.quantized().then_some(INPUT);
                linear_all(x, quant, vec![(p, bias)], activation).remove(0)
            }
        }
    }

    /// Bytes of the weight as it lies in memory, input and output: what a call has to move at least.
    pub(crate) fn bytes(&self) -> usize {
        let float_bytes = self.x.dtype().size();
        let weight = match &self.copies[0] {
            Weight::Float(w) => w.shape().num_elements() * float_bytes,
            Weight::Packed(p) => p.bytes(),
        };
        weight + self.x.shape().num_elements() * float_bytes + self.output_bytes()
    }

    /// Bytes of the output.
    pub(crate) fn output_bytes(&self) -> usize {
        self.x.dims()[0] * self.bias.dims()[0] * self.x.dtype().size()
    }

    /// Compares the last row of an output with plain loops; without an activation.
    ///
    /// # Errors
    /// How far off it is.
    pub(crate) fn compare(&self) -> Result<(), String> {
        let ([rows, columns], outputs) = (self.x.dims(), self.head.len() / self.x.dims()[1]);
        let row = host_floats(self.x.clone().narrow(0, rows - 1, 1));
        let row = if self.form.quantized() { oracle::fake_quantize_rows(&row, columns, INPUT) } else { row };
        let bias = host_floats(self.bias.clone().narrow(0, 0, outputs));
        let right = oracle::linear(&row, &self.head, &bias, columns);
        let found = host_floats(self.forward(0).narrow(0, rows - 1, 1).narrow(1, 0, outputs));
        let error = difference(&found, &right);
        if error <= ACCEPTED { Ok(()) } else { Err(format!("wrong by {error:.3}: {found:?}, not {right:?}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;

    #[test]
    fn every_form_computes_its_layer() {
        let size = LayerSize {
            d_input: 64,
            d_output: 48,
            rows: 5,
            storage: Storage { group: 16, rotated: 1 << 14 },
        };
        for form in Form::ALL {
            let mut layer = Layer::<Flex>::new(form, size, Activation::Identity, &Default::default());
            assert_eq!(layer.compare(), Ok(()), "{}", form.name("f32"));
            assert_eq!(layer.forward(3).dims(), [5, 48]);
            layer.head.iter_mut().for_each(|w| *w *= 1.2);
            assert!(layer.compare().is_err(), "{}", form.name("f32"));
        }
    }

    #[test]
    fn copies_fill_what_is_asked_for_and_bytes_are_counted() {
        let size =
            LayerSize { d_input: 64, d_output: 48, rows: 5, storage: Storage { group: 16, rotated: 4096 } };
        let form = Form::Packed { bits: 4, grouped: true, quantized: false };
        let layer = Layer::<Flex>::new(form, size, Activation::Identity, &Default::default());
        let weight = 48 * 64 / 2 + 4 * 48 * 4;
        assert_eq!(layer.bytes(), weight + 4 * (5 * 64 + 5 * 48));
        assert_eq!(layer.copies(), 4096usize.div_ceil(weight));
    }
}
