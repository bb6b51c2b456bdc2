//! DeepSpeed's pruning techniques: what they become, and what is refused.

use super::*;
use briquette_core::{Dependencies, DimensionGroup, Member, Parameter, Role};

fn prune(name: &str, shared: Value, params: Value) -> Value {
    technique(name, with_enabled(shared), json!({"params": params, "modules": ["fc"]}))
}

fn half() -> Value {
    json!({"dense_ratio": 0.5})
}

/// Steps of a recipe: layer and settings.
fn steps_for(recipe: &Value, view: &ModelView) -> Vec<(String, Value)> {
    let plan = Composer::<Flex>::builtin().plan(&Recipe::from_value(recipe), view);
    let plan = plan.unwrap_or_else(|e| panic!("{e}"));
    plan.steps().iter().map(|s| (s.site.name.clone(), Value::Object(s.details.clone()))).collect()
}

fn details(recipe: &Value) -> Value {
    steps_for(recipe, &view()).remove(0).1
}

/// What a recipe does to the first linear layer of [`view`].
fn linear(recipe: &Value) -> Value {
    let steps = steps_for(recipe, &view());
    steps.into_iter().find(|(layer, _)| layer == "layer.1.fc").expect("a step").1
}

/// A chain of two feed-forward layers, an attention of two heads and two convolutions, traced.
fn blocks() -> ModelView {
    let site = |name: &str, kind, native: &[usize]| Site {
        name: name.into(),
        path: name.into(),
        kind,
        shape: if kind == LayerKind::Linear {
            [native[1], native[0]]
        } else {
            [native[0], native[1..].iter().product()]
        },
        native: native.to_vec(),
        trainable: true,
        tied: vec![],
        drop_in: true,
    };
    let (linear, conv) = (LayerKind::Linear, LayerKind::Conv2d);
    let sites = vec![
        site("layer.0.up", linear, &[4, 8]),
        site("layer.0.down", linear, &[8, 4]),
        site("layer.1.up", linear, &[4, 8]),
        site("layer.1.down", linear, &[8, 4]),
        site("self.query", linear, &[4, 4]),
        site("self.key", linear, &[4, 4]),
        site("self.value", linear, &[4, 4]),
        site("output.dense", linear, &[4, 4]),
        site("conv1", conv, &[6, 3, 3, 3]),
        site("conv2", conv, &[5, 6, 3, 3]),
    ];
    let mut view = ModelView { sites, norms: vec!["bn1".into()], ..ModelView::default() };
    view.parameters.push(Parameter {
        name: "bn1.weight".into(),
        path: "bn1.weight".into(),
        shape: vec![6],
        trainable: true,
    });
    let group = |units: usize, members: &[(&str, usize, Role, usize)]| {
        let member = |(name, axis, role, each): &(&str, usize, Role, usize)| Member {
            name: (*name).into(),
            path: (*name).into(),
            axis: *axis,
            role: *role,
            units: (0..units).map(|u| (u * each..(u + 1) * each).collect()).collect(),
        };
        let members: Vec<Member> = members.iter().map(member).collect();
        let name = members[0].name.trim_end_matches(".weight").into();
        DimensionGroup { name, units, members, averaged_by: vec![] }
    };
    use Role::{Consumes, Follows, Produces};
    let dependencies = Dependencies {
        groups: vec![
            group(8, &[("layer.0.up.weight", 1, Produces, 1), ("layer.0.down.weight", 0, Consumes, 1)]),
            group(8, &[("layer.1.up.weight", 1, Produces, 1), ("layer.1.down.weight", 0, Consumes, 1)]),
            group(
                2,
                &[
                    ("self.query.weight", 1, Produces, 2),
                    ("self.key.weight", 1, Produces, 2),
                    ("self.value.weight", 1, Produces, 2),
                    ("output.dense.weight", 0, Consumes, 2),
                ],
            ),
            group(
                6,
                &[
                    ("conv1.weight", 0, Produces, 1),
                    ("bn1.weight", 0, Follows, 1),
                    ("conv2.weight", 1, Consumes, 1),
                ],
            ),
        ],
        ..Dependencies::default()
    };
    view.counts = vec![briquette_core::OutputCount {
        name: "heads".into(),
        path: "heads".into(),
        layer: "self.query".into(),
        value: 2,
        counts: briquette_core::Counts::Parts { sections: 1 },
    }];
    for name in ["self.key", "self.value"] {
        view.counts.push(briquette_core::OutputCount { layer: name.into(), ..view.counts[0].clone() });
    }
    view.with_dependencies(dependencies)
}

