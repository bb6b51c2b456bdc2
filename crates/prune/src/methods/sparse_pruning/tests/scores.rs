//! Scores: learned, made of gradients, of inputs.

use super::*;
use crate::test_kit::Weights;
use briquette_core::{KeptPart, host_floats};
use burn::backend::Autodiff;

type A = Autodiff<Flex>;

#[test]
fn snip_momentum_by_hand() {
    let model = view(vec![site("a", LayerKind::Linear, [4, 2]), site("b", LayerKind::Linear, [4, 1])]);
    let weights = Weights::from([
        ("a".into(), vec![1.0, 4.0, 1.0, 4.0, 1.0, 4.0, 1.0, 4.0]),
        ("b".into(), vec![2.0; 4]),
    ]);
    let settings = json!({"sparsity": 0.5, "pattern": "4x1", "scope": "global", "max_sparsity": 1.0,
        "importance": "snip_momentum", "schedule": {"start": 2}});
    let mut run = Run::<Flex>::new(&method(&settings), &model, &["a", "b"], &weights, Clock::Step(0));
    // Means of |w g| over blocks: 1 and 8, 2; then 5 and 0, 1.
    let gradients =
        |a: [f32; 2], b: f32| Weights::from([("a".into(), a.repeat(4)), ("b".into(), vec![b; 4])]);
    run.step(&gradients([-1.0, 2.0], 1.0));
    assert_eq!(count(&run.kept("a")), 8);
    run.step(&gradients([5.0, 0.0], -0.5));
    // Scores .9 1 + 5, .9 8 + 0, .9 2 + 1: two of three blocks stay, ceil(.5 12) = 6 weights.
    assert_eq!(count(&run.kept("a")), 8);
    assert_eq!(count(&run.kept("b")), 0);
    let scores = host_floats(run.state.buffer(1));
    assert!((scores[0] - 5.9).abs() < 1e-6 && (scores[1] - 7.2).abs() < 1e-6, "{scores:?}");
    // After the last event nothing is added.
    run.step(&gradients([100.0, 0.0], 100.0));
    assert_eq!(host_floats(run.state.buffer(1)), scores);
}

#[test]
fn taylor_adds_up_and_snip_forgets() {
    let model = view(vec![site("w", LayerKind::Linear, [1, 2])]);
    let weights = Weights::from([("w".into(), vec![1.0, 1.0])]);
    let kept = |importance: &str| {
        let settings = json!({"sparsity": 0.5, "importance": importance, "schedule": {"start": 30}});
        let mut run = Run::<Flex>::new(&method(&settings), &model, &["w"], &weights, Clock::Step(0));
        run.step(&Weights::from([("w".into(), vec![9.0, 0.0])]));
        while !run.clock.reached(30) {
            run.step(&Weights::from([("w".into(), vec![0.0, 0.2])]));
        }
        run.kept("w")
    };
    assert_eq!(kept("taylor"), [true, false]);
    assert_eq!(kept("snip_momentum"), [false, true]);
}

#[test]
fn without_gradients_magnitudes_decide() {
    let schedule = json!({"start": 3});
    for (importance, scope) in [("taylor", "layer"), ("snip_momentum", "global")] {
        let settings =
            json!({"sparsity": 0.5, "importance": importance, "scope": scope, "schedule": schedule});
        let magnitude = run(&json!({"sparsity": 0.5, "scope": scope}), Clock::Finished);
        let found = run(&settings, Clock::Finished);
        assert_eq!(found.kept("a"), magnitude.kept("a"));
        assert_eq!(found.kept("c"), magnitude.kept("c"));
    }
}

/// Sums of `c W'^2` over two layers, their gradient by hand is `2 c W'`.
fn quadratic(run: &Run<A>, name: &str, weight: &Tensor<A, 2>) -> Tensor<A, 1> {
    let factors = Tensor::<A, 1, Int>::arange(1..129, &Default::default()).float().reshape([8, 16]) * 0.01;
    (run.apply(name, weight.clone()).square() * factors).sum()
}

