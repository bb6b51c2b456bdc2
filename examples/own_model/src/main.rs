//! A model of your own, made of burn's layers and nothing else, is trained with 4-bit weights and taught by the float
//! model that it was.
//!
//! ```text
//! cargo run -p own_model
//! ```
//!
//! Points on a plane belong to the arms of a spiral. Of 4-bit training only [`quantized`] knows; the rest is plain burn.

#![allow(clippy::print_stdout, reason = "a program that shows its result on the terminal")]

#[cfg(test)]
mod tests;

use briquette_composer::{Composer, Finished, Plan, Recipe};
use briquette_core::ModelView;
use briquette_distill::losses::{cross_entropy, logits_kl};
use burn::backend::{Autodiff, Flex};
use burn::module::AutodiffModule;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamConfig, GradientsParams, Optimizer};
use burn::prelude::*;
use burn::tensor::activation::relu;
use serde_json::json;
use std::error::Error;

type Cpu = Flex;
type Training = Autodiff<Cpu>;

const ARMS: usize = 3;
const BATCH: usize = 256;
const STEPS: usize = 400;

#[derive(Module, Debug)]
struct Net<B: Backend> {
    first: Linear<B>,
    second: Linear<B>,
    last: Linear<B>,
}

impl<B: Backend> Net<B> {
    fn new(device: &B::Device) -> Self {
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        Self { first: linear(2, 48), second: linear(48, 48), last: linear(48, ARMS) }
    }

    /// Scores `[points, ARMS]` of points `[points, 2]`.
    fn forward(&self, points: Tensor<B, 2>) -> Tensor<B, 2> {
        self.last.forward(relu(self.second.forward(relu(self.first.forward(points)))))
    }
}

/// Evenly scattered points in the square -1 .. 1, `[BATCH, 2]`, and the arm each is on, `[BATCH]`.
fn batch<B: Backend>(number: usize, device: &B::Device) -> (Tensor<B, 2>, Tensor<B, 1, Int>) {
    let place = |i: usize, stride: f64| (2.0 * (i as f64 * stride).fract() - 1.0) as f32;
    let points =
        (number * BATCH..(number + 1) * BATCH).map(|i| [place(i, 0.754_877_67), place(i, 0.569_840_29)]);
    let points: Vec<[f32; 2]> = points.collect();
    let turn = |[x, y]: &[f32; 2]| y.atan2(*x) / std::f32::consts::TAU + 0.8 * x.hypot(*y) + 1.0;
    let arms: Vec<i32> = points.iter().map(|p| (turn(p).fract() * ARMS as f32) as i32).collect();
    let points = Tensor::from_data(TensorData::new(points.concat(), [BATCH, 2]), device);
    (points, Tensor::from_data(TensorData::new(arms, [BATCH]), device))
}

/// The share of points not trained on whose arm the model finds.
fn accuracy<B: Backend>(model: &Net<B>) -> f64 {
    let (points, arms) = batch::<B>(STEPS, &Default::default());
    let right = model.forward(points).argmax(1).squeeze_dim::<1>(1).equal(arms);
    right.float().mean().into_scalar().elem()
}

/// The learning rate of a step: straight down to zero.
fn rate(step: usize) -> f64 {
    0.02 * (1.0 - step as f64 / STEPS as f64)
}

fn float() -> Net<Training> {
    let device = Default::default();
    Training::seed(&device, 1);
    let (mut model, mut optimizer) = (Net::new(&device), AdamConfig::new().init());
    for step in 0..STEPS {
        let (points, arms) = batch::<Training>(step, &device);
        let loss = cross_entropy(model.forward(points), arms);
        model =
            optimizer.step(rate(step), model.clone(), GradientsParams::from_grads(loss.backward(), &model));
    }
    model
}

fn plan<B: Backend>(model: &Net<B>) -> Result<Plan<B>, Box<dyn Error>> {
    let recipe = json!({ "steps": [{ "weight_quantization": { "on": ["*"], "bits": 4 } }] });
    Ok(Composer::builtin().plan(&Recipe::from_value(&recipe), &ModelView::of(model))?)
}

/// `teacher` with 4-bit weights, trained on the labels and on what the teacher says.
fn quantized(teacher: &Net<Training>) -> Result<Finished<Training, Net<Training>>, Box<dyn Error>> {
    let (device, mut optimizer) = (Default::default(), AdamConfig::new().init());
    let mut session = plan(teacher)?.attach_training_weights(teacher, 1);
    let teacher = teacher.valid();
    for step in 0..STEPS {
        let (points, arms) = batch::<Training>(step, &device);
        let taught = Tensor::from_inner(teacher.forward(points.clone().inner()));
        let scores = session.view().forward(points);
        let loss = cross_entropy(scores.clone(), arms) + logits_kl(scores, taught, 2.0);
        session.step(loss.backward(), &mut optimizer, rate(step));
    }
    Ok(session.finish()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let teacher = float();
    let untrained = plan(&teacher.valid())?.attach_weights(&teacher.valid(), 1).finish()?;
    println!("float             {:.3}", accuracy(&teacher.valid()));
    println!("4 bits, untrained {:.3}", accuracy(&untrained.model));
    println!("4 bits, trained   {:.3}", accuracy(&quantized(&teacher)?.model.valid()));
    Ok(())
}
