//! Whatever a recipe says, reading and planning it does not panic.

mod common;

use briquette_composer::{Composer, Recipe};
use briquette_nn::{Compressible, Linear, LinearConfig, model_view};
use burn::backend::Flex;
use burn::prelude::*;
use common::{Net, Vision};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Words that mean something in one of the two schemas.
const WORDS: &[&str] = &[
    "steps",
    "compat",
    "version",
    "compression_training",
    "weight_quantization",
    "activation_quantization",
    "sparse_pruning",
    "row_pruning",
    "head_pruning",
    "channel_pruning",
    "layer_reduction",
    "shared_parameters",
    "different_groups",
    "params",
    "modules",
    "related_modules",
    "on",
    "except",
    "bits",
    "symmetric",
    "granularity",
    "group_size",
    "groups",
    "rounding",
    "scale_search",
    "arithmetic",
    "start",
    "period",
    "end",
    "mixed",
    "change_ratio",
    "scale",
    "binarization",
    "elastic",
    "gradient",
    "clipped",
    "low_rank_compensation",
    "rank",
    "quantize_training",
    "quantize_bits",
    "quantize_schedule",
    "quantize_algo",
    "layer_name",
    "range",
    "observer",
    "momentum",
    "percentile",
    "enabled",
    "schedule_offset",
    "schedule_offset_end",
    "quantize_groups",
    "quantization_type",
    "fp16_mixed_quantize",
    "quantize_change_ratio",
    "start_bits",
    "target_bits",
    "range_calibration",
    "dense_ratio",
    "num_heads",
    "method",
    "block_pattern",
    "excluded_modules",
    "teacher_layer",
    "keep_number_layer",
    "module_name_prefix",
    "other_module_name",
    "layers",
    "keep",
    "count",
    "choice",
    "copy",
    "block_influence",
    "last",
    "stack",
    "eigenvalue",
    "tensor",
    "channel",
    "static",
    "mse",
    "deepspeed",
    "asymmetric",
    "snip_momentum",
    "fc1",
    "conv",
    "*",
    "re:fc",
    "{0..3}",
    "4x1",
];

fn word() -> impl Strategy<Value = String> {
    prop_oneof![proptest::sample::select(WORDS).prop_map(String::from), ".{0,12}"]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0u64..40).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|x| json!(x)),
        word().prop_map(Value::from),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((word(), inner), 0..6)
                .prop_map(|pairs| Value::Object(Map::from_iter(pairs))),
        ]
    })
}

/// Settings of a method, often of the right names and types.
fn settings() -> impl Strategy<Value = Value> {
    proptest::collection::vec((word(), any_value()), 0..6)
        .prop_map(|pairs| Value::Object(Map::from_iter(pairs)))
}

/// A recipe whose outline is right in one of the schemas and whose inside is anything.
fn outlined() -> impl Strategy<Value = Value> {
    let native = proptest::collection::vec((word(), settings(), any::<bool>()), 0..4).prop_map(|entries| {
        let step = |(name, mut settings, all): (String, Value, bool)| {
            if all {
                settings["on"] = json!(["*"]);
            }
            json!({ name: settings })
        };
        json!({ "steps": entries.into_iter().map(step).collect::<Vec<Value>>() })
    });
    let block = (settings(), proptest::collection::vec((word(), settings(), settings()), 0..3));
    let deepspeed = proptest::collection::vec((word(), block), 0..3).prop_map(|techniques| {
        let mut root = Map::new();
        for (name, (mut shared, groups)) in techniques {
            shared["enabled"] = json!(true);
            let groups: Map<String, Value> = groups
                .into_iter()
                .map(|(name, mut group, params)| {
                    group["params"] = params;
                    (name, group)
                })
                .collect();
            root.insert(name, json!({ "shared_parameters": shared, "different_groups": groups }));
        }
        json!({ "compression_training": root })
    });
    prop_oneof![native, deepspeed, reduction()]
}

/// A layer reduction that is often right, and whose inside is anything otherwise.
fn reduction() -> impl Strategy<Value = Value> {
    let indices = proptest::collection::vec(0u64..7, 0..5);
    let keep = prop_oneof![
        indices.prop_map(Value::from),
        (0u64..7, word()).prop_map(|(count, choice)| json!({ "count": count, "choice": choice })),
        any_value(),
    ];
    let copy = proptest::collection::vec(word(), 0..3);
    (prop_oneof![Just("stack".to_string()), word()], keep, copy, any::<bool>()).prop_map(
        |(list, keep, copy, native)| {
            if native {
                return json!({ "layer_reduction": { "layers": list, "keep": keep, "copy": copy } });
            }
            let block = json!({ "enabled": true, "module_name_prefix": list, "teacher_layer": keep,
                                "other_module_name": copy });
            json!({ "compression_training": { "layer_reduction": block } })
        },
    )
}

/// Five blocks and a head.
#[derive(Module, Debug, Compressible)]
struct Stack<B: Backend> {
    stack: Vec<Linear<B>>,
    fc1: Linear<B>,
}

fn stack() -> Stack<Flex> {
    let linear = |o| LinearConfig::new(4, o).init(&Default::default());
    Stack { stack: (0..5).map(|_| linear(4)).collect(), fc1: linear(2) }
}

fn plan_for_all(recipe: &Value) {
    let recipe = Recipe::from_value(recipe);
    let (net, vision) = (Net::<Flex>::new(), Vision::<Flex>::new());
    for view in [model_view(&net), model_view(&vision), model_view(&stack()), Default::default()] {
        let planned = Composer::<Flex>::builtin().plan(&recipe, &view);
        let again = Composer::<Flex>::builtin().plan(&recipe, &view);
        match (planned, again) {
            (Ok(a), Ok(b)) => assert_eq!(a.to_json().to_string(), b.to_json().to_string()),
            (Err(a), Err(b)) => assert_eq!(a, b),
            _ => panic!("one plan failed, the other did not"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_json_value(value in any_value()) {
        plan_for_all(&value);
    }

    #[test]
    fn any_content_in_a_right_outline(value in outlined()) {
        plan_for_all(&value);
    }

    #[test]
    fn any_text(text in ".*") {
        let _ = Recipe::from_json(&text);
    }

    #[test]
    fn any_text_of_json_characters(text in "[\\[\\]{}\":,0-9a-e.\\\\ -]{0,60}") {
        let _ = Recipe::from_json(&text);
    }
}