#[test]
fn scores_learn_the_movement_of_their_weights() {
    for pattern in ["unstructured", "4x1", "2x2", "2:4"] {
        let model = model();
        let settings = json!({"sparsity": 0.5, "pattern": pattern, "importance": "movement"});
        let run = Run::<A>::new(&method(&settings), &model, &["a"], &uneven(&model), Clock::Step(0));
        let weight = run.weights["a"].clone().require_grad();
        let gradients = quadratic(&run, "a", &weight).backward();
        let mask: Vec<f32> = run.kept("a").iter().map(|k| f32::from(u8::from(*k))).collect();
        let values = host_floats(weight.clone());
        let factor = |i: usize| 0.01 * (i + 1) as f32;
        // dL/dW = 2 c (W m) m, and dL/ds the sum over the block of 2 c (W m) W.
        let found = host_floats(weight.grad(&gradients).expect("a gradient"));
        for (i, found) in found.iter().enumerate() {
            assert!((found - 2.0 * factor(i) * values[i] * mask[i]).abs() < 1e-5, "{pattern} {i}");
        }
        let grid = Pattern::read(pattern).expect("a pattern").on([8, 16]).expect("it divides");
        let found = host_floats(run.state.learned(0).grad(&gradients).expect("a gradient"));
        let [rows, columns] = [8 / grid.scores()[0], 16 / grid.scores()[1]];
        let mut expected = vec![0.0; found.len()];
        for i in 0..128 {
            let (row, column) = (i / 16, i % 16);
            let at = row / rows * grid.scores()[1] + column / columns;
            expected[at] += 2.0 * factor(i) * values[i] * mask[i] * values[i];
        }
        for (f, e) in found.iter().zip(&expected) {
            assert!((f - e).abs() < 1e-5, "{pattern}: {f} {e}");
        }
    }
}

#[test]
fn the_gradient_of_the_scores_is_that_of_the_relaxed_model() {
    // The mask itself as a number: differences of the loss, in 64 bits.
    let model = model();
    let settings = json!({"sparsity": 0.5, "pattern": "4x1", "importance": "movement"});
    let run = Run::<A>::new(&method(&settings), &model, &["a"], &uneven(&model), Clock::Step(0));
    let weight = run.weights["a"].clone();
    let gradients = quadratic(&run, "a", &weight).backward();
    let found = host_floats(run.state.learned(0).grad(&gradients).expect("a gradient"));
    let (values, kept) = (host_floats(weight), run.kept("a"));
    let loss = |changed: usize, by: f64| -> f64 {
        let part = |i: usize| {
            let block = (i / 16 / 4) * 16 + i % 16;
            let mask = f64::from(u8::from(kept[i])) + if block == changed { by } else { 0.0 };
            0.01 * (i + 1) as f64 * (f64::from(values[i]) * mask).powi(2)
        };
        (0..128).map(part).sum()
    };
    for (block, found) in found.iter().enumerate() {
        let difference = (loss(block, 1e-4) - loss(block, -1e-4)) / 2e-4;
        assert!((f64::from(*found) - difference).abs() < 1e-5, "{block}: {found} {difference}");
    }
}

#[test]
fn masks_follow_learned_scores_until_the_end() {
    let settings = |schedule: Value| json!({"sparsity": 0.5, "importance": "movement", "schedule": schedule});
    let flip = |run: &mut Run<Flex>| {
        let scores = run.state.learned(0);
        run.state.set_learned(0, scores.neg());
    };
    let mut run = run(&settings(json!({"start": 2, "every": 3, "end": 8})), Clock::Step(0));
    run.go_to(1);
    assert_eq!(count(&run.kept("a")), 128);
    run.go_to(2);
    let first = run.kept("a");
    assert_eq!(count(&first), 64);
    flip(&mut run);
    run.go_to(4);
    assert_eq!(run.kept("a"), first, "not before the next event");
    run.go_to(5);
    let opposite: Vec<bool> = first.iter().map(|k| !k).collect();
    assert_eq!(run.kept("a"), opposite);
    run.go_to(8);
    flip(&mut run);
    run.go_to(40);
    assert_eq!(run.kept("a"), opposite, "held after the end");
}

#[test]
fn scores_begin_with_magnitudes_and_deepspeeds_are_drawn() {
    let kept = |arithmetic: &str, seed_name: &str| {
        let settings = json!({"sparsity": 0.5, "importance": "movement", "arithmetic": arithmetic});
        run(&settings, Clock::Finished).kept(seed_name)
    };
    assert_eq!(kept("paper", "a"), run(&json!({"sparsity": 0.5}), Clock::Finished).kept("a"));
    assert_ne!(kept("deepspeed", "a"), kept("paper", "a"));
    let settings = json!({"sparsity": 0.5, "importance": "movement", "arithmetic": "deepspeed"});
    let drawn = host_floats(run(&settings, Clock::Step(0)).state.learned(0));
    assert!(drawn.iter().all(|v| v.abs() <= 0.25) && drawn.iter().any(|v| v.abs() > 0.2), "1 / sqrt(16)");
}

