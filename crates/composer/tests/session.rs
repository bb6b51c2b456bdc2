//! A session without training: view, end, packed model, calibration, DeepSpeed's two calls.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod common;

use briquette_composer::{CalibrationError, FinishError, InitError, init_compression, redundancy_clean};
use briquette_core::{InputRange, ModelView};
use briquette_nn::model_view;
use burn::backend::Flex;
use burn::prelude::*;
use common::*;
use serde_json::{Value, json};
use std::error::Error;

const BITS: [(u64, bool); 8] =
    [(8, true), (8, false), (5, true), (4, false), (4, true), (3, true), (2, true), (1, true)];

fn weights_of(bits: u64, symmetric: bool, granularity: Value, arithmetic: &str) -> Value {
    json!({"steps": [{"weight_quantization": {
        "on": ["*"], "bits": bits, "symmetric": symmetric, "granularity": granularity, "arithmetic": arithmetic
    }}]})
}

#[test]
fn the_view_the_finished_and_the_packed_model_compute_the_same() {
    let model = Net::<Flex>::new();
    for (bits, symmetric) in BITS {
        for granularity in [json!("tensor"), json!("channel"), json!({"groups": 4}), json!({"group_size": 8})]
        {
            for arithmetic in ["paper", "deepspeed"] {
                let recipe = weights_of(bits, symmetric, granularity.clone(), arithmetic);
                let session = plan(&model, &recipe).attach(&model, 3);
                let view = session.view();
                let finished = session.finish().unwrap();
                assert_eq!(parameters(&view), parameters(&finished.model), "{recipe}");
                let simulated = floats(view.forward(ids()));
                assert_eq!(simulated, floats(finished.model.forward(ids())), "{recipe}");
                let packed = finished.pack();
                assert!(packed.words.packed().is_some() && packed.fc1.packed().is_some());
                let off = distance(&simulated, &floats(packed.forward(ids())));
                assert!(off <= 1e-6, "{recipe}: {off}");
            }
        }
    }
}

#[test]
fn a_packed_convolution_computes_the_same() {
    let model = Vision::<Flex>::new();
    for (bits, symmetric) in BITS {
        let recipe = weights_of(bits, symmetric, json!("channel"), "paper");
        let session = plan(&model, &recipe).attach(&model, 3);
        let simulated = floats(session.view().forward(images()));
        let finished = session.finish().unwrap();
        assert_eq!(simulated, floats(finished.model.forward(images())), "{recipe}");
        let packed = finished.pack();
        assert!(packed.conv.packed().is_some() && packed.deep.packed().is_some());
        let off = distance(&simulated, &floats(packed.forward(images())));
        assert!(off <= 1e-6, "{recipe}: {off}");
    }
}

#[test]
fn quantized_inputs_of_a_packed_model_agree_with_the_simulated_ones() {
    for (bits, input_bits, symmetric) in
        [(8, 8, true), (4, 8, true), (8, 8, false), (8, 4, true), (2, 8, true), (1, 8, false)]
    {
        for arithmetic in ["paper", "deepspeed"] {
            let recipe = json!({"steps": [
                {"weight_quantization": {"on": ["*"], "bits": bits, "arithmetic": arithmetic}},
                {"activation_quantization":
                    {"on": ["*"], "bits": input_bits, "symmetric": symmetric, "arithmetic": arithmetic}},
            ]});
            let model = Net::<Flex>::new();
            let session = plan(&model, &recipe).attach(&model, 0);
            let simulated = floats(session.view().forward(ids()));
            let packed = session.finish().unwrap().pack();
            let off = distance(&simulated, &floats(packed.forward(ids())));
            assert!(off <= 1e-3, "{recipe}: {off}");
            let model = Vision::<Flex>::new();
            let session = plan(&model, &recipe).attach(&model, 0);
            let simulated = floats(session.view().forward(images()));
            let packed = session.finish().unwrap().pack();
            let off = distance(&simulated, &floats(packed.forward(images())));
            assert!(off <= 1e-3, "{recipe}: {off}");
        }
    }
}

#[test]
fn the_users_model_stays_as_it_was() {
    let model = Net::<Flex>::new();
    let (before, output) = (parameters(&model), floats(model.forward(ids())));
    let recipe = json!({"steps": [
        {"weight_quantization": {"on": ["*"], "bits": 2}},
        {"activation_quantization": {"on": ["*"], "range": "static", "observer": "min_max"}},
    ]});
    let mut session = plan(&model, &recipe).attach(&model, 0);
    session
        .calibrate::<CalibrationError>(|m| {
            m.forward(ids());
            Ok(())
        })
        .unwrap();
    let _ = session.view().forward(ids());
    let finished = session.finish().unwrap();
    assert_ne!(parameters(&finished.model), before);
    let _ = finished.pack();
    assert_eq!(parameters(&model), before);
    assert_eq!(floats(model.forward(ids())), output);
    assert_eq!(model_view(&model), model_view(&Net::<Flex>::new()));
}

