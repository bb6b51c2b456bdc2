//! The models, with their groups.

use briquette_core::{Dependencies, ModelView, materialize};
use briquette_graph::{Tracing, trace};
use briquette_models::bert::BertForSequenceClassification;
use briquette_models::gpt2::Gpt2LmHead;
use briquette_models::resnet::CifarResNet;
use briquette_models::{Inputs, ModelConfig, ModelJob, Pretrained, PretrainedConfig};
use briquette_nn::{
    Compressible, Conv2d, Conv2dConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig, PaddingConfig2d,
    model_view, name_table,
};
use burn::module::{ModuleMapper, Param};
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::prelude::*;
use burn::tensor::activation::{relu, softmax};
use serde_json::{Value, json};

/// A model of one of the known architectures, what it needs to run, and its groups.
pub(crate) struct Known<B: Backend, M: Pretrained<B>> {
    pub(crate) config: M::Config,
    pub(crate) model: M,
    pub(crate) inputs: Inputs<B>,
    pub(crate) groups: Dependencies,
}

impl<B: Backend, M: Pretrained<B>> Known<B, M> {
    fn new(json: &Value, seq: usize) -> Self {
        let any = ModelConfig::from_json(json).unwrap();
        let config = M::Config::pick(&any).unwrap().clone();
        let device = Default::default();
        let model = uneven(M::init(&config, &device));
        let inputs = Inputs::dummy(&config.task(), 2, seq, &device).unwrap();
        Self { config, model, inputs, groups: any.run(Find) }
    }
}

/// Traces a model of a known architecture.
struct Find;

impl ModelJob<Tracing> for Find {
    type Output = Dependencies;

    fn run<M: Pretrained<Tracing>>(self, config: &M::Config) -> Dependencies {
        let device = Default::default();
        let model = M::init(config, &device);
        let inputs = Inputs::dummy(&config.task(), 2, 3, &device).unwrap();
        let trace = trace(&model, &model.naming().layers, inputs, |m, inputs| m.logits(inputs));
        trace.unwrap().dependencies()
    }
}

/// Traces a model that derives its names.
fn found<M: Module<Tracing> + Compressible<Tracing>, const D: usize>(
    model: &M,
    shape: [usize; D],
    forward: impl FnOnce(&M, Tensor<Tracing, D>) -> Tensor<Tracing, 2>,
) -> Dependencies {
    let input = Tensor::zeros(shape, &Default::default());
    trace(model, &name_table(model), input, forward).unwrap().dependencies()
}

/// The model with vectors from a formula, so that no scale is 1 and no bias 0; variances stay positive.
fn uneven<B: Backend, M: Module<B>>(model: M) -> M {
    struct Fill(usize);
    impl<B: Backend> ModuleMapper<B> for Fill {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            self.0 += 7;
            let offset = self.0;
            match D {
                1 => param.map(|t| {
                    let trained = t.is_require_grad();
                    vector(t.shape().num_elements(), offset, &t.device())
                        .reshape(t.dims())
                        .set_require_grad(trained)
                }),
                _ => param,
            }
        }
    }
    materialize(&model);
    model.map(&mut Fill(0))
}

fn vector<B: Backend>(length: usize, offset: usize, device: &B::Device) -> Tensor<B, 1> {
    let values: Vec<f32> = (0..length).map(|i| 0.6 + 0.5 * ((i * 3 + offset) as f32).sin()).collect();
    Tensor::from_data(TensorData::new(values, [length]), device)
}

pub(crate) const LAYERS: usize = 2;

pub(crate) fn bert<B: Backend>() -> Known<B, BertForSequenceClassification<B>> {
    let json = json!({
        "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 30,
        "hidden_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 12,
        "intermediate_size": 40, "max_position_embeddings": 16
    });
    Known::new(&json, 7)
}

pub(crate) fn gpt2<B: Backend>() -> Known<B, Gpt2LmHead<B>> {
    let json = json!({
        "model_type": "gpt2", "vocab_size": 30, "n_positions": 16, "n_embd": 48, "n_layer": LAYERS, "n_head": 12
    });
    Known::new(&json, 7)
}

pub(crate) fn resnet<B: Backend>() -> Known<B, CifarResNet<B>> {
    let json = json!({
        "model_type": "cifar-resnet", "depth": 20, "num_classes": 10,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]
    });
    Known::new(&json, 1)
}

