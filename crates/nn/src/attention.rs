//! Attention that can lose heads.

use crate::module::{drop_in_module, needs::*};
use crate::{Compressible, Initializer, LayerMut, LayerPath, Linear, LinearConfig, Number};
use briquette_core::Counts;
use burn::config::Config;
use burn::nn::attention::MultiHeadAttentionRecord;
use burn::nn::{Dropout, DropoutConfig};
use burn::prelude::*;
use burn::tensor::activation::{quiet_softmax, softmax};

/// Settings of a [`MultiHeadAttention`]; the same as `burn::nn::attention::MultiHeadAttentionConfig`.
#[derive(Config, Debug)]
pub struct MultiHeadAttentionConfig {
    /// Width of input and output.
    pub d_model: usize,
    /// Number of heads; divides `d_model`.
    pub n_heads: usize,
    /// Probability of dropping a score in training.
    #[config(default = 0.1)]
    pub dropout: f64,
    /// The score of a masked position.
    #[config(default = -1.0e4)]
    pub min_float: f64,
    /// Whether a head may attend to nothing (one is added to the softmax's denominator).
    #[config(default = false)]
    pub quiet_softmax: bool,
    /// How parameters are initialised.
    #[config(default = "Initializer::KaimingUniform{gain:1.0/3f64.sqrt(), fan_out_only:false}")]
    pub initializer: Initializer,
}

impl MultiHeadAttentionConfig {
    /// Float layers with fresh parameters, which stay lazy until they are used.
    ///
    /// # Panics
    /// When `n_heads` does not divide `d_model`.
    pub fn init<B: Backend>(&self, device: &B::Device) -> MultiHeadAttention<B> {
        assert!(
            self.n_heads > 0 && self.d_model.is_multiple_of(self.n_heads),
            "{} heads do not divide a width of {}",
            self.n_heads,
            self.d_model
        );
        let linear = || {
            LinearConfig::new(self.d_model, self.d_model)
                .with_initializer(self.initializer.clone())
                .init(device)
        };
        MultiHeadAttention {
            query: linear(),
            key: linear(),
            value: linear(),
            output: linear(),
            dropout: DropoutConfig::new(self.dropout).init(),
            d_model: self.d_model,
            n_heads: self.n_heads,
            d_head: self.d_model / self.n_heads,
            min_float: self.min_float,
            quiet_softmax: self.quiet_softmax,
        }
    }
}

/// Multi-head attention (Vaswani et al. 2017, arXiv 1706.03762) whose inner width
/// `n_heads * d_head` need not be `d_model`.
///
/// To remove a head: remove its `d_head` outputs from `query`, `key` and `value` and its `d_head`
/// inputs from `output`, then lower `n_heads`. Records are those of
/// `burn::nn::attention::MultiHeadAttention`.
#[derive(Debug, Clone)]
pub struct MultiHeadAttention<B: Backend> {
    /// `d_model` to `n_heads * d_head`.
    pub query: Linear<B>,
    /// `d_model` to `n_heads * d_head`.
    pub key: Linear<B>,
    /// `d_model` to `n_heads * d_head`.
    pub value: Linear<B>,
    /// `n_heads * d_head` to `d_model`.
    pub output: Linear<B>,
    /// Drops scores in training.
    pub dropout: Dropout,
    /// Width of input and output.
    pub d_model: usize,
    /// Number of heads.
    pub n_heads: usize,
    /// Width of one head; stays when heads are removed.
    pub d_head: usize,
    /// The score of a masked position.
    pub min_float: f64,
    /// Whether a head may attend to nothing.
    pub quiet_softmax: bool,
}

drop_in_module! {
    MultiHeadAttention, MultiHeadAttentionRecord,
    parameters [query, key, value, output],
    slots [],
    settings [dropout, d_model, n_heads, d_head, min_float, quiet_softmax],
    empty [dropout, activation, d_model, n_heads, d_k, min_float, quiet_softmax],
}

impl<B: Backend> From<burn::nn::attention::MultiHeadAttention<B>> for MultiHeadAttention<B> {
    fn from(layer: burn::nn::attention::MultiHeadAttention<B>) -> Self {
        Self {
            query: layer.query.into(),
            key: layer.key.into(),
            value: layer.value.into(),
            output: layer.output.into(),
            dropout: layer.dropout,
            d_model: layer.d_model,
            n_heads: layer.n_heads,
            d_head: layer.d_k,
            min_float: layer.min_float,
            quiet_softmax: layer.quiet_softmax,
        }
    }
}

/// What attention works on.
#[derive(Debug, Clone)]
pub struct MhaInput<B: Backend> {
    /// `[batch, seq_1, d_model]`.
    pub query: Tensor<B, 3>,
    /// `[batch, seq_2, d_model]`.
    pub key: Tensor<B, 3>,
    /// `[batch, seq_2, d_model]`.
    pub value: Tensor<B, 3>,
    mask_pad: Option<Tensor<B, 2, Bool>>,
    mask_attn: Option<Tensor<B, 3, Bool>>,
}

