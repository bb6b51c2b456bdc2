//! Quantized weights and the gradients of every estimator, as PyTorch computes them.

use briquette_core::{
    Attached, Clock, CompressionMethod, Diagnostics, LayerKind, ModelView, PlanBuilder, SessionState, Site,
    StateBuilder, host_floats,
};
use briquette_quant::WeightQuantization;
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;

type A = Autodiff<Flex>;

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/learned_quantizers.json");
    serde_json::from_slice(&std::fs::read(path).expect("a golden file")).expect("JSON")
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number") as f32).collect()
}

fn site(shape: [usize; 2]) -> Site {
    Site {
        name: "w".into(),
        path: "w".into(),
        kind: LayerKind::Linear,
        shape,
        native: vec![shape[1], shape[0]],
        trainable: true,
        tied: Vec::new(),
        drop_in: true,
    }
}

/// What a method makes of one weight after some optimizer steps that change nothing.
struct Outcome {
    values: Vec<f32>,
    gradient: Vec<f32>,
    scale_gradient: Option<Vec<f32>>,
}

fn outcome(settings: &Value, steps: usize, shape: [usize; 2], weight: &[f32], upstream: &[f32]) -> Outcome {
    let device = Default::default();
    let tensor = |values: &[f32]| Tensor::<A, 2>::from_data(TensorData::new(values.to_vec(), shape), &device);
    let mut problems = Diagnostics::new();
    let method = WeightQuantization::read(settings, "w", &mut problems);
    let method = method.unwrap_or_else(|| panic!("{settings}: {problems}"));
    let kind = CompressionMethod::<A>::kind(&method);
    let aliases = BTreeMap::new();
    let mut builder = PlanBuilder::new("w", &aliases, 0, WeightQuantization::NAME, kind);
    let site = site(shape);
    CompressionMethod::<A>::plan(&method, &ModelView::default(), &[site], &mut builder);
    let (plan, problems) = builder.into_parts();
    assert!(problems.is_empty(), "{problems}");
    let weight = tensor(weight).require_grad();
    let mut state = SessionState::<A>::default();
    let mut builder = StateBuilder::new(&mut state, weight.clone(), Clock::Step(0), 0);
    let Attached::Weight(stage) = method.attach(&plan[0], &mut builder) else { panic!("no weight's stage") };
    let mut clock = Clock::Step(0);
    for _ in 0..steps {
        clock = clock.next();
        stage.after_step(&mut state, clock, None);
    }
    let values = stage.apply(&state, clock, weight.clone());
    let gradients = (values.clone() * tensor(upstream)).sum().backward();
    let scale = settings["scale"] == "learned" || settings["binarization"] == "elastic";
    Outcome {
        values: host_floats(values),
        gradient: host_floats(weight.grad(&gradients).expect("a gradient")),
        scale_gradient: scale
            .then(|| host_floats(state.learned(0).grad(&gradients).expect("a gradient of the scale"))),
    }
}

#[track_caller]
fn close(found: &[f32], expected: &[f32], tolerance: f32, what: &str, settings: &Value) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * largest, "{settings}, {what} {i}: {f} against {e}");
    }
}

#[test]
fn values_and_gradients_are_those_of_pytorch() {
    let golden = golden();
    let shape =
        [golden["shape"][0].as_u64(), golden["shape"][1].as_u64()].map(|n| n.expect("a size") as usize);
    let (weight, upstream) = (floats(&golden["weight"]), floats(&golden["upstream"]));
    let cases = golden["cases"].as_array().expect("a list");
    assert_eq!(cases.len(), 26);
    for case in cases {
        let settings = &case["settings"];
        let steps = case["steps"].as_u64().expect("a number") as usize;
        let found = outcome(settings, steps, shape, &weight, &upstream);
        close(&found.values, &floats(&case["values"]), 1e-6, "value", settings);
        close(&found.gradient, &floats(&case["gradient"]), 1e-6, "gradient", settings);
        assert_eq!(found.scale_gradient.is_some(), case.get("scale_gradient").is_some(), "{settings}");
        if let Some(gradient) = found.scale_gradient {
            // Differences of codes and positions up to 127 apart, summed in another order.
            close(&gradient, &floats(&case["scale_gradient"]), 1e-4, "gradient of scale", settings);
        }
    }
}