/// The problems of a recipe for [`blocks`], places without the root.
fn problems_of_blocks(recipe: &Value) -> Vec<String> {
    let found = Composer::<Flex>::builtin().plan(&Recipe::from_value(recipe), &blocks());
    let lines = found.err().into_iter().flat_map(|e| e.iter().map(|d| d.to_string()).collect::<Vec<_>>());
    lines.map(|line| line.trim_start_matches("compression_training.").to_string()).collect()
}

/// A technique with one group that says what is related.
fn related(name: &str, shared: Value, modules: Value, related: Value) -> Value {
    let group = json!({"params": half(), "modules": modules, "related_modules": related});
    technique(name, with_enabled(shared), group)
}

#[test]
fn sparse_pruning_needs_no_end() {
    // DeepSpeed's scheduler crashes at the first step without `schedule_offset_end`.
    assert_eq!(
        details(&prune("sparse_pruning", json!({}), json!({"dense_ratio": 0.4}))),
        json!({"pattern": "unstructured", "sparsity": 0.6, "kept": 52, "importance": "magnitude", "start": 1000})
    );
    let at = |shared: Value| details(&prune("sparse_pruning", shared, half()));
    assert_eq!(at(json!({"schedule_offset": 0})).get("start"), None);
    assert_eq!(at(json!({"schedule_offset": 0, "schedule_offset_end": 9})).get("end"), None);
    let topk = at(json!({"method": "topk", "schedule_offset": 10}));
    assert_eq!(
        (&topk["importance"], &topk["start"], &topk["every"]),
        (&json!("movement"), &json!(10), &json!(32))
    );
    let held = at(json!({"method": "topk", "schedule_offset": 10, "schedule_offset_end": 106}));
    assert_eq!(held["end"], json!(106));
    assert_eq!(
        details(&prune("sparse_pruning", json!({}), json!({"dense_ratio": 1.0})))["sparsity"],
        json!(0.0)
    );
}

#[test]
fn every_layer_is_every_linear_one_and_every_convolution() {
    for modules in [json!(["*"]), json!([".*"]), json!([""])] {
        let recipe = technique(
            "sparse_pruning",
            with_enabled(json!({})),
            json!({"params": half(), "modules": modules}),
        );
        assert_eq!(layers(&recipe), ["conv", "layer.1.fc", "layer.10.fc"]);
    }
    let default = technique("sparse_pruning", with_enabled(json!({})), json!({"params": half()}));
    assert_eq!(layers(&default), ["conv", "layer.1.fc", "layer.10.fc"]);
}

#[test]
fn snip_momentum_takes_the_whole_model() {
    let snip = |shared: Value| {
        let mut shared = with_enabled(shared);
        shared["method"] = json!("snip_momentum");
        json!({ ROOT: { "sparse_pruning": { "shared_parameters": shared, "different_groups": {} } } })
    };
    // The last linear layer is left out, as neural_compressor does.
    assert_eq!(layers(&snip(json!({}))), ["conv", "layer.1.fc"]);
    assert_eq!(
        details(&snip(json!({}))),
        json!({"pattern": "4x1", "sparsity": 0.9, "importance": "snip_momentum", "scope": "global",
               "max_sparsity": 0.98, "start": 1000})
    );
    let all = json!({"schedule_offset": 2, "schedule_offset_end": 10, "schedule_offset_stride": 2,
        "dense_ratio": 0.2, "block_pattern": "1xchannel", "excluded_modules": ["conv"]});
    assert_eq!(
        steps_for(&snip(all), &view()),
        [(
            "layer.1.fc".to_string(),
            json!({"pattern": "1xchannel", "sparsity": 0.8, "importance": "snip_momentum", "scope": "global",
                   "max_sparsity": 0.98, "schedule": "exponential", "start": 2, "every": 2, "end": 10})
        )]
    );
    // Of 1:4 neural_compressor removes one, where others say that one stays.
    let pattern = |text: &str, ratio: f64| snip(json!({"block_pattern": text, "dense_ratio": ratio}));
    assert_eq!(linear(&pattern("2:4", 0.5))["pattern"], json!("2:4"));
    assert_eq!(linear(&pattern("1:4", 0.75))["pattern"], json!("3:4"));
    assert_eq!(linear(&pattern("1:4", 0.8))["sparsity"], json!(0.2));
    let place = "sparse_pruning.shared_parameters";
    refused(
        &pattern("1:4", 0.5),
        &[&format!("{place}.dense_ratio: 0.5 is not a share to remove, of 0 to 0.25: more is not in 3:4")],
    );
    refused(
        &snip(json!({"schedule_offset": 0})),
        &[&format!(
            "{place}.schedule_offset: what is ranked by gradients is chosen after some optimizer steps: `start` is at \
             least 1"
        )],
    );
    refused(
        &snip(json!({"schedule_offset_stride": 5})),
        &[&format!(
            "{place}.schedule_offset_stride: has an effect with `schedule_offset_end` only: without it everything is \
             pruned at once"
        )],
    );
    refused(
        &snip(json!({"schedule_offset": 1, "schedule_offset_end": 4, "schedule_offset_stride": 5})),
        &[&format!("{place}.schedule_offset_stride: 5 is not 1 to 3, the steps from `start` to `end`")],
    );
    // Layers that the pattern does not divide are passed over, and the plan says so.
    let odd = details(&pattern("8x1", 0.5));
    assert_eq!(odd, json!({"passed_over": "8 rows of a block do not divide 4"}));
}

