//! The method from recipe to manifest.

#![allow(clippy::unwrap_used, reason = "a test fails where something is missing")]

use briquette_checkpoint::Naming;
use briquette_composer::artefact::{self, Artefact, Source};
use briquette_composer::report::{self, LayerReport};
use briquette_composer::{Composer, Finished, Plan, Recipe};
use briquette_core::{Diagnostics, Left, StageKind, host_floats, to_canonical};
use briquette_nn::{Compressible, Embedding, EmbeddingConfig, Linear, LinearConfig, model_view, name_table};
use burn::backend::{Autodiff, Flex};
use burn::module::Param;
use burn::optim::SgdConfig;
use burn::prelude::*;
use custom_method::clip_rows;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

#[derive(Module, Debug, Compressible)]
struct Net<B: Backend> {
    words: Embedding<B>,
    hidden: Linear<B>,
    output: Linear<B>,
}

/// Numbers of normal distribution with deviation 0.05, the same in every run: each is the sum of twelve uniform
/// ones, less its mean.
fn bell(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state) / f64::from(u32::MAX)
    };
    (0..count).map(|_| 0.05 * ((0..12).map(|_| uniform()).sum::<f64>() - 6.0) as f32).collect()
}

/// Two linear layers with bell-shaped weights, and a table.
fn net<B: Backend>() -> Net<B> {
    let device = Default::default();
    let linear = |i: usize, o: usize| {
        let mut layer = LinearConfig::new(i, o).init::<B>(&device);
        layer.weight = Param::from_data(TensorData::new(bell(i * o), [i, o]), &device);
        layer
    };
    Net {
        words: EmbeddingConfig::new(16, 256).init(&device),
        hidden: linear(256, 256),
        output: linear(64, 8),
    }
}

fn plan<B: Backend>(net: &Net<B>, steps: Value) -> Result<Plan<B>, Diagnostics> {
    let composer = Composer::new(custom_method::registry().unwrap());
    composer.plan(&Recipe::from_value(&json!({ "steps": steps })), &model_view(net))
}

fn clip(deviations: f64) -> Value {
    json!({"outlier_clipping": {"on": ["hidden", "output"], "deviations": deviations}})
}

fn quantize() -> Value {
    json!({"weight_quantization": {"on": ["hidden", "output"], "bits": 3}})
}

fn finish(net: &Net<Flex>, steps: Value) -> Finished<Flex, Net<Flex>> {
    plan(net, steps).unwrap().attach(net, 0).finish().unwrap()
}

fn canonical<B: Backend>(layer: &Linear<B>) -> Tensor<B, 2> {
    to_canonical(briquette_core::LayerKind::Linear, layer.weight.val())
}

