//! The life of masks.

use super::*;
use crate::methods::{Channels, Heads, Rows, Width};
use crate::selection;
use briquette_core::{KeptPart, Left, Stage, host_floats};

/// Sums of magnitudes of the rows of `[rows, columns]`.
fn row_norms(values: &[f32], columns: usize) -> Vec<f32> {
    values.chunks(columns).map(|row| row.iter().map(|v| v.abs()).sum()).collect()
}

/// The same weights with the columns of removed units at zero; `each` columns a unit.
fn columns_zeroed(values: &[f32], columns: usize, each: usize, kept: &[usize]) -> Vec<f32> {
    let stays = |i: usize| kept.contains(&((i % columns) / each));
    values.iter().enumerate().map(|(i, v)| if stays(i) { *v } else { 0.0 }).collect()
}

fn same(a: &[f32], b: &[f32]) {
    assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b), "{a:?} {b:?}");
}

fn indices(marks: &[bool]) -> Vec<usize> {
    (0..marks.len()).filter(|i| marks[*i]).collect()
}

#[test]
fn rows_with_the_smallest_norm_go_where_they_are_read() {
    let run = run::<Rows>(&json!({"keep": 0.6}), &["up"], Clock::Finished);
    let weights = uneven(&model());
    let kept = indices(&selection::highest(&row_norms(&weights["up"], 4), 5));
    assert_eq!(units(&run, "up"), kept);
    assert_eq!(run.masked().into_iter().collect::<Vec<_>>(), ["down"]);
    same(&run.view("down"), &columns_zeroed(&weights["down"], 8, 1, &kept));
    let (weight, left) = run.finish("down");
    same(&weight, &columns_zeroed(&weights["down"], 8, 1, &kept));
    assert_eq!(left, Left::Baked);
}

#[test]
fn channels_by_l1() {
    let run = run::<Channels>(&json!({"keep": 0.5}), &["conv1"], Clock::Finished);
    let weights = uneven(&model());
    let kept = indices(&selection::highest(&row_norms(&weights["conv1"], 27), 2));
    assert_eq!(units(&run, "conv1"), kept);
    same(&run.view("conv2"), &columns_zeroed(&weights["conv2"], 36, 9, &kept));
}

#[test]
fn heads_are_ranked_by_the_layer_that_is_named() {
    let weights = uneven(&model());
    let by = |name: &str| units(&run::<Heads>(&json!({"keep_number": 1}), &[name], Clock::Finished), "q");
    // Columns of the output projection `[4, 6]`, two a head; rows of the query `[6, 4]`.
    let mut columns = vec![0.0; 3];
    weights["o"].iter().enumerate().for_each(|(i, v)| columns[(i % 6) / 2] += v.abs());
    assert_eq!(by("o"), indices(&selection::highest(&columns, 1)));
    assert_eq!(by("q"), indices(&selection::highest(&row_norms(&weights["q"], 8), 1)));
    let both = run::<Heads>(&json!({"keep_number": 1}), &["o", "q"], Clock::Finished);
    let sums: Vec<f32> = columns.iter().zip(row_norms(&weights["q"], 8)).map(|(a, b)| a + b).collect();
    assert_eq!(units(&both, "q"), indices(&selection::highest(&sums, 1)));
}

#[test]
fn all_readers_of_the_width_share_one_mask() {
    let run = run::<Width>(&json!({"keep": 0.5}), &["words"], Clock::Finished);
    let (kept, weights) = (units(&run, "words"), uneven(&model()));
    assert_eq!(kept.len(), 2);
    for name in ["q", "k", "v", "up", "classifier"] {
        same(&run.view(name), &columns_zeroed(&weights[name], 4, 1, &kept));
    }
}

