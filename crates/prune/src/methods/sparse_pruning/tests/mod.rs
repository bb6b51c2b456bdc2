//! Settings and plans; the life of weights is in the files beside.

mod chosen;
mod scores;

use super::*;
use crate::test_kit::{Run, Weights, convolution, lines, plan, site, uneven, view};
use briquette_core::{Clock, Diagnostics};
use burn::backend::Flex;

fn read(value: &Value) -> Result<SparsePruning, Vec<String>> {
    let mut out = Diagnostics::new();
    let read = SparsePruning::read(value, "s", &mut out);
    assert_eq!(read.is_none(), !out.is_empty());
    read.ok_or_else(|| lines(&out))
}

fn method(value: &Value) -> SparsePruning {
    read(value).unwrap_or_else(|e| panic!("{value}: {e:?}"))
}

fn refused(value: &Value, expected: &[&str]) {
    assert_eq!(read(value).expect_err("a mistake"), expected, "{value}");
}

/// Two linear layers and a convolution.
fn model() -> ModelView {
    view(vec![
        site("a", LayerKind::Linear, [8, 16]),
        site("b", LayerKind::Linear, [4, 8]),
        convolution("c", [4, 2, 2, 2]),
    ])
}

fn run(settings: &Value, clock: Clock) -> Run<Flex> {
    let model = model();
    Run::new(&method(settings), &model, &["a", "b", "c"], &uneven(&model), clock)
}

fn count(kept: &[bool]) -> usize {
    kept.iter().filter(|k| **k).count()
}

#[test]
fn settings_that_are_mistakes() {
    refused(&json!({}), &["s: missing key `sparsity`"]);
    for (value, text) in [(1.0, "1"), (-0.1, "-0.1"), (7.5, "7.5")] {
        let line = format!("s.sparsity: {text} is not a share to remove, of 0 to below 1");
        refused(&json!({"sparsity": value}), &[&line]);
    }
    refused(
        &json!({"pattern": "1:4", "sparsity": 0.8}),
        &["s.sparsity: 0.8 is not a share to remove, of 0 to 0.75: more is not in 1:4"],
    );
    refused(
        &json!({"sparsity": 0.5, "pattern": "4by1", "importance": "fisher", "exclud": 1}),
        &[
            "s.pattern: `4by1` is not a pattern: unstructured, 4x1, channelx1, 1xchannel or 2:4",
            "s.importance: `fisher` is not one of magnitude, activation, movement, snip_momentum, taylor, random",
            "s.exclud: unknown key `exclud`",
        ],
    );
    refused(
        &json!({"sparsity": 0.99, "scope": "global"}),
        &["s.sparsity: 0.99 is not at most `max_sparsity`, 0.98"],
    );
    let early = "s.schedule.start: what is ranked by gradients is chosen after some optimizer steps: `start` is at \
                 least 1";
    for importance in ["snip_momentum", "taylor"] {
        refused(&json!({"sparsity": 0.5, "importance": importance}), &[early]);
        assert!(read(&json!({"sparsity": 0.5, "importance": importance, "schedule": {"start": 1}})).is_ok());
        let growing = json!({"shape": "linear", "end": 9});
        assert!(read(&json!({"sparsity": 0.5, "importance": importance, "schedule": growing})).is_ok());
    }
}

#[test]
fn what_a_plan_says() {
    let steps = plan::<Flex>(&method(&json!({"sparsity": 0.6})), &model(), &["a", "c"]).expect("a plan");
    let details: Vec<String> = steps.iter().map(|s| Value::Object(s.details.clone()).to_string()).collect();
    assert_eq!(
        details,
        [
            r#"{"pattern":"unstructured","sparsity":0.6,"kept":52,"importance":"magnitude"}"#,
            r#"{"pattern":"unstructured","sparsity":0.6,"kept":13,"importance":"magnitude"}"#,
        ]
    );
    let settings = json!({"sparsity": 0.6, "pattern": "4x1", "scope": "global", "importance": "snip_momentum",
        "schedule": {"shape": "exponential", "start": 2, "end": 10, "every": 2}});
    let steps = plan::<Flex>(&method(&settings), &model(), &["a"]).expect("a plan");
    assert_eq!(
        Value::Object(steps[0].details.clone()).to_string(),
        r#"{"pattern":"4x1","sparsity":0.6,"importance":"snip_momentum","scope":"global","max_sparsity":0.98,"schedule":"exponential","start":2,"every":2,"end":10}"#
    );
}

