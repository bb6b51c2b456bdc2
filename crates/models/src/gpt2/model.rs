//! The modules of GPT-2, named as in its checkpoints.

use super::Gpt2Config;
use crate::activation::Activation;
use crate::attention::{Attention, merge_heads, split_heads};
use crate::pretrained::{Pretrained, same_shapes, uniform};
use crate::task::Inputs;
use briquette_checkpoint::Naming;
use briquette_nn::{
    BlockState, Blocks, Compressible, Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear,
    LinearConfig, Recorder, TapShape, Tapped, Taps, Wanted, name_table,
};
use burn::nn::{Dropout, DropoutConfig};
use burn::prelude::*;

/// GPT-2 whose output layer is its word embedding.
#[derive(Module, Debug, Compressible)]
pub struct Gpt2LmHead<B: Backend> {
    /// Everything; the head has no weights of its own.
    pub transformer: Gpt2Model<B>,
}

/// Embeddings, blocks and the last normalization.
#[derive(Module, Debug, Compressible)]
pub struct Gpt2Model<B: Backend> {
    /// Words, `[vocabulary, width]`; the output layer too.
    pub wte: Embedding<B>,
    /// Positions, `[positions, width]`.
    pub wpe: Embedding<B>,
    /// Of the embeddings; acts while training only.
    pub drop: Dropout,
    /// The blocks, from the input on.
    pub h: Vec<Gpt2Block<B>>,
    /// Before the output layer.
    pub ln_f: LayerNorm<B>,
}

/// Attention and feed-forward block, each with normalization before it and residual around both.
#[derive(Module, Debug, Compressible)]
pub struct Gpt2Block<B: Backend> {
    /// Before the attention.
    pub ln_1: LayerNorm<B>,
    /// The attention.
    pub attn: Gpt2Attention<B>,
    /// Before the feed-forward block.
    pub ln_2: LayerNorm<B>,
    /// The feed-forward block.
    pub mlp: Gpt2Mlp<B>,
}

/// Causal self-attention. Its inner width is `n_heads * d_head`, which is the model's width unless heads were removed.
#[derive(Module, Debug, Compressible)]
pub struct Gpt2Attention<B: Backend> {
    /// Queries, keys and values in one: `[width]` to `[3 * n_heads * d_head]`.
    pub c_attn: Linear<B>,
    /// `[n_heads * d_head]` to `[width]`.
    pub c_proj: Linear<B>,
    /// Of the attention probabilities; acts while training only.
    pub attn_dropout: Dropout,
    /// Of the projection; acts while training only.
    pub resid_dropout: Dropout,
    /// Number of heads.
    #[compressible(counts = "c_attn", sections = 3)]
    pub n_heads: usize,
    /// Width of a head; removing heads does not change it.
    #[compressible(skip)]
    pub d_head: usize,
    /// Factor of the scores.
    pub scale: f64,
}

/// The feed-forward block.
#[derive(Module, Debug, Compressible)]
pub struct Gpt2Mlp<B: Backend> {
    /// `[width]` to `[inner]`.
    pub c_fc: Linear<B>,
    /// `[inner]` to `[width]`.
    pub c_proj: Linear<B>,
    /// Of the projection; acts while training only.
    pub dropout: Dropout,
    #[module(skip)]
    #[compressible(skip)]
    activation: Activation,
}

impl<B: Backend> Gpt2LmHead<B> {
    /// Scores `[batch, seq, vocabulary]` of the token that follows each of `ids: [batch, seq]`.
    ///
    /// # Panics
    /// When there are more tokens than positions, or an id is outside of the vocabulary.
    pub fn forward(&self, ids: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        self.run(ids, &mut Recorder::off())
    }

    fn run(&self, ids: Tensor<B, 2, Int>, seen: &mut Recorder<B>) -> Tensor<B, 3> {
        self.transformer.wte.as_linear(self.transformer.forward(ids, seen))
    }
}

