//! A linear layer that can quantize its input and run on a packed weight.

use crate::module::{drop_in_module, needs::*};
use crate::slots::{InputSlot, LowRank, PackedSlot, simulate};
use crate::{Compressible, Initializer, LayerMut, LayerPath, LinearLayout};
use briquette_core::{InputObserver, InputQuantization};
use briquette_kernels::{self as kernels, PackedMatrix};
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
    /// `[d_input, d_output]`; `[0, 0]` when the weight is packed.
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
        let mut dims = input.dims();
        let rows = dims[..D - 1].iter().product::<usize>();
        let output = self.rows(input.reshape([rows, dims[D - 1]]));
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
        let floats = layers.iter().all(|l| l.packed.get().is_none());
        let quant = layers.first().and_then(|l| l.input.token_quant()).filter(|_| alike && floats);
        let Some(quant) = quant else { return layers.map(|layer| layer.forward(input.clone())) };
        let mut dims = input.dims();
        let rows = dims[..D - 1].iter().product::<usize>();
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

    fn rows(&self, input: Tensor<B, 2>) -> Tensor<B, 2> {
        self.input.observe(&input);
        let bias = self.bias.as_ref().map(|b| b.val());
        match (self.packed.get(), self.input.token_quant()) {
            (None, None) => linear(input, self.weight.val(), bias),
            (None, Some(quant)) => linear(simulate(input, quant), self.weight.val(), bias),
            (Some(packed), None) => {
                self.compensated(kernels::linear_packed(input.clone(), packed, bias), || input)
            }
            // The integer product has no gradient; the same values as floats have one.
            (Some(packed), Some(quant)) if B::ad_enabled(&input.device()) => {
                let input = simulate(input, quant);
                self.compensated(kernels::linear_packed(input.clone(), packed, bias), || input)
            }
            (Some(packed), Some(quant)) => {
                let output = kernels::linear_quantized(input.clone(), quant, packed, bias);
                self.compensated(output, || simulate(input, quant))
            }
        }
    }

    /// Adds what the correction of low rank, if there is one, makes of the input that the weight saw.
    fn compensated(&self, output: Tensor<B, 2>, input: impl FnOnce() -> Tensor<B, 2>) -> Tensor<B, 2> {
        match self.packed.low_rank() {
            Some(low_rank) => output + low_rank.forward(input()),
            None => output,
        }
    }

    /// Canonical shape `[d_output, d_input]` of the weight, packed or not. A lazy weight stays lazy.
    pub fn shape(&self) -> [usize; 2] {
        match self.packed.get() {
            Some(packed) => packed.shape,
            None => {
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