#[test]
fn two_recipes_in_one_process_do_not_meet() {
    // neural_compressor changes its default configuration, so that a second one takes over the first one's settings.
    let snip = |ratio: f64, pattern: &str| {
        let shared = json!({"enabled": true, "method": "snip_momentum", "dense_ratio": ratio,
            "block_pattern": pattern});
        json!({ ROOT: { "sparse_pruning": { "shared_parameters": shared, "different_groups": {} } } })
    };
    let first = details(&snip(0.2, "4x1"));
    let second = linear(&snip(0.5, "2:4"));
    assert_eq!((&first["sparsity"], &second["sparsity"]), (&json!(0.8), &json!(0.5)));
    assert_eq!(first, details(&snip(0.2, "4x1")));
}

#[test]
fn rows_heads_and_channels() {
    let rows = related("row_pruning", json!({}), json!(["up"]), json!([["down"]]));
    let expected = |group: &str, units: u64, kept: u64| json!({"group": group, "units": units, "kept": kept, "importance": "l1", "start": 1000});
    assert_eq!(
        steps_for(&rows, &blocks()),
        [
            ("layer.0.down".to_string(), expected("layer.0.up", 8, 4)),
            ("layer.1.down".to_string(), expected("layer.1.up", 8, 4)),
        ]
    );
    let shared = json!({"num_heads": 2, "schedule_offset": 200});
    let names = json!([["self.query", "self.key", "self.value"]]);
    let heads = related("head_pruning", shared, json!(["output.dense"]), names);
    assert_eq!(
        steps_for(&heads, &blocks()),
        [(
            "output.dense".to_string(),
            json!({"group": "self.query", "units": 2, "kept": 1, "importance": "movement", "start": 200, "every": 1,
                   "ranked_by": ["output.dense"]})
        )]
    );
    // `l1` of channels crashes in DeepSpeed.
    let channels = |method: &str| {
        let shared = json!({"method": method, "schedule_offset": 0});
        related("channel_pruning", shared, json!(["conv1"]), json!([["conv2", "bn1"]]))
    };
    let (layer, l1) = steps_for(&channels("l1"), &blocks()).remove(0);
    assert_eq!(
        (layer.as_str(), l1),
        ("conv2", json!({"group": "conv1", "units": 6, "kept": 3, "importance": "l1"}))
    );
    let topk = steps_for(&channels("topk"), &blocks()).remove(0).1;
    assert_eq!((&topk["importance"], &topk["every"]), (&json!("movement"), &json!(1)));
}

#[test]
fn without_related_modules_units_stay_as_zeros() {
    let rows =
        technique("row_pruning", with_enabled(json!({})), json!({"params": half(), "modules": ["up"]}));
    let steps = steps_for(&rows, &blocks());
    assert_eq!(steps.len(), 2);
    assert!(steps.iter().all(|(_, details)| details["remove"] == json!(false)));
}

