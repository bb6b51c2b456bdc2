//! The modules of BERT, named as in its checkpoints.

use super::BertConfig;
use crate::activation::Activation;
use crate::attention::{Attention, merge_heads, padding_mask, split_heads};
use crate::pretrained::{Pretrained, same_shapes, uniform};
use crate::task::Inputs;
use briquette_checkpoint::Naming;
use briquette_kernels::rows_at_once;
use briquette_nn::{
    BlockState, Blocks, Compressible, Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear,
    LinearConfig, Recorder, TapShape, Tapped, Taps, Wanted, name_table,
};
use burn::nn::{Dropout, DropoutConfig};
use burn::prelude::*;
use burn::tensor::activation::tanh;

/// BERT with a classifier on the pooled first token.
#[derive(Module, Debug, Compressible)]
pub struct BertForSequenceClassification<B: Backend> {
    /// The encoder.
    pub bert: BertModel<B>,
    /// Before the classifier; acts while training only.
    pub dropout: Dropout,
    /// `[hidden]` to `[labels]`.
    pub classifier: Linear<B>,
}

/// Embeddings, encoder and pooler.
#[derive(Module, Debug, Compressible)]
pub struct BertModel<B: Backend> {
    /// Tokens to vectors.
    pub embeddings: BertEmbeddings<B>,
    /// The layers.
    pub encoder: BertEncoder<B>,
    /// The first token's vector to that of the text.
    pub pooler: BertPooler<B>,
}

/// Sum of word, position and segment vectors.
#[derive(Module, Debug, Compressible)]
pub struct BertEmbeddings<B: Backend> {
    /// `[vocabulary, hidden]`.
    pub word_embeddings: Embedding<B>,
    /// `[positions, hidden]`.
    pub position_embeddings: Embedding<B>,
    /// `[segments, hidden]`; a single text is segment 0.
    pub token_type_embeddings: Embedding<B>,
    /// Over the sum.
    #[compressible(name = "LayerNorm")]
    pub layer_norm: LayerNorm<B>,
    /// Acts while training only.
    pub dropout: Dropout,
}

/// The layers.
#[derive(Module, Debug, Compressible)]
pub struct BertEncoder<B: Backend> {
    /// From the input on.
    pub layer: Vec<BertLayer<B>>,
}

/// Attention and feed-forward block, each with residual and normalization after it.
#[derive(Module, Debug, Compressible)]
pub struct BertLayer<B: Backend> {
    /// The attention block.
    pub attention: BertAttention<B>,
    /// First half of the feed-forward block.
    pub intermediate: BertIntermediate<B>,
    /// Second half of the feed-forward block.
    pub output: BertOutput<B>,
}

/// Self-attention and its output projection.
#[derive(Module, Debug, Compressible)]
pub struct BertAttention<B: Backend> {
    /// Scores and weighted sums.
    pub self_: BertSelfAttention<B>,
    /// Projection, residual, normalization.
    pub output: BertOutput<B>,
}

/// Multi-head self-attention without its output projection. Its inner width is `n_heads * d_head`, which is the
/// hidden size unless heads were removed.
#[derive(Module, Debug, Compressible)]
pub struct BertSelfAttention<B: Backend> {
    /// `[hidden]` to `[n_heads * d_head]`.
    pub query: Linear<B>,
    /// `[hidden]` to `[n_heads * d_head]`.
    pub key: Linear<B>,
    /// `[hidden]` to `[n_heads * d_head]`.
    pub value: Linear<B>,
    /// Of the attention probabilities; acts while training only.
    pub dropout: Dropout,
    /// Number of heads.
    #[compressible(counts = "query")]
    pub n_heads: usize,
    /// Width of a head; removing heads does not change it.
    #[compressible(skip)]
    pub d_head: usize,
}

/// First half of the feed-forward block.
#[derive(Module, Debug, Compressible)]
pub struct BertIntermediate<B: Backend> {
    /// `[hidden]` to `[intermediate]`.
    pub dense: Linear<B>,
    #[module(skip)]
    #[compressible(skip)]
    activation: Activation,
}

