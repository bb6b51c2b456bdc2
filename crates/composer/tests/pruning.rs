//! Sparse pruning in sessions: masks hold through training, quantization and interruptions.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod common;

use briquette_composer::{CalibrationError, Session, Trained};
use briquette_core::{Clock, Left, SparsePattern};
use burn::backend::Flex;
use burn::module::Module;
use burn::optim::{AdamConfig, Optimizer};
use burn::prelude::*;
use common::*;
use serde_json::{Value, json};

type Training = Session<A, Net<A>>;

fn session(recipe: &Value) -> Training {
    let model = Net::<A>::new();
    plan(&model, recipe).attach_training(&model, 3)
}

fn adam() -> impl Optimizer<Trained<A, Net<A>>, A> {
    AdamConfig::new().init()
}

fn step(session: &mut Training, optimizer: &mut impl Optimizer<Trained<A, Net<A>>, A>) {
    let loss = (session.view().forward(ids()) - waves([3, 5, 8], 77) * 2.0).square().mean();
    session.step(loss.backward(), optimizer, 2e-2);
}

fn sparse(settings: Value) -> Value {
    let mut settings = settings;
    if settings.get("on").is_none() {
        settings["on"] = json!(["fc1", "plain", "fc2"]);
    }
    json!({"steps": [{"sparse_pruning": settings}]})
}

fn deepspeed(shared: Value, params: Value) -> Value {
    let mut shared = shared;
    shared["enabled"] = json!(true);
    let groups = match params.is_null() {
        true => json!({}),
        false => json!({"g": {"params": params, "modules": ["fc", "plain"]}}),
    };
    json!({"compression_training":
        {"sparse_pruning": {"shared_parameters": shared, "different_groups": groups}}})
}

/// The three linear weights, as they are in the view or in a finished model.
fn weights<B: Backend>(model: &Net<B>) -> [Vec<f32>; 3] {
    [&model.fc1.weight, &model.plain.weight, &model.fc2.weight].map(|w| floats(w.val()))
}

fn zeros(values: &[f32]) -> usize {
    values.iter().filter(|v| **v == 0.0).count()
}

#[test]
fn deepspeeds_sparse_pruning_runs_without_an_end() {
    // Its scheduler looks for `schedule_offset_end` at every step, which only snip_momentum has.
    for method in ["l1", "topk"] {
        let shared = json!({"method": method, "schedule_offset": 2});
        let mut session = session(&deepspeed(shared, json!({"dense_ratio": 0.4})));
        let mut optimizer = adam();
        for done in 0..5 {
            let pruned = weights(&session.view()).map(|w| zeros(&w));
            // Of 512, 1024 and 256 weights.
            let expected = if done < 2 { [0, 0, 0] } else { [307, 614, 153] };
            assert_eq!(pruned, expected, "{method} after {done} steps");
            step(&mut session, &mut optimizer);
        }
    }
}

#[test]
fn removed_weights_stay_zero_while_the_optimizer_moves_them() {
    for settings in [
        json!({"sparsity": 0.5}),
        json!({"sparsity": 0.5, "importance": "movement", "schedule": {"start": 1, "end": 1}}),
        json!({"pattern": "2:4"}),
    ] {
        let mut session = session(&sparse(settings.clone()));
        let mut optimizer = adam();
        step(&mut session, &mut optimizer);
        let mask = |model: &Net<A>| weights(model).map(|w| w.iter().map(|v| *v == 0.0).collect::<Vec<_>>());
        let first = mask(&session.view());
        let before = parameters(&session.parts().model);
        for _ in 0..4 {
            step(&mut session, &mut optimizer);
            assert_eq!(mask(&session.view()), first, "{settings}");
        }
        assert_ne!(parameters(&session.parts().model), before);
        let view = parameters(&session.view());
        let finished = session.finish().unwrap();
        assert_eq!(parameters(&finished.model), view);
        assert_eq!(mask(&finished.model), first);
    }
}

