//! Training through the view.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod common;

use briquette_composer::{Session, Trained};
use briquette_core::Clock;
use burn::optim::{AdamConfig, GradientsParams, Optimizer};
use burn::prelude::*;
use common::*;
use serde_json::{Value, json};

fn four_bits() -> Value {
    json!({"steps": [{"weight_quantization": {"on": ["*"], "bits": 4}}]})
}

fn adam() -> impl Optimizer<Trained<A, Net<A>>, A> {
    AdamConfig::new().init()
}

fn loss(output: Tensor<A, 3>) -> Tensor<A, 1> {
    (output - waves([3, 5, 8], 77) * 2.0).square().mean()
}

/// One step; the loss before it.
fn step(
    session: &mut Session<A, Net<A>>,
    optimizer: &mut impl Optimizer<Trained<A, Net<A>>, A>,
    lr: f64,
) -> f32 {
    let loss = loss(session.view().forward(ids()));
    let value = floats(loss.clone())[0];
    session.step(loss.backward(), optimizer, lr);
    value
}

#[test]
fn gradients_of_the_view_reach_the_leaves() {
    let model = Net::<A>::new();
    let session = plan(&model, &four_bits()).attach_training(&model, 0);
    let gradients = loss(session.view().forward(ids())).backward();
    let found = GradientsParams::from_grads(gradients, &session.parts().model);
    assert_eq!(found.len(), parameters(&model).len());
}

#[test]
fn the_estimator_is_straight_through() {
    let model = Net::<A>::new();
    let recipe = json!({"steps": [{"weight_quantization": {"on": ["fc2"], "bits": 4}}]});
    let session = plan(&model, &recipe).attach_training(&model, 0);
    let weight = session.view().fc2.weight.val();
    let gradients = (weight.clone().square().sum()).backward();
    let leaf = session.parts().model.fc2.weight.val();
    let gradient = leaf.grad(&gradients).expect("a gradient");
    assert_eq!(briquette_core::host_floats(gradient), floats(weight * 2.0));
}

#[test]
fn twenty_steps_of_four_bit_training_lower_the_loss() {
    let model = Net::<A>::new();
    let before = parameters(&model);
    let mut session = plan(&model, &four_bits()).attach_training(&model, 0);
    let mut optimizer = adam();
    let losses: Vec<f32> = (0..20).map(|_| step(&mut session, &mut optimizer, 3e-3)).collect();
    assert!(losses[19] < 0.7 * losses[0], "{losses:?}");
    assert_eq!(session.clock(), Clock::Step(20));
    assert_eq!(parameters(&model), before, "the user's model is not trained");
    assert_ne!(parameters(&session.parts().model), before);
    let view = parameters(&session.view());
    let finished = session.finish().unwrap();
    assert_eq!(parameters(&finished.model), view);
}

#[test]
fn a_finished_model_can_be_trained_on() {
    let model = Net::<A>::new();
    let finished = plan(&model, &four_bits()).attach_training(&model, 0).finish().unwrap();
    let gradients = loss(finished.model.forward(ids())).backward();
    let found = GradientsParams::from_grads(gradients, &finished.model);
    assert_eq!(found.len(), parameters(&model).len());
}

#[test]
fn frozen_parameters_stay_frozen() {
    let mut model = Net::<A>::new();
    model.words.weight = model.words.weight.set_require_grad(false);
    let before = parameters(&model);
    let mut session = plan(&model, &four_bits()).attach_training(&model, 0);
    let mut optimizer = adam();
    step(&mut session, &mut optimizer, 1e-2);
    let after = parameters(&session.parts().model);
    assert_eq!(after[0], before[0]);
    assert!((1..7).all(|i| after[i] != before[i]));
    let finished = session.finish().unwrap().model;
    assert!(!finished.words.weight.is_require_grad() && finished.fc1.weight.is_require_grad());
}

#[test]
fn weights_are_float_until_the_schedule_starts() {
    let model = Net::<A>::new();
    let recipe = json!({"steps": [{"weight_quantization": {"on": ["*"], "bits": 4, "start": 3}}]});
    let mut session = plan(&model, &recipe).attach_training(&model, 0);
    let mut optimizer = adam();
    let mut float = Vec::new();
    for _ in 0..5 {
        float.push(parameters(&session.view()) == parameters(&session.parts().model));
        step(&mut session, &mut optimizer, 1e-3);
    }
    assert_eq!(float, [true, true, true, false, false]);
}