#[test]
fn related_modules_are_what_the_trace_finds() {
    let rows = |modules: Value, others: Value| {
        problems_of_blocks(&related("row_pruning", json!({}), modules, others))
    };
    let g = "row_pruning.different_groups.g";
    // Two pairs in one group: each has its own layers; DeepSpeed gives the second pair the masks of the first.
    assert!(
        rows(json!(["layer.0.up", "layer.1.up"]), json!([["layer.0.down"], ["layer.1.down"]])).is_empty()
    );
    assert_eq!(
        rows(json!(["layer.0.up", "layer.1.up"]), json!([["layer.1.down"], ["layer.0.down"]])),
        [
            format!("{g}.related_modules: layer.0.up: what goes with it is layer.0.down, not layer.1.down"),
            format!("{g}.related_modules: layer.1.up: what goes with it is layer.1.down, not layer.0.down"),
        ]
    );
    // What one list has more is dropped by DeepSpeed.
    assert_eq!(
        rows(json!(["layer.0.up", "layer.1.up"]), json!([["layer.0.down"]])),
        [format!("{g}.related_modules: 1 lists for 2 patterns of `modules`; they pair one to one")]
    );
    assert_eq!(
        rows(json!(["up"]), json!([["layer.0.down"]])),
        [
            format!(
                "{g}.related_modules: pattern `re:layer.0.down` means 1 layer, for 2 layers that lose something; they \
                 pair one to one"
            ),
            format!("{g}.related_modules: layer.0.up: what goes with it is layer.0.down, not nothing"),
            format!("{g}.related_modules: layer.1.up: what goes with it is layer.1.down, not nothing"),
        ]
    );
    let channels = related("channel_pruning", json!({}), json!(["conv1"]), json!([["conv2"]]));
    assert_eq!(
        problems_of_blocks(&channels),
        [
            "channel_pruning.different_groups.g.related_modules: conv1: what goes with it is bn1, conv2, not conv2"
        ]
    );
}

