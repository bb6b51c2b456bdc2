//! Layer normalization on the library's own kernel.

use crate::module::{drop_in_module, needs::*};
use crate::slots::KeptSlot;
use crate::{Compressible, Initializer, LayerMut, LayerPath};
use briquette_kernels as kernels;
use burn::config::Config;
use burn::module::Param;
use burn::nn::LayerNormRecord;
use burn::prelude::*;

/// Settings of a [`LayerNorm`]; the same as `burn::nn::LayerNormConfig`.
#[derive(Config, Debug)]
pub struct LayerNormConfig {
    /// Width of the last axis.
    pub d_model: usize,
    /// Added to the variance.
    #[config(default = 1e-5)]
    pub epsilon: f64,
    /// Whether a bias is added.
    #[config(default = true)]
    pub bias: bool,
}

impl LayerNormConfig {
    /// A layer with scale 1 and, where wanted, bias 0.
    pub fn init<B: Backend>(&self, device: &B::Device) -> LayerNorm<B> {
        LayerNorm {
            gamma: Initializer::Ones.init([self.d_model], device),
            beta: self.bias.then(|| Initializer::Zeros.init([self.d_model], device)),
            epsilon: self.epsilon,
            kept: KeptSlot::default(),
        }
    }
}

/// `(x - mean) / sqrt(variance + epsilon) * gamma + beta` over the last axis (Ba et al. 2016, arXiv
/// 1607.06450).
///
/// While a part of the width is masked, it averages over the rest, so that it computes what a narrower layer would.
/// Fields and records are those of `burn::nn::LayerNorm`.
#[derive(Debug, Clone)]
pub struct LayerNorm<B: Backend> {
    /// Scale, `[d_model]`.
    pub gamma: Param<Tensor<B, 1>>,
    /// Bias, `[d_model]`.
    pub beta: Option<Param<Tensor<B, 1>>>,
    /// Added to the variance.
    pub epsilon: f64,
    kept: KeptSlot<B>,
}

drop_in_module! {
    LayerNorm, LayerNormRecord,
    parameters [gamma, beta],
    slots [kept],
    settings [epsilon],
    empty [epsilon],
}

impl<B: Backend> LayerNorm<B> {
    /// The normalized input, of the input's shape `[.., d_model]`.
    ///
    /// # Panics
    /// When the last axis of `input` is not `d_model`.
    pub fn forward<const D: usize>(&self, input: Tensor<B, D>) -> Tensor<B, D> {
        let gamma = self.gamma.val();
        let beta = self.beta.as_ref().map_or_else(|| gamma.zeros_like(), |beta| beta.val());
        match &self.kept.0 {
            Some(kept) => masked(input, gamma, beta, self.epsilon, kept.clone()),
            None => kernels::layer_norm(input, gamma, beta, self.epsilon),
        }
    }

    /// [`forward`](Self::forward) of `input + residual`, in one pass where the backend can. The first axis of the
    /// residual may be 1, for all of the input.
    ///
    /// # Panics
    /// When the shapes differ elsewhere, or the last axis is not `d_model`.
    pub fn forward_sum<const D: usize>(&self, input: Tensor<B, D>, residual: Tensor<B, D>) -> Tensor<B, D> {
        if self.kept.0.is_some() {
            return self.forward(input + residual);
        }
        let gamma = self.gamma.val();
        let beta = self.beta.as_ref().map_or_else(|| gamma.zeros_like(), |beta| beta.val());
        kernels::add_layer_norm(input, residual, gamma, beta, self.epsilon)
    }

    /// Averages over the entries for which `kept` `[d_model]` is 1 from now on, and gives 0 for those for which it
    /// is 0; `None` for all of them. No parameter: records and optimizers do not see it.
    ///
    /// # Panics
    /// When `kept` has another length than the layer.
    pub fn set_kept(&mut self, kept: Option<Tensor<B, 1>>) {
        if let Some(kept) = &kept {
            assert_eq!(kept.dims(), self.gamma.lazy_shape().dims(), "shape [d_model] of the entries to keep");
        }
        self.kept = KeptSlot(kept);
    }

    /// The entries that count, `[d_model]` of 1 and 0, where not all of them do.
    pub fn kept(&self) -> Option<Tensor<B, 1>> {
        self.kept.0.clone()
    }
}

/// The normalization over the entries for which `kept` is 1; the others are 0.
fn masked<B: Backend, const D: usize>(
    input: Tensor<B, D>,
    gamma: Tensor<B, 1>,
    beta: Tensor<B, 1>,
    epsilon: f64,
    kept: Tensor<B, 1>,
) -> Tensor<B, D> {
    let (last, count) = (D - 1, kept.clone().sum().unsqueeze());
    let mask: Tensor<B, D> = kept.clone().unsqueeze();
    let mean = (input.clone() * mask.clone()).sum_dim(last) / Tensor::clone(&count);
    let centred = (input - mean) * mask;
    let variance = centred.clone().square().sum_dim(last) / count;
    let scale: Tensor<B, D> = gamma.unsqueeze();
    centred / (variance + epsilon).sqrt() * scale + (beta * kept).unsqueeze()
}

impl<B: Backend> Compressible<B> for LayerNorm<B> {
    fn layers_mut(&mut self, at: &mut LayerPath, visit: &mut dyn FnMut(&LayerPath, LayerMut<'_, B>)) {
        visit(at, LayerMut::LayerNorm(self));
    }
}

impl<B: Backend> ModuleDisplay for LayerNorm<B> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let [d_model] = self.gamma.lazy_shape().dims();
        content
            .add("d_model", &d_model)
            .add("epsilon", &self.epsilon)
            .add("bias", &self.beta.is_some())
            .optional()
    }
}
