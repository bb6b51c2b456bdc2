//! What is measured: the real sizes, and tiny ones for a trial.

use crate::forms::Storage;
use serde_json::{Value, json};

/// Sizes of everything.
pub(crate) struct Sizes {
    /// Models and the `[d_input, d_output]` of their linear layers. What is measured last is left out where time ends.
    pub(crate) layers: &'static [(&'static str, &'static [[usize; 2]])],
    /// Rows of the inputs of linear layers.
    pub(crate) rows: &'static [usize],
    /// How weights are kept: their copies are more than caches hold, so that a call finds its weight in memory.
    pub(crate) storage: Storage,
    /// Elements that the copy bandwidth is measured with.
    pub(crate) copied: usize,
    /// Side of the square matrices whose product is the device's best.
    pub(crate) square: usize,
    /// Models, each with its `[batch, seq]`.
    pub(crate) models: Vec<ModelSize>,
    /// The model whose training is timed.
    pub(crate) trained: TrainedSize,
}

/// A model and how it is trained.
#[derive(Clone)]
pub(crate) struct TrainedSize {
    pub(crate) name: &'static str,
    pub(crate) config: Value,
    /// `[batch, seq]`.
    pub(crate) shape: [usize; 2],
    /// Steps that are timed at once.
    pub(crate) steps: usize,
}

/// A model and the inputs it is timed with.
pub(crate) struct ModelSize {
    pub(crate) name: &'static str,
    pub(crate) config: Value,
    pub(crate) shapes: &'static [[usize; 2]],
    /// Whether its forward pass is taken apart as well.
    pub(crate) parts: Option<Encoder>,
}

/// What a layer of an encoder consists of.
#[derive(Clone, Copy)]
pub(crate) struct Encoder {
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) width: usize,
    pub(crate) inner: usize,
}

impl Sizes {
    /// Those of the models in use.
    pub(crate) fn real() -> Self {
        let bert = Encoder { layers: 12, heads: 12, width: 768, inner: 3072 };
        let small = Encoder { layers: 6, heads: 12, width: 384, inner: 1536 };
        Self {
            layers: &[
                ("7B", &[[4096, 4096], [4096, 11008], [11008, 4096]]),
                ("BERT-base", &[[768, 768], [768, 3072], [3072, 768]]),
                ("GPT-2-medium", &[[1024, 1024], [1024, 4096], [4096, 1024]]),
            ],
            rows: &[1, 16, 64, 256, 1024, 4096],
            storage: Storage { group: 128, rotated: 160 << 20 },
            copied: 1 << 28,
            square: 8192,
            models: vec![
                ModelSize {
                    name: "BERT-base",
                    config: bert_config(bert, 30522, 512),
                    shapes: &[[1, 128], [8, 128], [64, 128]],
                    parts: Some(bert),
                },
                ModelSize {
                    name: "GPT-2",
                    config: gpt2_config(
                        Encoder { layers: 12, heads: 12, width: 768, inner: 3072 },
                        50257,
                        1024,
                    ),
                    shapes: &[[1, 512], [8, 512]],
                    parts: None,
                },
            ],
            trained: TrainedSize {
                name: "MiniLM-L6",
                config: bert_config(small, 30522, 512),
                shape: [64, 64],
                steps: 20,
            },
        }
    }

    /// Tiny ones: whether everything runs.
    pub(crate) fn smoke() -> Self {
        let tiny = Encoder { layers: 2, heads: 2, width: 32, inner: 64 };
        Self {
            layers: &[("BERT-base", &[[32, 32], [32, 64]])],
            rows: &[1, 16, 20],
            storage: Storage { group: 16, rotated: 1 << 12 },
            copied: 1 << 12,
            square: 32,
            models: vec![
                ModelSize {
                    name: "BERT-base",
                    config: bert_config(tiny, 50, 16),
                    shapes: &[[1, 8], [2, 8]],
                    parts: Some(tiny),
                },
                ModelSize {
                    name: "GPT-2",
                    config: gpt2_config(tiny, 50, 16),
                    shapes: &[[1, 8]],
                    parts: None,
                },
            ],
            trained: TrainedSize {
                name: "MiniLM-L6",
                config: bert_config(tiny, 50, 16),
                shape: [2, 8],
                steps: 1,
            },
        }
    }
}

fn bert_config(of: Encoder, vocabulary: usize, positions: usize) -> Value {
    json!({
        "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": vocabulary,
        "hidden_size": of.width, "num_hidden_layers": of.layers, "num_attention_heads": of.heads,
        "intermediate_size": of.inner, "max_position_embeddings": positions, "num_labels": 2,
    })
}

fn gpt2_config(of: Encoder, vocabulary: usize, positions: usize) -> Value {
    json!({
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": vocabulary, "n_embd": of.width,
        "n_layer": of.layers, "n_head": of.heads, "n_inner": of.inner, "n_positions": positions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use briquette_models::ModelConfig;

    #[test]
    fn all_models_can_be_built_and_take_their_inputs() {
        for model in Sizes::real().models.iter().chain(&Sizes::smoke().models) {
            let config = ModelConfig::from_json(&model.config).expect("a good configuration");
            for [_, seq] in model.shapes {
                let inputs = briquette_models::Inputs::<burn::backend::Flex>::dummy(
                    &config.task(),
                    1,
                    *seq,
                    &Default::default(),
                );
                assert!(inputs.is_ok(), "{} with {seq} tokens", model.name);
            }
        }
    }

    #[test]
    fn groups_divide_every_layer() {
        for sizes in [Sizes::real(), Sizes::smoke()] {
            let shapes = sizes.layers.iter().flat_map(|(_, shapes)| *shapes);
            assert!(shapes.into_iter().all(|[d_input, _]| d_input % sizes.storage.group == 0));
        }
    }
}