#[test]
fn deepspeeds_scores_learn_once_they_act() {
    let learns = |arithmetic: &str, step: usize| {
        let model = model();
        let settings = json!({"sparsity": 0.5, "importance": "movement", "arithmetic": arithmetic,
            "schedule": {"start": 3}});
        let mut run = Run::<A>::new(&method(&settings), &model, &["a"], &uneven(&model), Clock::Step(0));
        run.go_to(step);
        let weight = run.weights["a"].clone().require_grad();
        let gradients = quadratic(&run, "a", &weight).backward();
        run.state.learned(0).grad(&gradients).is_some()
    };
    assert!(learns("paper", 0) && learns("paper", 3));
    assert!(!learns("deepspeed", 2) && learns("deepspeed", 3));
}

/// A weight `[2, 4]` and inputs that make the second and the last count most.
fn weighted() -> (ModelView, Weights, Weights) {
    let model = view(vec![site("w", LayerKind::Linear, [2, 4])]);
    let weights = Weights::from([("w".into(), vec![4.0, 1.0, 3.0, 2.0, 8.0, 1.0, 1.0, 1.0])]);
    // Norms 1, 5, 0 and 13.
    let inputs = Weights::from([("w".into(), vec![1.0, 3.0, 0.0, 5.0, 0.0, -4.0, 0.0, 12.0])]);
    (model, weights, inputs)
}

#[test]
fn weights_count_by_what_they_meet() {
    let (model, weights, inputs) = weighted();
    let kept = |settings: Value| {
        let mut run = Run::<Flex>::new(&method(&settings), &model, &["w"], &weights, Clock::Finished);
        assert_eq!(run.waits_for(), ["w"]);
        assert_eq!(run.kept("w"), [true; 8], "nothing is known of the inputs");
        run.end();
        assert_eq!(run.kept("w"), [true; 8]);
        run.observe(&Weights::new());
        assert_eq!((run.waits_for(), run.kept("w")), (vec!["w"], vec![true; 8]), "no input reached it");
        run.observe(&inputs);
        assert!(run.waits_for().is_empty());
        run.kept("w").into_iter().map(u8::from).collect::<Vec<_>>()
    };
    let activation = |more: Value| {
        let mut settings = json!({"sparsity": 0.5, "importance": "activation"});
        more.as_object().expect("an object").iter().for_each(|(k, v)| settings[k] = v.clone());
        kept(settings)
    };
    // 4, 5, 0, 26 and 8, 5, 0, 13: each row keeps two.
    assert_eq!(activation(json!({})), [0, 1, 0, 1, 1, 0, 0, 1]);
    assert_eq!(activation(json!({"pattern": "2:4", "sparsity": 0.5})), [0, 1, 0, 1, 1, 0, 0, 1]);
    assert_eq!(activation(json!({"scope": "layer"})), [0, 1, 0, 1, 1, 0, 0, 1]);
    assert_eq!(activation(json!({"sparsity": 0.625, "scope": "layer"})), [0, 0, 0, 1, 1, 0, 0, 1]);
    // Means of columns: 6, 5, 0, 19.5.
    assert_eq!(activation(json!({"pattern": "2x1"})), [1, 0, 0, 1, 1, 0, 0, 1]);
    let steps = plan::<Flex>(&method(&json!({"sparsity": 0.5, "importance": "activation"})), &model, &["w"]);
    assert_eq!(steps.expect("a plan")[0].details["scope"], json!("row"));
}

#[test]
fn a_smaller_weight_keeps_the_norms_of_its_inputs() {
    let (model, weights, inputs) = weighted();
    let settings = json!({"sparsity": 0.5, "importance": "activation", "schedule": {"start": 5}});
    let mut run = Run::<Flex>::new(&method(&settings), &model, &["w"], &weights, Clock::Step(0));
    run.observe(&inputs);
    assert_eq!(run.kept("w"), [true; 8], "not yet");
    let smaller = site("w", LayerKind::Linear, [2, 2]);
    let weight = Tensor::<Flex, 2>::from_floats([[4.0, 1.0], [8.0, 1.0]], &Default::default());
    let left = KeptPart { site: &smaller, rows: &[0, 1], columns: &[0, 1], weight: weight.clone() };
    let (state, stage) = run.stage_mut("w");
    stage.shrink(state, &left).expect("it can be cut");
    run.weights.insert("w".into(), weight);
    run.go_to(5);
    assert_eq!(run.kept("w"), [false, true, true, false]);
}
