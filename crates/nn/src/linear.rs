//! A linear layer that can quantize its input and run on a packed weight.

use crate::module::{drop_in_module, needs::*};
use crate::slots::{InputSlot, LowRank, PackedSlot, simulate};
use crate::{Compressible, Initializer, LayerMut, LayerPath, LinearLayout};
use briquette_core::{InputObserver, InputQuantization, host_floats};
use briquette_kernels::{self as kernels, Activation, PackedMatrix, PackedProduct, SparseMatrix, TokenQuant};
use burn::config::Config;
use burn::module::Param;
use burn::nn::LinearRecord;
use burn::prelude::*;
use burn::tensor::module::linear;
use std::sync::Arc;

/// Settings of a [`Linear`] layer; the same as `burn::nn::LinearConfig`.
#[derive(Config, Debug)]
pub struct LinearConfig {
    /// Width of the input.
    pub d_input: usize,
    /// Width of the output.
    pub d_output: usize,
    /// Whether a bias is added.
    #[config(default = true)]
    pub bias: bool,
    /// How parameters are initialised.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/3f64.sqrt(), fan_out_only:false}")]
    pub initializer: Initializer,
    /// How the weight lies in memory.
    #[config(default = "LinearLayout::Row")]
    pub layout: LinearLayout,
}

impl LinearConfig {
    /// A float layer with fresh parameters, which stay lazy until they are used.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Linear<B> {
        burn::nn::LinearConfig::new(self.d_input, self.d_output)
            .with_bias(self.bias)
            .with_initializer(self.initializer.clone())
            .with_layout(self.layout)
            .init(device)
            .into()
    }
}

/// `y = x W + b`, with `x` optionally quantized and `W` optionally packed.
///
/// Fields, records and display names are those of `burn::nn::Linear`.
#[derive(Debug, Clone)]
pub struct Linear<B: Backend> {
    /// `[d_input, d_output]`; `[0, 0]` when the weight is packed or sparse.
    pub weight: Param<Tensor<B, 2>>,
    /// `[d_output]`.
    pub bias: Option<Param<Tensor<B, 1>>>,
    input: InputSlot,
    packed: PackedSlot<B>,
}

drop_in_module! {
    Linear, LinearRecord,
    parameters [weight, bias],
    slots [packed],
    settings [input],
    empty [],
}

impl<B: Backend> From<burn::nn::Linear<B>> for Linear<B> {
    fn from(layer: burn::nn::Linear<B>) -> Self {
        let burn::nn::Linear { weight, bias } = layer;
        Self { weight, bias, input: InputSlot::default(), packed: PackedSlot::default() }
    }
}

impl<B: Backend> Linear<B> {
    /// The layer's output `[.., d_output]` for an input `[.., d_input]`.
    ///
    /// Leading axes are folded into one for the product: burn's backward pass of a product of higher
    /// rank would hold a gradient `[.., d_input, d_output]`.
    ///
    /// # Panics
    /// When the last axis of `input` is not `d_input`.
    pub fn forward<const D: usize>(&self, input: Tensor<B, D>) -> Tensor<B, D> {
        self.forward_then(input, Activation::Identity)
    }

    /// [`forward`](Self::forward) followed by `activation`, in one pass over the output where the backend can.
    ///
    /// # Panics
    /// When the last axis of `input` is not `d_input`.
    pub fn forward_then<const D: usize>(&self, input: Tensor<B, D>, activation: Activation) -> Tensor<B, D> {
        let mut dims = input.dims();
        let rows = dims[..D - 1].iter().product::<usize>();
        let output = self.rows(input.reshape([rows, dims[D - 1]]), activation);
        dims[D - 1] = output.dims()[1];
        output.reshape(dims)
    }