#[test]
fn inputs_are_float_until_the_schedule_starts() {
    let model = Net::<A>::new();
    let recipe = json!({"steps": [{"activation_quantization": {"on": ["*"], "bits": 4, "start": 2}}]});
    let mut session = plan(&model, &recipe).attach_training(&model, 0);
    let mut optimizer = adam();
    let mut float = Vec::new();
    for _ in 0..4 {
        let plain = floats(session.parts().model.forward(ids()));
        float.push(floats(session.view().forward(ids())) == plain);
        step(&mut session, &mut optimizer, 1e-3);
    }
    assert_eq!(float, [true, true, false, false]);
}

#[test]
fn static_ranges_follow_the_data_while_training() {
    let model = Net::<A>::new();
    let recipe = json!({"steps": [{"activation_quantization":
        {"on": ["fc1", "fc2"], "range": "static", "observer": "moving_average"}}]});
    let mut session = plan(&model, &recipe).attach_training(&model, 0);
    let mut optimizer = adam();
    assert!(session.needs_calibration());
    step(&mut session, &mut optimizer, 1e-3);
    let finished = session.finish().unwrap();
    assert_eq!(finished.inputs.keys().collect::<Vec<_>>(), ["fc1", "fc2"]);
}

#[test]
fn measuring_does_not_move_static_ranges() {
    let model = Net::<A>::new();
    let recipe = json!({"steps": [{"activation_quantization":
        {"on": ["fc1", "fc2"], "range": "static", "observer": "moving_average"}}]});
    let mut session = plan(&model, &recipe).attach_training(&model, 0);
    step(&mut session, &mut adam(), 1e-3);
    let before = session.position();
    session.valid().forward(ids().narrow(0, 0, 1));
    assert_eq!(session.position(), before);
    session.view().forward(ids().narrow(0, 0, 1));
    assert_ne!(session.position(), before);
}

fn stochastic() -> Value {
    json!({"steps": [{"weight_quantization": {"on": ["*"], "bits": 4, "rounding": "stochastic"}}]})
}

/// The view's weights at each of three steps in which nothing is learned.
fn drawn(seed: u64) -> Vec<Vec<Vec<f32>>> {
    let model = Net::<A>::new();
    let mut session = plan(&model, &stochastic()).attach_training(&model, seed);
    let mut optimizer = adam();
    (0..3)
        .map(|_| {
            let weights = parameters(&session.view());
            assert_eq!(weights, parameters(&session.view()), "one step has one draw");
            step(&mut session, &mut optimizer, 0.0);
            weights
        })
        .collect()
}

#[test]
fn stochastic_rounding_draws_anew_at_each_step_and_repeats_with_the_seed() {
    let first = drawn(7);
    assert_ne!(first[0], first[1]);
    assert_ne!(first[1], first[2]);
    assert_eq!(first, drawn(7));
    assert_ne!(first[0], drawn(8)[0]);
}

#[test]
fn training_twice_gives_the_same_model() {
    let train = || {
        let model = Net::<A>::new();
        let mut session = plan(&model, &stochastic()).attach_training(&model, 1);
        let mut optimizer = adam();
        for _ in 0..4 {
            step(&mut session, &mut optimizer, 1e-3);
        }
        parameters(&session.finish().unwrap().model)
    };
    assert_eq!(train(), train());
}

#[test]
fn running_statistics_of_the_users_model_stay_as_they_were() {
    let model = Vision::<A>::new();
    let before = floats(model.norm.running_mean.value());
    let recipe = json!({"steps": [{"weight_quantization": {"on": ["*"], "bits": 8}}]});
    let session = plan(&model, &recipe).attach_training(&model, 0);
    let view = session.view();
    let _ = view.forward(images());
    assert_eq!(floats(model.norm.running_mean.value_sync()), before);
}

#[test]
fn a_session_is_not_resumed_from_that_of_another_recipe() {
    let model = Net::<A>::new();
    let learned = |on: &[&str]| {
        let recipe = json!({"steps": [{"weight_quantization": {"on": on, "bits": 4, "scale": "learned"}}]});
        plan(&model, &recipe).attach_training(&model, 0)
    };
    let (mut session, other) = (learned(&["fc1"]), learned(&["fc1", "fc2"]));
    let before = parameters::<A, _>(session.parts());
    let error = session.resume(other.parts().clone().into_record(), &other.position()).unwrap_err();
    assert!(error.to_string().contains("another number of tensors"), "{error}");
    assert_eq!(parameters::<A, _>(session.parts()), before);
}
