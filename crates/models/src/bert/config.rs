//! `config.json` of a BERT classifier.

use crate::activation::Activation;
use crate::config::{Keys, ModelConfig, PretrainedConfig, overlay};
use crate::task::Task;
use serde_json::{Map, Value};

/// What a BERT classifier is made of. Names and defaults are those of Hugging Face.
#[derive(Debug, Clone, PartialEq)]
pub struct BertConfig {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width of a token's vector.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Heads of each layer; they divide `hidden_size`.
    pub num_attention_heads: usize,
    /// Inner width of the feed-forward blocks.
    pub intermediate_size: usize,
    /// Most tokens of a text.
    pub max_position_embeddings: usize,
    /// Kinds of segments.
    pub type_vocab_size: usize,
    /// Added to the variance in layer normalizations.
    pub layer_norm_eps: f64,
    /// Activation of the feed-forward blocks.
    pub hidden_act: Activation,
    /// Dropout of hidden states while training.
    pub hidden_dropout_prob: f64,
    /// Dropout of attention probabilities while training.
    pub attention_probs_dropout_prob: f64,
    /// Dropout before the classifier while training.
    pub classifier_dropout: f64,
    /// Number of labels.
    pub num_labels: usize,
    /// Id that fills a batch's shorter rows.
    pub pad_token_id: u32,
    pub(super) raw: Map<String, Value>,
}

impl BertConfig {
    /// Reads the keys; what is wrong is reported there.
    pub(crate) fn read(keys: &mut Keys<'_>) -> Option<Self> {
        check_fixed(keys);
        let (vocab_size, hidden_size) = (keys.size("vocab_size"), keys.size("hidden_size"));
        let (layers, heads) = (keys.size("num_hidden_layers"), keys.size("num_attention_heads"));
        let (intermediate, positions) =
            (keys.size("intermediate_size"), keys.size("max_position_embeddings"));
        let hidden_dropout_prob = keys.probability("hidden_dropout_prob");
        let attention_probs_dropout_prob = keys.probability("attention_probs_dropout_prob");
        let classifier_dropout = match keys.optional::<f64>("classifier_dropout") {
            Some(_) => keys.probability("classifier_dropout"),
            None => hidden_dropout_prob,
        };
        let type_vocab_size = keys.or("type_vocab_size", 2);
        if type_vocab_size == 0 {
            keys.refuse("type_vocab_size", 0, "at least 1");
        }
        let layer_norm_eps = keys.epsilon("layer_norm_eps", 1e-12);
        let hidden_act = keys.activation("hidden_act", Activation::Gelu);
        let num_labels = labels(keys);
        let pad: u64 = keys.or("pad_token_id", 0);
        if vocab_size.is_some_and(|n| pad >= n as u64) {
            keys.refuse("pad_token_id", pad, "below `vocab_size`");
        }
        if let (Some(heads), Some(width)) = (heads, hidden_size) {
            keys.heads_divide("num_attention_heads", heads, width);
        }
        Some(Self {
            vocab_size: vocab_size?,
            hidden_size: hidden_size?,
            num_hidden_layers: layers?,
            num_attention_heads: heads?,
            intermediate_size: intermediate?,
            max_position_embeddings: positions?,
            type_vocab_size,
            layer_norm_eps,
            hidden_act,
            hidden_dropout_prob,
            attention_probs_dropout_prob,
            classifier_dropout,
            num_labels,
            pad_token_id: u32::try_from(pad).ok()?,
            raw: keys.object(),
        })
    }
}

/// Keys that change the computation and of which one value is supported.
fn check_fixed(keys: &mut Keys<'_>) {
    keys.architecture("BertForSequenceClassification");
    keys.only("is_decoder", false);
    keys.only("add_cross_attention", false);
    keys.only("position_embedding_type", "absolute".to_string());
    keys.only("problem_type", "single_label_classification".to_string());
    keys.no_pruned_heads();
}

/// `num_labels`, or the entries of `id2label`, or 2.
fn labels(keys: &mut Keys<'_>) -> usize {
    let named = keys.raw_value("id2label").and_then(Value::as_object).map(Map::len);
    let labels = keys.optional("num_labels").or(named).unwrap_or(2);
    if labels < 2 {
        keys.refuse("num_labels", labels, "at least 2: regression is not supported");
    }
    labels
}

impl PretrainedConfig for BertConfig {
    fn task(&self) -> Task {
        Task::Classification {
            labels: self.num_labels,
            vocabulary: self.vocab_size,
            max_tokens: self.max_position_embeddings,
            pad: self.pad_token_id,
        }
    }

    fn to_json(&self) -> Value {
        let keys = [
            ("num_hidden_layers", self.num_hidden_layers.into()),
            ("hidden_size", self.hidden_size.into()),
            ("num_attention_heads", self.num_attention_heads.into()),
            ("intermediate_size", self.intermediate_size.into()),
        ];
        overlay(&self.raw, &keys)
    }

    fn pick(config: &ModelConfig) -> Option<&Self> {
        match config {
            ModelConfig::Bert(config) => Some(config),
            _ => None,
        }
    }
}
