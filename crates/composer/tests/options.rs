//! Every setting changes the outcome.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod common;

use briquette_composer::CalibrationError;
use burn::backend::Flex;
use burn::optim::AdamConfig;
use burn::prelude::*;
use common::*;
use serde_json::{Map, Value, json};

/// What a recipe makes of the model: its weights and what it computes, after training has begun or not.
fn outcome(recipe: &Value) -> Vec<Vec<f32>> {
    let model = Net::<Flex>::new();
    let mut session = plan(&model, recipe).attach(&model, 5);
    if session.needs_calibration() {
        let half = |from: i32| {
            let ids: Vec<i32> = (from..from + 6).collect();
            Tensor::<Flex, 2, Int>::from_data(TensorData::new(ids, [1, 6]), &Default::default())
        };
        let run = |m: &Net<Flex>| {
            m.forward(half(0));
            m.forward(half(6));
            Ok(())
        };
        session.calibrate::<CalibrationError>(run).unwrap();
    }
    let finished = session.finish().unwrap();
    let mut all = parameters(&finished.model);
    all.push(floats(finished.model.forward(ids())));
    all
}

/// What a recipe makes of the model at the first step of training.
fn first_step(recipe: &Value) -> Vec<Vec<f32>> {
    let model = Net::<A>::new();
    let view = plan(&model, recipe).attach_training(&model, 5).view();
    let mut all = parameters(&view);
    all.push(floats(view.forward(ids())));
    all
}

/// What training for eight steps goes through, and what it ends with.
fn training(settings: &Value) -> Vec<Vec<f32>> {
    let model = Net::<A>::new();
    let recipe = entry("weight_quantization", settings);
    let mut session = plan(&model, &recipe).attach_training(&model, 5);
    let mut optimizer = AdamConfig::new().init();
    let mut all = Vec::new();
    for _ in 0..8 {
        let view = session.view();
        all.extend(parameters(&view));
        let loss = (view.forward(ids()) - waves([3, 5, 8], 77)).square().mean();
        session.step(loss.backward(), &mut optimizer, 5e-2);
    }
    all.extend(parameters(&session.finish().unwrap().model));
    all
}

fn entry(method: &str, settings: &Value) -> Value {
    json!({"steps": [{ method: settings }]})
}

/// `base` with some keys set anew.
fn with(base: &Value, keys: &Value) -> Value {
    let mut map: Map<String, Value> = base.as_object().unwrap().clone();
    keys.as_object().unwrap().iter().for_each(|(k, v)| {
        map.insert(k.clone(), v.clone());
    });
    Value::Object(map)
}

/// Every two of these settings have different outcomes.
fn all_differ(method: &str, variants: &[Value]) {
    let outcomes: Vec<_> = variants.iter().map(|v| outcome(&entry(method, v))).collect();
    for (i, a) in outcomes.iter().enumerate() {
        for (j, b) in outcomes.iter().enumerate().skip(i + 1) {
            assert!(a != b, "{} and {} do the same", variants[i], variants[j]);
        }
    }
}

#[test]
fn settings_of_weight_quantization() {
    let base = json!({"on": ["fc1", "plain"], "bits": 4});
    let mut variants = vec![base.clone()];
    for bits in [1, 2, 3, 5, 6, 7, 8] {
        variants.push(with(&base, &json!({ "bits": bits })));
    }
    for change in [
        json!({"symmetric": false}),
        json!({"granularity": "tensor"}),
        json!({"granularity": {"groups": 4}}),
        json!({"granularity": {"group_size": 8}}),
        json!({"rounding": "stochastic"}),
        json!({"scale_search": "mse"}),
        json!({"arithmetic": "deepspeed"}),
        json!({"on": ["fc1"]}),
        json!({"except": ["plain"], "bits": 3}),
    ] {
        variants.push(with(&base, &change));
    }
    all_differ("weight_quantization", &variants);
    let late = with(&base, &json!({"start": 1}));
    let method = "weight_quantization";
    assert_ne!(first_step(&entry(method, &base)), first_step(&entry(method, &late)));
}

#[test]
fn settings_of_weight_quantization_that_are_the_defaults_change_nothing() {
    let base = json!({"on": ["*"], "bits": 4});
    let spelt = with(
        &base,
        &json!({"symmetric": true, "granularity": "channel", "rounding": "nearest", "scale_search": "max",
                "arithmetic": "paper", "start": 0}),
    );
    assert_eq!(outcome(&entry("weight_quantization", &base)), outcome(&entry("weight_quantization", &spelt)));
}

