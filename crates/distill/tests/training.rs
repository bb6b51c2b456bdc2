//! A small student learns what a small teacher computes.
#![allow(clippy::unwrap_used)]

use briquette_core::{Diagnostics, host_floats};
use briquette_distill::{Distillation, DistillationSettings, Preset, Projections};
use briquette_nn::{Linear, LinearConfig, Recorder, TapShape, Tapped, Taps, Wanted};
use burn::backend::{Autodiff, Flex};
use burn::module::{AutodiffModule, Param};
use burn::optim::{AdamConfig, GradientsParams, Optimizer};
use burn::prelude::*;
use burn::tensor::activation::tanh;
use serde_json::{Value, json};

type A = Autodiff<Flex>;

/// A stack of layers, each a block.
#[derive(Module, Debug)]
struct Toy<B: Backend> {
    embedding: Linear<B>,
    blocks: Vec<Linear<B>>,
    head: Linear<B>,
}

impl<B: Backend> Toy<B> {
    /// Weights that differ with `salt` but are the same in every run.
    fn new(blocks: usize, width: usize, salt: usize) -> Self {
        let device = Default::default();
        let linear = |from: usize, to: usize, salt: usize| {
            let mut layer: Linear<B> = LinearConfig::new(from, to).init(&device);
            let values = (0..from * to).map(|i| ((i * 7919 + salt * 104_729) % 1009) as f32 / 504.5 - 1.0);
            let data = TensorData::new(values.collect::<Vec<f32>>(), [from, to]);
            layer.weight = Param::from_tensor(Tensor::from_data(data, &device));
            layer.bias = Some(Param::from_tensor(Tensor::zeros([to], &device)));
            layer
        };
        Self {
            embedding: linear(5, width, salt),
            blocks: (0..blocks).map(|i| linear(width, width, salt + i + 1)).collect(),
            head: linear(width, 3, salt + 50),
        }
    }
}

impl<B: Backend> Tapped<B> for Toy<B> {
    /// `[batch, seq, 5]`.
    type Input = Tensor<B, 3>;

    fn tapped(&self, input: Tensor<B, 3>, wanted: Wanted) -> Taps<B> {
        let mut seen = Recorder::new(wanted);
        let mut x = self.embedding.forward(input);
        seen.hidden(&x);
        for block in &self.blocks {
            x = tanh(block.forward(x));
            seen.hidden(&x);
        }
        let pooled = x.mean_dim(1).squeeze_dim(1);
        seen.finish(self.head.forward(pooled))
    }

    fn tap_shape(&self) -> TapShape {
        let states = self.blocks.len() + 1;
        let width = self.embedding.shape()[0];
        TapShape { classes: 3, hidden: vec![width; states], positions: vec![1; states], heads: vec![] }
    }
}

#[derive(Module, Debug)]
struct Learner<B: Backend> {
    student: Toy<B>,
    projections: Projections<B>,
}

fn input<B: Backend>(salt: usize) -> Tensor<B, 3> {
    let values = (0..4 * 3 * 5).map(|i| ((i * 31 + salt * 17) % 101) as f32 / 50.5 - 1.0);
    let data = TensorData::new(values.collect::<Vec<f32>>(), [4, 3, 5]);
    Tensor::from_data(data, &Default::default())
}

fn resolved(block: &Value, student: &TapShape, teacher: &TapShape) -> Distillation {
    let mut out = Diagnostics::new();
    let settings = DistillationSettings::read(block, DistillationSettings::KEY, &mut out);
    assert!(out.is_empty(), "{out}");
    settings.resolve(Preset::Classification, student, teacher, None).unwrap()
}

/// Distils for some steps; the losses of all of them, and the learner.
fn train(block: &Value, steps: usize) -> (Vec<f32>, Learner<A>) {
    let teacher = Toy::<Flex>::new(4, 8, 1000);
    let student = Toy::<A>::new(2, 6, 2000);
    let distillation = resolved(block, &student.tap_shape(), &teacher.tap_shape());
    let mut learner = Learner { student, projections: distillation.projections(3, &Default::default()) };
    let mut optimizer = AdamConfig::new().init();
    let mut losses = Vec::new();
    for step in 0..steps {
        let stage = distillation.stage_at(step, steps);
        let wanted = distillation.wanted(stage);
        let shown = learner.student.tapped(input(step % 5), wanted);
        let told = distillation.needs_teacher(stage);
        let told = told.then(|| Taps::from_inner(teacher.tapped(input(step % 5), wanted)));
        let targets = Tensor::from_data([0, 1, 2, 0], &Default::default());
        let loss = distillation.loss(stage, &shown, told.as_ref(), Some(targets), &learner.projections).total;
        losses.push(host_floats(loss.clone())[0]);
        let gradients = GradientsParams::from_grads(loss.backward(), &learner);
        learner = optimizer.step(1e-2, learner, gradients);
    }
    (losses, learner)
}

fn mean(losses: &[f32]) -> f32 {
    losses.iter().sum::<f32>() / losses.len() as f32
}

#[test]
fn the_student_and_its_projections_learn() {
    let block = json!({"logits": {"loss": "kl", "temperature": 2.0}, "hidden": {}});
    let (losses, learner) = train(&block, 150);
    let (first, last) = (mean(&losses[..5]), mean(&losses[145..]));
    assert!(last < 0.3 * first, "{first}, {last}");
    let (again, _) = train(&block, 150);
    assert_eq!(losses, again);
    let (_, fresh) = train(&block, 0);
    let seen = |learner: &Learner<A>| {
        let x = Tensor::<Flex, 3>::ones([1, 1, 6], &Default::default());
        let projections = learner.projections.valid();
        (0..3).map(|i| host_floats(projections.project(i, x.clone()))).collect::<Vec<_>>()
    };
    assert_eq!(fresh.projections.len(), 3);
    assert!(seen(&fresh).iter().zip(seen(&learner)).all(|(before, after)| *before != after));
}

#[test]
fn the_last_stage_follows_the_labels() {
    let stages = json!({"stages": [{"share": 0.5, "logits": {"loss": "mse"}}, {"labels": 1.0}]});
    let (losses, _) = train(&stages, 200);
    let told = mean(&losses[95..100]);
    assert!(told < 0.2 * mean(&losses[..5]), "{told}");
    let labelled = (losses[100], mean(&losses[195..]));
    assert!(labelled.1 < 0.8 * labelled.0, "{labelled:?}");
}
