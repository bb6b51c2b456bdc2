//! What a recipe may say and what it is told when it says something else.

mod layer_reduction;
mod moq;
mod pruning;

use super::*;
use crate::plan::Composer;
use briquette_core::{LayerKind, ModelView, Site};
use burn::backend::Flex;
use serde_json::json;

const ROOT: &str = "compression_training";

/// An embedding, a convolution and two linear layers, all drop-in.
fn view() -> ModelView {
    let site = |name: &str, kind, shape: [usize; 2]| Site {
        name: name.into(),
        path: name.into(),
        kind,
        shape,
        native: shape.to_vec(),
        trainable: true,
        tied: vec![],
        drop_in: true,
    };
    let sites = vec![
        site("words", LayerKind::Embedding, [10, 8]),
        site("conv", LayerKind::Conv2d, [4, 18]),
        site("layer.1.fc", LayerKind::Linear, [16, 8]),
        site("layer.10.fc", LayerKind::Linear, [8, 16]),
    ];
    ModelView { sites, norms: vec!["norm".into()], ..ModelView::default() }
}

/// The problems of a recipe for [`view`].
fn problems(recipe: &Value) -> Vec<String> {
    match Composer::<Flex>::builtin().plan(&Recipe::from_value(recipe), &view()) {
        Ok(_) => Vec::new(),
        Err(found) => found.iter().map(|d| d.to_string()).collect(),
    }
}

/// Names of the layers that a recipe acts on, in order.
fn layers(recipe: &Value) -> Vec<String> {
    let plan = Composer::<Flex>::builtin().plan(&Recipe::from_value(recipe), &view());
    plan.unwrap_or_else(|e| panic!("{e}")).steps().iter().map(|s| s.site.name.clone()).collect()
}

/// A DeepSpeed recipe of one technique with one group called `g`.
fn technique(name: &str, shared: Value, group: Value) -> Value {
    json!({ ROOT: { name: { "shared_parameters": shared, "different_groups": { "g": group } } } })
}

fn weights(shared: Value, params: Value) -> Value {
    technique("weight_quantization", with_enabled(shared), json!({"params": params, "modules": ["fc"]}))
}

fn inputs(shared: Value, params: Value) -> Value {
    technique("activation_quantization", with_enabled(shared), json!({"params": params, "modules": ["fc"]}))
}

fn with_enabled(mut shared: Value) -> Value {
    shared["enabled"] = json!(true);
    shared
}

fn bits(n: u64) -> Value {
    json!({"start_bits": n, "target_bits": n})
}

/// `recipe` has exactly these problems, places without the leading `compression_training.`.
fn refused(recipe: &Value, expected: &[&str]) {
    let found = problems(recipe);
    let short: Vec<&str> =
        found.iter().map(|line| line.strip_prefix("compression_training.").unwrap_or(line)).collect();
    assert_eq!(short, expected, "{recipe}");
}

#[test]
fn roots_that_are_no_recipe() {
    refused(&json!([1, 2]), &["recipe: expected an object, found [1,2]"]);
    refused(&json!("x"), &["recipe: expected an object, found \"x\""]);
    refused(&Value::Null, &["recipe: expected an object, found null"]);
    refused(&json!({}), &["recipe: missing key `steps`"]);
    refused(&json!({"steps": []}), &["recipe: asks for nothing"]);
    refused(&json!({ ROOT: {} }), &["recipe: asks for nothing"]);
    refused(&json!({ ROOT: [] }), &["compression_training: expected an object, found []"]);
    let both = "recipe: `steps` and `compression_training` are two schemas; a recipe has one of them";
    refused(&json!({"steps": [], ROOT: {}}), &[both]);
}

#[test]
fn text_that_is_no_json() {
    for text in ["", "{", "{\"steps\": [}", "{\"a\": 1 \"b\": 2}", "{} {}", "\u{0}", "nul"] {
        assert!(Recipe::from_json(text).is_err(), "{text}");
    }
    let twice = "{\"steps\": [],\n\"steps\": []}";
    let error = Recipe::from_json(twice).expect_err("a duplicate key").to_string();
    assert!(error.contains("`steps` stands twice") && error.contains("line 2"), "{error}");
    let deep = "[".repeat(100_000);
    assert!(Recipe::from_json(&deep).is_err());
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Recipe::from_file("no/such/recipe.json").expect_err("missing").to_string();
    assert!(error.starts_with("no/such/recipe.json: "), "{error}");
}

