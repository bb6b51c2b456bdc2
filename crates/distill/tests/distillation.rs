//! From a recipe's block to the sum of losses.
#![allow(clippy::unwrap_used)]

use briquette_core::{Diagnostics, host_floats};
use briquette_distill::{Distillation, DistillationSettings, Layers, Preset, Projections};
use briquette_nn::{TapShape, Taps, Wanted};
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use serde_json::{Value, json};

type A = Autodiff<Flex>;

const ROWS: usize = 2;
const SEQ: usize = 3;

/// Blocks of this width, of two heads.
fn shape(blocks: usize, width: usize) -> TapShape {
    let states = blocks + 1;
    TapShape { classes: 4, hidden: vec![width; states], positions: vec![1; states], heads: vec![2; blocks] }
}

/// Numbers that look random and differ for each `salt`.
fn numbers<B: Backend, const D: usize>(shape: [usize; D], salt: usize) -> Tensor<B, D> {
    let n: usize = shape.iter().product();
    let values = (0..n).map(|i| (((i * 7919 + salt * 104_729) % 1009) as f32 / 504.5 - 1.0) * 1.5);
    Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), shape), &Default::default())
}

fn taps<B: Backend>(shape: &TapShape, salt: usize) -> Taps<B> {
    let salted = |kind: usize, index: usize| 1000 * salt + 100 * kind + index;
    let blocks = |kind: usize, last: usize| {
        let block = move |(i, heads): (usize, &usize)| numbers([ROWS, *heads, SEQ, last], salted(kind, i));
        shape.heads.iter().enumerate().map(block).collect()
    };
    let hidden = |(i, width): (usize, &usize)| numbers([ROWS, SEQ, *width], salted(1, i));
    Taps {
        logits: numbers([ROWS, shape.classes], salted(0, 0)),
        hidden: shape.hidden.iter().enumerate().map(hidden).collect(),
        scores: blocks(2, SEQ),
        values: blocks(3, 5),
    }
}

fn settings(value: &Value) -> DistillationSettings {
    let mut out = Diagnostics::new();
    let read = DistillationSettings::read(value, "distillation", &mut out);
    assert!(out.is_empty(), "{out}");
    read
}

fn problems(value: &Value) -> Vec<String> {
    let mut out = Diagnostics::new();
    DistillationSettings::read(value, "distillation", &mut out);
    lines(&out)
}

fn lines(found: &Diagnostics) -> Vec<String> {
    found.iter().map(ToString::to_string).collect()
}

fn resolve(value: &Value) -> Distillation {
    settings(value).resolve(Preset::Classification, &shape(2, 8), &shape(4, 8), None).unwrap()
}

fn losses_of(distillation: &Distillation, stage: usize) -> (f32, Vec<(&'static str, f32)>) {
    let (student, teacher) = (taps::<Flex>(&shape(2, 8), 1), taps::<Flex>(&shape(4, 8), 2));
    let targets = Tensor::from_data([3, 1], &Default::default());
    let found = distillation.loss(stage, &student, Some(&teacher), Some(targets), &Projections::none());
    let parts = found.parts.into_iter().map(|(key, loss)| (key, host_floats(loss)[0])).collect();
    (host_floats(found.total)[0], parts)
}

fn total(value: &Value) -> f32 {
    losses_of(&resolve(value), 0).0
}

const ALL: &str = r#"{
    "labels": 0.5, "logits": {"loss": "kl", "temperature": 2.0, "weight": 3.0}, "hidden": {"weight": 0.25},
    "scores": {"weight": 2.0}, "probabilities": {"loss": "kl", "weight": 1.5}, "values": {"weight": 4.0},
    "layers": [1, 3]
}"#;

fn all() -> Value {
    serde_json::from_str(ALL).unwrap()
}

