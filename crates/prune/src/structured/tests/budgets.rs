//! Budgets in plans and at work.

use super::*;
use crate::methods::{Heads, Rows, Structures};
use briquette_core::{Cost, CostGroup, CostTerm, Curve, KeptUnits, Length, LengthPart, Measure};

/// The model with the cost of its attention (two entries a head) and its feed-forward layer, for one position.
fn costed() -> ModelView {
    let mut found = traced();
    let at = |name: &str| found.groups.iter().position(|g| g.name == name).expect("a group");
    let (heads, rows, width) = (at("q"), at("up"), at("words"));
    let of = |group: usize, each: u64| Length {
        fixed: 0,
        parts: vec![LengthPart { group, entries: vec![each; found.groups[group].units] }],
    };
    let term = |name: &str, group: usize, each: u64| CostTerm {
        name: name.into(),
        factor: 1,
        lengths: vec![of(width, 1), of(group, each)],
    };
    let mut multiplications: Vec<CostTerm> =
        ["q", "k", "v", "o"].iter().map(|name| term(name, heads, 2)).collect();
    multiplications.extend(["up", "down"].map(|name| term(name, rows, 1)));
    let groups = found.groups.iter().map(|g| CostGroup { name: g.name.clone(), units: g.units }).collect();
    found.cost = Some(Cost { groups, examples: 1, parameters: multiplications.clone(), multiplications });
    untraced().with_dependencies(found)
}

const LAYERS: [&str; 10] = ["words", "q", "k", "v", "o", "up", "down", "conv1", "conv2", "classifier"];

fn chosen<T: Technique>(settings: &Value, names: &[&str], clock: Clock) -> Run<Flex> {
    let model = costed();
    Run::new(&method::<T>(settings), &model, names, &uneven(&model), clock)
}

/// The share of the operations that is left.
fn left<B: Backend>(run: &Run<B>) -> f64 {
    let cost = costed().dependencies.and_then(|found| found.cost).expect("a cost");
    let kept: Vec<KeptUnits> = run
        .masks()
        .into_iter()
        .map(|mask| {
            let units = units(run, &mask.group);
            KeptUnits { of: mask.mask.dims()[1], group: mask.group, units }
        })
        .collect();
    cost.left(Measure::Flops, &kept) / cost.whole(Measure::Flops)
}

#[test]
fn settings_that_are_mistakes() {
    let refused = |value: Value, expected: &[&str]| {
        assert_eq!(read::<Rows>(&value).expect_err("a mistake"), expected, "{value}");
    };
    let budget = json!({"flops": 0.5});
    refused(
        json!({"budget": budget, "keep": 0.5, "keep_number": 3, "scope": "global", "min_sparsity": 0.1}),
        &[
            "s.scope: groups share a budget; an entry with one has no `scope`",
            "s.min_sparsity: groups share a budget; an entry with one has no `min_sparsity`",
            "s.keep: `keep` and `budget` are two ways to say it; an entry has one of them",
            "s.keep_number: `keep_number` and `budget` are two ways to say it; an entry has one of them",
        ],
    );
    refused(
        json!({"budget": budget, "max_sparsity": 1.0, "importance": "movement", "remove": false}),
        &[
            "s.max_sparsity: 1 is not a share of at least 0 and under 1",
            "s.importance: learned scores have no zero: nothing says how much more one unit is worth than another",
            "s.remove: what stays as zeros costs what it did: a budget is kept by removing",
        ],
    );
    refused(
        json!({"keep": 0.5, "allocate": "sensitivity"}),
        &["s.allocate: `allocate` has an effect with a `budget` only"],
    );
}

#[test]
fn layers_that_keep_their_outputs_are_passed_over_unless_no_other_is_named() {
    let settings = json!({"keep": 0.5});
    let model = costed();
    let steps = plan::<Flex>(&method::<Structures>(&settings), &model, &LAYERS).expect("a plan");
    let groups: std::collections::BTreeSet<&str> =
        steps.iter().filter_map(|s| s.cut.as_ref()).map(|cut| cut.group.name.as_str()).collect();
    assert_eq!(groups.into_iter().collect::<Vec<_>>(), ["conv1", "q", "up", "words"]);
    let found = problems::<Structures>(&model, &settings, &["classifier"]);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("p.on: classifier: its outputs cannot be removed: "), "{found:?}");
    let found = problems::<Structures>(&untraced(), &settings, &["up"]);
    assert_eq!(
        found,
        ["p.on: the model was not traced: nothing says what goes with the outputs of these layers"]
    );
}