#[test]
fn masks_are_zero_or_one_however_the_scores_lie_in_memory() {
    // A linear layer's canonical weight is a transposed one; DeepSpeed does not binarise masks of such scores.
    for pattern in ["unstructured", "4x1", "1x4"] {
        let settings = json!({"sparsity": 0.5, "pattern": pattern, "importance": "movement"});
        let mut session = session(&sparse(settings));
        let mut optimizer = adam();
        for _ in 0..3 {
            step(&mut session, &mut optimizer);
            let (view, raw) = (weights(&session.view()), weights(&session.parts().model));
            for (view, raw) in view.iter().zip(&raw) {
                assert!(view.iter().zip(raw).all(|(v, r)| *v == 0.0 || v == r), "{pattern}");
                assert_eq!(zeros(view), raw.len() / 2, "{pattern}");
            }
        }
    }
}

#[test]
fn learned_scores_are_trained_and_change_what_stays() {
    let settings = json!({"sparsity": 0.5, "importance": "movement", "schedule": {"every": 1}, "arithmetic": "deepspeed"});
    let mut session = session(&sparse(settings));
    let mut optimizer = adam();
    let first = weights(&session.view());
    for _ in 0..10 {
        step(&mut session, &mut optimizer);
    }
    let moved = |a: &[f32], b: &[f32]| a.iter().zip(b).filter(|(a, b)| (**a == 0.0) != (**b == 0.0)).count();
    let now = weights(&session.view());
    assert!(first.iter().zip(&now).any(|(a, b)| moved(a, b) > 0));
}

#[test]
fn snip_momentum_reaches_its_ratio_exactly_and_in_blocks() {
    let shared = json!({"method": "snip_momentum", "schedule_offset": 2, "schedule_offset_end": 10,
        "schedule_offset_stride": 2, "dense_ratio": 0.2, "block_pattern": "4x1"});
    let mut session = session(&deepspeed(shared, Value::Null));
    let mut optimizer = adam();
    // The last linear layer is left out: 512 and 1024 weights, 384 blocks; targets 0, .3313, .5528, .7009, .8.
    let mut kept = Vec::new();
    for done in 0..=11 {
        let [first, plain, last] = weights(&session.view());
        assert_eq!(zeros(&last), 0);
        kept.push((first.len() + plain.len() - zeros(&first) - zeros(&plain)) / 4);
        if done < 11 {
            step(&mut session, &mut optimizer);
        }
    }
    assert_eq!(kept, [384, 384, 384, 384, 257, 257, 172, 172, 115, 115, 77, 77]);
    let finished = session.finish().unwrap();
    for layer in &finished.layers {
        let Some((_, Left::Sparse(sparse))) = layer.left.first() else {
            panic!("{} is sparse", layer.site.name)
        };
        assert_eq!(sparse.pattern, SparsePattern::Block { rows: 4, columns: 1 });
        let [rows, columns] = sparse.shape;
        for (row, column) in (0..rows / 4).flat_map(|r| (0..columns).map(move |c| (r, c))) {
            let block: Vec<bool> = (0..4).map(|i| sparse.kept[(4 * row + i) * columns + column]).collect();
            assert!(block == [true; 4] || block == [false; 4]);
        }
    }
}

#[test]
fn two_of_four_is_two_of_four_everywhere() {
    let model = Net::<Flex>::new();
    let session = plan(&model, &sparse(json!({"pattern": "2:4"}))).attach(&model, 0);
    let finished = session.finish().unwrap();
    assert_eq!(finished.layers.len(), 3);
    for layer in &finished.layers {
        let Some((_, Left::Sparse(sparse))) = layer.left.first() else { panic!("a sparse weight") };
        assert_eq!(sparse.pattern, SparsePattern::RunOf { kept: 2, of: 4 });
        assert!(sparse.kept.chunks(4).all(|run| run.iter().filter(|k| **k).count() == 2));
    }
    // Along the inputs, which is the first axis of a linear layer's weight in burn.
    let weight = finished.model.fc2.weight.val().transpose();
    assert!(floats(weight).chunks(4).all(|run| zeros(run) == 2));
}

#[test]
fn two_sessions_in_one_process_do_not_meet() {
    let settings = [json!({"sparsity": 0.25}), json!({"pattern": "1:4"})];
    let run = |of: &[usize]| -> Vec<[Vec<f32>; 3]> {
        let mut sessions: Vec<Training> = of.iter().map(|i| session(&sparse(settings[*i].clone()))).collect();
        let mut optimizers: Vec<_> = of.iter().map(|_| adam()).collect();
        for _ in 0..3 {
            for (session, optimizer) in sessions.iter_mut().zip(&mut optimizers) {
                step(session, optimizer);
            }
        }
        sessions.iter().map(|s| weights(&s.view())).collect()
    };
    let together = run(&[0, 1]);
    assert_eq!(together[0], run(&[0])[0]);
    assert_eq!(together[1], run(&[1])[0]);
    assert_eq!(zeros(&together[0][0]), 128);
    assert_eq!(zeros(&together[1][0]), 384);
}

