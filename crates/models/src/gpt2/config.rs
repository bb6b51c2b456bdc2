//! `config.json` of a GPT-2 language model.

use crate::activation::Activation;
use crate::config::{Keys, ModelConfig, PretrainedConfig, overlay};
use crate::task::Task;
use serde_json::{Map, Value};

/// What a GPT-2 language model is made of. Names and defaults are those of Hugging Face.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpt2Config {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Most tokens that the model sees at once.
    pub n_positions: usize,
    /// Width of a token's vector.
    pub n_embd: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Heads of each block; they divide `n_embd`.
    pub n_head: usize,
    /// Inner width of the feed-forward blocks.
    pub n_inner: usize,
    /// Activation of the feed-forward blocks.
    pub activation_function: Activation,
    /// Added to the variance in layer normalizations.
    pub layer_norm_epsilon: f64,
    /// Dropout of what is added to the residual stream, while training.
    pub resid_pdrop: f64,
    /// Dropout of the embeddings, while training.
    pub embd_pdrop: f64,
    /// Dropout of attention probabilities, while training.
    pub attn_pdrop: f64,
    /// Whether scores are divided by the square root of a head's width.
    pub scale_attn_weights: bool,
    pub(super) raw: Map<String, Value>,
}

impl Gpt2Config {
    /// Reads the keys; what is wrong is reported there.
    pub(crate) fn read(keys: &mut Keys<'_>) -> Option<Self> {
        check_fixed(keys);
        let (vocab_size, n_embd) = (keys.size("vocab_size"), keys.size("n_embd"));
        let (n_layer, n_head) = (keys.size("n_layer"), keys.size("n_head"));
        let n_positions = keys.size("n_positions");
        let n_inner: Option<usize> = keys.optional("n_inner");
        if n_inner == Some(0) {
            keys.refuse("n_inner", 0, "at least 1");
        }
        if let (Some(heads), Some(width)) = (n_head, n_embd) {
            keys.heads_divide("n_head", heads, width);
        }
        let activation_function = keys.activation("activation_function", Activation::GeluTanh);
        let layer_norm_epsilon = keys.epsilon("layer_norm_epsilon", 1e-5);
        let (resid_pdrop, embd_pdrop) = (keys.probability("resid_pdrop"), keys.probability("embd_pdrop"));
        let attn_pdrop = keys.probability("attn_pdrop");
        let scale_attn_weights = keys.or("scale_attn_weights", true);
        Some(Self {
            vocab_size: vocab_size?,
            n_positions: n_positions?,
            n_embd: n_embd?,
            n_layer: n_layer?,
            n_head: n_head?,
            n_inner: n_inner.unwrap_or(4 * n_embd?),
            activation_function,
            layer_norm_epsilon,
            resid_pdrop,
            embd_pdrop,
            attn_pdrop,
            scale_attn_weights,
            raw: keys.object(),
        })
    }
}

/// Keys that change the computation and of which one value is supported.
fn check_fixed(keys: &mut Keys<'_>) {
    keys.architecture("GPT2LMHeadModel");
    keys.only("add_cross_attention", false);
    keys.only("tie_word_embeddings", true);
    keys.only("scale_attn_by_inverse_layer_idx", false);
    keys.only("reorder_and_upcast_attn", false);
    keys.no_pruned_heads();
}

impl PretrainedConfig for Gpt2Config {
    fn task(&self) -> Task {
        Task::LanguageModel { vocabulary: self.vocab_size, window: self.n_positions }
    }

    fn to_json(&self) -> Value {
        let mut keys: Vec<(&str, Value)> = vec![
            ("n_layer", self.n_layer.into()),
            ("n_embd", self.n_embd.into()),
            ("n_head", self.n_head.into()),
        ];
        let stated = self.raw.get("n_inner").is_some_and(|n| !n.is_null());
        if stated || self.n_inner != 4 * self.n_embd {
            keys.push(("n_inner", self.n_inner.into()));
        }
        overlay(&self.raw, &keys)
    }

    fn pick(config: &ModelConfig) -> Option<&Self> {
        match config {
            ModelConfig::Gpt2(config) => Some(config),
            _ => None,
        }
    }
}