#[test]
fn patterns_that_do_not_divide() {
    let settings = |arithmetic: &str| json!({"sparsity": 0.5, "pattern": "8x1", "arithmetic": arithmetic});
    assert_eq!(
        plan::<Flex>(&method(&settings("paper")), &model(), &["a", "b", "c"]).expect_err("they do not"),
        [
            "p.pattern: b: 8 rows of a block do not divide 4",
            "p.pattern: c: 8 rows of a block do not divide 4"
        ]
    );
    // DeepSpeed passes such layers over.
    let run = run(&settings("deepspeed"), Clock::Finished);
    assert_eq!(count(&run.kept("a")), 64);
    assert_eq!(count(&run.kept("b")), 32);
    let steps = plan::<Flex>(&method(&settings("deepspeed")), &model(), &["b"]).expect("it is passed over");
    assert_eq!(
        Value::Object(steps[0].details.clone()).to_string(),
        r#"{"passed_over":"8 rows of a block do not divide 4"}"#
    );
}

#[test]
fn neural_compressor_leaves_the_last_linear_layer_out() {
    let settings = |arithmetic: &str| json!({"sparsity": 0.5, "importance": "snip_momentum", "schedule": {"start": 1}, "arithmetic": arithmetic});
    let names = |arithmetic: &str| {
        let steps = plan::<Flex>(&method(&settings(arithmetic)), &model(), &["a", "b", "c"]).expect("a plan");
        steps.into_iter().map(|s| s.site.name).collect::<Vec<_>>()
    };
    assert_eq!(names("deepspeed"), ["a", "c"]);
    assert_eq!(names("paper"), ["a", "b", "c"]);
}

#[test]
fn every_option_changes_what_stays() {
    let base = json!({"sparsity": 0.5});
    let of = |change: Value| {
        let mut settings = base.clone();
        change.as_object().expect("an object").iter().for_each(|(k, v)| settings[k] = v.clone());
        let run = run(&settings, Clock::Finished);
        ["a", "b", "c"].map(|name| run.kept(name))
    };
    let first = of(json!({}));
    assert_eq!(first, of(json!({"importance": "magnitude", "scope": "layer", "pattern": "unstructured"})));
    for change in [
        json!({"sparsity": 0.4}),
        json!({"pattern": "4x1"}),
        json!({"pattern": "2:4"}),
        json!({"importance": "random"}),
        json!({"importance": "movement", "arithmetic": "deepspeed"}),
        json!({"scope": "global"}),
        json!({"scope": "row"}),
    ] {
        assert_ne!(first, of(change.clone()), "{change}");
    }
    let global = |max: f64, min: f64| {
        let limits = json!({"scope": "global", "max_sparsity": max, "min_sparsity": min});
        of(limits)
    };
    assert_ne!(global(0.98, 0.0), global(0.5, 0.0));
    assert_ne!(global(0.98, 0.0), global(0.98, 0.5));
}

#[test]
fn zero_and_constant_weights_give_finite_results() {
    let model = view(vec![site("z", LayerKind::Linear, [4, 4]), site("k", LayerKind::Linear, [4, 4])]);
    let weights = Weights::from([("z".into(), vec![0.0; 16]), ("k".into(), vec![0.5; 16])]);
    for importance in ["magnitude", "movement", "random"] {
        for scope in ["layer", "global"] {
            let settings = json!({"sparsity": 0.5, "importance": importance, "scope": scope});
            let run = Run::<Flex>::new(&method(&settings), &model, &["z", "k"], &weights, Clock::Finished);
            assert!(run.view("z").iter().chain(&run.view("k")).all(|v| v.is_finite()));
        }
    }
    let settings = json!({"sparsity": 0.5, "importance": "movement"});
    let run = Run::<Flex>::new(&method(&settings), &model, &["k"], &weights, Clock::Finished);
    assert_eq!(run.kept("k")[..8], [true; 8], "of equal scores the first");
}

#[test]
fn inputs_that_cannot_be_seen() {
    let mut model = model();
    model.sites[1].drop_in = false;
    let settings = json!({"sparsity": 0.5, "importance": "activation"});
    assert_eq!(
        plan::<Flex>(&method(&settings), &model, &["a", "b", "c"]).expect_err("they cannot"),
        [
            "p.importance: b: inputs can be seen in drop-in layers only: use briquette_nn's and derive Compressible",
            "p.importance: c: `activation` weighs the inputs of linear layers only",
        ]
    );
}