impl<B: Backend> Gpt2Model<B> {
    /// `[batch, seq]` -> `[batch, seq, width]`.
    fn forward(&self, ids: Tensor<B, 2, Int>, seen: &mut Recorder<B>) -> Tensor<B, 3> {
        let mut x = self.embed(ids);
        seen.hidden(&x);
        for block in &self.h {
            x = block.forward(x, seen);
            seen.hidden(&x);
        }
        self.ln_f.forward(x)
    }

    fn embed(&self, ids: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        let ([_, seq], device) = (ids.dims(), ids.device());
        let positions = Tensor::arange(0..seq as i64, &device).unsqueeze();
        self.drop.forward(self.wte.forward(ids) + self.wpe.forward(positions))
    }
}

impl<B: Backend> Gpt2Block<B> {
    fn forward(&self, x: Tensor<B, 3>, seen: &mut Recorder<B>) -> Tensor<B, 3> {
        let x = self.attn.forward(self.ln_1.forward(x.clone()), seen) + x;
        self.mlp.forward(self.ln_2.forward(x.clone())) + x
    }
}

impl<B: Backend> Gpt2Attention<B> {
    fn forward(&self, x: Tensor<B, 3>, seen: &mut Recorder<B>) -> Tensor<B, 3> {
        let inner = self.n_heads * self.d_head;
        let [q, k, v] = self
            .c_attn
            .forward(x)
            .split(inner, 2)
            .try_into()
            .expect("`c_attn` has three times the inner width");
        let split = |x| split_heads(x, self.n_heads, self.d_head);
        let (q, k, v) = (split(q), split(k), split(v));
        let attention = Attention { q, k, v, mask: None, causal: true, scale: self.scale };
        let context = merge_heads(attention.forward(&self.attn_dropout, seen));
        self.resid_dropout.forward(self.c_proj.forward(context))
    }
}

impl<B: Backend> Gpt2Mlp<B> {
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let inner = self.c_fc.forward_then(x, self.activation.kernel());
        self.dropout.forward(self.c_proj.forward(inner))
    }
}

impl Gpt2Config {
    fn block<B: Backend>(&self, device: &B::Device) -> Gpt2Block<B> {
        let (width, d_head) = (self.n_embd, self.n_embd / self.n_head);
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        let scale = if self.scale_attn_weights { (d_head as f64).powf(-0.5) } else { 1.0 };
        Gpt2Block {
            ln_1: self.norm(device),
            attn: Gpt2Attention {
                c_attn: linear(width, 3 * width),
                c_proj: linear(width, width),
                attn_dropout: DropoutConfig::new(self.attn_pdrop).init(),
                resid_dropout: DropoutConfig::new(self.resid_pdrop).init(),
                n_heads: self.n_head,
                d_head,
                scale,
            },
            ln_2: self.norm(device),
            mlp: Gpt2Mlp {
                c_fc: linear(width, self.n_inner),
                c_proj: linear(self.n_inner, width),
                dropout: DropoutConfig::new(self.resid_pdrop).init(),
                activation: self.activation_function,
            },
        }
    }

    fn norm<B: Backend>(&self, device: &B::Device) -> LayerNorm<B> {
        LayerNormConfig::new(self.n_embd).with_epsilon(self.layer_norm_epsilon).init(device)
    }
}

/// The name of a tensor in files written with and without the language-model head.
fn current(name: &str) -> String {
    let known = ["transformer.", "lm_head."].iter().any(|prefix| name.starts_with(prefix));
    if known { name.to_string() } else { format!("transformer.{name}") }
}

/// The tied head, and the causal masks that old files hold.
fn ignorable(name: &str) -> bool {
    name == "lm_head.weight" || name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
}

impl<B: Backend> Pretrained<B> for Gpt2LmHead<B> {
    type Config = Gpt2Config;

