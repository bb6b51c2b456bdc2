//! What stays, how much of it, and when.

use super::*;
use crate::selection::kept_count;
use crate::test_kit::Weights;
use briquette_core::{KeptPart, Left, SparsePattern};
use proptest::prelude::*;

#[test]
fn the_smallest_go_and_of_equal_ones_the_last() {
    let model = view(vec![site("w", LayerKind::Linear, [2, 4])]);
    let weights = Weights::from([("w".into(), vec![0.1, -0.9, 0.3, 0.2, 0.5, 0.3, -0.3, 0.3])]);
    let kept = |settings: Value| {
        Run::<Flex>::new(&method(&settings), &model, &["w"], &weights, Clock::Finished).view("w")
    };
    assert_eq!(kept(json!({"sparsity": 0.5})), [0.0, -0.9, 0.3, 0.0, 0.5, 0.3, -0.0, 0.0]);
    assert_eq!(kept(json!({"pattern": "2:4"})), [0.0, -0.9, 0.3, 0.0, 0.5, 0.3, -0.0, 0.0]);
    assert_eq!(kept(json!({"pattern": "1:4"})), [0.0, -0.9, 0.0, 0.0, 0.5, 0.0, -0.0, 0.0]);
    assert_eq!(kept(json!({"pattern": "2x1", "sparsity": 0.5})), [0.1, -0.9, 0.0, 0.0, 0.5, 0.3, -0.0, 0.0]);
    assert_eq!(
        kept(json!({"pattern": "channelx1", "sparsity": 0.75})),
        [0.0, -0.9, 0.0, 0.0, 0.0, 0.3, -0.0, 0.0]
    );
    assert_eq!(
        kept(json!({"pattern": "1xchannel", "sparsity": 0.5})),
        [0.1, -0.9, 0.3, 0.2, 0.0, 0.0, -0.0, 0.0]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn counts_are_exact(sparsity in 0.0f64..0.97, pattern in 0usize..5, global: bool) {
        let pattern = ["unstructured", "4x1", "2x2", "channelx1", "1xchannel"][pattern];
        let scope = if global { "global" } else { "layer" };
        let run = run(&json!({"sparsity": sparsity, "pattern": pattern, "scope": scope}), Clock::Finished);
        let model = model();
        let block = |name: &str| {
            let site = model.site(name).expect("a layer");
            Pattern::read(pattern).expect("a pattern").on(site.shape).expect("it divides")
        };
        let kept = |name: &str| count(&run.kept(name));
        if !global {
            for name in ["a", "b", "c"] {
                let grid = block(name);
                let whole = kept_count(1.0 - sparsity, grid.len()).div_ceil(grid.unit()) * grid.unit();
                prop_assert_eq!(kept(name), whole, "{}", name);
            }
        } else {
            let total: usize = ["a", "b", "c"].iter().map(|n| kept(n)).sum();
            let wanted = kept_count(1.0 - sparsity, 128 + 32 + 32);
            let largest = ["a", "b", "c"].iter().map(|n| block(n).unit()).max().unwrap_or(1);
            // A layer keeps a whole block at least.
            let least: usize = ["a", "b", "c"].iter().map(|n| block(n).unit()).sum();
            prop_assert!(total >= wanted && total < wanted + largest || total <= least, "{} {}", total, wanted);
        }
    }

    #[test]
    fn runs_hold_exactly_their_number(values in prop::collection::vec(-4i8..4, 64)) {
        let model = view(vec![site("w", LayerKind::Linear, [4, 16])]);
        let weights = Weights::from([("w".into(), values.iter().map(|v| f32::from(*v)).collect())]);
        let run = Run::<Flex>::new(&method(&json!({"pattern": "2:4"})), &model, &["w"], &weights, Clock::Finished);
        let (weight, left) = run.finish("w");
        let Left::Sparse(sparse) = left else { panic!("a sparse weight") };
        prop_assert_eq!(sparse.pattern, SparsePattern::RunOf { kept: 2, of: 4 });
        for (run, values) in sparse.kept.chunks(4).zip(weight.chunks(4)) {
            prop_assert_eq!(count(run), 2);
            prop_assert!(run.iter().zip(values).all(|(kept, v)| *kept || *v == 0.0));
        }
    }
}

#[test]
fn while_the_share_grows_runs_are_whole_or_pruned() {
    let model = view(vec![site("w", LayerKind::Linear, [1, 16])]);
    let weights = Weights::from([("w".into(), (1..17).rev().map(|v| v as f32).collect())]);
    let settings = json!({"pattern": "2:4", "schedule": {"shape": "linear", "end": 4, "every": 1}});
    let mut run = Run::<Flex>::new(&method(&settings), &model, &["w"], &weights, Clock::Step(0));
    let mut runs = Vec::new();
    for step in 0..5 {
        run.go_to(step);
        runs.push(run.kept("w").chunks(4).map(count).collect::<Vec<_>>());
    }
    assert_eq!(runs, [[4, 4, 4, 4], [4, 4, 4, 2], [4, 4, 2, 2], [4, 2, 2, 2], [2, 2, 2, 2]]);
    let partly = json!({"pattern": "2:4", "sparsity": 0.25});
    let run = Run::<Flex>::new(&method(&partly), &model, &["w"], &weights, Clock::Finished);
    let Left::Sparse(sparse) = run.finish("w").1 else { panic!("a sparse weight") };
    assert_eq!((sparse.pattern, count(&sparse.kept)), (SparsePattern::Unstructured, 12));
}

#[test]
fn layers_that_compete_stay_within_their_limits() {
    let model = view(vec![site("a", LayerKind::Linear, [10, 10]), site("b", LayerKind::Linear, [10, 10])]);
    let weights =
        Weights::from([("a".into(), vec![1e-3; 100]), ("b".into(), (1..101).map(|v| v as f32).collect())]);
    let kept = |settings: Value| {
        let run = Run::<Flex>::new(&method(&settings), &model, &["a", "b"], &weights, Clock::Finished);
        [count(&run.kept("a")), count(&run.kept("b"))]
    };
    let global = |more: Value| {
        let mut settings = json!({"sparsity": 0.5, "scope": "global"});
        more.as_object().expect("an object").iter().for_each(|(k, v)| settings[k] = v.clone());
        kept(settings)
    };
    assert_eq!(kept(json!({"sparsity": 0.5})), [50, 50]);
    assert_eq!(global(json!({})), [2, 98]);
    assert_eq!(global(json!({"max_sparsity": 0.7})), [30, 70]);
    assert_eq!(global(json!({"min_sparsity": 0.25})), [25, 75]);
}

#[test]
fn the_share_follows_the_schedule_and_is_held() {
    let schedule = json!({"shape": "exponential", "start": 2, "end": 10, "every": 2});
    let mut run = run(&json!({"sparsity": 0.8, "schedule": schedule}), Clock::Step(0));
    let mut kept = Vec::new();
    for step in 0..=12 {
        run.go_to(step);
        kept.push(count(&run.kept("a")));
        assert_eq!(run.settled(), step >= 10);
    }
    // The targets .3313, .5528, .7009 and .8 of 128 weights.
    assert_eq!(kept, [128, 128, 128, 128, 86, 86, 58, 58, 39, 39, 26, 26, 26]);
    let (before, reversed) = (run.kept("a"), run.weights["a"].clone().flip([0, 1]));
    run.weights.insert("a".into(), reversed);
    run.go_to(30);
    run.end();
    assert_eq!(run.kept("a"), before, "held after the end");
}

#[test]
fn a_session_that_ends_early_is_pruned_to_the_end() {
    let schedule = json!({"shape": "cubic", "start": 5, "end": 100});
    let settings = json!({"sparsity": 0.5, "schedule": schedule});
    let mut early = run(&settings, Clock::Step(0));
    early.go_to(20);
    assert!(count(&early.kept("a")) > 64);
    early.end();
    assert_eq!(early.kept("a"), run(&settings, Clock::Finished).kept("a"));
    assert_eq!(count(&early.kept("a")), 64);
}

#[test]
fn what_was_removed_can_come_back_while_the_share_grows() {
    let model = view(vec![site("w", LayerKind::Linear, [1, 4])]);
    let weights = Weights::from([("w".into(), vec![1.0, 2.0, 3.0, 4.0])]);
    let settings = json!({"sparsity": 0.5, "schedule": {"shape": "linear", "end": 2, "every": 1}});
    let mut run = Run::<Flex>::new(&method(&settings), &model, &["w"], &weights, Clock::Step(0));
    run.go_to(1);
    assert_eq!(run.kept("w"), [false, true, true, true]);
    run.weights.insert("w".into(), Tensor::from_floats([[9.0, 2.0, 3.0, 4.0]], &Default::default()));
    run.go_to(2);
    assert_eq!(run.kept("w"), [true, false, false, true]);
}

#[test]
fn clocks_that_jump_miss_no_event() {
    let schedule = json!({"shape": "linear", "start": 2, "end": 10, "every": 4});
    let mut run = run(&json!({"sparsity": 0.5, "schedule": schedule}), Clock::Step(0));
    run.clock = Clock::Step(9);
    run.update();
    assert_eq!(count(&run.kept("a")), 96);
    run.clock = Clock::Step(500);
    run.update();
    assert_eq!(count(&run.kept("a")), 64);
}

#[test]
fn deepspeed_ranks_by_the_weights_of_the_beginning() {
    let kept = |arithmetic: &str| {
        let settings = json!({"sparsity": 0.5, "arithmetic": arithmetic, "schedule": {"start": 2}});
        let mut run = run(&settings, Clock::Step(0));
        let reversed = run.weights["a"].clone().flip([0, 1]);
        run.weights.insert("a".into(), reversed);
        run.go_to(1);
        assert_eq!(count(&run.kept("a")), 128);
        run.go_to(2);
        run.kept("a")
    };
    let mut reversed = kept("paper");
    reversed.reverse();
    let first = run(&json!({"sparsity": 0.5}), Clock::Finished).kept("a");
    assert_eq!(kept("deepspeed"), first);
    assert_eq!(reversed, first);
}

#[test]
fn finish_is_the_last_apply() {
    for settings in [
        json!({"sparsity": 0.5}),
        json!({"sparsity": 0.5, "pattern": "4x1", "importance": "movement"}),
        json!({"pattern": "2:4"}),
        json!({"sparsity": 0.5, "pattern": "channelx1", "scope": "global"}),
    ] {
        let mut ended = run(&settings, Clock::Step(0));
        ended.go_to(3);
        ended.end();
        let (view, kept) = (ended.view("a"), ended.kept("a"));
        let (weight, left) = ended.finish("a");
        assert_eq!(weight, view);
        let Left::Sparse(sparse) = left else { panic!("a sparse weight") };
        assert_eq!((sparse.shape, sparse.kept), ([8, 16], kept));
    }
}

#[test]
fn a_smaller_weight_keeps_its_mask() {
    let model = model();
    for settings in [
        json!({"sparsity": 0.5, "pattern": "4x1", "importance": "movement"}),
        json!({"sparsity": 0.5, "arithmetic": "deepspeed"}),
        json!({"sparsity": 0.5, "importance": "taylor", "pattern": "channelx1", "schedule": {"start": 1}}),
    ] {
        let mut run = Run::<Flex>::new(&method(&settings), &model, &["a"], &uneven(&model), Clock::Finished);
        let before = run.kept("a");
        let (rows, columns) = (vec![4, 5, 6, 7], vec![0, 3, 9]);
        let expected: Vec<bool> = rows
            .iter()
            .flat_map(|r| columns.iter().map(|c| before[r * 16 + c]).collect::<Vec<_>>())
            .collect();
        let smaller = site("a", LayerKind::Linear, [4, 3]);
        let weight = Tensor::<Flex, 2>::ones([4, 3], &Default::default());
        let left = KeptPart { site: &smaller, rows: &rows, columns: &columns, weight: weight.clone() };
        let (state, stage) = run.stage_mut("a");
        stage.shrink(state, &left).expect("whole blocks");
        run.weights.insert("a".into(), weight);
        assert_eq!(run.kept("a"), expected, "{settings}");
        run.end();
        assert_eq!(run.kept("a"), expected, "{settings}");
        let (_, Left::Sparse(sparse)) = run.finish("a") else { panic!("a sparse weight") };
        assert_eq!((sparse.shape, sparse.kept), ([4, 3], expected));
    }
    let blocks = json!({"sparsity": 0.5, "pattern": "4x1"});
    let mut run = Run::<Flex>::new(&method(&blocks), &model, &["a"], &uneven(&model), Clock::Finished);
    let smaller = site("a", LayerKind::Linear, [4, 2]);
    let weight = Tensor::<Flex, 2>::ones([4, 2], &Default::default());
    let left = KeptPart { site: &smaller, rows: &[1, 2, 3, 4], columns: &[0, 1], weight };
    let (state, stage) = run.stage_mut("a");
    assert!(stage.shrink(state, &left).is_err());
}

#[test]
fn a_frozen_weight_is_transformed_anew_until_the_end_of_the_schedule() {
    let settings = json!({"sparsity": 0.5, "schedule": {"start": 4}});
    let mut run = run(&settings, Clock::Step(0));
    let constant = |run: &mut Run<Flex>, step: usize| run.stage_mut("a").1.constant(Clock::Step(step));
    assert!(!constant(&mut run, 3) && constant(&mut run, 4));
}

#[test]
fn rows_that_compete_within_themselves_keep_the_same_number() {
    for (pattern, rows) in [("unstructured", 1), ("1x4", 1), ("4x1", 4), ("2:4", 1)] {
        let sparsity = if pattern == "2:4" { 0.3 } else { 0.6 };
        let settings = json!({"sparsity": sparsity, "scope": "row", "pattern": pattern});
        let run = run(&settings, Clock::Finished);
        let kept = run.kept("a");
        let counts: Vec<usize> = kept.chunks(16 * rows).map(count).collect();
        assert!(counts.iter().all(|n| *n == counts[0]), "{pattern}: {counts:?}");
        let wanted = kept_count(1.0 - sparsity, 16) * rows;
        assert!(counts[0] >= wanted && counts[0] < wanted + 4 * rows, "{pattern}: {counts:?}");
        let model = model();
        let steps = plan::<Flex>(&method(&settings), &model, &["a"]).expect("a plan");
        assert_eq!(steps[0].details["kept"], json!(count(&kept)), "{pattern}");
    }
}