#[test]
fn removed_weights_stay_zero_when_they_are_quantized() {
    for (quantizer, training) in [
        (json!({"on": ["fc1"], "bits": 8}), true),
        (json!({"on": ["fc1"], "bits": 4, "symmetric": false}), true),
        (json!({"on": ["fc1"], "bits": 2}), false),
        (json!({"on": ["fc1"], "bits": 4, "scale": "learned"}), true),
    ] {
        let recipe = json!({"steps": [
            {"sparse_pruning": {"on": ["fc1"], "sparsity": 0.5}}, {"weight_quantization": quantizer}]});
        let mut session = session(&recipe);
        let mut optimizer = adam();
        let pruned = plan::<A, _>(&Net::<A>::new(), &sparse(json!({"on": ["fc1"], "sparsity": 0.5})))
            .attach(&Net::<A>::new(), 0);
        let mask: Vec<bool> = floats(pruned.view().fc1.weight.val()).iter().map(|v| *v == 0.0).collect();
        for _ in 0..if training { 3 } else { 0 } {
            step(&mut session, &mut optimizer);
        }
        let finished = session.finish().unwrap();
        let weight = floats(finished.model.fc1.weight.val());
        assert!(weight.iter().zip(&mask).all(|(v, gone)| !gone || *v == 0.0), "{recipe}");
        assert!(finished.layers[0].coded().is_some());
    }
}

#[test]
fn an_interrupted_session_goes_on_bit_for_bit() {
    for settings in [
        json!({"sparsity": 0.6, "schedule": {"shape": "cubic", "end": 6, "every": 2}}),
        json!({"sparsity": 0.6, "importance": "movement", "schedule": {"every": 2}}),
        json!({"sparsity": 0.6, "importance": "snip_momentum", "scope": "global", "pattern": "4x1",
               "schedule": {"shape": "linear", "start": 1, "end": 7, "every": 2}}),
        json!({"sparsity": 0.6, "importance": "taylor", "schedule": {"start": 4}}),
        json!({"sparsity": 0.6, "arithmetic": "deepspeed", "schedule": {"start": 5}}),
    ] {
        let recipe = sparse(settings);
        let steps = |session: &mut Training, optimizer: &mut _, count: usize| {
            (0..count).for_each(|_| step(session, optimizer));
        };
        let (mut whole, mut optimizer) = (session(&recipe), adam());
        steps(&mut whole, &mut optimizer, 3);
        let record = whole.copy_parts().into_record();
        let position = serde_json::from_value(serde_json::to_value(whole.position()).unwrap()).unwrap();
        let moments = optimizer.to_record();
        steps(&mut whole, &mut optimizer, 5);
        let mut resumed = session(&recipe);
        resumed.resume(record, &position).unwrap();
        let mut optimizer = adam().load_record(moments);
        steps(&mut resumed, &mut optimizer, 5);
        assert_eq!(parameters(&resumed.view()), parameters(&whole.view()), "{recipe}");
        assert_eq!(resumed.position(), whole.position());
        assert_eq!(
            parameters(&resumed.finish().unwrap().model),
            parameters(&whole.finish().unwrap().model),
            "{recipe}"
        );
    }
}

#[test]
fn a_session_that_ends_early_ends_with_the_whole_share() {
    let settings = json!({"sparsity": 0.75, "schedule": {"shape": "cubic", "start": 2, "end": 100}});
    let mut session = session(&sparse(settings));
    let mut optimizer = adam();
    for _ in 0..8 {
        step(&mut session, &mut optimizer);
    }
    assert!(zeros(&weights(&session.view())[1]) < 768);
    assert_eq!(session.clock(), Clock::Step(8));
    let finished = session.finish().unwrap();
    assert_eq!(weights(&finished.model).map(|w| zeros(&w)), [384, 768, 192]);
}

