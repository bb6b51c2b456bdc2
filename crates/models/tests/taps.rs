//! What models show of their inside, and models run block by block.
#![allow(clippy::unwrap_used)]

mod common;

use briquette_core::host_floats;
use briquette_models::bert::BertForSequenceClassification;
use briquette_models::gpt2::Gpt2LmHead;
use briquette_models::resnet::CifarResNet;
use briquette_models::{BlocksJob, Inputs, ModelConfig, ModelJob, Pretrained, PretrainedConfig, Task};
use briquette_nn::{BlockState, Blocks, TapShape, Tapped, Taps, Wanted};
use burn::backend::{Autodiff, Flex};
use burn::module::{AutodiffModule, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::prelude::*;
use burn::tensor::activation::softmax;
use common::max_difference;
use serde_json::json;

type A = Autodiff<Flex>;

const ALL: Wanted = Wanted { hidden: true, scores: true, values: true };
const BATCH: usize = 3;
const SEQ: usize = 5;

fn configs() -> [ModelConfig; 3] {
    [
        json!({
            "model_type": "bert", "vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 3,
            "num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 10, "num_labels": 3
        }),
        json!({"model_type": "gpt2", "vocab_size": 20, "n_positions": 6, "n_embd": 8, "n_layer": 3, "n_head": 2}),
        json!({
            "model_type": "cifar-resnet", "depth": 8, "num_classes": 10, "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.25, 0.25, 0.25]
        }),
    ]
    .map(|json| ModelConfig::from_json(&json).unwrap())
}

/// Inputs of the task; texts have padding.
fn inputs<B: Backend>(task: &Task) -> Inputs<B> {
    let device = Default::default();
    let inputs = Inputs::dummy(task, BATCH, SEQ, &device).unwrap();
    match (task, inputs) {
        (Task::Classification { .. }, Inputs::Tokens { ids, .. }) => {
            let mask = Tensor::from_data([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], &device);
            Inputs::Tokens { ids, mask: Some(mask) }
        }
        (_, inputs) => inputs,
    }
}

fn shown<B: Backend>(taps: &Taps<B>) -> (usize, usize, usize) {
    (taps.hidden.len(), taps.scores.len(), taps.values.len())
}

/// Logits and sizes of what each model shows when all is wanted and when one thing is.
struct Shows;

impl<B: Backend> ModelJob<B> for Shows {
    type Output = ();

    fn run<M: Pretrained<B>>(self, config: &M::Config) {
        let model = M::init(config, &Default::default()).without_dropout();
        let shape = model.tap_shape();
        let inputs = || inputs::<B>(&config.task());
        let plain = host_floats(model.logits(inputs()));
        assert_eq!(shown(&model.tapped(inputs(), Wanted::default())), (0, 0, 0));
        let (hidden, attended) = (shape.blocks() + 1, shape.heads.len());
        for (wanted, counts) in [
            (ALL, (hidden, attended, attended)),
            (Wanted { hidden: true, ..Wanted::default() }, (hidden, 0, 0)),
            (Wanted { scores: true, ..Wanted::default() }, (0, attended, 0)),
            (Wanted { values: true, ..Wanted::default() }, (0, 0, attended)),
        ] {
            let taps = model.tapped(inputs(), wanted);
            assert_eq!(shown(&taps), counts, "{wanted:?}");
            assert!(max_difference(&host_floats(taps.logits), &plain) <= 1e-5, "{wanted:?}");
        }
        check_sizes(&model.tapped(inputs(), ALL), &shape);
    }
}

fn check_sizes<B: Backend>(taps: &Taps<B>, shape: &TapShape) {
    assert_eq!(taps.logits.dims()[1], shape.classes);
    let widths: Vec<usize> = taps.hidden.iter().map(|x| x.dims()[2]).collect();
    assert_eq!(widths, shape.hidden);
    let rows = taps.hidden[0].dims()[1];
    for (x, positions) in taps.hidden.iter().zip(&shape.positions) {
        assert_eq!(x.dims()[..2], [BATCH, rows / positions]);
    }
    for ((scores, values), heads) in taps.scores.iter().zip(&taps.values).zip(&shape.heads) {
        assert_eq!(scores.dims(), [BATCH, *heads, SEQ, SEQ]);
        assert_eq!(values.dims(), [BATCH, *heads, SEQ, 4]);
    }
}

#[test]
fn logits_stay_the_same_whatever_is_shown() {
    for config in configs() {
        config.run::<Flex, _>(Shows);
        config.run::<A, _>(Shows);
    }
}

#[test]
fn shapes_are_known_before_anything_is_computed() {
    struct Shape;
    impl ModelJob<Flex> for Shape {
        type Output = TapShape;
        fn run<M: Pretrained<Flex>>(self, config: &M::Config) -> TapShape {
            M::init(config, &Default::default()).tap_shape()
        }
    }
    let [bert, gpt2, resnet] = configs().map(|config| config.run(Shape));
    let text = |classes| TapShape { classes, hidden: vec![8; 4], positions: vec![1; 4], heads: vec![2; 3] };
    assert_eq!([bert, gpt2], [text(3), text(20)]);
    let (hidden, positions) = (vec![16, 16, 32, 64], vec![1, 1, 4, 16]);
    assert_eq!(resnet, TapShape { classes: 10, hidden, positions, heads: vec![] });
}

fn bert<B: Backend>() -> (BertForSequenceClassification<B>, Task) {
    let [ModelConfig::Bert(config), ..] = configs() else { panic!() };
    (BertForSequenceClassification::init(&config, &Default::default()), config.task())
}

fn gpt2<B: Backend>() -> (Gpt2LmHead<B>, Task) {
    let [_, ModelConfig::Gpt2(config), _] = configs() else { panic!() };
    (Gpt2LmHead::init(&config, &Default::default()), config.task())
}

/// The scores and values that are shown are those that the attention uses: from them, by hand, the first block's
/// attention output and the input of the second follow.
#[test]
fn scores_and_values_are_those_of_the_attention() {
    let (model, task) = bert::<Flex>();
    let taps = model.tapped(inputs(&task), ALL);
    let context = softmax(taps.scores[0].clone(), 3).matmul(taps.values[0].clone());
    let context = context.swap_dims(1, 2).reshape([BATCH, SEQ, 8]);
    let layer = &model.bert.encoder.layer[0];
    let output = &layer.attention.output;
    let x = output.layer_norm.forward(output.dense.forward(context) + taps.hidden[0].clone());
    let inner = briquette_kernels::gelu(layer.intermediate.dense.forward(x.clone()));
    let x = layer.output.layer_norm.forward(layer.output.dense.forward(inner) + x);
    assert!(max_difference(&host_floats(x), &host_floats(taps.hidden[1].clone())) <= 1e-5);
}

#[test]
fn masked_scores_carry_one_finite_constant() {
    let (model, task) = bert::<Flex>();
    let scores = host_floats(model.tapped(inputs(&task), ALL).scores[0].clone());
    let hidden: Vec<bool> = scores.iter().map(|v| *v < -9e3).collect();
    let key_is_padding = |text: usize, key: usize| key >= [5, 3, 1][text];
    let wanted = (0..scores.len()).map(|i| key_is_padding(i / (2 * SEQ * SEQ), i % SEQ));
    assert_eq!(hidden, wanted.collect::<Vec<bool>>());
    assert!(scores.iter().all(|v| *v > -1.1e4));

    let (model, task) = gpt2::<Flex>();
    let scores = host_floats(model.tapped(inputs(&task), ALL).scores[2].clone());
    for (i, score) in scores.iter().enumerate() {
        let (query, key) = (i / SEQ % SEQ, i % SEQ);
        assert_eq!(*score == -1e4, key > query, "query {query}, key {key}: {score}");
    }
}

#[test]
fn resnet_shows_channels_last() {
    let [.., ModelConfig::ResNet(config)] = configs() else { panic!() };
    let model = CifarResNet::<Flex>::init(&config, &Default::default());
    let taps = model.tapped(inputs(&config.task()), ALL);
    let sizes: Vec<[usize; 3]> = taps.hidden.iter().map(|x| x.dims()).collect();
    assert_eq!(sizes, [[3, 1024, 16], [3, 1024, 16], [3, 256, 32], [3, 64, 64]]);
    let pooled = taps.hidden[3].clone().mean_dim(1).reshape([3, 64]);
    let logits = model.linear.forward(pooled);
    assert!(max_difference(&host_floats(logits), &host_floats(taps.logits)) <= 1e-5);
}

/// Block by block a model computes its hidden states, and the gradient of one block's output reaches the parameters
/// under its path and no others.
struct ByBlocks;

impl BlocksJob<A> for ByBlocks {
    type Output = usize;

    fn run<M>(self, config: &M::Config) -> usize
    where
        M: Pretrained<A> + Blocks<A, Input = Inputs<A>> + AutodiffModule<A>,
        M::InnerModule: Pretrained<Flex, Config = M::Config> + Blocks<Flex, Input = Inputs<Flex>>,
    {
        let model = M::init(config, &Default::default());
        briquette_core::materialize(&model);
        let valid = model.valid();
        let taps = valid.tapped(inputs(&config.task()), Wanted { hidden: true, ..Wanted::default() });
        let mut state = valid.enter(inputs(&config.task()));
        for index in 0..valid.num_blocks() {
            assert_eq!(host_floats(state.hidden.clone()), host_floats(taps.hidden[index].clone()));
            let out = valid.block(index, &state);
            check_gradients(&model, index, &state);
            state = state.with_hidden(out);
        }
        assert_eq!(host_floats(state.hidden), host_floats(taps.hidden[valid.num_blocks()].clone()));
        valid.num_blocks()
    }
}

fn check_gradients<M>(model: &M, index: usize, state: &BlockState<Flex>)
where
    M: Pretrained<A> + Blocks<A, Input = Inputs<A>> + AutodiffModule<A>,
{
    let state = BlockState::<A> {
        hidden: Tensor::from_inner(state.hidden.clone()),
        mask: state.mask.clone().map(Tensor::from_inner),
    };
    let loss = model.block(index, &state).powi_scalar(3).sum();
    let gradients = GradientsParams::from_grads(loss.backward(), model);
    let prefix = format!("{}.", model.block_path(index));
    let mut reached = Reached { at: Vec::new(), prefix, inside: 0, gradients: &gradients };
    model.visit(&mut reached);
    assert!(reached.inside > 0);
    assert_eq!(gradients.len(), reached.inside);
}

/// Asserts that the parameters under a path, and no others, have a gradient.
struct Reached<'a> {
    at: Vec<String>,
    prefix: String,
    inside: usize,
    gradients: &'a GradientsParams,
}