#[test]
fn native_schema() {
    let steps = |steps: Value| json!({ "steps": steps });
    refused(&json!({"steps": {}}), &["steps: expected a list, found {}"]);
    refused(&json!({"steps": [], "version": 2}), &["version: 2 is not a known version; known is 1"]);
    refused(&json!({"steps": [], "compat": "torch"}), &["compat: `torch` is not one of deepspeed"]);
    refused(&json!({"steps": [], "stepz": 1}), &["stepz: unknown key `stepz`, did you mean `steps`?"]);
    let one = "expected an object with one key, the method's name, found";
    refused(&steps(json!([3])), &[&format!("steps[0]: {one} 3")]);
    refused(&steps(json!([{}])), &[&format!("steps[0]: {one} {{}}")]);
    refused(
        &steps(json!([{"weight_quantization": 8}])),
        &["steps[0].weight_quantization: expected an object, found 8"],
    );
    let entry = |settings: Value| steps(json!([{ "weight_quantization": settings }]));
    let place = "steps[0].weight_quantization";
    refused(&entry(json!({"bits": 8})), &[&format!("{place}: missing key `on`")]);
    refused(&entry(json!({"on": ["layer.1.fc"]})), &[&format!("{place}: missing key `bits`")]);
    refused(
        &entry(json!({"on": [], "bits": 8})),
        &[&format!("{place}.on: [] is not a list with at least one pattern")],
    );
    refused(
        &entry(json!({"on": ["words", 3, "re:("], "bits": 8})),
        &[
            &format!("{place}.on[1]: expected a pattern, found 3"),
            &format!("{place}.on[2]: pattern `re:(`: error: unclosed group"),
        ],
    );
    refused(
        &entry(json!({"on": ["*"], "except": ["nothing"], "bits": 8})),
        &[&format!("{place}.except[0]: pattern `nothing` matches no layer")],
    );
    refused(
        &entry(json!({"on": ["conv"], "bits": 8, "granularity": {"group_size": 5}})),
        &[&format!("{place}.granularity: conv: 5 columns a group do not divide 18")],
    );
}

#[test]
fn every_layer_is_every_layer_that_the_method_can_act_on() {
    let all = ["words", "conv", "layer.1.fc", "layer.10.fc"];
    let group = json!({"params": bits(8), "modules": ["*"]});
    let shared = json!({"enabled": true});
    assert_eq!(layers(&technique("weight_quantization", shared.clone(), group)), all);
    let missing = json!({"params": bits(8)});
    assert_eq!(layers(&technique("weight_quantization", shared.clone(), missing)), all);
    for modules in [json!(["*"]), json!([".*"]), json!([""])] {
        let group = json!({"params": {"bits": 8}, "modules": modules});
        assert_eq!(layers(&technique("activation_quantization", shared.clone(), group)), all[1..]);
    }
    let native = |on: &str| json!({"steps": [{"activation_quantization": {"on": [on]}}]});
    assert_eq!(layers(&native("*")), all[1..]);
    assert_eq!(layers(&native("layer.1.**")), ["layer.1.fc"]);
    let except =
        json!({"steps": [{"weight_quantization": {"on": ["**"], "except": ["layer.**"], "bits": 8}}]});
    assert_eq!(layers(&except), all[..2]);
}

#[test]
fn deepspeed_patterns_are_searched_for() {
    let group = json!({"params": bits(8), "modules": ["layer.1"]});
    let recipe = technique("weight_quantization", json!({"enabled": true}), group);
    assert_eq!(layers(&recipe), ["layer.1.fc", "layer.10.fc"]);
}

#[test]
fn unknown_keys_at_every_level_of_a_deepspeed_recipe() {
    let good = || weights(json!({}), bits(8));
    assert!(problems(&good()).is_empty());
    let block = "weight_quantization";
    let mut at_root = good();
    at_root["compresion"] = json!(1);
    assert_eq!(problems(&at_root), ["compresion: unknown key `compresion`"]);
    let mut engine = good();
    engine["train_batch_size"] = json!(32);
    engine["fp16"] = json!({"enabled": true, "whatever": 1});
    assert!(problems(&engine).is_empty());
    // These stand inside of other blocks, or nowhere: DeepSpeed would never read them here.
    for key in ["load_universal_checkpoint", "use_node_local_storage", "monitor_config", "seed"] {
        let mut misplaced = good();
        misplaced[key] = json!(true);
        assert_eq!(problems(&misplaced), [format!("{key}: unknown key `{key}`")]);
    }
    let mut inference = good();
    inference["weight_quantization"] = json!({"post_init_quant": {}});
    assert_eq!(
        problems(&inference),
        ["weight_quantization: `weight_quantization` beside `compression_training` (DeepSpeed's inference) \
          is not available in this version"]
    );
    let mut cases = vec![good(); 6];
    cases[0][ROOT]["weight_pruning"] = json!({});
    cases[1][ROOT][block]["groups"] = json!({});
    cases[2][ROOT][block]["shared_parameters"]["offset"] = json!(1);
    cases[3][ROOT][block]["shared_parameters"]["fp16_mixed_quantize"] = json!({"ratio": 1});
    cases[4][ROOT][block]["different_groups"]["g"]["module"] = json!(1);
    // DeepSpeed takes this one and lets the shared value win in silence.
    cases[5][ROOT][block]["different_groups"]["g"]["params"]["quantize_groups"] = json!(4);
    let keys = ["weight_pruning", "groups", "offset", "ratio", "module", "quantize_groups"];
    for (case, key) in cases.iter().zip(keys) {
        let found = problems(case);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with(ROOT) && found[0].contains(&format!("unknown key `{key}`")),
            "{found:?}"
        );
    }
}