#[test]
fn a_model_without_the_units_computes_what_the_masked_one_does() {
    // down relu(up x + bias), with a bias that would make a masked unit speak.
    let (run, weights) = (run::<Rows>(&json!({"keep": 0.5}), &["up"], Clock::Finished), uneven(&model()));
    let kept = units(&run, "up");
    let hidden: Vec<f32> = (0..8)
        .map(|r| {
            let dot: f32 = (0..4).map(|c| weights["up"][r * 4 + c] * (0.3 + 0.5 * c as f32)).sum();
            (dot + 2.0).max(0.0)
        })
        .collect();
    assert!(hidden.iter().all(|h| *h > 0.0));
    let down = |weights: &[f32], units: &[usize]| -> Vec<f32> {
        (0..4).map(|r| units.iter().map(|u| weights[r * 8 + u] * hidden[*u]).sum()).collect()
    };
    let masked = down(&run.view("down"), &(0..8).collect::<Vec<_>>());
    let removed = down(&weights["down"], &kept);
    masked.iter().zip(removed).for_each(|(m, r)| assert!((m - r).abs() < 1e-6));
}

#[test]
fn each_group_of_one_entry_has_its_own_mask() {
    let mut model = model();
    model.sites.extend([site("up2", LayerKind::Linear, [8, 4]), site("down2", LayerKind::Linear, [4, 8])]);
    let second = group(vec![
        member("up2.weight", 1, Role::Produces, [0, 8, 1]),
        member("down2.weight", 0, Role::Consumes, [0, 8, 1]),
    ]);
    model.dependencies.as_mut().expect("traced").groups.push(second);
    let weights = uneven(&model);
    let related = json!([{"of": "up", "are": ["down"]}, {"of": "up2", "are": ["down2"]}]);
    let settings = json!({"keep": 0.5, "related": related});
    let run = Run::<Flex>::new(&method::<Rows>(&settings), &model, &["up", "up2"], &weights, Clock::Finished);
    for (up, down) in [("up", "down"), ("up2", "down2")] {
        let kept = indices(&selection::highest(&row_norms(&weights[up], 4), 4));
        assert_eq!(units(&run, up), kept);
        same(&run.view(down), &columns_zeroed(&weights[down], 8, 1, &kept));
    }
    assert_ne!(units(&run, "up"), units(&run, "up2"));
}

#[test]
fn every_option_changes_what_stays() {
    let base = json!({"keep": 0.5});
    let of = |change: Value| units(&run::<Rows>(&with(&base, change), &["up"], Clock::Finished), "up");
    let first = of(json!({}));
    assert_eq!(first, of(json!({"importance": "l1", "scope": "layer", "multiple_of": 1})));
    for change in [
        json!({"keep": 0.6}),
        json!({"multiple_of": 5}),
        json!({"importance": "random"}),
        json!({"importance": "movement", "arithmetic": "deepspeed"}),
    ] {
        assert_ne!(first, of(change.clone()), "{change}");
    }
    assert!(run::<Rows>(&with(&base, json!({"remove": false})), &["up"], Clock::Finished).masks().is_empty());
    // One large weight against several middling ones.
    let model = model();
    let mut weights = uneven(&model);
    weights.insert("up".into(), [[3.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]].as_flattened().repeat(4));
    let norms = |importance: &str| {
        let settings = with(&base, json!({"importance": importance}));
        let run = Run::<Flex>::new(&method::<Rows>(&settings), &model, &["up"], &weights, Clock::Finished);
        units(&run, "up")
    };
    assert_eq!(norms("l1"), [1, 3, 5, 7]);
    assert_eq!(norms("l2"), [0, 2, 4, 6]);
}