/// Attention in which several heads of queries share one of keys and values (Ainslie et al. 2023, arXiv 2305.13245),
/// with a residual and a gated feed-forward block (Shazeer 2020, arXiv 2002.05202).
#[derive(Module, Debug, Compressible)]
pub(crate) struct GroupedQuery<B: Backend> {
    norm: LayerNorm<B>,
    query: Linear<B>,
    key: Linear<B>,
    value: Linear<B>,
    output: Linear<B>,
    gate: Linear<B>,
    up: Linear<B>,
    down: Linear<B>,
    #[compressible(counts = "query")]
    pub(crate) n_heads: usize,
    #[compressible(counts = "key")]
    pub(crate) n_key_value_heads: usize,
    #[compressible(skip)]
    d_head: usize,
}

impl<B: Backend> GroupedQuery<B> {
    /// Width 24, 6 heads of 4, of which 2 each share keys and values.
    pub(crate) fn new() -> Self {
        let device = Default::default();
        let linear = |from, to| LinearConfig::new(from, to).init(&device);
        uneven(Self {
            norm: LayerNormConfig::new(24).init(&device),
            query: linear(24, 24),
            key: linear(24, 12),
            value: linear(24, 12),
            output: linear(24, 24),
            gate: linear(24, 32),
            up: linear(24, 32),
            down: linear(32, 5),
            n_heads: 6,
            n_key_value_heads: 3,
            d_head: 4,
        })
    }

    /// `[batch, seq, 24]` to `[batch * seq, 5]`.
    pub(crate) fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 2> {
        let [batch, seq, _] = x.dims();
        let inner = self.norm.forward(x.clone());
        let split = |y: Tensor<B, 3>, heads| y.reshape([batch, seq, heads, self.d_head]).swap_dims(1, 2);
        let each = self.n_heads / self.n_key_value_heads;
        let shared = |y: Tensor<B, 3>| {
            let y: Tensor<B, 4> = split(y, self.n_key_value_heads);
            let y = y.unsqueeze_dim::<5>(2).repeat_dim(2, each);
            y.reshape([batch, self.n_heads, seq, self.d_head])
        };
        let q: Tensor<B, 4> = split(self.query.forward(inner.clone()), self.n_heads);
        let (k, v) = (shared(self.key.forward(inner.clone())), shared(self.value.forward(inner)));
        let scores = softmax(q.matmul(k.swap_dims(2, 3)) * 0.5, 3);
        let context = scores.matmul(v).swap_dims(1, 2).reshape([batch, seq, self.n_heads * self.d_head]);
        let x = x + self.output.forward(context);
        let gated = relu(self.gate.forward(x.clone())) * self.up.forward(x);
        self.down.forward(gated).reshape([batch * seq, 5])
    }

    pub(crate) fn groups() -> Dependencies {
        found(&GroupedQuery::<Tracing>::new(), [2, 3, 24], GroupedQuery::forward)
    }

    pub(crate) fn view(&self) -> ModelView {
        model_view(self)
    }
}

/// Two branches that are concatenated, a depthwise convolution with a residual around it, and a linear layer that
/// reads the channels pixel by pixel.
#[derive(Module, Debug, Compressible)]
pub(crate) struct Concat<B: Backend> {
    left: Conv2d<B>,
    left_norm: BatchNorm<B>,
    right: Conv2d<B>,
    pub(crate) depthwise: Conv2d<B>,
    norm: BatchNorm<B>,
    last: Conv2d<B>,
    head: Linear<B>,
}

impl<B: Backend> Concat<B> {
    pub(crate) fn new() -> Self {
        let device = Default::default();
        let conv = |from, to, groups| {
            Conv2dConfig::new([from, to], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_groups(groups)
                .init(&device)
        };
        uneven(Self {
            left: conv(3, 6, 1),
            left_norm: BatchNormConfig::new(6).init(&device),
            right: conv(3, 4, 1),
            depthwise: conv(10, 10, 10),
            norm: BatchNormConfig::new(10).init(&device),
            last: conv(10, 8, 1),
            head: LinearConfig::new(8 * 36, 5).init(&device),
        })
    }

    /// `[batch, 3, 6, 6]` to `[batch, 5]`.
    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 2> {
        let left = relu(self.left_norm.forward(self.left.forward(x.clone())));
        let x = Tensor::cat(vec![left, relu(self.right.forward(x))], 1);
        let x = relu(self.norm.forward(self.depthwise.forward(x.clone())) + x);
        self.head.forward(relu(self.last.forward(x)).flatten(1, 3))
    }

    pub(crate) fn groups() -> Dependencies {
        found(&Concat::<Tracing>::new(), [2, 3, 6, 6], Concat::forward)
    }

    pub(crate) fn view(&self) -> ModelView {
        model_view(self)
    }
}