#[test]
fn missing_blocks_have_defaults_or_are_named() {
    let block = "weight_quantization";
    refused(
        &json!({ ROOT: { block: { "shared_parameters": {"enabled": true} } } }),
        &["weight_quantization: missing key `different_groups`"],
    );
    let disabled = ["recipe: asks for nothing"];
    refused(&json!({ ROOT: { block: { "shared_parameters": {"enabled": false} } } }), &disabled);
    refused(&json!({ ROOT: { block: { "different_groups": {"g": {"params": bits(8)}} } } }), &disabled);
    refused(
        &json!({ ROOT: { block: { "shared_parameters": 1, "different_groups": {} } } }),
        &["weight_quantization.shared_parameters: expected an object, found 1"],
    );
    refused(
        &json!({ ROOT: { block: { "shared_parameters": {"enabled": true}, "different_groups": [] } } }),
        &["weight_quantization.different_groups: expected an object, found []"],
    );
    let g = "weight_quantization.different_groups.g";
    let without_params = technique(block, json!({"enabled": true}), json!({"modules": ["fc"]}));
    refused(&without_params, &[&format!("{g}: missing key `params`")]);
}

#[test]
fn weight_quantization_of_deepspeed() {
    let (shared, params) =
        ("weight_quantization.shared_parameters", "weight_quantization.different_groups.g.params");
    refused(
        &weights(json!({}), json!({})),
        &[&format!("{params}: missing key `start_bits`"), &format!("{params}: missing key `target_bits`")],
    );
    refused(
        &weights(json!({"quantization_type": "affine"}), bits(8)),
        &[&format!("{shared}.quantization_type: `affine` is not one of symmetric, asymmetric")],
    );
    refused(
        &weights(json!({"rounding": "down"}), bits(8)),
        &[&format!("{shared}.rounding: `down` is not one of nearest, stochastic")],
    );
    refused(
        &weights(json!({"quantize_groups": 0}), bits(8)),
        &[&format!("{shared}.quantize_groups: 0 is not at least 1")],
    );
    refused(
        &weights(json!({"quantize_groups": 3}), bits(8)),
        &[
            &format!("{shared}.quantize_groups: layer.1.fc: 3 groups do not divide 128"),
            &format!("{shared}.quantize_groups: layer.10.fc: 3 groups do not divide 128"),
        ],
    );
    refused(
        &weights(json!({"quantization_type": "asymmetric"}), bits(1)),
        &[&format!("{shared}.quantization_type: binary weights (1 bits) are always symmetric")],
    );
    refused(
        &weights(json!({"schedule_offset": -1}), bits(8)),
        &[&format!("{shared}.schedule_offset: expected a non-negative integer, found -1")],
    );
    for n in [9, 16, 32] {
        let line = format!("{params}.target_bits: {n} is not a bit width of 1 to 8");
        refused(&weights(json!({}), bits(n)), &[&line]);
    }
    refused(
        &weights(json!({}), json!({"start_bits": 4, "target_bits": 8})),
        &[&format!("{params}.start_bits: 4 bits at the start are fewer than 8 at the end")],
    );
    refused(
        &weights(json!({"quantizer_kernel": true}), bits(8)),
        &[&format!(
            "{shared}.quantizer_kernel: `quantizer_kernel` (DeepSpeed's own CUDA kernel) is not available \
             in this version"
        )],
    );
    refused(
        &weights(json!({"fp16_mixed_quantize": {"enabled": true, "quantize_change_ratio": 2.0}}), bits(8)),
        &[&format!("{shared}.fp16_mixed_quantize.quantize_change_ratio: 2 is not over 0 and at most 1")],
    );
}