impl<B: Backend> MhaInput<B> {
    /// Attention of a sequence `[batch, seq, d_model]` to itself.
    pub fn self_attn(tensor: Tensor<B, 3>) -> Self {
        Self::new(tensor.clone(), tensor.clone(), tensor)
    }

    /// Attention of `query` `[batch, seq_1, d_model]` to `key` and `value` `[batch, seq_2, d_model]`.
    pub fn new(query: Tensor<B, 3>, key: Tensor<B, 3>, value: Tensor<B, 3>) -> Self {
        Self { query, key, value, mask_pad: None, mask_attn: None }
    }

    /// Hides padding: true where `[batch, seq_2]` is not to be attended to.
    pub fn mask_pad(mut self, mask: Tensor<B, 2, Bool>) -> Self {
        self.mask_pad = Some(mask);
        self
    }

    /// Hides pairs of positions: true where `[batch, seq_1, seq_2]` is not to be attended to.
    pub fn mask_attn(mut self, mask: Tensor<B, 3, Bool>) -> Self {
        self.mask_attn = Some(mask);
        self
    }
}

/// What attention gives.
#[derive(Debug, Clone)]
pub struct MhaOutput<B: Backend> {
    /// How much each position attends to each other, `[batch, n_heads, seq_1, seq_2]`.
    pub weights: Tensor<B, 4>,
    /// `[batch, seq_1, d_model]`.
    pub context: Tensor<B, 3>,
}

impl<B: Backend> MultiHeadAttention<B> {
    /// Attention weights and output for the given input.
    ///
    /// # Panics
    /// When the shapes of the input do not fit each other or the layer.
    pub fn forward(&self, input: MhaInput<B>) -> MhaOutput<B> {
        let [batch, seq, _] = input.query.dims();
        let query = self.heads(&self.query, input.query);
        let key = self.heads(&self.key, input.key);
        let value = self.heads(&self.value, input.value);
        let scores = query.matmul(key.transpose()).div_scalar((self.d_head as f32).sqrt());
        let scores = self.masked(self.dropout.forward(scores), input.mask_pad, input.mask_attn);
        let weights = if self.quiet_softmax { quiet_softmax(scores, 3) } else { softmax(scores, 3) };
        let context = weights.clone().matmul(value).swap_dims(1, 2);
        let context = context.reshape([batch, seq, self.n_heads * self.d_head]);
        MhaOutput { weights, context: self.output.forward(context) }
    }

    /// `[batch, n_heads, seq, d_head]`.
    fn heads(&self, projection: &Linear<B>, input: Tensor<B, 3>) -> Tensor<B, 4> {
        let [batch, seq, _] = input.dims();
        projection.forward(input).reshape([batch, seq, self.n_heads, self.d_head]).swap_dims(1, 2)
    }

    fn masked(
        &self,
        mut scores: Tensor<B, 4>,
        pad: Option<Tensor<B, 2, Bool>>,
        pairs: Option<Tensor<B, 3, Bool>>,
    ) -> Tensor<B, 4> {
        if let Some(mask) = pad {
            let [batch, seq] = mask.dims();
            scores = scores.mask_fill(mask.reshape([batch, 1, 1, seq]), self.min_float);
        }
        if let Some(mask) = pairs {
            let [batch, seq_1, seq_2] = mask.dims();
            scores = scores.mask_fill(mask.reshape([batch, 1, seq_1, seq_2]), self.min_float);
        }
        scores
    }
}

impl<B: Backend> Compressible<B> for MultiHeadAttention<B> {
    fn layers_mut(&mut self, at: &mut LayerPath, visit: &mut dyn FnMut(&LayerPath, LayerMut<'_, B>)) {
        visit(at, LayerMut::Attention(self));
        let parts = [
            ("query", &mut self.query),
            ("key", &mut self.key),
            ("value", &mut self.value),
            ("output", &mut self.output),
        ];
        for (field, part) in parts {
            at.push(field, field);
            part.layers_mut(at, visit);
            at.pop();
        }
        at.push("n_heads", "n_heads");
        let counts = Counts::Parts { sections: 1 };
        visit(at, LayerMut::Number(Number { value: &mut self.n_heads, layer: "query", counts }));
        at.pop();
    }
}

impl<B: Backend> ModuleDisplay for MultiHeadAttention<B> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        content
            .add("d_model", &self.d_model)
            .add("n_heads", &self.n_heads)
            .add("d_head", &self.d_head)
            .add("dropout", &self.dropout.prob)
            .add("min_float", &self.min_float)
            .add("quiet_softmax", &self.quiet_softmax)
            .optional()
    }
}