    fn init(config: &Gpt2Config, device: &B::Device) -> Self {
        let table = |n| EmbeddingConfig::new(n, config.n_embd).init(device);
        Self {
            transformer: Gpt2Model {
                wte: table(config.vocab_size),
                wpe: table(config.n_positions),
                drop: DropoutConfig::new(config.embd_pdrop).init(),
                h: (0..config.n_layer).map(|_| config.block(device)).collect(),
                ln_f: config.norm(device),
            },
        }
    }

    fn naming(&self) -> Naming {
        let mut layers = name_table(self);
        layers.tie("transformer.wte", "lm_head");
        Naming {
            input_major: |site| site.contains(".attn.c_") || site.contains(".mlp.c_"),
            current,
            ignorable,
            ..Naming::new(layers)
        }
    }

    fn config_now(&self, config: &Gpt2Config) -> Gpt2Config {
        let blocks = &self.transformer.h;
        let inner = uniform(blocks.iter().map(|block| block.mlp.c_fc.shape()[0]));
        let now =
            Gpt2Config { n_layer: blocks.len(), n_inner: inner.unwrap_or(config.n_inner), ..config.clone() };
        // A head's width is the model's by the number of heads: removed heads or entries can be stated only where both
        // fit.
        let heads = uniform(blocks.iter().map(|block| block.attn.n_heads));
        let width = self.transformer.wte.shape()[1];
        let Some(heads) = heads.filter(|h| blocks.iter().all(|b| b.attn.d_head * h == width)) else {
            return now;
        };
        let narrow = Gpt2Config { n_embd: width, n_head: heads, ..now.clone() };
        let device = self.devices().into_iter().next().unwrap_or_default();
        if same_shapes(self, &Self::init(&narrow, &device)) { narrow } else { now }
    }

    fn without_dropout(mut self) -> Self {
        let blocks = self.transformer.h.iter_mut().flat_map(|block| {
            let attention = &mut block.attn;
            [&mut attention.attn_dropout, &mut attention.resid_dropout, &mut block.mlp.dropout]
        });
        blocks.chain([&mut self.transformer.drop]).for_each(|dropout| dropout.prob = 0.0);
        self
    }
}

/// Ids of inputs for GPT-2. Its windows have no padding.
fn tokens<B: Backend>(inputs: Inputs<B>) -> Tensor<B, 2, Int> {
    match inputs {
        Inputs::Tokens { ids, .. } => ids,
        Inputs::Images(_) => panic!("GPT-2 reads tokens, not images"),
    }
}

/// Hidden states are those of the residual stream: the last one is not yet normalized.
impl<B: Backend> Tapped<B> for Gpt2LmHead<B> {
    type Input = Inputs<B>;

    fn tapped(&self, inputs: Inputs<B>, wanted: Wanted) -> Taps<B> {
        let mut seen = Recorder::new(wanted);
        let logits = self.run(tokens(inputs), &mut seen);
        let [batch, seq, vocabulary] = logits.dims();
        seen.finish(logits.reshape([batch * seq, vocabulary]))
    }

    fn tap_shape(&self) -> TapShape {
        let [classes, width] = self.transformer.wte.shape();
        let blocks = &self.transformer.h;
        let widths = blocks.iter().map(|block| block.mlp.c_proj.shape()[0]);
        TapShape {
            classes,
            hidden: [width].into_iter().chain(widths).collect(),
            positions: vec![1; blocks.len() + 1],
            heads: blocks.iter().map(|block| block.attn.n_heads).collect(),
        }
    }
}

impl<B: Backend> Blocks<B> for Gpt2LmHead<B> {
    type Input = Inputs<B>;

    fn enter(&self, inputs: Inputs<B>) -> BlockState<B> {
        BlockState { hidden: self.transformer.embed(tokens(inputs)), mask: None }
    }

    fn num_blocks(&self) -> usize {
        self.transformer.h.len()
    }

    fn block_path(&self, index: usize) -> String {
        format!("transformer.h.{index}")
    }

    fn block(&self, index: usize, state: &BlockState<B>) -> Tensor<B, 3> {
        self.transformer.h[index].forward(state.hidden.clone(), &mut Recorder::off())
    }
}
