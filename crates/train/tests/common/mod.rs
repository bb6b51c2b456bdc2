//! A small model of blocks and data for it.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part of it")]

use briquette_composer::{Composer, Plan, Recipe};
use briquette_nn::{
    BlockState, Blocks, Compressible, Linear, LinearConfig, Recorder, TapShape, Tapped, Taps, Wanted,
    model_view,
};
use briquette_train::TrainingData;
use burn::backend::{Autodiff, Flex};
use burn::module::{ModuleVisitor, Param};
use burn::nn::{Dropout, DropoutConfig};
use burn::prelude::*;
use burn::tensor::activation::tanh;
use serde_json::Value;

pub(crate) type A = Autodiff<Flex>;

/// Three classes for sequences of vectors.
#[derive(Module, Debug, Compressible)]
pub(crate) struct Toy<B: Backend> {
    pub(crate) embedding: Linear<B>,
    pub(crate) blocks: Vec<Linear<B>>,
    pub(crate) dropout: Dropout,
    pub(crate) head: Linear<B>,
}

impl<B: Backend> Toy<B> {
    pub(crate) fn new(width: usize) -> Self {
        let device = Default::default();
        let linear = |from: usize, to: usize, salt: usize| {
            let mut layer: Linear<B> = LinearConfig::new(from, to).init(&device);
            let values = numbers(from * to, salt).into_iter().map(|v| v / (from as f32).sqrt()).collect();
            let data = TensorData::new::<f32, _>(values, [from, to]);
            layer.weight = Param::from_tensor(Tensor::from_data(data, &device));
            layer.bias = Some(Param::from_tensor(Tensor::zeros([to], &device)));
            layer
        };
        Self {
            embedding: linear(4, width, 1),
            blocks: (0..2).map(|i| linear(width, width, 2 + i)).collect(),
            dropout: DropoutConfig::new(0.2).init(),
            head: linear(width, 3, 9),
        }
    }
}

/// Numbers in -1 .. 1 that are the same in every run.
pub(crate) fn numbers(count: usize, salt: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + salt * 104_729) % 1009) as f32 / 504.5 - 1.0).collect()
}

impl<B: Backend> Tapped<B> for Toy<B> {
    type Input = Tensor<B, 3>;

    fn tapped(&self, input: Tensor<B, 3>, wanted: Wanted) -> Taps<B> {
        let mut seen = Recorder::new(wanted);
        let mut state = self.enter(input);
        seen.hidden(&state.hidden);
        for index in 0..self.blocks.len() {
            state.hidden = self.block(index, &state);
            seen.hidden(&state.hidden);
        }
        let pooled = self.dropout.forward(state.hidden).mean_dim(1).squeeze_dim(1);
        seen.finish(self.head.forward(pooled))
    }

    fn tap_shape(&self) -> TapShape {
        let hidden: Vec<usize> =
            [&self.embedding].into_iter().chain(&self.blocks).map(|layer| layer.shape()[0]).collect();
        TapShape { classes: 3, positions: vec![1; hidden.len()], hidden, heads: Vec::new() }
    }
}

impl<B: Backend> Blocks<B> for Toy<B> {
    type Input = Tensor<B, 3>;

    fn enter(&self, input: Tensor<B, 3>) -> BlockState<B> {
        BlockState { hidden: self.embedding.forward(input), mask: None }
    }

    fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    fn block_path(&self, index: usize) -> String {
        format!("blocks.{index}")
    }

    fn block(&self, index: usize, state: &BlockState<B>) -> Tensor<B, 3> {
        tanh(self.blocks[index].forward(state.hidden.clone()))
    }
}

/// Sequences whose class is the place of the largest of three sums.
pub(crate) struct Sums(pub(crate) usize);

impl TrainingData for Sums {
    type Input<B: Backend> = Tensor<B, 3>;

    fn epoch(&self, batch: usize, seed: u64) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..self.0).collect();
        order.rotate_left(seed as usize % self.0);
        order.chunks(batch).map(<[usize]>::to_vec).collect()
    }

    fn batch<B: Backend>(&self, examples: &[usize], device: &B::Device) -> (Tensor<B, 3>, Tensor<B, 1, Int>) {
        let values: Vec<Vec<f32>> = examples.iter().map(|e| numbers(5 * 4, *e)).collect();
        let class = |v: &Vec<f32>| {
            let sum = |c: usize| v.iter().skip(c).step_by(4).sum::<f32>();
            (0..3).max_by(|a, b| sum(*a).total_cmp(&sum(*b))).unwrap() as i32
        };
        let classes: Vec<i32> = values.iter().map(class).collect();
        let n = examples.len();
        let input = Tensor::from_data(TensorData::new(values.concat(), [n, 5, 4]), device);
        (input, Tensor::from_data(TensorData::new(classes, [n]), device))
    }

    fn augmented<B: Backend>(
        &self,
        examples: &[usize],
        seed: u64,
        device: &B::Device,
    ) -> (Tensor<B, 3>, Tensor<B, 1, Int>) {
        let (input, targets) = self.batch(examples, device);
        (input * (1.0 + (seed % 7) as f64 / 10.0), targets)
    }
}

pub(crate) fn plan<B: Backend>(model: &Toy<B>, recipe: &Value) -> Plan<B> {
    Composer::builtin().plan(&Recipe::from_value(recipe), &model_view(model)).unwrap()
}

/// All parameters, in model order.
pub(crate) fn parameters<B: Backend, M: Module<B>>(model: &M) -> Vec<f32> {
    struct Collect(Vec<f32>);
    impl<B: Backend> ModuleVisitor<B> for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.0.extend(param.val().into_data().into_vec::<f32>().unwrap());
        }
    }
    let mut collect = Collect(Vec::new());
    model.visit(&mut collect);
    collect.0
}