/// A projection to the hidden size, then `LayerNorm(residual + projected)`.
#[derive(Module, Debug, Compressible)]
pub struct BertOutput<B: Backend> {
    /// `[inner width]` to `[hidden]`.
    pub dense: Linear<B>,
    /// Over the sum.
    #[compressible(name = "LayerNorm")]
    pub layer_norm: LayerNorm<B>,
    /// Of the projection; acts while training only.
    pub dropout: Dropout,
}

/// The first token's vector to that of the text.
#[derive(Module, Debug, Compressible)]
pub struct BertPooler<B: Backend> {
    /// `[hidden]` to `[hidden]`.
    pub dense: Linear<B>,
}

impl<B: Backend> BertForSequenceClassification<B> {
    /// Scores `[batch, labels]` for token ids `[batch, seq]`; `mask: [batch, seq]` is 1 for a token and 0 for
    /// padding, `None` for no padding.
    ///
    /// # Panics
    /// When there are more tokens than positions, or an id is outside of the vocabulary.
    pub fn forward(&self, ids: Tensor<B, 2, Int>, mask: Option<Tensor<B, 2, Int>>) -> Tensor<B, 2> {
        let [texts, seq] = ids.dims();
        let at_once = self.texts_at_once(seq, &ids.device());
        if texts <= at_once {
            return self.run(ids, mask, &mut Recorder::off());
        }
        let masks = mask.map(|mask| mask.split(at_once, 0));
        let parts = ids.split(at_once, 0).into_iter().enumerate().map(|(i, ids)| {
            let mask = masks.as_ref().map(|masks| masks[i].clone());
            self.run(ids, mask, &mut Recorder::off())
        });
        Tensor::cat(parts.collect(), 0)
    }

    /// Texts of `seq` tokens whose way through all layers is best gone together: all of them, unless the weights are
    /// packed and the backend would rather have fewer.
    fn texts_at_once(&self, seq: usize, device: &B::Device) -> usize {
        let packed = self.bert.encoder.layer.iter().all(|layer| layer.intermediate.dense.packed().is_some());
        let rows = rows_at_once::<B>().filter(|_| packed && !B::ad_enabled(device));
        rows.map_or(usize::MAX, |rows| (rows / seq.max(1)).max(1))
    }

    fn run(
        &self,
        ids: Tensor<B, 2, Int>,
        mask: Option<Tensor<B, 2, Int>>,
        seen: &mut Recorder<B>,
    ) -> Tensor<B, 2> {
        let pooled = self.bert.forward(ids, mask, seen);
        self.classifier.forward(self.dropout.forward(pooled))
    }
}

impl<B: Backend> BertModel<B> {
    /// One vector per text, `[batch, hidden]`.
    fn forward(
        &self,
        ids: Tensor<B, 2, Int>,
        mask: Option<Tensor<B, 2, Int>>,
        seen: &mut Recorder<B>,
    ) -> Tensor<B, 2> {
        let BlockState { hidden: mut x, mask } = self.enter(ids, mask);
        seen.hidden(&x);
        for layer in &self.encoder.layer {
            x = layer.forward(x, mask.clone(), seen);
            seen.hidden(&x);
        }
        self.pooler.forward(x)
    }

    fn enter(&self, ids: Tensor<B, 2, Int>, mask: Option<Tensor<B, 2, Int>>) -> BlockState<B> {
        BlockState { hidden: self.embeddings.forward(ids), mask: mask.map(padding_mask) }
    }
}

impl<B: Backend> BertEmbeddings<B> {
    fn forward(&self, ids: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        let ([_, seq], device) = (ids.dims(), ids.device());
        let positions = Tensor::arange(0..seq as i64, &device).unsqueeze();
        let segment = Tensor::zeros([1, 1], &device);
        // One row each, added to all texts: cheaper than vectors per text.
        let fixed = self.position_embeddings.forward(positions) + self.token_type_embeddings.forward(segment);
        self.dropout.forward(self.layer_norm.forward_sum(self.word_embeddings.forward(ids), fixed))
    }
}

