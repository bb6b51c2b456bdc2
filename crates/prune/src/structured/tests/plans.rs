//! What plans say, and what they refuse.

use super::*;
use crate::methods::{Channels, Heads, Rows, Width};

fn refused<T: Technique>(value: &Value, expected: &[&str]) {
    assert_eq!(read::<T>(value).expect_err("a mistake"), expected, "{value}");
}

#[test]
fn settings_that_are_mistakes() {
    refused::<Rows>(&json!({}), &["s: missing key `keep`"]);
    for (value, text) in [(0.0, "0"), (-0.5, "-0.5"), (7.5, "7.5")] {
        let line = format!("s.keep: {text} is not a share to keep, over 0 and at most 1");
        refused::<Rows>(&json!({"keep": value}), &[&line]);
    }
    refused::<Heads>(
        &json!({"keep": 0.5, "keep_number": 3, "heads": 0, "multiple_of": 0, "importance": "magnitude"}),
        &[
            "s.keep: `keep` and `keep_number` are two ways to say it; an entry has one of them",
            "s.importance: `magnitude` is not one of l1, l2, activation, movement, taylor, random",
            "s.multiple_of: 0 is not at least 1",
            "s.heads: 0 is not at least 1",
        ],
    );
    refused::<Rows>(&json!({"keep": 0.5, "heads": 3}), &["s.heads: unknown key `heads`"]);
    refused::<Rows>(
        &json!({"keep_number": 3, "scope": "global"}),
        &["s.keep_number: a number is that of each group; groups that compete share a `keep`"],
    );
    refused::<Rows>(&json!({"keep_number": 0}), &["s.keep_number: 0 is not at least 1"]);
    refused::<Rows>(
        &json!({"keep": 0.01, "scope": "global"}),
        &["s.keep: 0.01 is not a share whose rest, which is removed, is at most `max_sparsity`, 0.98"],
    );
    refused::<Rows>(
        &json!({"keep": 0.5, "importance": "taylor"}),
        &[
            "s.schedule.start: what is ranked by gradients is chosen after some optimizer steps: `start` is at least 1",
        ],
    );
    refused::<Rows>(
        &json!({"keep": 0.5, "related": [{"of": "re:(", "are": ["a", 3]}, {"are": "down"}]}),
        &[
            "s.related[0].of: pattern `re:(`: error: unclosed group",
            "s.related[0].are[1]: expected a pattern, found 3",
            "s.related[1]: missing key `of`",
            "s.related[1].are: expected a list of patterns, found \"down\"",
        ],
    );
    refused::<Rows>(
        &json!({"keep": 0.5, "related": []}),
        &["s.related: expected a list of patterns or of {\"of\": .., \"are\": [..]}, found []"],
    );
}

/// Layers, groups and details of a plan.
fn planned<T: Technique>(settings: &Value, names: &[&str]) -> Vec<(String, String)> {
    let steps = plan::<Flex>(&method::<T>(settings), &model(), names).unwrap_or_else(|e| panic!("{e:?}"));
    steps.into_iter().map(|s| (s.site.name, Value::Object(s.details).to_string())).collect()
}

fn line(layer: &str, details: &str) -> (String, String) {
    (layer.into(), details.into())
}

