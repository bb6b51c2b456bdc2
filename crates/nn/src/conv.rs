//! A convolution that can quantize its input and run on a packed weight.

use crate::module::{drop_in_module, needs::*};
use crate::slots::{InputSlot, PackedSlot, simulate};
use crate::{Compressible, Initializer, LayerMut, LayerPath, PaddingConfig2d};
use briquette_core::{InputObserver, InputQuantization};
use briquette_kernels::{self as kernels, ConvolutionTail, PackedConvolution, PackedMatrix, TokenQuant};
use burn::config::Config;
use burn::module::Param;
use burn::nn::conv::Conv2dRecord;
use burn::prelude::*;
use burn::tensor::ops::PaddedConvOptions;
use std::sync::Arc;

/// Settings of a [`Conv2d`] layer; the same as `burn::nn::conv::Conv2dConfig`.
#[derive(Config, Debug)]
pub struct Conv2dConfig {
    /// Channels of the input and of the output.
    pub channels: [usize; 2],
    /// Height and width of the kernel.
    pub kernel_size: [usize; 2],
    /// Steps between outputs.
    #[config(default = "[1, 1]")]
    pub stride: [usize; 2],
    /// Steps between the kernel's elements.
    #[config(default = "[1, 1]")]
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other.
    #[config(default = "1")]
    pub groups: usize,
    /// Zeros around the input.
    #[config(default = "PaddingConfig2d::Valid")]
    pub padding: PaddingConfig2d,
    /// Whether a bias is added.
    #[config(default = true)]
    pub bias: bool,
    /// How parameters are initialised.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/3f64.sqrt(), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl Conv2dConfig {
    /// A float layer with fresh parameters, which stay lazy until they are used.
    ///
    /// # Panics
    /// When `groups` does not divide the channels.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Conv2d<B> {
        burn::nn::conv::Conv2dConfig::new(self.channels, self.kernel_size)
            .with_stride(self.stride)
            .with_dilation(self.dilation)
            .with_groups(self.groups)
            .with_padding(self.padding.clone())
            .with_bias(self.bias)
            .with_initializer(self.initializer.clone())
            .init(device)
            .into()
    }
}

/// A two-dimensional convolution, with its input optionally quantized and its weight optionally
/// packed.
///
/// Fields, records and display names are those of `burn::nn::conv::Conv2d`.
#[derive(Debug, Clone)]
pub struct Conv2d<B: Backend> {
    /// `[channels_out, channels_in / groups, kh, kw]`; `[0, 0, 0, 0]` when the weight is packed.
    pub weight: Param<Tensor<B, 4>>,
    /// `[channels_out]`.
    pub bias: Option<Param<Tensor<B, 1>>>,
    /// Steps between outputs.
    pub stride: [usize; 2],
    /// Height and width of the kernel.
    pub kernel_size: [usize; 2],
    /// Steps between the kernel's elements.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Zeros around the input.
    pub padding: PaddingConfig2d,
    input: InputSlot,
    packed: PackedSlot<B>,
}

drop_in_module! {
    Conv2d, Conv2dRecord,
    parameters [weight, bias],
    slots [packed],
    settings [stride, kernel_size, dilation, groups, padding, input],
    empty [stride, kernel_size, dilation, groups, padding],
}

impl<B: Backend> From<burn::nn::conv::Conv2d<B>> for Conv2d<B> {
    fn from(layer: burn::nn::conv::Conv2d<B>) -> Self {
        Self {
            weight: layer.weight,
            bias: layer.bias,
            stride: layer.stride,
            kernel_size: layer.kernel_size,
            dilation: layer.dilation,
            groups: layer.groups,
            padding: layer.padding,
            input: InputSlot::default(),
            packed: PackedSlot::default(),
        }
    }
}

impl<B: Backend> Conv2d<B> {
    /// The output `[batch, channels_out, height_out, width_out]` for images
    /// `[batch, channels_in, height, width]`.
    ///
    /// # Panics
    /// When the input does not have `channels_in` channels.
    pub fn forward(&self, input: Tensor<B, 4>) -> Tensor<B, 4> {
        self.forward_then(input, ConvolutionTail::default())
    }

    /// [`forward`](Self::forward) and what follows it (batch normalization by known statistics, a residual, an activation),
    /// in one pass over the output where the backend can.
    ///
    /// # Panics
    /// When the input does not have `channels_in` channels, or what follows does not fit the output.
    pub fn forward_then(&self, input: Tensor<B, 4>, tail: ConvolutionTail<B>) -> Tensor<B, 4> {
        self.input.observe(&input);
        let options = self.options(&input);
        let bias = self.bias.as_ref().map(|b| b.val());
        match (self.packed.get(), self.input.token_quant()) {
            // The integer product has no gradient; the same values as floats have one.
            (Some(packed), Some(quant)) if !B::ad_enabled(&input.device()) => {
                kernels::conv2d_quantized(input, quant, packed, self.kernel_size, bias, options, tail)
            }
            (_, quant) => {
                kernels::conv2d_then(simulate_images(input, quant), self.value(), bias, options, tail)
            }
        }
    }