fn problems(steps: Value) -> Vec<String> {
    let problems = plan(&net::<Flex>(), steps).err().unwrap();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn rows_are_clipped_at_their_own_limits() {
    let rows = [[1.0f32, 1.0, 1.0, 9.0], [-1.0, 1.0, -1.0, 1.0], [5.0, 5.0, 5.0, 5.0]];
    let clipped = clip_rows(Tensor::<Flex, 2>::from_floats(rows, &Default::default()), 1.5);
    for (row, got) in rows.iter().zip(host_floats(clipped).chunks(4)) {
        let mean = row.iter().sum::<f32>() / 4.0;
        let deviation = (row.iter().map(|w| (w - mean).powi(2)).sum::<f32>() / 4.0).sqrt();
        for (w, got) in row.iter().zip(got) {
            let want = w.clamp(mean - 1.5 * deviation, mean + 1.5 * deviation);
            assert!((got - want).abs() < 1e-6, "{w}: {got} for {want}");
        }
    }
}

#[test]
fn the_plan_states_both_methods_in_order() {
    let plan = plan(&net::<Flex>(), json!([clip(2.15), quantize()])).unwrap();
    let steps: Vec<_> =
        plan.steps().iter().map(|s| (s.site.name.as_str(), s.method.as_str(), s.kind)).collect();
    let (clip, quantize) = ("outlier_clipping", "weight_quantization");
    assert_eq!(
        steps,
        [
            ("hidden", clip, StageKind::Transform),
            ("hidden", quantize, StageKind::Quantize),
            ("output", clip, StageKind::Transform),
            ("output", quantize, StageKind::Quantize),
        ]
    );
    assert!(plan.to_string().contains("outlier_clipping(deviations=2.15), weight_quantization("), "{plan}");
}

#[test]
fn clipping_lowers_the_error_of_few_bits() {
    let net = net::<Flex>();
    let without = finish(&net, json!([quantize()]));
    let with = finish(&net, json!([clip(2.15), quantize()]));
    for (without, with) in without.layers.iter().zip(&with.layers) {
        assert!(with.relative_error < 0.9 * without.relative_error, "{with:?} {without:?}");
        let names: Vec<_> = with.left.iter().map(|(method, _)| method.as_str()).collect();
        assert_eq!(names, ["outlier_clipping", "weight_quantization"]);
        assert_eq!(with.left[0].1, Left::Baked);
    }
    // The quantizer received the clipped weight: no value lies outside the limits.
    let limit = |w: Tensor<Flex, 2>| f64::from(host_floats(w.abs().max())[0]);
    let clipped = limit(clip_rows(canonical(&net.hidden), 2.15));
    assert!(limit(canonical(&with.model.hidden)) <= clipped * 1.000_001);
    assert!(limit(canonical(&without.model.hidden)) > clipped);
}

#[test]
fn every_setting_changes_the_result() {
    let net = net::<Flex>();
    let weight = |steps| canonical(&finish(&net, steps).model.hidden).into_data();
    let default = json!([{"outlier_clipping": {"on": ["hidden"]}}]);
    let stated = json!([{"outlier_clipping": {"on": ["hidden"], "deviations": 2.55}}]);
    assert_eq!(weight(default.clone()), weight(stated));
    assert_ne!(weight(default), weight(json!([clip(1.0)])));
}

#[test]
fn the_manifest_and_the_report_show_it() {
    let net = net::<Flex>();
    let folder = tempfile::tempdir().unwrap();
    let written = |steps, name: &str| {
        let finished = finish(&net, steps);
        let source = Source {
            naming: &Naming::new(name_table(&net)),
            config: json!({}),
            dtypes: HashMap::new(),
            copy: Vec::new(),
            made_from: BTreeMap::new(),
            seed: 0,
        };
        let staged = artefact::stage(&finished, &source, &folder.path().join(name)).unwrap();
        Artefact::open(staged.commit().unwrap()).unwrap()
    };
    let with = written(json!([clip(2.15), quantize()]), "with");
    let without = written(json!([quantize()]), "without");

    let steps = with.manifest().plan["steps"].as_array().unwrap();
    let methods: Vec<_> = steps.iter().map(|s| s["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["outlier_clipping", "weight_quantization"].repeat(2));
    assert_eq!(steps[0]["details"], json!({"deviations": 2.15}));
    assert_eq!(with.manifest().recipe["steps"][0], clip(2.15));

    let reported = report::methods(with.manifest());
    assert_eq!(reported.get("outlier_clipping"), Some(&2));
    assert_eq!(report::methods(without.manifest()).get("outlier_clipping"), None);

    let error = |a: &Artefact| LayerReport::new(&a.manifest().layers[0], a.files(), None).relative_error;
    assert!(error(&with) < error(&without));
}

#[test]
fn an_illegal_order_is_a_problem_of_the_plan() {
    assert_eq!(
        problems(json!([quantize(), clip(2.0)])),
        [
            "steps[1].outlier_clipping: hidden: outlier_clipping cannot follow weight_quantization",
            "steps[1].outlier_clipping: output: outlier_clipping cannot follow weight_quantization",
        ]
    );
}

#[test]
fn bad_settings_are_problems_with_their_places() {
    assert_eq!(
        problems(json!([clip(-1.0), clip(2.0)]))[0],
        "steps[0].outlier_clipping.deviations: -1 is not a positive number"
    );
    let unknown = problems(json!([{"outlier_clipping": {"on": ["hidden"], "deviation": 2}}]));
    assert!(unknown[0].starts_with("steps[0].outlier_clipping"), "{unknown:?}");
    assert!(unknown[0].contains("unknown field `deviation`, expected `deviations`"), "{unknown:?}");
    let wrong = problems(json!([{"outlier_clipping": {"on": ["hidden"], "start": "late"}}]));
    assert!(wrong[0].starts_with("steps[0].outlier_clipping"), "{wrong:?}");
    assert_eq!(
        problems(json!([{"outlier_clipping": {"on": ["words"]}}])),
        ["steps[0].outlier_clipping.on: words: outlier_clipping cannot act on an embedding"]
    );
    let name = problems(json!([{"outlier_cliping": {"on": ["hidden"]}}]));
    assert!(name[0].contains("did you mean `outlier_clipping`?"), "{name:?}");
}

#[test]
fn a_pattern_for_every_layer_leaves_embeddings_out() {
    let plan = plan(&net::<Flex>(), json!([{"outlier_clipping": {"on": ["*"]}}])).unwrap();
    let names: Vec<_> = plan.steps().iter().map(|s| s.site.name.as_str()).collect();
    assert_eq!(names, ["hidden", "output"]);
}

#[test]
fn training_goes_through_it_and_waits_for_its_start() {
    type A = Autodiff<Flex>;
    let net = net::<A>();
    let device = Default::default();
    let steps = json!([{"outlier_clipping": {"on": ["hidden"], "deviations": 1.0, "start": 1}}]);
    let mut session = plan(&net, steps).unwrap().attach_training(&net, 0);
    let mut optimizer = SgdConfig::new().init();
    let original = canonical(&net.hidden);
    assert_eq!(canonical(&session.view().hidden).into_data(), original.clone().into_data());

    let x = Tensor::<A, 2>::ones([4, 256], &device);
    for _ in 0..2 {
        let before = canonical(&session.parts().model.hidden);
        let loss = session.view().hidden.forward(x.clone()).sum();
        session.step(loss.backward(), &mut optimizer, 0.01);
        // Straight through: the gradient of every weight is 4, of the clipped ones too.
        let change = before - canonical(&session.parts().model.hidden);
        assert!(host_floats(change).iter().all(|c| (c - 0.04).abs() < 1e-5));
    }
    let view = canonical(&session.view().hidden);
    assert_eq!(
        view.clone().into_data(),
        clip_rows(canonical(&session.parts().model.hidden), 1.0).into_data()
    );
    assert_eq!(canonical(&session.finish().unwrap().model.hidden).into_data(), view.into_data());
}