#[test]
fn what_a_plan_says() {
    assert_eq!(
        planned::<Rows>(&json!({"keep": 0.6}), &["up"]),
        [line("down", r#"{"group":"up","units":8,"kept":5,"importance":"l1"}"#)]
    );
    assert_eq!(
        planned::<Heads>(&json!({"keep": 0.6, "importance": "movement", "schedule": {"start": 200}}), &["o"]),
        [line(
            "o",
            r#"{"group":"q","units":3,"kept":2,"importance":"movement","start":200,"every":1,"ranked_by":["o"]}"#
        )]
    );
    assert_eq!(
        planned::<Channels>(&json!({"keep": 0.5, "remove": false}), &["conv1"]),
        [line("conv2", r#"{"group":"conv1","units":4,"kept":2,"importance":"l1","remove":false}"#)]
    );
    let width = planned::<Width>(&json!({"keep_number": 3, "multiple_of": 1}), &["down", "words"]);
    let layers: Vec<&str> = width.iter().map(|(layer, _)| layer.as_str()).collect();
    assert_eq!(layers, ["q", "k", "v", "up", "classifier"]);
    let details = r#"{"group":"words","units":4,"kept":3,"importance":"l1","ranked_by":["words","down"]}"#;
    assert!(width.iter().all(|(_, d)| d == details), "{width:?}");
    assert_eq!(
        planned::<Rows>(&json!({"keep": 0.6, "scope": "global", "multiple_of": 2}), &["up"]),
        [line(
            "down",
            r#"{"group":"up","units":8,"keep":0.6,"importance":"l1","scope":"global","max_sparsity":0.98,"multiple_of":2}"#
        )]
    );
}

#[test]
fn a_step_knows_its_group() {
    let steps = plan::<Flex>(&method::<Heads>(&json!({"keep": 0.6})), &model(), &["o"]).expect("a plan");
    let cut = steps[0].cut.as_ref().expect("a group");
    assert_eq!((cut.group.name.as_str(), cut.kept, cut.removed), ("q", Some(2), true));
    assert_eq!(cut.named.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["o"]);
}

#[test]
fn counts_and_their_rounding() {
    let kept = |settings: Value| {
        let steps = plan::<Flex>(&method::<Rows>(&settings), &model(), &["up"]).expect("a plan");
        steps[0].cut.as_ref().and_then(|c| c.kept).expect("a number")
    };
    assert_eq!(kept(json!({"keep": 0.6})), 5);
    assert_eq!(kept(json!({"keep": 1e-6})), 1);
    assert_eq!(kept(json!({"keep": 1.0})), 8);
    assert_eq!(kept(json!({"keep_number": 3})), 3);
    assert_eq!(kept(json!({"keep": 0.6, "multiple_of": 2})), 6);
    assert_eq!(kept(json!({"keep_number": 3, "multiple_of": 4})), 4);
    assert_eq!(kept(json!({"keep": 1.0, "multiple_of": 64})), 8);
    // Heads of two columns each.
    let heads = |settings: Value| {
        let steps = plan::<Flex>(&method::<Heads>(&settings), &model(), &["o"]).expect("a plan");
        steps[0].cut.as_ref().and_then(|c| c.kept).expect("a number")
    };
    assert_eq!(heads(json!({"keep_number": 1, "multiple_of": 4})), 2);
    assert_eq!(
        problems::<Rows>(&model(), &json!({"keep": 0.6, "multiple_of": 64}), &["up"]),
        [
            "p.multiple_of: up: of 8 entries no smaller multiple of 64 holds the 5 that stay: nothing is left to \
             remove"
        ]
    );
    assert_eq!(
        problems::<Rows>(&model(), &json!({"keep_number": 9}), &["up"]),
        ["p.keep_number: up: 9 is not at most 8, all there are"]
    );
}

#[test]
fn layers_of_another_kind_or_of_another_method() {
    let half = json!({"keep": 0.5});
    assert_eq!(
        problems::<Rows>(&model(), &half, &["words", "conv1", "q", "o", "classifier"]),
        [
            "p.on: words: row_pruning cannot act on an embedding",
            "p.on: conv1: row_pruning cannot act on a convolution",
            "p.on: q: its rows go 2 at a time, as those of attention heads do: use `head_pruning`",
            "p.on: o: its rows are the hidden width, which many layers share: use `width_pruning`",
            "p.on: classifier: its rows cannot be removed: no group of the model's dimensions has them",
        ]
    );
    assert_eq!(
        problems::<Heads>(&model(), &half, &["up", "classifier"]),
        [
            "p.on: up: it neither makes nor reads attention heads",
            "p.on: classifier: it neither makes nor reads attention heads"
        ]
    );
    assert_eq!(
        problems::<Width>(&model(), &half, &["q"]),
        ["p.on: q: its outputs go 2 at a time, as those of attention heads do: use `head_pruning`"]
    );
    assert_eq!(
        problems::<Channels>(&model(), &half, &["up"]),
        ["p.on: up: channel_pruning cannot act on a linear layer"]
    );
}

#[test]
fn why_something_stays_is_said() {
    let mut model = model();
    let known = model.dependencies.as_mut().expect("traced");
    known.fixed.push(briquette_core::Fixed {
        name: "classifier.weight".into(),
        path: "classifier.weight".into(),
        axis: 1,
        why: "it is an output of the model".into(),
    });
    assert_eq!(
        problems::<Rows>(&model, &json!({"keep": 0.5}), &["classifier"]),
        ["p.on: classifier: its rows cannot be removed: it is an output of the model"]
    );
}

#[test]
fn heads_that_are_not_the_models() {
    assert_eq!(
        problems::<Heads>(&model(), &json!({"keep": 0.5, "heads": 4}), &["o"]),
        ["p.heads: o: 4 is not the 3 heads, or groups of heads, that the model has"]
    );
    assert!(problems::<Heads>(&model(), &json!({"keep": 0.5, "heads": 3}), &["o", "q"]).is_empty());
}

#[test]
fn consumers_that_cannot_be_masked() {
    let refused = |change: fn(&mut DimensionGroup)| {
        let mut model = model();
        let known = model.dependencies.as_mut().expect("traced");
        change(&mut known.groups[2]);
        problems::<Channels>(&model, &json!({"keep": 0.5}), &["conv1"])
    };
    let strange = |g: &mut DimensionGroup| {
        g.members.push(member("scale.weight", 0, Role::Consumes, [0, 4, 1]));
    };
    assert_eq!(
        refused(strange),
        ["p.on: conv1: `scale.weight` reads the values and is no weight that can be masked"]
    );
    let grouped = |g: &mut DimensionGroup| {
        g.members.last_mut().expect("a member").units = (0..4).map(|u| vec![u + 2]).collect();
    };
    assert_eq!(
        refused(grouped),
        ["p.on: conv1: conv2: entry 4 is beyond its 4 entries: a convolution in groups"]
    );
    let unread = |g: &mut DimensionGroup| g.members.truncate(2);
    assert_eq!(refused(unread), ["p.on: conv1: nothing reads the values of `conv1`"]);
}

#[test]
fn what_averages_over_masked_entries_must_lose_them() {
    assert_eq!(
        problems::<Width>(&model(), &json!({"keep": 0.5, "remove": false}), &["down"]),
        ["p.remove: down: norm averages over what is masked; it has to be removed"]
    );
}

#[test]
fn related_layers_are_checked() {
    let check =
        |related: Value| problems::<Heads>(&model(), &json!({"keep": 0.5, "related": related}), &["o"]);
    assert!(check(json!(["q", "k", "v"])).is_empty());
    assert!(check(json!([{"of": "o", "are": ["q", "re:^k$", "v"]}])).is_empty());
    assert_eq!(check(json!(["q", "k"])), ["p.related: o: what goes with it is k, q, v, not k, q"]);
    assert_eq!(
        check(json!(["q", "k", "v", "up"])),
        ["p.related: o: what goes with it is k, q, v, not k, q, up, v"]
    );
    assert_eq!(
        check(json!(["{q,k}", "v"])),
        [
            "p.related: pattern `{q,k}` means 2 layers, for 1 layer that lose something; they pair one to one",
            "p.related: o: what goes with it is k, q, v, not v"
        ]
    );
    let channels = json!({"keep": 0.5, "related": ["conv2", "bn"]});
    assert!(problems::<Channels>(&model(), &channels, &["conv1"]).is_empty());
    let no_norm = json!({"keep": 0.5, "related": ["conv2"]});
    assert_eq!(
        problems::<Channels>(&model(), &no_norm, &["conv1"]),
        ["p.related: conv1: what goes with it is bn, conv2, not conv2"]
    );
}

#[test]
fn models_that_were_not_traced() {
    let half = json!({"keep": 0.5});
    assert_eq!(
        problems::<Rows>(&untraced(), &half, &["up", "q"]),
        ["p.on: the model was not traced: nothing says what goes with the rows of these layers; name it in \
             `related`"]
    );
    // A hidden width is read and made by every layer.
    assert_eq!(
        problems::<Width>(&untraced(), &with(&half, json!({"related": ["q"]})), &["down"]),
        [
            "p.on: the model was not traced: nothing says what goes with the entries of the width of these layers"
        ]
    );
    assert_eq!(
        problems::<Heads>(&untraced(), &with(&half, json!({"related": ["q", "k", "v"]})), &["o"]),
        ["p.heads: missing key `heads`"]
    );
    assert_eq!(
        problems::<Heads>(&untraced(), &with(&half, json!({"related": ["q"], "heads": 4})), &["o"]),
        [
            "p.heads: o: its 6 inputs are not 4 equal parts",
            "p.on: o: its heads cannot be removed: no group of the model's dimensions has them"
        ]
    );
    assert_eq!(
        problems::<Rows>(&untraced(), &with(&half, json!({"related": ["k"]})), &["up"]),
        [
            "p.related: up: k: its 4 inputs are not 8 equal parts",
            "p.on: up: its rows cannot be removed: no group of the model's dimensions has them"
        ]
    );
}

/// The group that a plan gives its steps.
fn cut_group<T: Technique>(model: &ModelView, settings: &Value, name: &str) -> DimensionGroup {
    let steps = plan::<Flex>(&method::<T>(settings), model, &[name]).unwrap_or_else(|e| panic!("{e:?}"));
    DimensionGroup::clone(&steps[0].cut.as_ref().expect("a group").group)
}

#[test]
fn what_a_recipe_declares_is_what_a_trace_finds() {
    let same = |declared: DimensionGroup, traced: DimensionGroup| {
        let sorted = |group: DimensionGroup| {
            let mut members = group.members;
            members.sort_by(|a, b| a.name.cmp(&b.name));
            (group.units, members)
        };
        assert_eq!(sorted(declared), sorted(traced));
    };
    let rows = json!({"keep": 0.5, "related": ["down"]});
    same(cut_group::<Rows>(&untraced(), &rows, "up"), cut_group::<Rows>(&model(), &rows, "up"));
    let heads = json!({"keep": 0.5, "heads": 3, "related": ["q", "k", "v"]});
    same(cut_group::<Heads>(&untraced(), &heads, "o"), cut_group::<Heads>(&model(), &heads, "o"));
    let channels = json!({"keep": 0.5, "related": ["conv2", "bn"]});
    same(
        cut_group::<Channels>(&untraced(), &channels, "conv1"),
        cut_group::<Channels>(&model(), &channels, "conv1"),
    );
}

#[test]
fn masking_heads_needs_only_what_reads_them() {
    let settings = json!({"keep": 0.5, "heads": 3, "remove": false});
    let group = cut_group::<Heads>(&untraced(), &settings, "o");
    assert_eq!(group.members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["o.weight"]);
    assert_eq!(problems::<Heads>(&untraced(), &json!({"keep": 0.5, "remove": false}), &["o"]).len(), 1);
}
