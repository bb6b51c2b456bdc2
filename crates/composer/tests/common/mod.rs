//! Small models with weights from a formula, and what the tests share.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part of it")]

use briquette_composer::{Composer, Plan, Recipe};
use briquette_core::{Diagnostics, ModelView, materialize};
use briquette_nn::{
    Compressible, Conv2d, Conv2dConfig, Embedding, EmbeddingConfig, Linear, LinearConfig, PaddingConfig2d,
    model_view,
};
use burn::backend::{Autodiff, Flex};
use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::prelude::*;
use burn::tensor::activation::relu;
use serde_json::Value;

pub(crate) type A = Autodiff<Flex>;

/// Drop-in layers with one plain layer of burn between them.
#[derive(Module, Debug, Compressible)]
pub(crate) struct Net<B: Backend> {
    pub(crate) words: Embedding<B>,
    pub(crate) fc1: Linear<B>,
    pub(crate) plain: burn::nn::Linear<B>,
    pub(crate) fc2: Linear<B>,
}

/// Entries of [`Net`]'s table.
pub(crate) const WORDS: usize = 12;

impl<B: Backend> Net<B> {
    pub(crate) fn new() -> Self {
        let device = Default::default();
        filled(Self {
            words: EmbeddingConfig::new(WORDS, 16).init(&device),
            fc1: LinearConfig::new(16, 32).init(&device),
            plain: burn::nn::LinearConfig::new(32, 32).init(&device),
            fc2: LinearConfig::new(32, 8).init(&device),
        })
    }

    /// `[batch, seq, 8]` for `ids` `[batch, seq]`.
    pub(crate) fn forward(&self, ids: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        let x = relu(self.fc1.forward(self.words.forward(ids)));
        self.fc2.forward(relu(self.plain.forward(x)))
    }
}

/// Convolutions, a normalization of burn and a linear layer.
#[derive(Module, Debug, Compressible)]
pub(crate) struct Vision<B: Backend> {
    pub(crate) conv: Conv2d<B>,
    pub(crate) norm: burn::nn::BatchNorm<B>,
    pub(crate) deep: Conv2d<B>,
    pub(crate) head: Linear<B>,
}

impl<B: Backend> Vision<B> {
    pub(crate) fn new() -> Self {
        let device = Default::default();
        let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
        filled(Self {
            conv: Conv2dConfig::new([2, 6], [3, 3]).with_padding(padding).init(&device),
            norm: burn::nn::BatchNormConfig::new(6).init(&device),
            deep: Conv2dConfig::new([6, 4], [2, 2]).with_groups(2).init(&device),
            head: LinearConfig::new(4 * 49, 5).init(&device),
        })
    }

    /// `[batch, 5]` for images `[batch, 2, 8, 8]`.
    pub(crate) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 2> {
        let x = relu(self.norm.forward(self.conv.forward(x)));
        self.head.forward(self.deep.forward(x).flatten(1, 3))
    }
}

/// The model with every parameter from a formula: both signs, no zeros, uneven ranges.
fn filled<B: Backend, M: Module<B>>(model: M) -> M {
    struct Fill(usize);
    impl<B: Backend> ModuleMapper<B> for Fill {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
            let offset = self.0;
            self.0 += 101;
            param.map(|t| {
                let trained = t.is_require_grad();
                waves(t.dims(), offset).set_require_grad(trained)
            })
        }
    }
    materialize(&model);
    model.map(&mut Fill(1))
}

/// A tensor of uneven values.
pub(crate) fn waves<B: Backend, const D: usize>(shape: [usize; D], offset: usize) -> Tensor<B, D> {
    let value = |i: usize| {
        let t = (i + offset) as f32;
        (t * 0.7311).sin() * (0.3 + 0.2 * (t * 0.1931).cos()) + 0.01 * (t * 2.9).cos()
    };
    let count = shape.iter().product();
    let data = TensorData::new((0..count).map(value).collect::<Vec<f32>>(), shape);
    Tensor::from_data(data, &Default::default())
}

/// Token ids `[3, 5]` that reach every entry of [`Net`]'s table.
pub(crate) fn ids<B: Backend>() -> Tensor<B, 2, Int> {
    let data: Vec<i32> = (0..15).map(|i| (i * 7 % WORDS) as i32).collect();
    Tensor::from_data(TensorData::new(data, [3, 5]), &Default::default())
}

pub(crate) fn images<B: Backend>() -> Tensor<B, 4> {
    waves::<B, 4>([3, 2, 8, 8], 5) * 3.0
}

pub(crate) fn floats<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    // Adding zero makes the two zeros one.
    briquette_core::host_floats(tensor + 0.0)
}

/// Every float parameter in model order, zeros of both signs as one.
pub(crate) fn parameters<B: Backend, M: Module<B>>(model: &M) -> Vec<Vec<f32>> {
    struct Collect(Vec<Vec<f32>>);
    impl<B: Backend> ModuleVisitor<B> for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.0.push(floats(param.val()));
        }
    }
    let mut collect = Collect(Vec::new());
    model.visit(&mut collect);
    collect.0
}

/// Largest difference, relative to the largest value.
pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().fold(1e-12f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0f32, |d, (x, y)| d.max((x - y).abs())) / largest
}

pub(crate) fn plan<B: Backend, M: Module<B> + Compressible<B>>(model: &M, recipe: &Value) -> Plan<B> {
    try_plan(&model_view(model), recipe).unwrap_or_else(|e| panic!("{e}"))
}

pub(crate) fn try_plan<B: Backend>(view: &ModelView, recipe: &Value) -> Result<Plan<B>, Diagnostics> {
    Composer::builtin().plan(&Recipe::from_value(recipe), view)
}

/// The problems of a recipe for a model, one line each; none where it plans.
pub(crate) fn problems(view: &ModelView, recipe: &Value) -> Vec<String> {
    match try_plan::<Flex>(view, recipe) {
        Ok(_) => Vec::new(),
        Err(found) => found.iter().map(|d| d.to_string()).collect(),
    }
}