impl<B: Backend> BertLayer<B> {
    fn forward(&self, x: Tensor<B, 3>, mask: Option<Tensor<B, 4>>, seen: &mut Recorder<B>) -> Tensor<B, 3> {
        let context = self.attention.self_.forward(x.clone(), mask, seen);
        let x = self.attention.output.forward(context, x);
        let inner = self.intermediate.dense.forward_then(x.clone(), self.intermediate.activation.kernel());
        self.output.forward(inner, x)
    }
}

impl<B: Backend> BertSelfAttention<B> {
    /// `[batch, seq, hidden]` -> `[batch, seq, n_heads * d_head]`.
    fn forward(&self, x: Tensor<B, 3>, mask: Option<Tensor<B, 4>>, seen: &mut Recorder<B>) -> Tensor<B, 3> {
        let split = |x| split_heads(x, self.n_heads, self.d_head);
        let [q, k, v] = Linear::forward_all([&self.query, &self.key, &self.value], x).map(split);
        let scale = (self.d_head as f64).powf(-0.5);
        let attention = Attention { q, k, v, mask, causal: false, scale };
        merge_heads(attention.forward(&self.dropout, seen))
    }
}

impl<B: Backend> BertOutput<B> {
    fn forward(&self, x: Tensor<B, 3>, residual: Tensor<B, 3>) -> Tensor<B, 3> {
        self.layer_norm.forward_sum(self.dropout.forward(self.dense.forward(x)), residual)
    }
}

impl<B: Backend> BertPooler<B> {
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 2> {
        let [batch, _, width] = x.dims();
        let first = x.slice([0..batch, 0..1, 0..width]).reshape([batch, width]);
        tanh(self.dense.forward(first))
    }
}

impl BertConfig {
    fn layer<B: Backend>(&self, device: &B::Device) -> BertLayer<B> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let square = || LinearConfig::new(hidden, hidden).init(device);
        BertLayer {
            attention: BertAttention {
                self_: BertSelfAttention {
                    query: square(),
                    key: square(),
                    value: square(),
                    dropout: DropoutConfig::new(self.attention_probs_dropout_prob).init(),
                    n_heads: self.num_attention_heads,
                    d_head: hidden / self.num_attention_heads,
                },
                output: self.output(hidden, device),
            },
            intermediate: BertIntermediate {
                dense: LinearConfig::new(hidden, inner).init(device),
                activation: self.hidden_act,
            },
            output: self.output(inner, device),
        }
    }

    fn output<B: Backend>(&self, inner: usize, device: &B::Device) -> BertOutput<B> {
        BertOutput {
            dense: LinearConfig::new(inner, self.hidden_size).init(device),
            layer_norm: self.norm(device),
            dropout: DropoutConfig::new(self.hidden_dropout_prob).init(),
        }
    }

    fn norm<B: Backend>(&self, device: &B::Device) -> LayerNorm<B> {
        LayerNormConfig::new(self.hidden_size).with_epsilon(self.layer_norm_eps).init(device)
    }

    fn embeddings<B: Backend>(&self, device: &B::Device) -> BertEmbeddings<B> {
        let table = |n| EmbeddingConfig::new(n, self.hidden_size).init(device);
        BertEmbeddings {
            word_embeddings: table(self.vocab_size),
            position_embeddings: table(self.max_position_embeddings),
            token_type_embeddings: table(self.type_vocab_size),
            layer_norm: self.norm(device),
            dropout: DropoutConfig::new(self.hidden_dropout_prob).init(),
        }
    }
}

impl<B: Backend> Pretrained<B> for BertForSequenceClassification<B> {
    type Config = BertConfig;

    fn init(config: &BertConfig, device: &B::Device) -> Self {
        let hidden = config.hidden_size;
        let layer = (0..config.num_hidden_layers).map(|_| config.layer(device)).collect();
        Self {
            bert: BertModel {
                embeddings: config.embeddings(device),
                encoder: BertEncoder { layer },
                pooler: BertPooler { dense: LinearConfig::new(hidden, hidden).init(device) },
            },
            dropout: DropoutConfig::new(config.classifier_dropout).init(),
            classifier: LinearConfig::new(hidden, config.num_labels).init(device),
        }
    }