#[test]
fn groups_that_compete() {
    let model = model();
    let mut weights = uneven(&model);
    // Even rows in one group, one strong row in the other; scores are relative to the mean of their group.
    weights.insert("up".into(), vec![1.0; 32]);
    let conv = (0..108).map(|i| if i < 27 { 100.0 } else { 1e-3 * (1.0 + (i / 27) as f32) }).collect();
    weights.insert("conv1".into(), conv);
    let mut linear = model.clone();
    // Both as layers that one method takes.
    linear.sites.iter_mut().filter(|s| s.name == "conv1").for_each(|s| {
        (s.kind, s.native) = (LayerKind::Linear, vec![27, 4]);
    });
    linear.dependencies.as_mut().expect("traced").groups[2].members[0].axis = 1;
    let kept = |more: Value| {
        let settings = with(&json!({"keep": 0.75, "scope": "global"}), more);
        let run = Run::<Flex>::new(
            &method::<Rows>(&settings),
            &linear,
            &["up", "conv1"],
            &weights,
            Clock::Finished,
        );
        [units(&run, "up").len(), units(&run, "conv1").len()]
    };
    assert_eq!(kept(json!({})), [8, 1]);
    assert_eq!(kept(json!({"max_sparsity": 0.5})), [7, 2]);
    assert_eq!(kept(json!({"min_sparsity": 0.25})), [6, 3]);
    assert_eq!(kept(json!({"multiple_of": 2})), [8, 2]);
    assert_eq!(kept(json!({"scope": "layer"})), [6, 3]);
    assert_eq!(kept(json!({"keep": 0.05})), [1, 1], "something is left of each group");
}

#[test]
fn the_number_follows_the_schedule_and_is_held() {
    let schedule = json!({"shape": "linear", "start": 2, "end": 10, "every": 2});
    let mut run = run::<Rows>(&json!({"keep": 0.25, "schedule": schedule}), &["up"], Clock::Step(0));
    let mut kept = Vec::new();
    for step in 0..=11 {
        run.go_to(step);
        kept.push(units(&run, "up").len());
        assert_eq!(run.settled(), step >= 10);
    }
    assert_eq!(kept, [8, 8, 8, 8, 7, 7, 5, 5, 4, 4, 2, 2]);
    let before = units(&run, "up");
    let reversed = run.weights["up"].clone().flip([0]);
    run.weights.insert("up".into(), reversed);
    run.go_to(20);
    run.end();
    assert_eq!(units(&run, "up"), before);
    let rounded = with(&json!({"keep": 0.25, "schedule": schedule}), json!({"multiple_of": 4}));
    let mut run = super::run::<Rows>(&rounded, &["up"], Clock::Step(0));
    run.go_to(6);
    assert_eq!(units(&run, "up").len(), 8);
    run.end();
    assert_eq!(units(&run, "up").len(), 4);
}

#[test]
fn deepspeed_ranks_by_the_weights_of_the_beginning() {
    let kept = |arithmetic: &str| {
        let settings = json!({"keep": 0.5, "arithmetic": arithmetic, "schedule": {"start": 2}});
        let mut run = run::<Rows>(&settings, &["up"], Clock::Step(0));
        let reversed = run.weights["up"].clone().flip([0]);
        run.weights.insert("up".into(), reversed);
        run.go_to(1);
        assert_eq!(units(&run, "up").len(), 8);
        run.go_to(2);
        units(&run, "up")
    };
    let first = units(&run::<Rows>(&json!({"keep": 0.5}), &["up"], Clock::Finished), "up");
    assert_eq!(kept("deepspeed"), first);
    assert_eq!(kept("paper").into_iter().rev().map(|u| 7 - u).collect::<Vec<_>>(), first);
}