#[test]
fn weights_count_by_what_they_meet_in_calibration_data() {
    let model = Net::<Flex>::new();
    let recipe = sparse(json!({"on": ["fc1", "fc2"], "sparsity": 0.5, "importance": "activation"}));
    let attached = || plan(&model, &recipe).attach(&model, 0);
    let mut session = attached();
    assert!(session.needs_calibration() && session.needs_inputs());
    assert_eq!(weights(&session.view()).map(|w| zeros(&w)), [0, 0, 0]);
    let error = attached().finish().err().unwrap().to_string();
    assert!(error.starts_with("no input reached fc1, fc2: "), "{error}");
    let nothing = attached().calibrate::<CalibrationError>(|_| Ok(())).unwrap_err();
    assert_eq!(nothing.layers, ["fc1", "fc2"]);
    let run = |m: &Net<Flex>| {
        m.forward(ids());
        Ok(())
    };
    session.calibrate::<CalibrationError>(run).unwrap();
    assert!(!session.needs_calibration());
    let finished = session.finish().unwrap();
    let [first, plain, last] = weights(&finished.model);
    assert_eq!([zeros(&first), zeros(&plain), zeros(&last)], [256, 0, 128]);
    // By hand: the norms of the inputs of `fc1`, the embeddings of all ids.
    let inputs = model.words.forward(ids::<Flex>()).reshape([15, 16]);
    let norms = inputs.square().sum_dim(0).sqrt().transpose();
    let scores = floats((model.fc1.weight.val().abs() * norms).transpose());
    let kept: Vec<bool> =
        floats(finished.model.fc1.weight.val().transpose()).iter().map(|v| *v != 0.0).collect();
    for (scores, kept) in scores.chunks(16).zip(kept.chunks(16)) {
        assert_eq!(kept.iter().filter(|k| **k).count(), 8);
        let of = |stays: bool| scores.iter().zip(kept).filter(move |(_, k)| **k == stays).map(|(s, _)| *s);
        let (lowest, highest) = (of(true).fold(f32::MAX, f32::min), of(false).fold(0.0, f32::max));
        assert!(lowest >= highest, "{lowest} {highest}");
    }
    let by_size = plan(&model, &sparse(json!({"on": ["fc1", "fc2"], "sparsity": 0.5, "scope": "row"})));
    assert_ne!(weights(&by_size.attach(&model, 0).view())[0], first);
}

#[test]
fn ranges_are_those_of_the_pruned_model() {
    let model = Net::<Flex>::new();
    let recipe = json!({"steps": [
        {"sparse_pruning": {"on": ["fc1"], "sparsity": 0.9, "importance": "activation"}},
        {"weight_quantization": {"on": ["plain", "fc1", "fc2"], "bits": 8}},
        {"activation_quantization": {"on": ["fc1", "fc2"], "bits": 8, "range": "static", "observer": "min_max"}},
    ]});
    let mut session = plan(&model, &recipe).attach(&model, 0);
    let mut calls = 0;
    let mut run = |m: &Net<Flex>| {
        calls += 1;
        m.forward(ids());
        Ok(())
    };
    session.calibrate::<CalibrationError>(&mut run).unwrap();
    assert_eq!(calls, 2);
    let finished = session.finish().unwrap();
    let range =
        |inputs: &std::collections::BTreeMap<String, briquette_core::InputQuantization>| inputs["fc2"].range;
    let pruned = range(&finished.inputs);
    let recipe = json!({"steps": [recipe["steps"][1], recipe["steps"][2]]});
    let mut session = plan(&model, &recipe).attach(&model, 0);
    session
        .calibrate::<CalibrationError>(|m| {
            m.forward(ids());
            Ok(())
        })
        .unwrap();
    assert_ne!(range(&session.finish().unwrap().inputs), pruned);
}

#[test]
fn a_training_session_sees_inputs_before_its_first_step() {
    let settings =
        json!({"on": ["fc1"], "sparsity": 0.5, "importance": "activation", "schedule": {"start": 2}});
    let mut session = session(&sparse(settings));
    let mut optimizer = adam();
    session
        .observe_inputs::<CalibrationError>(|m| {
            m.forward(ids());
            Ok(())
        })
        .unwrap();
    let mut counts = Vec::new();
    for _ in 0..4 {
        counts.push(zeros(&weights(&session.view())[0]));
        step(&mut session, &mut optimizer);
    }
    assert_eq!(counts, [0, 0, 256, 256]);
    assert!(session.finish().is_ok());
}