    fn naming(&self) -> Naming {
        Naming {
            // Files converted from TensorFlow say `gamma` and `beta`.
            current: |name| match name.rsplit_once('.') {
                Some((layer, "gamma")) => format!("{layer}.weight"),
                Some((layer, "beta")) => format!("{layer}.bias"),
                _ => name.to_string(),
            },
            ignorable: |name| name == "bert.embeddings.position_ids",
            ..Naming::new(name_table(self))
        }
    }

    fn config_now(&self, config: &BertConfig) -> BertConfig {
        let layers = &self.bert.encoder.layer;
        let inner = uniform(layers.iter().map(|layer| layer.intermediate.dense.shape()[0]));
        let now = BertConfig {
            num_hidden_layers: layers.len(),
            intermediate_size: inner.unwrap_or(config.intermediate_size),
            ..config.clone()
        };
        // A head's width is the hidden size by the number of heads: removed heads or entries can be stated only where
        // both fit.
        let attention = |layer: &BertLayer<B>| (layer.attention.self_.n_heads, layer.attention.self_.d_head);
        let heads = uniform(layers.iter().map(|layer| attention(layer).0));
        let width = self.bert.embeddings.word_embeddings.shape()[1];
        let Some(heads) = heads.filter(|h| layers.iter().all(|l| attention(l).1 * h == width)) else {
            return now;
        };
        let narrow = BertConfig { hidden_size: width, num_attention_heads: heads, ..now.clone() };
        let device = self.devices().into_iter().next().unwrap_or_default();
        if same_shapes(self, &Self::init(&narrow, &device)) { narrow } else { now }
    }

    fn without_dropout(mut self) -> Self {
        let layers = self.bert.encoder.layer.iter_mut().flat_map(|layer| {
            let attention = &mut layer.attention;
            [&mut attention.self_.dropout, &mut attention.output.dropout, &mut layer.output.dropout]
        });
        layers
            .chain([&mut self.bert.embeddings.dropout, &mut self.dropout])
            .for_each(|dropout| dropout.prob = 0.0);
        self
    }
}

/// Ids and mask of inputs for BERT.
fn tokens<B: Backend>(inputs: Inputs<B>) -> (Tensor<B, 2, Int>, Option<Tensor<B, 2, Int>>) {
    match inputs {
        Inputs::Tokens { ids, mask } => (ids, mask),
        Inputs::Images(_) => panic!("BERT reads tokens, not images"),
    }
}

impl<B: Backend> Tapped<B> for BertForSequenceClassification<B> {
    type Input = Inputs<B>;

    fn tapped(&self, inputs: Inputs<B>, wanted: Wanted) -> Taps<B> {
        let (ids, mask) = tokens(inputs);
        let mut seen = Recorder::new(wanted);
        let logits = self.run(ids, mask, &mut seen);
        seen.finish(logits)
    }

    fn tap_shape(&self) -> TapShape {
        let layers = &self.bert.encoder.layer;
        let blocks = layers.iter().map(|layer| layer.output.dense.shape()[0]);
        TapShape {
            classes: self.classifier.shape()[0],
            hidden: [self.bert.embeddings.word_embeddings.shape()[1]].into_iter().chain(blocks).collect(),
            positions: vec![1; layers.len() + 1],
            heads: layers.iter().map(|layer| layer.attention.self_.n_heads).collect(),
        }
    }
}

impl<B: Backend> Blocks<B> for BertForSequenceClassification<B> {
    type Input = Inputs<B>;

    fn enter(&self, inputs: Inputs<B>) -> BlockState<B> {
        let (ids, mask) = tokens(inputs);
        self.bert.enter(ids, mask)
    }

    fn num_blocks(&self) -> usize {
        self.bert.encoder.layer.len()
    }

    fn block_path(&self, index: usize) -> String {
        format!("bert.encoder.layer.{index}")
    }

    fn block(&self, index: usize, state: &BlockState<B>) -> Tensor<B, 3> {
        let layer = &self.bert.encoder.layer[index];
        layer.forward(state.hidden.clone(), state.mask.clone(), &mut Recorder::off())
    }
}