    /// The convolution with the packed weight, if the layer has one.
    pub fn packed_convolution(&self) -> Option<PackedConvolution> {
        let packed = self.packed.get()?;
        Some(PackedConvolution::of(self.groups, self.input.token_quant(), packed))
    }

    fn options(&self, input: &Tensor<B, 4>) -> PaddedConvOptions<2> {
        let [_, _, height, width] = input.dims();
        let (top, bottom) = self.padding_of(0, height);
        let (left, right) = self.padding_of(1, width);
        PaddedConvOptions::asymmetric(self.stride, [top, left], [bottom, right], self.dilation, self.groups)
    }

    /// The float weight, unpacked for each call where it is packed.
    fn value(&self) -> Tensor<B, 4> {
        match self.packed.get() {
            Some(packed) => kernels::unpack(packed).reshape(self.native()),
            None => self.weight.val(),
        }
    }

    /// Zeros before and after the input along one axis. `Same` keeps `ceil(size / stride)` outputs and
    /// puts an odd zero at the end, as in burn and ONNX (`SAME_UPPER`).
    fn padding_of(&self, axis: usize, size: usize) -> (usize, usize) {
        match self.padding {
            PaddingConfig2d::Valid => (0, 0),
            PaddingConfig2d::Explicit(top, left, bottom, right) => [(top, bottom), (left, right)][axis],
            PaddingConfig2d::Same => {
                let (kernel, stride) = (self.kernel_size[axis], self.stride[axis]);
                let covered = size.div_ceil(stride).saturating_sub(1) * stride + kernel;
                let total = if size == 0 { 0 } else { covered.saturating_sub(size) };
                (total / 2, total - total / 2)
            }
        }
    }

    /// Canonical shape `[channels_out, channels_in / groups * kh * kw]` of the weight, packed or not.
    /// A lazy weight stays lazy.
    pub fn shape(&self) -> [usize; 2] {
        match self.packed.get() {
            Some(packed) => packed.shape,
            None => {
                let [out, channels, height, width] = self.weight.lazy_shape().dims();
                [out, channels * height * width]
            }
        }
    }

    /// Shape `[channels_out, channels_in / groups, kh, kw]` of the weight, packed or not.
    pub fn native(&self) -> [usize; 4] {
        let [out, columns] = self.shape();
        let [height, width] = self.kernel_size;
        [out, columns / (height * width), height, width]
    }

    /// Sets how the input is quantized from now on; `None` for not at all. Dynamic ranges are per
    /// image, static ones for the whole tensor.
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
        assert_eq!(packed.shape, self.shape(), "shape [out, in * kh * kw] of a packed weight");
        let empty = Tensor::empty([0, 0, 0, 0], &packed.words.device());
        self.weight = Param::initialized(self.weight.id, empty);
        self.packed.set(packed);
    }

    /// The packed weight, if there is one.
    pub fn packed(&self) -> Option<&PackedMatrix<B>> {
        self.packed.get()
    }
}

/// Images as their codes represent them, with one range per image where ranges are dynamic.
fn simulate_images<B: Backend>(input: Tensor<B, 4>, quant: Option<TokenQuant>) -> Tensor<B, 4> {
    let Some(quant) = quant else { return input };
    let dims = input.dims();
    let [batch, channels, height, width] = dims;
    simulate(input.reshape([batch, channels * height * width]), quant).reshape(dims)
}

impl<B: Backend> Compressible<B> for Conv2d<B> {
    fn layers_mut(&mut self, at: &mut LayerPath, visit: &mut dyn FnMut(&LayerPath, LayerMut<'_, B>)) {
        visit(at, LayerMut::Conv2d(self));
    }
}

impl<B: Backend> ModuleDisplay for Conv2d<B> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let [out, channels, _, _] = self.native();
        let content = content
            .add("ch_in", &(channels * self.groups))
            .add("ch_out", &out)
            .add_debug_attribute("stride", &self.stride)
            .add_debug_attribute("kernel_size", &self.kernel_size)
            .add_debug_attribute("dilation", &self.dilation)
            .add("groups", &self.groups)
            .add_debug_attribute("padding", &self.padding);
        match self.packed.get() {
            Some(packed) => content.add("bits", &packed.bits).optional(),
            None => content.optional(),
        }
    }
}