#[test]
fn only_the_layers_of_the_plan_change() {
    let model = Net::<Flex>::new();
    let recipe = json!({"steps": [{"weight_quantization": {"on": ["fc1"], "bits": 3}}]});
    let finished = plan(&model, &recipe).attach(&model, 0).finish().unwrap();
    let changed: Vec<bool> =
        parameters(&model).iter().zip(parameters(&finished.model)).map(|(a, b)| *a != b).collect();
    assert_eq!(changed, [false, true, false, false, false, false, false]);
    assert_eq!(finished.layers.len(), 1);
    assert_eq!(finished.layers[0].site.name, "fc1");
    let error = finished.layers[0].relative_error;
    assert!(error > 0.01 && error < 0.5, "{error}");
}

#[derive(Module, Debug)]
struct Plain<B: Backend> {
    first: burn::nn::Linear<B>,
    second: burn::nn::Linear<B>,
}

#[test]
fn a_model_of_plain_layers_has_its_weights_quantized() {
    let device = Default::default();
    let model = Plain::<Flex> {
        first: burn::nn::LinearConfig::new(8, 8).init(&device),
        second: burn::nn::LinearConfig::new(8, 4).init(&device),
    };
    let recipe = json!({"steps": [{"weight_quantization": {"on": ["second"], "bits": 2}}]});
    let session = try_plan::<Flex>(&ModelView::of(&model), &recipe).unwrap().attach_weights(&model, 0);
    let view = session.view();
    let finished = session.finish().unwrap();
    assert_eq!(parameters(&view), parameters(&finished.model));
    assert_eq!(parameters(&view.first), parameters(&model.first));
    let packed = finished.pack();
    assert_eq!(parameters(&packed), parameters(&view), "there is no drop-in layer to pack into");
}

#[test]
fn a_weight_shared_by_two_layers_stays_shared() {
    let device = Default::default();
    let first: burn::nn::Linear<Flex> = burn::nn::LinearConfig::new(8, 8).init(&device);
    briquette_core::materialize(&first);
    let model = Plain { first: first.clone(), second: first };
    let recipe = json!({"steps": [{"weight_quantization": {"on": ["first"], "bits": 2}}]});
    let session = try_plan::<Flex>(&ModelView::of(&model), &recipe).unwrap().attach_weights(&model, 0);
    let view = session.view();
    assert_ne!(parameters(&view.first), parameters(&model.first));
    assert_eq!(parameters(&view.first), parameters(&view.second));
    let finished = session.finish().unwrap().model;
    assert_eq!(parameters(&finished.first), parameters(&view.first));
    assert_eq!(parameters(&finished.second), parameters(&view.first));
    assert_eq!(finished.first.weight.id, finished.second.weight.id);
}

fn calibrated(observer: &str) -> Value {
    json!({"steps": [
        {"weight_quantization": {"on": ["*"], "bits": 8}},
        {"activation_quantization": {"on": ["fc1", "fc2"], "range": "static", "observer": observer}},
    ]})
}

#[test]
fn static_ranges_are_those_of_the_calibration_data() {
    let model = Net::<Flex>::new();
    for observer in ["min_max", "mse", "percentile", "moving_average"] {
        let mut session = plan(&model, &calibrated(observer)).attach(&model, 0);
        assert!(session.needs_calibration());
        let float_inputs = floats(session.view().forward(ids()));
        session
            .calibrate::<CalibrationError>(|m| {
                m.forward(ids());
                Ok(())
            })
            .unwrap();
        assert!(!session.needs_calibration());
        assert_ne!(floats(session.view().forward(ids())), float_inputs);
        let input = floats(session.view().words.forward(ids()));
        let (low, high) = input.iter().fold((0f32, 0f32), |(l, h), v| (l.min(*v), h.max(*v)));
        let finished = session.finish().unwrap();
        let InputRange::Static { min, max } = finished.inputs["fc1"].range else { panic!("not static") };
        assert!(min >= low && max <= high && min < 0.6 * low && max > 0.6 * high, "{observer}: {min} {max}");
        if observer == "min_max" {
            assert_eq!((min, max), (low, high));
        }
        let simulated = floats(finished.model.forward(ids()));
        let off = distance(&simulated, &floats(finished.pack().forward(ids())));
        assert!(off <= 1e-3, "{observer}: {off}");
    }
}