/// A loss of two consumers, `sum c W'^2`, and its gradients by the mask of each unit, from `dL/dW' W`.
#[test]
fn scores_learn_from_all_consumers() {
    let model = model();
    let settings = json!({"keep": 0.5, "importance": "movement"});
    let run = Run::<A>::new(&method::<Width>(&settings), &model, &["words"], &uneven(&model), Clock::Step(0));
    let (names, kept) = (["q", "up"], units(&run, "words"));
    let loss = |name: &str| {
        let weight = run.weights[name].clone();
        let factors: Tensor<A, 2> =
            Tensor::<A, 1, Int>::arange(1..weight.shape().num_elements() as i64 + 1, &Default::default())
                .float()
                .reshape(weight.dims());
        (run.apply(name, weight).square() * factors).sum()
    };
    let gradients = (loss("q") + loss("up")).backward();
    let found = host_floats(run.state.learned(0).grad(&gradients).expect("a gradient"));
    let weights = uneven(&model);
    let mut expected = vec![0.0f64; 4];
    for name in names {
        for (i, w) in weights[name].iter().enumerate().filter(|(i, _)| kept.contains(&(i % 4))) {
            expected[i % 4] += 2.0 * (i + 1) as f64 * f64::from(*w).powi(2);
        }
    }
    assert!(kept.iter().all(|u| expected[*u] > 0.0));
    found.iter().zip(expected).for_each(|(f, e)| assert!((f64::from(*f) - e).abs() < 1e-3, "{f} {e}"));
}

#[test]
fn masks_follow_learned_scores_at_every_step() {
    let settings = json!({"keep": 0.5, "importance": "movement", "schedule": {"start": 2}});
    let mut run = run::<Rows>(&settings, &["up"], Clock::Step(0));
    run.go_to(1);
    assert_eq!(units(&run, "up").len(), 8);
    run.go_to(2);
    let first = units(&run, "up");
    assert_eq!(first, units(&super::run::<Rows>(&json!({"keep": 0.5}), &["up"], Clock::Finished), "up"));
    let scores = run.state.learned(0);
    run.state.set_learned(0, scores.neg());
    run.go_to(3);
    let opposite: Vec<usize> = (0..8).filter(|u| !first.contains(u)).collect();
    assert_eq!(units(&run, "up"), opposite);
    assert!(!run.settled());
    let scores = run.state.learned(0);
    run.state.set_learned(0, scores.neg());
    run.end();
    assert_eq!(units(&run, "up"), opposite, "the end of a session changes nothing");
}

#[test]
fn across_groups_learned_scores_are_ranked_together() {
    let settings = json!({"keep": 0.5, "importance": "movement", "scope": "global"});
    let mut run = run::<Rows>(&settings, &["up"], Clock::Step(0));
    let first = units(&run, "up");
    let scores = run.state.learned(0);
    run.state.set_learned(0, scores.neg());
    run.go_to(31);
    assert_eq!(units(&run, "up"), first);
    run.go_to(32);
    assert_ne!(units(&run, "up"), first);
}

#[test]
fn drawn_scores_have_the_bound_of_their_kind() {
    let drawn = |run: Run<Flex>| host_floats(run.state.learned(0));
    let settings = json!({"keep": 0.5, "importance": "movement", "arithmetic": "deepspeed"});
    let rows = drawn(run::<Rows>(&settings, &["up"], Clock::Step(0)));
    assert!(rows.iter().any(|v| v.abs() > 0.6) && rows.iter().all(|v| v.abs() <= 1.0), "{rows:?}");
    let heads = drawn(run::<Heads>(&settings, &["o"], Clock::Step(0)));
    assert!(heads.iter().all(|v| v.abs() <= 1.0 / 3f32.sqrt()), "{heads:?}");
}

#[test]
fn taylor_adds_up_over_consumers() {
    let model = model();
    let weights: Weights = uneven(&model).into_iter().map(|(n, w)| (n, vec![1.0; w.len()])).collect();
    let settings = json!({"keep_number": 1, "importance": "taylor", "schedule": {"start": 2}});
    let mut run = Run::<Flex>::new(&method::<Width>(&settings), &model, &["words"], &weights, Clock::Step(0));
    let gradient = |unit: usize, rows: usize, by: f32| -> Vec<f32> {
        (0..rows * 4).map(|i| if i % 4 == unit { by } else { 0.0 }).collect()
    };
    // Unit 1 matters to two layers, unit 2 more to one of them.
    run.step(&Weights::from([("q".into(), gradient(1, 6, 1.0)), ("k".into(), gradient(2, 6, -1.5))]));
    run.step(&Weights::from([("up".into(), gradient(1, 8, -0.5))]));
    assert_eq!(host_floats(run.state.buffer(1)), [0.0, 10.0, 9.0, 0.0]);
    assert_eq!(units(&run, "words"), [1]);
    let settings = json!({"keep": 0.5, "importance": "taylor", "schedule": {"start": 2}});
    let without = super::run::<Rows>(&settings, &["up"], Clock::Finished);
    let magnitude = super::run::<Rows>(&json!({"keep": 0.5}), &["up"], Clock::Finished);
    assert_eq!(units(&without, "up"), units(&magnitude, "up"), "no gradient was seen");
}