    /// The outputs of several layers for one input, each as [`forward`](Self::forward) gives it. An input that all of
    /// them quantize alike is quantized once.
    ///
    /// # Panics
    /// When the last axis of `input` is not the `d_input` of each layer.
    pub fn forward_all<const N: usize, const D: usize>(
        layers: [&Self; N],
        input: Tensor<B, D>,
    ) -> [Tensor<B, D>; N] {
        let alike = layers.windows(2).all(|l| l[0].input.token_quant() == l[1].input.token_quant());
        let floats = layers.iter().all(|l| l.packed.get().is_none() && l.packed.sparse().is_none());
        let quant = layers.first().and_then(|l| l.input.token_quant()).filter(|_| alike);
        let Some(quant) = quant else { return layers.map(|layer| layer.forward(input.clone())) };
        let mut dims = input.dims();
        let rows = dims[..D - 1].iter().product::<usize>();
        if !floats {
            let rows = input.clone().reshape([rows, dims[D - 1]]);
            let Some(outputs) = Self::packed_all(layers, &rows, quant) else {
                return layers.map(|layer| layer.forward(input.clone()));
            };
            return outputs.map(|output| {
                dims[D - 1] = output.dims()[1];
                output.reshape(dims)
            });
        }
        let input = input.reshape([rows, dims[D - 1]]);
        let codes = simulate(input.clone(), quant);
        layers.map(|layer| {
            layer.input.observe(&input);
            let bias = layer.bias.as_ref().map(|b| b.val());
            let output = linear(codes.clone(), layer.weight.val(), bias);
            dims[D - 1] = output.dims()[1];
            output.reshape(dims)
        })
    }

    /// Outputs of layers whose inputs are quantized alike, in one call; `None` where not all of their weights are packed
    /// and nothing else.
    fn packed_all<const N: usize>(
        layers: [&Self; N],
        input: &Tensor<B, 2>,
        quant: TokenQuant,
    ) -> Option<[Tensor<B, 2>; N]> {
        let alone = |layer: &&Self| layer.packed.get().is_some() && layer.packed.low_rank().is_none();
        if B::ad_enabled(&input.device()) || !layers.iter().all(alone) {
            return None;
        }
        layers.iter().for_each(|layer| layer.input.observe(input));
        let parts =
            layers.iter().filter_map(|l| l.packed.get().map(|p| (p, l.bias.as_ref().map(|b| b.val()))));
        kernels::linear_all(input.clone(), Some(quant), parts.collect(), Activation::Identity).try_into().ok()
    }

    fn rows(&self, input: Tensor<B, 2>, activation: Activation) -> Tensor<B, 2> {
        self.input.observe(&input);
        let bias = self.bias.as_ref().map(|b| b.val());
        match (self.packed.get(), self.input.token_quant()) {
            (None, None) => self.floats(input, bias, activation),
            (None, Some(quant)) => self.floats(simulate(input, quant), bias, activation),
            // The integer product has no gradient; the same values as floats have one.
            (Some(packed), Some(quant)) if B::ad_enabled(&input.device()) => {
                self.packed_rows(packed, None, simulate(input, quant), bias, activation)
            }
            (Some(packed), quant) => self.packed_rows(packed, quant, input, bias, activation),
        }
    }

    /// The product with a packed weight and its correction of low rank, if it has one, which adds what it makes of the
    /// input that the weight saw.
    fn packed_rows(
        &self,
        packed: &PackedMatrix<B>,
        quant: Option<TokenQuant>,
        input: Tensor<B, 2>,
        bias: Option<Tensor<B, 1>>,
        activation: Activation,
    ) -> Tensor<B, 2> {
        let product = |input, then| kernels::linear_all(input, quant, vec![(packed, bias)], then).remove(0);
        let Some(low_rank) = self.packed.low_rank() else { return product(input, activation) };
        let output = product(input.clone(), Activation::Identity);
        let seen = match quant {
            Some(quant) => simulate(input, quant),
            None => input,
        };
        activation.forward(output + low_rank.forward(seen))
    }

    /// The product with a float weight, with or without its zeros.
    fn floats(
        &self,
        input: Tensor<B, 2>,
        bias: Option<Tensor<B, 1>>,
        activation: Activation,
    ) -> Tensor<B, 2> {
        match self.packed.sparse() {
            Some(sparse) => activation.forward(kernels::linear_sparse(input, sparse, bias)),
            None => kernels::linear(input, self.weight.val(), bias, activation),
        }
    }

    /// Canonical shape `[d_output, d_input]` of the weight, packed or not. A lazy weight stays lazy.
    pub fn shape(&self) -> [usize; 2] {
        match (self.packed.get(), self.packed.sparse()) {
            (Some(packed), _) => packed.shape,
            (None, Some(sparse)) => sparse.shape(),
            (None, None) => {
                let [d_input, d_output] = self.weight.lazy_shape().dims();
                [d_output, d_input]
            }
        }
    }