#[test]
fn a_second_calibration_replaces_the_first() {
    let model = Net::<Flex>::new();
    let one = |id: i32| Tensor::<Flex, 2, Int>::from_data([[id]], &Default::default());
    let range = |runs: &[i32]| {
        let mut session = plan(&model, &calibrated("min_max")).attach(&model, 0);
        for id in runs {
            session
                .calibrate::<CalibrationError>(|m| {
                    m.forward(one(*id));
                    Ok(())
                })
                .unwrap();
        }
        session.finish().unwrap().inputs["fc1"].range
    };
    assert_ne!(range(&[1]), range(&[2]));
    assert_eq!(range(&[1, 2]), range(&[2]));
}

#[test]
fn a_session_that_was_never_calibrated_cannot_be_finished() {
    let model = Net::<Flex>::new();
    let session = plan(&model, &calibrated("mse")).attach(&model, 0);
    let Err(FinishError::Calibration(error)) = session.finish() else { panic!("finished without ranges") };
    assert_eq!(error.layers, ["fc1", "fc2"]);
    assert!(error.to_string().contains("fc1, fc2"), "{error}");
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut model = Net::<Flex>::new();
        model.fc2.weight = model.fc2.weight.map(|w| w.slice_fill([3..4, 2..3], bad));
        let recipe = json!({"steps": [{"weight_quantization": {"on": ["*"], "bits": 8}}]});
        let Err(FinishError::NotFinite { layers }) = plan(&model, &recipe).attach(&model, 0).finish() else {
            panic!("finished with {bad}")
        };
        assert_eq!(layers, ["fc2"]);
    }
}

#[test]
fn layers_that_no_input_reached_are_named() {
    let model = Net::<Flex>::new();
    let mut session = plan(&model, &calibrated("mse")).attach(&model, 0);
    let error = session
        .calibrate::<CalibrationError>(|m| {
            m.fc1.forward(m.words.forward(ids()));
            Ok(())
        })
        .unwrap_err();
    assert_eq!(error.layers, ["fc2"]);
    let error: Box<dyn Error> = session.calibrate(|_| Err("no data".into())).unwrap_err();
    assert_eq!(error.to_string(), "no data");
}

#[test]
fn the_two_calls_of_deepspeed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("recipe.json");
    let recipe = json!({"compression_training": {"weight_quantization": {
        "shared_parameters": {"enabled": true, "quantize_groups": 4},
        "different_groups": {"wq": {"params": {"start_bits": 4, "target_bits": 4}, "modules": ["fc"]}}
    }}});
    std::fs::write(&file, recipe.to_string()).unwrap();
    let model = Net::<Flex>::new();
    let session = init_compression(&model, &file).unwrap();
    let cleaned = redundancy_clean(session).unwrap();
    let expected = plan(&model, &recipe).attach(&model, 0).finish().unwrap();
    assert_eq!(parameters(&cleaned.model), parameters(&expected.model));
    assert_ne!(parameters(&cleaned.model), parameters(&model));
    std::fs::write(&file, "{").unwrap();
    assert!(matches!(init_compression(&model, &file), Err(InitError::Recipe(_))));
    std::fs::write(&file, "{}").unwrap();
    assert!(matches!(init_compression(&model, &file), Err(InitError::Plan(_))));
}

#[test]
fn groups_of_zeros_and_constants_and_silent_tokens_stay_finite() {
    let mut model = Net::<Flex>::new();
    let zeros = Tensor::zeros([1, 16], &Default::default());
    // A padding entry of the table: its token is all zeros, too.
    model.words.weight = model.words.weight.map(|w| w.slice_assign([0..1, 0..16], zeros));
    model.fc1.weight = model.fc1.weight.map(|w| w.slice_fill([0..16, 0..2], 0.25));
    for (bits, symmetric) in BITS {
        for arithmetic in ["paper", "deepspeed"] {
            let recipe = json!({"steps": [
                {"weight_quantization":
                    {"on": ["*"], "bits": bits, "symmetric": symmetric, "arithmetic": arithmetic}},
                {"activation_quantization": {"on": ["*"], "symmetric": symmetric, "arithmetic": arithmetic}},
            ]});
            let session = plan(&model, &recipe).attach(&model, 0);
            let simulated = floats(session.view().forward(ids()));
            assert!(simulated.iter().all(|v| v.is_finite()), "{recipe}");
            let packed = floats(session.finish().unwrap().pack().forward(ids()));
            assert!(packed.iter().all(|v| v.is_finite()), "{recipe}");
            assert!(distance(&simulated, &packed) <= 1e-3, "{recipe}");
        }
    }
}