#[test]
fn finish_is_the_last_apply() {
    for importance in ["l1", "movement", "random"] {
        let mut run = run::<Heads>(&json!({"keep": 0.5, "importance": importance}), &["o"], Clock::Step(0));
        run.go_to(3);
        run.end();
        let view = run.view("o");
        same(&run.finish("o").0, &view);
    }
}

#[test]
fn a_weight_that_lost_other_columns_keeps_its_mask() {
    let mut run = run::<Heads>(&json!({"keep_number": 2, "remove": false}), &["o"], Clock::Finished);
    let before = run.view("o");
    let columns = [0, 1, 3, 5];
    let smaller = site("o", LayerKind::Linear, [2, 4]);
    let weight = Tensor::<Flex, 2>::ones([2, 4], &Default::default());
    let left = KeptPart { site: &smaller, rows: &[1, 2], columns: &columns, weight: weight.clone() };
    let (state, stage) = run.stage_mut("o");
    let stage: &mut Box<dyn Stage<Flex>> = stage;
    stage.shrink(state, &left).expect("it can be cut");
    run.weights.insert("o".into(), weight);
    let kept: Vec<bool> = columns.iter().map(|c| before[*c] != 0.0).collect();
    assert_eq!(run.kept("o"), kept.repeat(2));
}

#[test]
fn equal_units_stay_by_index() {
    let model = model();
    let mut weights = uneven(&model);
    weights.insert("up".into(), vec![0.0; 32]);
    for settings in [json!({"keep": 0.5}), json!({"keep": 0.5, "importance": "movement"})] {
        let run = Run::<Flex>::new(&method::<Rows>(&settings), &model, &["up"], &weights, Clock::Finished);
        assert_eq!(units(&run, "up"), [0, 1, 2, 3]);
    }
}

#[test]
fn units_count_by_what_their_readers_meet() {
    let model = model();
    let weights: Weights = uneven(&model).into_iter().map(|(n, w)| (n, vec![1.0; w.len()])).collect();
    let settings = json!({"keep_number": 2, "importance": "activation"});
    let method = method::<Width>(&settings);
    let mut run = Run::<Flex>::new(&method, &model, &["words"], &weights, Clock::Finished);
    run.end();
    assert!(run.masks().is_empty(), "nothing is known of the inputs");
    assert_eq!(run.waits_for(), ["q", "k", "v", "up", "classifier"]);
    // The classifier's last input is large, but `up` has four times the rows.
    let mut inputs: Weights =
        ["q", "k", "v"].map(|name| (name.to_string(), vec![0.0, 0.0, 0.1, 0.1])).into_iter().collect();
    inputs.insert("up".into(), vec![0.0, 1.0, 0.0, 0.0]);
    run.observe(&inputs);
    assert_eq!(run.waits_for(), ["classifier"]);
    assert!(run.masks().is_empty());
    inputs.insert("classifier".into(), vec![0.0, 0.0, 0.0, 3.0]);
    run.observe(&inputs);
    // 0, 8, 1.8 and 6 + 1.8.
    assert_eq!(units(&run, "words"), [1, 3]);
    let convolutions = json!({"keep": 0.5, "importance": "activation"});
    assert_eq!(
        problems::<Channels>(&model, &convolutions, &["conv1"]),
        ["p.importance: conv2: `activation` weighs the inputs of linear layers only"]
    );
}