#[test]
fn what_a_plan_says() {
    let model = costed();
    let settings = json!({"budget": {"flops": 0.8}, "allocate": "sensitivity", "multiple_of": 2});
    let steps = plan::<Flex>(&method::<Rows>(&settings), &model, &["up"]).expect("a plan");
    assert_eq!(
        Value::Object(steps[0].details.clone()).to_string(),
        r#"{"group":"up","units":8,"budget":{"flops":0.8},"allocate":"sensitivity","importance":"l1","max_sparsity":0.8,"multiple_of":2}"#
    );
    let cut = steps[0].cut.as_ref().expect("a cut");
    assert_eq!(cut.kept, None);
    assert_eq!(cut.within.as_ref().map(|within| &within.curve), Some(&Curve::Open));
    // 64 of 160 multiplications are those of the rows, of which four of eight stay.
    assert_eq!(
        problems::<Rows>(&model, &json!({"budget": {"flops": 0.7}, "max_sparsity": 0.5}), &["up"]),
        [
            "p.budget: 0.7 is not at least 0.8: that of the model's FLOPs is left when every named group keeps 0.500 of \
          its units"
        ]
    );
    let found = problems::<Rows>(&super::model(), &json!({"budget": {"flops": 0.6}}), &["up"]);
    assert_eq!(found, ["p.budget: the model was not traced: nothing says what it costs"]);
}

#[test]
fn a_growing_share_takes_the_budget_down_step_by_step() {
    let settings = json!({"budget": {"flops": 0.4}, "schedule": {"shape": "linear", "end": 3, "every": 1}});
    let mut run = chosen::<Structures>(&settings, &LAYERS, Clock::Step(0));
    for (step, most) in [1.0, 0.8, 0.6, 0.4, 0.4].into_iter().enumerate() {
        run.go_to(step);
        assert!(left(&run) <= most + 1e-9 && left(&run) > most - 0.1, "{} at step {step}", left(&run));
    }
    assert!(run.settled());
    let at_once = chosen::<Structures>(&json!({"budget": {"flops": 0.4}}), &LAYERS, Clock::Finished);
    for group in ["q", "up", "words"] {
        assert_eq!(units(&run, group), units(&at_once, group), "{group}");
    }
}

#[test]
fn gradients_and_inputs_decide_what_goes() {
    let by = |importance: &str, more: Value| {
        let base = json!({"budget": {"flops": 0.8}, "importance": importance});
        chosen::<Rows>(&with(&base, more), &["up"], Clock::Step(0))
    };
    let plain = units(&by("l1", json!({})), "up");
    let mut taylor = by("taylor", json!({"schedule": {"start": 1}}));
    assert_eq!(units(&taylor, "up").len(), 8);
    // Only the columns of the first rows have a gradient.
    let gradient = (0..32).map(|i| if i % 8 < 5 { 1.0 } else { 0.0 }).collect();
    taylor.step(&Weights::from([("down".to_string(), gradient)]));
    assert!(units(&taylor, "up").iter().filter(|unit| **unit < 5).count() == 4);
    assert_eq!(left(&taylor), 0.8);
    let mut seen = by("activation", json!({}));
    assert_eq!(seen.waits_for(), ["down"]);
    let inputs = vec![1e-6, 1e-6, 1e-6, 1.0, 1.0, 1.0, 1.0, 1.0];
    seen.observe(&Weights::from([("down".to_string(), inputs)]));
    assert!(!units(&seen, "up").iter().any(|unit| *unit < 3), "{:?}", units(&seen, "up"));
    assert_ne!(units(&seen, "up"), plain);
}

#[test]
fn heads_go_whole() {
    let run = chosen::<Heads>(&json!({"budget": {"parameters": 0.8}}), &["q"], Clock::Finished);
    assert_eq!(units(&run, "q").len(), 2);
    assert!((left(&run) - 0.8).abs() < 1e-9);
}