    /// Sets how the input is quantized from now on; `None` for not at all.
    pub fn set_input_quantization(&mut self, quantization: Option<InputQuantization>) {
        self.input.quantization = quantization;
    }

    /// How the input is quantized.
    pub fn input_quantization(&self) -> Option<InputQuantization> {
        self.input.quantization
    }

    /// Shows every input to `observer` from now on, before it is quantized; `None` for no longer.
    /// Clones of the layer share the observer.
    pub fn observe_input(&mut self, observer: Option<Arc<dyn InputObserver>>) {
        self.input.observer = observer;
    }

    /// Computes with this weight from now on. The float weight is freed.
    ///
    /// # Panics
    /// When its shape is not [`shape`](Self::shape).
    pub fn set_packed(&mut self, packed: PackedMatrix<B>) {
        assert_eq!(packed.shape, self.shape(), "shape [d_output, d_input] of a packed weight");
        let empty = Tensor::empty([0, 0], &packed.words.device());
        self.weight = Param::initialized(self.weight.id, empty);
        self.packed.set(packed);
    }

    /// Adds the product of `left` `[d_output, rank]` and `right` `[rank, d_input]` to the packed weight from now on,
    /// without ever forming it: two thin products more.
    ///
    /// # Panics
    /// When the weight is not packed, or the shapes do not fit it.
    pub fn set_low_rank(&mut self, left: Tensor<B, 2>, right: Tensor<B, 2>) {
        let packed = self.packed.get().expect("a packed weight to add to");
        let ([rows, rank], [inner, columns]) = (left.dims(), right.dims());
        assert_eq!(
            ([rows, columns], rank),
            (packed.shape, inner),
            "shapes [d_output, rank] and [rank, d_input]"
        );
        self.packed.set_low_rank(LowRank { left, right });
    }

    /// The factors `[d_output, rank]` and `[rank, d_input]` whose product is added to the packed weight, if there are
    /// any.
    pub fn low_rank(&self) -> Option<[Tensor<B, 2>; 2]> {
        self.packed.low_rank().map(|l| [l.left.clone(), l.right.clone()])
    }

    /// Computes with the weight's entries that are not zero alone from now on, where that is faster on this backend for
    /// this weight ([`SparseMatrix::if_faster`]); whether it is. The float weight is then freed, so that a layer that is
    /// to be trained, saved or compressed must not be asked.
    ///
    /// A packed weight stays as it is.
    pub fn run_sparse(&mut self) -> bool {
        if self.packed.get().is_some() || self.packed.sparse().is_some() {
            return self.packed.sparse().is_some();
        }
        let (weight, shape) = (self.weight.val(), self.shape());
        let device = weight.device();
        let values = host_floats(weight.transpose());
        let Some(sparse) = SparseMatrix::if_faster(&values, shape, &device) else { return false };
        self.weight = Param::initialized(self.weight.id, Tensor::empty([0, 0], &device));
        self.packed.set_sparse(sparse);
        true
    }

    /// The weight without its zeros, where the layer computes with it.
    pub fn sparse(&self) -> Option<&SparseMatrix<B>> {
        self.packed.sparse()
    }

    /// The product of `rows` input rows with the packed weight, if the layer has one.
    pub fn packed_product(&self, rows: usize) -> Option<PackedProduct> {
        self.packed().map(|packed| PackedProduct::of(rows, self.input.token_quant(), packed))
    }

    /// The packed weight, if there is one.
    pub fn packed(&self) -> Option<&PackedMatrix<B>> {
        self.packed.get()
    }
}

impl<B: Backend> Compressible<B> for Linear<B> {
    fn layers_mut(&mut self, at: &mut LayerPath, visit: &mut dyn FnMut(&LayerPath, LayerMut<'_, B>)) {
        visit(at, LayerMut::Linear(self));
    }
}

impl<B: Backend> ModuleDisplay for Linear<B> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let [d_output, d_input] = self.shape();
        let content =
            content.add("d_input", &d_input).add("d_output", &d_output).add("bias", &self.bias.is_some());
        let content = match self.packed.get() {
            Some(packed) => content.add("bits", &packed.bits),
            None => content,
        };
        match self.packed.low_rank() {
            Some(low_rank) => content.add("low_rank", &low_rank.right.dims()[0]).optional(),
            None => content.optional(),
        }
    }
}