#[test]
fn activation_quantization_of_deepspeed() {
    let (shared, params) =
        ("activation_quantization.shared_parameters", "activation_quantization.different_groups.g.params");
    refused(&inputs(json!({}), json!({})), &[&format!("{params}: missing key `bits`")]);
    for n in [0, 1, 6, 16] {
        let line = format!("{params}.bits: {n} is not 4 or 8 bits");
        refused(&inputs(json!({}), json!({"bits": n})), &[&line]);
    }
    refused(
        &inputs(json!({"range_calibration": "sometimes"}), json!({"bits": 8})),
        &[&format!("{shared}.range_calibration: `sometimes` is not one of dynamic, static")],
    );
    refused(
        &inputs(json!({"quantization_type": "none"}), json!({"bits": 8})),
        &[&format!("{shared}.quantization_type: `none` is not one of symmetric, asymmetric")],
    );
    let embedding = technique(
        "activation_quantization",
        json!({"enabled": true}),
        json!({"params": {"bits": 8}, "modules": ["words"]}),
    );
    refused(
        &embedding,
        &[
            "activation_quantization.different_groups.g.modules: words: activation_quantization cannot act on \
           an embedding",
        ],
    );
}

#[test]
fn patterns_of_deepspeed() {
    let with = |group: Value| technique("weight_quantization", json!({"enabled": true}), group);
    let g = "weight_quantization.different_groups.g";
    refused(
        &with(json!({"params": bits(8), "modules": "fc"})),
        &[&format!("{g}.modules: expected a list of patterns, found \"fc\"")],
    );
    refused(
        &with(json!({"params": bits(8), "modules": ["(", "fc"]})),
        &[&format!("{g}.modules[0]: pattern `(`: error: unclosed group")],
    );
    refused(
        &with(json!({"params": bits(8), "modules": ["norm"]})),
        &[&format!("{g}.modules[0]: pattern `norm` matches no layer")],
    );
    for lists in [json!([]), json!([["conv"], ["conv"]])] {
        let n = lists.as_array().expect("a list").len();
        let group = json!({"params": bits(8), "modules": ["fc"], "related_modules": lists});
        let line =
            format!("{g}.related_modules: {n} lists for 1 patterns of `modules`; they pair one to one");
        refused(&with(group), &[&line]);
    }
    let flat = json!({"params": bits(8), "modules": ["fc"], "related_modules": ["conv"]});
    refused(
        &with(flat),
        &[&format!("{g}.related_modules: expected a list of lists of strings, found [\"conv\"]")],
    );
    // One pattern of a group may repeat what another says; another group may not.
    let twice = json!({"params": bits(8), "modules": ["fc", "layer.1"]});
    assert_eq!(layers(&with(twice)), ["layer.1.fc", "layer.10.fc"]);
    let mut two = with(json!({"params": bits(8), "modules": ["fc"]}));
    two[ROOT]["weight_quantization"]["different_groups"]["h"] =
        json!({"params": bits(4), "modules": ["layer.10."]});
    refused(
        &two,
        &[&format!(
            "weight_quantization.different_groups.h.modules: layer.10.fc: already claimed by {ROOT}.{g}.modules"
        )],
    );
}

#[test]
fn the_same_recipe_gives_the_same_plan_byte_for_byte() {
    let recipe = json!({"steps": [
        {"activation_quantization": {"on": ["layer.**"], "start": 3}},
        {"weight_quantization": {"on": ["*"], "bits": 4, "granularity": {"groups": 4}}},
    ]});
    let text = |recipe: &Value| {
        let plan = Composer::<Flex>::builtin().plan(&Recipe::from_value(recipe), &view());
        let plan = plan.unwrap_or_else(|e| panic!("{e}"));
        (plan.to_json().to_string(), plan.to_string())
    };
    assert_eq!(text(&recipe), text(&recipe));
    let before = recipe.clone();
    let plan = text(&recipe);
    assert_eq!(recipe, before, "reading a recipe does not change it");
    let order: Vec<usize> =
        ["words", "conv", "layer.1.fc", "layer.10.fc"].iter().filter_map(|n| plan.0.find(n)).collect();
    assert!(order.len() == 4 && order.is_sorted(), "steps stand in model order");
}

#[test]
fn compat_sets_the_arithmetic_of_entries_that_say_nothing() {
    let recipe = json!({"compat": "deepspeed", "steps": [
        {"weight_quantization": {"on": ["words"], "bits": 8}},
        {"weight_quantization": {"on": ["conv"], "bits": 8, "arithmetic": "paper"}},
    ]});
    let plan =
        Composer::<Flex>::builtin().plan(&Recipe::from_value(&recipe), &view()).expect("a good recipe");
    let rules: Vec<&Value> = plan.steps().iter().map(|s| &s.details["arithmetic"]).collect();
    assert_eq!(rules, ["deep_speed", "paper"]);
}
