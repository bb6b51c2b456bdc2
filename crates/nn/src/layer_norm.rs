//! Layer normalization on the library's own kernel.

use crate::module::{drop_in_module, needs::*};
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
        }
    }
}

/// `(x - mean) / sqrt(variance + epsilon) * gamma + beta` over the last axis (Ba et al. 2016, arXiv
/// 1607.06450).
///
/// Fields and records are those of `burn::nn::LayerNorm`.
#[derive(Debug, Clone)]
pub struct LayerNorm<B: Backend> {
    /// Scale, `[d_model]`.
    pub gamma: Param<Tensor<B, 1>>,
    /// Bias, `[d_model]`.
    pub beta: Option<Param<Tensor<B, 1>>>,
    /// Added to the variance.
    pub epsilon: f64,
}

drop_in_module! {
    LayerNorm, LayerNormRecord,
    parameters [gamma, beta],
    packed [],
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
        kernels::layer_norm(input, gamma, beta, self.epsilon)
    }
}

impl<B: Backend> Compressible<B> for LayerNorm<B> {
    fn layers_mut(&mut self, at: &mut LayerPath, visit: &mut dyn FnMut(&LayerPath, LayerMut<'_, B>)) {
        visit(at, LayerMut::Other);
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