#[test]
fn every_option_changes_the_loss() {
    let base = total(&all());
    let mut seen = vec![base];
    for (key, value) in [
        ("/labels", json!(0.6)),
        ("/logits/loss", json!("mse")),
        ("/logits/loss", json!("soft_cross_entropy")),
        ("/logits/temperature", json!(3.0)),
        ("/logits/weight", json!(2.0)),
        ("/hidden/weight", json!(0.5)),
        ("/scores/weight", json!(1.0)),
        ("/probabilities/loss", json!("mse")),
        ("/probabilities/weight", json!(1.0)),
        ("/values/weight", json!(1.0)),
        ("/layers", json!([0, 3])),
        ("/layers", json!("uniform")),
        ("/layers", json!([[0, 1], [1, 3]])),
    ] {
        let mut changed = all();
        *changed.pointer_mut(key).unwrap() = value.clone();
        if key == "/logits/loss" {
            changed["logits"].as_object_mut().unwrap().remove("temperature");
        }
        let found = total(&changed);
        // The list [1, 3] is what the uniform rule gives here.
        let same = value == json!("uniform");
        assert_eq!(seen.contains(&found), same, "{key} = {value}: {found}");
        seen.push(found);
    }
    let of = |reduction: &str| total(&json!({"logits": {"reduction": reduction}}));
    assert!((of("batchmean") / of("mean") - 4.0).abs() < 1e-5);
    assert_eq!(of("mean"), total(&json!({"logits": {}})));
}

#[test]
fn parts_are_weighted_and_add_up() {
    let (sum, parts) = losses_of(&resolve(&all()), 0);
    let keys: Vec<&str> = parts.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, ["labels", "logits", "hidden", "scores", "probabilities", "values"]);
    let added: f32 = parts.iter().map(|(_, part)| part).sum();
    assert!((sum - added).abs() <= 1e-5 * sum.abs(), "{sum}, {added}");
    for (key, part) in parts {
        let mut twice = all();
        let weight = twice.pointer_mut(&format!("/{key}/weight")).is_some();
        let at = if weight { format!("/{key}/weight") } else { format!("/{key}") };
        let place = twice.pointer_mut(&at).unwrap();
        *place = json!(2.0 * place.as_f64().unwrap());
        let found = losses_of(&resolve(&twice), 0).1.into_iter().find(|(k, _)| *k == key).unwrap().1;
        assert!((found - 2.0 * part).abs() <= 1e-5 * part.abs(), "{key}: {part}, {found}");
    }
}

/// The terms over layers are sums over the mapped pairs of means, as in DeepSpeed.
#[test]
fn layers_are_summed_over_the_mapping() {
    let (student, teacher) = (taps::<Flex>(&shape(2, 8), 1), taps::<Flex>(&shape(4, 8), 2));
    let mean = |s: &Tensor<Flex, 3>, t: &Tensor<Flex, 3>| {
        let (s, t) = (host_floats(s.clone()), host_floats(t.clone()));
        let squares = s.iter().zip(&t).map(|(s, t)| f64::from(s - t).powi(2));
        squares.sum::<f64>() / s.len() as f64
    };
    let cases = [("uniform".into(), vec![0, 2, 4]), (json!([2, 3]), vec![1, 3, 4])];
    for (layers, teachers) in cases {
        let wanted: f64 =
            teachers.iter().enumerate().map(|(s, t)| mean(&student.hidden[s], &teacher.hidden[*t])).sum();
        let found = total(&json!({"hidden": {}, "layers": layers}));
        assert!((f64::from(found) - wanted).abs() < 1e-5 * wanted, "{layers}: {found}, {wanted}");
    }
    let wanted = mean(&student.hidden[2], &teacher.hidden[1]);
    let found = total(&json!({"hidden": {}, "layers": [[1, 0]]}));
    assert!((f64::from(found) - wanted).abs() < 1e-5 * wanted, "{found}, {wanted}");
}