#[test]
fn a_model_that_was_not_traced_is_what_the_recipe_says() {
    let untraced = ModelView { dependencies: None, ..blocks() };
    for (name, shared, modules, others) in [
        ("row_pruning", json!({}), json!(["up"]), json!([["down"]])),
        (
            "head_pruning",
            json!({"num_heads": 2}),
            json!(["output.dense"]),
            json!([["query", "key", "value"]]),
        ),
        ("channel_pruning", json!({}), json!(["conv1"]), json!([["conv2", "bn1"]])),
    ] {
        let recipe = related(name, shared, modules, others);
        let names = |view: &ModelView| {
            steps_for(&recipe, view)
                .into_iter()
                .map(|(layer, d)| (layer, d["kept"].clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&untraced), names(&blocks()), "{name}");
    }
    let rows =
        technique("row_pruning", with_enabled(json!({})), json!({"params": half(), "modules": ["up"]}));
    let found =
        Composer::<Flex>::builtin().plan(&Recipe::from_value(&rows), &untraced).err().expect("refused");
    assert_eq!(
        found.iter().map(|d| d.to_string()).collect::<Vec<_>>(),
        [format!(
            "{ROOT}.row_pruning.different_groups.g.modules: the model was not traced: nothing says what goes with the \
             rows of these layers; name it in `related`"
        )]
    );
}

#[test]
fn heads_are_the_models() {
    let names = json!([["self.query", "self.key", "self.value"]]);
    let heads =
        |n: u64| related("head_pruning", json!({"num_heads": n}), json!(["output.dense"]), names.clone());
    let place = "head_pruning.shared_parameters.num_heads";
    assert_eq!(
        problems_of_blocks(&heads(4)),
        [format!("{place}: output.dense: 4 is not the 2 heads, or groups of heads, that the model has")]
    );
    assert!(problems_of_blocks(&heads(2)).is_empty());
}

#[test]
fn weights_are_pruned_before_they_are_quantized() {
    let mut recipe = weights(json!({}), bits(8));
    let sparse = prune("sparse_pruning", json!({}), half());
    recipe[ROOT]["sparse_pruning"] = sparse[ROOT]["sparse_pruning"].clone();
    let plan = Composer::<Flex>::builtin().plan(&Recipe::from_value(&recipe), &view());
    let methods: Vec<String> =
        plan.unwrap_or_else(|e| panic!("{e}")).steps().iter().map(|s| s.method.clone()).collect();
    let both = ["sparse_pruning", "weight_quantization"];
    assert_eq!(methods, [both, both].concat());
}

#[test]
fn mistakes_of_pruning_are_reported_at_once() {
    refused(
        &prune("head_pruning", json!({}), half()),
        &["head_pruning.shared_parameters: missing key `num_heads`"],
    );
    let l1 = json!({"num_heads": 2, "method": "l1"});
    let names = json!([["self.query", "self.key", "self.value"]]);
    assert_eq!(
        problems_of_blocks(&related("head_pruning", l1, json!(["output.dense"]), names)),
        ["head_pruning.shared_parameters.method: `l1` is not one of topk"]
    );
    let rows = |shared: Value, params: Value| {
        let group = json!({"params": params, "modules": ["up"], "related_modules": [["down"]]});
        problems_of_blocks(&technique("row_pruning", with_enabled(shared), group))
    };
    assert_eq!(
        rows(json!({"method": "snip_momentum"}), half()),
        ["row_pruning.shared_parameters.method: `snip_momentum` is not one of l1, topk"]
    );
    assert_eq!(
        rows(json!({"method": "l2"}), json!({"dense_ratios": 1})),
        [
            "row_pruning.shared_parameters.method: `l2` is not one of l1, topk",
            "row_pruning.different_groups.g.params: missing key `dense_ratio`",
            "row_pruning.different_groups.g.params.dense_ratios: unknown key `dense_ratios`, did you mean \
             `dense_ratio`?",
        ]
    );
    for (ratio, text) in [(7.5, "7.5"), (0.0, "0"), (-0.5, "-0.5")] {
        let line = format!(
            "sparse_pruning.different_groups.g.params.dense_ratio: {text} is not a share to keep, over 0 and at \
             most 1"
        );
        refused(&prune("sparse_pruning", json!({}), json!({"dense_ratio": ratio})), &[&line]);
    }
    for name in ["sparse_pruning", "row_pruning", "channel_pruning"] {
        let line =
            format!("{name}.shared_parameters.schedule_offset_end: step 5 is before `schedule_offset` 10");
        let shared = json!({"schedule_offset": 10, "schedule_offset_end": 5});
        assert!(problems(&prune(name, shared, half()))[0].ends_with(&line));
    }
    let only = "has an effect with the method `snip_momentum` only";
    refused(
        &prune("sparse_pruning", json!({"block_pattern": "4x1", "schedule_offset_stride": 3}), half()),
        &[
            &format!("sparse_pruning.shared_parameters.schedule_offset_stride: {only}"),
            &format!("sparse_pruning.shared_parameters.block_pattern: {only}"),
        ],
    );
}

#[test]
fn mistakes_of_snip_momentum() {
    let snip = |mut shared: Value, groups: Value| {
        shared["method"] = json!("snip_momentum");
        json!({ ROOT: { "sparse_pruning":
            { "shared_parameters": with_enabled(shared), "different_groups": groups } } })
    };
    let place = "sparse_pruning.shared_parameters";
    for ratio in [json!(1.0), json!(0.0), json!(2.0)] {
        let line = format!("{place}.dense_ratio: {ratio} is not a share to keep, over 0 and below 1");
        let found = problems(&snip(json!({"dense_ratio": ratio}), json!({})));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].replace(".0 is", " is"), format!("{ROOT}.{line}").replace(".0 is", " is"));
    }
    for pattern in ["4", "x", "channelxchannel", "4:2", "0x1", "ax1"] {
        let found = problems(&snip(json!({"block_pattern": pattern}), json!({})));
        assert!(found.len() == 1 && found[0].contains("is not a block pattern"), "{pattern}: {found:?}");
    }
    refused(
        &snip(json!({"schedule_offset_stride": 0, "excluded_modules": ["("]}), json!({})),
        &[
            &format!("{place}.schedule_offset_stride: 0 is not at least 1"),
            &format!("{place}.excluded_modules[0]: pattern `(`: error: unclosed group"),
        ],
    );
    refused(
        &snip(json!({}), json!({"g": {"params": {"dense_ratio": 0.5}}})),
        &["sparse_pruning.different_groups: snip_momentum ranks the whole model and takes no groups"],
    );
}

#[test]
fn the_native_schema_has_the_same_methods() {
    let compat = |compat: Option<&str>| {
        let step =
            json!({"sparse_pruning": {"on": ["layer.1.fc", "conv"], "sparsity": 0.5, "pattern": "8x1"}});
        let mut recipe = json!({"steps": [step]});
        compat.into_iter().for_each(|name| recipe["compat"] = json!(name));
        recipe
    };
    refused(&compat(None), &["steps[0].sparse_pruning.pattern: conv: 8 rows of a block do not divide 4"]);
    assert_eq!(layers(&compat(Some("deepspeed"))), ["conv", "layer.1.fc"]);
}