#[test]
fn settings_of_weight_quantization_that_act_while_training() {
    let base = |keys: Value| with(&json!({"on": ["fc1", "plain"]}), &keys);
    let variants = [
        json!({"bits": 4}),
        json!({"bits": 4, "start_bits": 8, "period": 1}),
        json!({"bits": 4, "start_bits": 7, "period": 1}),
        json!({"bits": 4, "start_bits": 8, "period": 2}),
        json!({"bits": 4, "start_bits": 8, "end": 3}),
        json!({"bits": 4, "start_bits": 8, "start": 1, "period": 1}),
        json!({"bits": 4, "mixed": {}}),
        json!({"bits": 4, "mixed": {"change_ratio": 0.3}}),
        json!({"bits": 4, "rounding": "stochastic"}),
        json!({"bits": 4, "scale": "learned"}),
        json!({"bits": 4, "scale_search": "mse"}),
        json!({"bits": 4, "scale_search": "mse", "gradient": "clipped"}),
        json!({"bits": 2}),
        json!({"bits": 2, "gradient": "clipped"}),
        json!({"bits": 2, "scale": "learned"}),
        json!({"bits": 2, "scale": "learned", "gradient": "identity"}),
        json!({"bits": 1}),
        json!({"bits": 1, "gradient": "clipped"}),
        json!({"bits": 1, "binarization": "mean_centred"}),
        json!({"bits": 1, "binarization": "elastic"}),
        json!({"bits": 1, "binarization": "elastic", "gradient": "clipped"}),
    ];
    let outcomes: Vec<_> = variants.iter().map(|v| training(&base(v.clone()))).collect();
    for (i, a) in outcomes.iter().enumerate() {
        for (j, b) in outcomes.iter().enumerate().skip(i + 1) {
            assert!(a != b, "{} and {} do the same", variants[i], variants[j]);
        }
    }
}

#[test]
fn settings_of_activation_quantization() {
    let base = json!({"on": ["fc1", "fc2"], "bits": 4});
    let fixed = |keys: Value| with(&with(&base, &json!({"range": "static"})), &keys);
    let average = |momentum: f64| fixed(json!({"observer": "moving_average", "momentum": momentum}));
    let percentile = |share: f64| fixed(json!({"observer": "percentile", "percentile": share}));
    all_differ(
        "activation_quantization",
        &[
            base.clone(),
            with(&base, &json!({"bits": 8})),
            with(&base, &json!({"symmetric": false})),
            with(&base, &json!({"arithmetic": "deepspeed"})),
            with(&base, &json!({"on": ["fc1"]})),
            with(&base, &json!({"except": ["fc1"]})),
            fixed(json!({"observer": "min_max"})),
            fixed(json!({"observer": "mse"})),
            average(0.95),
            average(0.2),
            percentile(99.0),
            percentile(80.0),
        ],
    );
    let late = with(&base, &json!({"start": 1}));
    let method = "activation_quantization";
    assert_ne!(first_step(&entry(method, &base)), first_step(&entry(method, &late)));
}

#[test]
fn settings_of_a_deepspeed_recipe() {
    let recipe = |weights: Value, bits: u64, inputs: Value, input_bits: u64| {
        let offset = |map: Value| with(&json!({"enabled": true, "schedule_offset": 0}), &map);
        json!({"compression_training": {
            "weight_quantization": {
                "shared_parameters": offset(weights),
                "different_groups":
                    {"g": {"params": {"start_bits": bits, "target_bits": bits}, "modules": ["fc"]}}
            },
            "activation_quantization": {
                "shared_parameters": offset(inputs),
                "different_groups": {"g": {"params": {"bits": input_bits}, "modules": ["fc"]}}
            }
        }})
    };
    let none = || json!({});
    let variants = [
        recipe(none(), 4, none(), 8),
        recipe(none(), 3, none(), 8),
        recipe(json!({"quantize_groups": 8}), 4, none(), 8),
        recipe(json!({"quantization_type": "asymmetric"}), 4, none(), 8),
        recipe(json!({"rounding": "stochastic"}), 4, none(), 8),
        recipe(json!({"enabled": false}), 4, none(), 8),
        recipe(none(), 4, none(), 4),
        recipe(none(), 4, json!({"quantization_type": "asymmetric"}), 8),
        recipe(none(), 4, json!({"range_calibration": "static"}), 8),
        recipe(none(), 4, json!({"enabled": false}), 8),
    ];
    let outcomes: Vec<_> = variants.iter().map(outcome).collect();
    for (i, a) in outcomes.iter().enumerate() {
        for (j, b) in outcomes.iter().enumerate().skip(i + 1) {
            assert!(a != b, "{} and {} do the same", variants[i], variants[j]);
        }
    }
    for late in [
        recipe(json!({"schedule_offset": 1}), 4, none(), 8),
        recipe(none(), 4, json!({"schedule_offset": 1}), 8),
    ] {
        assert_ne!(first_step(&variants[0]), first_step(&late));
    }
}

#[test]
fn a_deepspeed_recipe_means_the_arithmetic_of_deepspeed() {
    let deepspeed = json!({"compression_training": {"weight_quantization": {
        "shared_parameters": {"enabled": true, "quantize_groups": 8},
        "different_groups": {"g": {"params": {"start_bits": 4, "target_bits": 4}, "modules": ["fc"]}}
    }}});
    let native = |arithmetic: &str| {
        let settings = json!({"on": ["fc1", "fc2"], "bits": 4, "granularity": {"groups": 8},
                              "arithmetic": arithmetic});
        entry("weight_quantization", &settings)
    };
    assert_eq!(outcome(&deepspeed), outcome(&native("deepspeed")));
    assert_ne!(outcome(&deepspeed), outcome(&native("paper")));
}