#[test]
fn only_what_a_stage_compares_is_wanted() {
    let wanted = |value: Value| resolve(&value).wanted(0);
    let none = Wanted::default();
    assert_eq!(wanted(json!({"labels": 1.0, "logits": {}})), none);
    assert_eq!(wanted(json!({"hidden": {}})), Wanted { hidden: true, ..none });
    assert_eq!(wanted(json!({"scores": {}})), Wanted { scores: true, ..none });
    assert_eq!(wanted(json!({"probabilities": {}})), Wanted { scores: true, ..none });
    assert_eq!(wanted(json!({"values": {}})), Wanted { values: true, ..none });
    assert_eq!(wanted(json!({"labels": 1.0, "hidden": {"weight": 0.0}})), none);
    assert_eq!(wanted(all()), Wanted { hidden: true, scores: true, values: true });
}

#[test]
fn stages_follow_each_other() {
    let distillation = resolve(&json!({"stages": [
        {"share": 0.25, "hidden": {}}, {"share": 0.35, "logits": {}, "labels": 0.5}, {"labels": 1.0}
    ]}));
    let stages = |total: usize| -> Vec<usize> {
        (0..total + 2).map(|step| distillation.stage_at(step, total)).collect()
    };
    assert_eq!(stages(10), [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
    assert_eq!(stages(1), [1, 2, 2]);
    assert_eq!(distillation.stage_at(59, 100), 1);
    assert_eq!(distillation.stage_at(60, 100), 2);
    assert_eq!(distillation.stage_at(0, 0), 2);
    let asks = |stage| (distillation.needs_teacher(stage), distillation.needs_labels(stage));
    assert_eq!([asks(0), asks(1), asks(2)], [(true, false), (true, true), (false, true)]);
    let keys = |stage| losses_of(&distillation, stage).1.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!([keys(0), keys(1), keys(2)], [vec!["hidden"], vec!["labels", "logits"], vec!["labels"]]);
    assert_eq!(distillation.stages()[1].to_string(), "0.5 labels + soft cross-entropy of logits");
}

#[test]
fn the_last_stage_needs_no_teacher() {
    let student = taps::<Flex>(&shape(2, 8), 1);
    let targets = Tensor::<Flex, 1, Int>::from_data([3, 1], &Default::default());
    for distillation in [
        resolve(&json!({"stages": [{"share": 0.5, "logits": {}}, {"share": 0.5, "labels": 1.0}]})),
        Distillation::labels_only(),
    ] {
        let last = distillation.stages().len() - 1;
        let none = Projections::none();
        let found = distillation.loss(last, &student, None, Some(targets.clone()), &none).total;
        let wanted = briquette_distill::losses::cross_entropy(student.logits.clone(), targets.clone());
        assert_eq!(host_floats(found), host_floats(wanted));
    }
}

#[test]
fn presets_fill_in_for_a_silent_recipe() {
    let text = |preset: Preset, value: Value| {
        let resolved = settings(&value).resolve(preset, &shape(2, 8), &shape(4, 8), Some(&[0, 2])).unwrap();
        assert_eq!(resolved.stages().len(), 1);
        (resolved.stages()[0].to_string(), resolved.mapping().hidden.clone())
    };
    let (classification, mapping) = text(Preset::Classification, json!({}));
    assert_eq!(classification, "soft cross-entropy of logits + hidden states");
    assert_eq!(mapping, [(0, 0), (1, 1), (2, 3)], "the kept layers");
    let said = text(Preset::Classification, json!({"layers": "uniform"}));
    assert_eq!(said, (classification, vec![(0, 0), (1, 2), (2, 4)]), "what the recipe says goes first");
    let (language, mapping) = text(Preset::LanguageModel, json!({}));
    assert_eq!(language, "labels + divergence of logits at temperature 1");
    assert!(mapping.is_empty());
    let (vision, _) = text(Preset::Vision, json!({}));
    assert_eq!(vision, "0.1 labels + 0.9 divergence of logits at temperature 4");
    let soft = resolve(&json!({}));
    let same = resolve(&json!({"logits": {"loss": "soft_cross_entropy", "reduction": "mean"}, "hidden": {}}));
    assert_eq!(losses_of(&soft, 0), losses_of(&same, 0));
}

#[test]
fn mistakes_of_a_recipe_are_reported_at_once() {
    let found = problems(&json!({"layers": [1, [2]], "stages": [
        {"logits": {"loss": "l1", "weigth": 2.0}, "labels": -1},
        {"share": 1.5, "hidden": 1.0, "scores": {"weight": "much"}},
        {"share": 0.2, "values": {"weight": 0.0}, "teacher": 1}
    ]}));
    assert_eq!(
        found,
        [
            "distillation.layers: expected \"uniform\", a list of the teacher's blocks, or a list of pairs of the \
             student's and the teacher's, found [1,[2]]",
            "distillation.stages[0]: missing key `share`",
            "distillation.stages[0].labels: -1 is not at least 0",
            "distillation.stages[0].logits.loss: `l1` is not one of soft_cross_entropy, kl, mse",
            "distillation.stages[0].logits.weigth: unknown key `weigth`, did you mean `weight`?",
            "distillation.stages[1].share: 1.5 is not over 0 and at most 1",
            "distillation.stages[1].hidden: expected an object, found 1.0",
            "distillation.stages[1].scores.weight: expected a number, found \"much\"",
            "distillation.stages[2].teacher: unknown key `teacher`",
        ]
    );
}

#[test]
fn options_without_effect_are_refused() {
    for (value, wanted) in [
        (json!([]), "distillation: expected an object, found []"),
        (json!({"stages": []}), "distillation.stages: expected a list of at least one stage, found []"),
        (json!({"stages": [{}]}), "distillation.stages[0]: no loss has a weight over 0"),
        (json!({"labels": 0.0}), "distillation: no loss has a weight over 0"),
        (
            json!({"logits": {"weight": 0}, "hidden": {"weight": 0}}),
            "distillation: no loss has a weight over 0",
        ),
        (
            json!({"labels": 1.0, "stages": [{"labels": 1.0}]}),
            "distillation: losses stand either in `stages` or in the block itself",
        ),
        (json!({"label": 1.0}), "distillation.label: unknown key `label`, did you mean `labels`?"),
        (
            json!({"logits": {"loss": "mse", "temperature": 2.0}}),
            "distillation.logits.temperature: `temperature` has an effect with the loss `kl` only",
        ),
        (
            json!({"logits": {"temperature": 2.0}}),
            "distillation.logits.temperature: `temperature` has an effect with the loss `kl` only",
        ),
        (
            json!({"logits": {"loss": "kl", "reduction": "mean"}}),
            "distillation.logits.reduction: `reduction` has an effect with the loss `soft_cross_entropy` only",
        ),
        (
            json!({"logits": {"loss": "kl", "temperature": 0.0}}),
            "distillation.logits.temperature: 0 is not over 0",
        ),
        (
            json!({"stages": [{"share": 0.7, "logits": {}}, {"share": 0.3, "hidden": {}}, {"labels": 1.0}]}),
            "distillation.stages: 1 is not a sum of shares that leaves some for the last stage",
        ),
        (
            json!({"stages": [{"share": 0.5, "logits": {}}, {"share": 0.25, "labels": 1.0}]}),
            "distillation.stages: 0.25 is not the rest, which is 0.5",
        ),
        (json!({"layers": [], "hidden": {}}), "distillation.layers: expected \"uniform\""),
    ] {
        let found = problems(&value);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(wanted), "{}", found[0]);
    }
}

fn misfits(value: Value, student: &TapShape, teacher: &TapShape) -> Vec<String> {
    lines(&settings(&value).resolve(Preset::Classification, student, teacher, None).unwrap_err())
}

#[test]
fn models_that_do_not_fit_are_refused_before_anything_is_computed() {
    let (student, teacher) = (shape(2, 8), shape(4, 8));
    let narrow = TapShape { classes: 3, heads: vec![2, 1, 2, 4], ..teacher.clone() };
    assert_eq!(
        misfits(json!({"logits": {}, "scores": {}, "values": {}}), &student, &narrow),
        [
            "distillation.logits: the student has 4 classes, the teacher 3",
            "distillation.scores: block 0 of the student has 2 heads, block 1 of the teacher 1",
            "distillation.scores: block 1 of the student has 2 heads, block 3 of the teacher 4",
            "distillation.values: block 0 of the student has 2 heads, block 1 of the teacher 1",
            "distillation.values: block 1 of the student has 2 heads, block 3 of the teacher 4",
        ]
    );
    assert_eq!(
        misfits(json!({"stages": [{"share": 0.5, "labels": 1.0}, {"hidden": {}}]}), &teacher, &student),
        ["distillation.layers: a student of 4 blocks cannot be spread over a teacher of 2"]
    );
    assert_eq!(
        misfits(json!({"layers": [1, 4], "hidden": {}}), &student, &teacher),
        ["distillation.layers: there is no block 4 in a teacher of 4, which count from 0"]
    );
    assert_eq!(
        misfits(json!({"layers": "uniform", "logits": {}}), &student, &teacher),
        [
            "distillation.layers: `layers` has an effect with `hidden`, `scores`, `probabilities` and `values` only"
        ]
    );
    let images = |blocks: usize| TapShape {
        heads: vec![],
        positions: (0..=blocks).map(|i| 1 << i).collect(),
        ..shape(blocks, 8)
    };
    assert_eq!(
        misfits(json!({"layers": [[1, 0]], "hidden": {}, "probabilities": {}}), &images(2), &images(2)),
        [
            "distillation.hidden: hidden state 2 of the student and 1 of the teacher differ in resolution",
            "distillation.probabilities: the models show no attention",
        ]
    );
    // The number of classes matters only where logits are compared.
    let other = TapShape { classes: 3, ..teacher };
    assert!(settings(&json!({"hidden": {}})).resolve(Preset::Vision, &student, &other, None).is_ok());
}

#[test]
fn narrower_students_are_projected() {
    let (student, teacher) = (shape(2, 6), shape(4, 8));
    let resolve = |value: Value| settings(&value).resolve(Preset::Vision, &student, &teacher, None).unwrap();
    let device = Default::default();
    assert!(resolve(json!({"logits": {}})).projections::<Flex>(1, &device).is_empty());
    let distillation = resolve(json!({"hidden": {}}));
    let projections = distillation.projections::<A>(1, &device);
    assert_eq!(projections.len(), 3);
    let shown = Taps { hidden: vec![], ..taps::<A>(&student, 1) };
    let hidden: Vec<_> = taps::<A>(&student, 1).hidden.into_iter().map(Tensor::require_grad).collect();
    let shown = Taps { hidden: hidden.clone(), ..shown };
    let constant = Taps::<A>::from_inner(taps(&teacher, 2));
    let found = distillation.loss(0, &shown, Some(&constant), None, &projections).total;
    let wanted: f32 = (0..3)
        .map(|i| {
            let projected = projections.project(i, hidden[i].clone());
            let difference = projected - constant.hidden[2 * i].clone();
            host_floats(difference.powi_scalar(2).mean())[0]
        })
        .sum();
    assert!((host_floats(found.clone())[0] - wanted).abs() <= 1e-5 * wanted);
    let gradients = found.backward();
    assert!(hidden.iter().all(|x| x.grad(&gradients).is_some()));
    assert!(constant.hidden.iter().all(|x| x.grad(&gradients).is_none()));
    let learned = burn::optim::GradientsParams::from_grads(gradients, &projections);
    assert_eq!(learned.len(), 3);
}

#[test]
fn layers_are_read_in_all_their_forms() {
    let layers = |value: Value| settings(&json!({"hidden": {}, "layers": value})).layers.unwrap();
    assert_eq!(layers(json!("uniform")), Layers::Uniform);
    assert_eq!(layers(json!([0, 2])), Layers::Teacher(vec![0, 2]));
    assert_eq!(layers(json!([[0, 2], [1, 3]])), Layers::Pairs(vec![(0, 2), (1, 3)]));
}