impl ModuleVisitor<A> for Reached<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.at.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<A, D>>) {
        let path = self.at.join(".");
        let inside = path.starts_with(&self.prefix);
        self.inside += usize::from(inside);
        assert_eq!(self.gradients.get::<Flex, D>(param.id).is_some(), inside, "{path}");
    }
}

#[test]
fn blocks_in_order_are_the_model() {
    let [bert, gpt2, resnet] = configs();
    for config in [bert, gpt2] {
        assert!(config.has_blocks());
        assert_eq!(config.run_blocks(ByBlocks).ok(), Some(3));
    }
    assert!(!resnet.has_blocks());
    assert!(resnet.run_blocks(ByBlocks).is_err());
}

#[test]
fn without_dropout_training_computes_what_the_plain_backend_does() {
    struct Quiet;
    impl BlocksJob<A> for Quiet {
        type Output = ();
        fn run<M>(self, config: &M::Config)
        where
            M: Pretrained<A> + Blocks<A, Input = Inputs<A>> + AutodiffModule<A>,
            M::InnerModule: Pretrained<Flex, Config = M::Config> + Blocks<Flex, Input = Inputs<Flex>>,
        {
            let model = M::init(config, &Default::default());
            briquette_core::materialize(&model);
            let (noisy, task) = (model.clone(), config.task());
            let hidden = |model: &M| host_floats(model.tapped(inputs(&task), ALL).hidden[3].clone());
            assert_ne!(hidden(&noisy), hidden(&noisy));
            let quiet = model.without_dropout();
            let plain = host_floats(quiet.valid().tapped(inputs(&task), ALL).hidden[3].clone());
            assert!(max_difference(&hidden(&quiet), &plain) <= 1e-5);
            let logits = host_floats(quiet.logits(inputs(&task)));
            assert!(max_difference(&logits, &host_floats(quiet.valid().logits(inputs(&task)))) <= 1e-5);
            assert_eq!(quiet.config_now(config).to_json(), config.to_json());
        }
    }
    let [bert, gpt2, _] = configs();
    assert!([bert, gpt2].iter().all(|config| config.run_blocks(Quiet).is_ok()));
}
