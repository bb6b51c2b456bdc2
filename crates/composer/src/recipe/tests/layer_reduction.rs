//! Layer reduction in both schemas, alone and with other entries.

use super::*;
use crate::Plan;
use briquette_layer_reduce::Kept;
use briquette_nn::{Compressible, Embedding, EmbeddingConfig, Linear, LinearConfig, model_view};
use burn::backend::Autodiff;
use burn::prelude::*;

#[derive(Module, Debug, Compressible)]
struct Block<B: Backend> {
    fc: Linear<B>,
    out: Linear<B>,
}

#[derive(Module, Debug, Compressible)]
struct Net<B: Backend> {
    words: Embedding<B>,
    #[compressible(name = "encoder.layer")]
    layer: Vec<Block<B>>,
    head: Linear<B>,
}

/// Twelve blocks.
fn net<B: Backend>() -> Net<B> {
    let d = Default::default();
    let linear = |i, o| LinearConfig::new(i, o).init(&d);
    Net {
        words: EmbeddingConfig::new(10, 8).init(&d),
        layer: (0..12).map(|_| Block { fc: linear(8, 16), out: linear(16, 8) }).collect(),
        head: linear(8, 2),
    }
}

fn planned(recipe: &Value) -> Result<Plan<Flex>, Vec<String>> {
    let plan = Composer::<Flex>::builtin().plan(&Recipe::from_value(recipe), &model_view(&net::<Flex>()));
    plan.map_err(|found| found.iter().map(|d| d.to_string()).collect())
}

fn plan(recipe: &Value) -> Plan<Flex> {
    planned(recipe).unwrap_or_else(|e| panic!("{e:?}"))
}

fn refused(recipe: &Value, expected: &[&str]) {
    let found = planned(recipe).err().unwrap_or_default();
    let short: Vec<&str> =
        found.iter().map(|line| line.strip_prefix("compression_training.").unwrap_or(line)).collect();
    assert_eq!(short, expected, "{recipe}");
}

fn native(reduction: Value) -> Value {
    json!({ "layer_reduction": reduction })
}

fn deepspeed(block: Value) -> Value {
    json!({ ROOT: { "layer_reduction": block } })
}

/// What DeepSpeed's examples say, with some keys replaced.
fn block(changes: Value) -> Value {
    let mut block = json!({
        "enabled": true, "keep_number_layer": 3, "module_name_prefix": "encoder.layer",
        "teacher_layer": [1, 3, 11], "other_module_name": ["words", "head"],
    });
    for (key, value) in changes.as_object().expect("an object") {
        block[key] = value.clone();
    }
    block
}

#[test]
fn both_schemas_say_the_same() {
    let theirs = plan(&deepspeed(block(json!({}))));
    let keep = json!({"layers": "encoder.layer", "keep": [1, 3, 11], "copy": ["words", "head"]});
    let ours = plan(&native(keep));
    let reduced = theirs.layer_reduction().expect("a reduction");
    assert_eq!(Some(reduced), ours.layer_reduction());
    assert_eq!((reduced.list.as_str(), reduced.path.as_str(), reduced.of), ("encoder.layer", "layer", 12));
    assert_eq!(reduced.indices(), Some(&[1, 3, 11][..]));
    assert_eq!(reduced.copied, ["words.weight", "head.weight", "head.bias"]);
    assert!(theirs.steps().is_empty());
    assert_eq!(theirs.model().sites.len(), 1 + 3 * 2 + 1);
    assert_eq!(theirs.model().sites[5].name, "encoder.layer.2.fc");
}

#[test]
fn a_plan_states_its_reduction() {
    let plan = plan(&deepspeed(block(json!({}))));
    let text = plan.to_string();
    let first = "encoder.layer: layers 1, 3, 11 of 12 stay; a teacher gives words, head too\n";
    assert!(text.starts_with(first), "{text}");
    assert_eq!(text.lines().count(), 1 + 8);
    let json = plan.to_json();
    let wanted = json!({"list": "encoder.layer", "kept": [1, 3, 11], "of": 12, "copy": ["words", "head"]});
    assert_eq!(json["layer_reduction"], wanted);
    assert_eq!(json["layers"], 8);
    let without = super::view();
    let recipe = Recipe::from_value(&weights(json!({}), bits(8)));
    let plan = Composer::<Flex>::builtin().plan(&recipe, &without).unwrap_or_else(|e| panic!("{e}"));
    assert!(plan.layer_reduction().is_none() && plan.to_json().get("layer_reduction").is_none());
}

#[test]
fn other_entries_speak_of_the_reduced_model() {
    let quantize = |on: &str| {
        let mut recipe = native(json!({"layers": "encoder.layer", "keep": {"count": 2}}));
        recipe["steps"] = json!([{"weight_quantization": {"on": [on], "bits": 8}}]);
        recipe
    };
    let names = |on: &str| -> Vec<String> {
        plan(&quantize(on)).steps().iter().map(|s| s.site.name.clone()).collect()
    };
    assert_eq!(names("encoder.layer.1.**"), ["encoder.layer.1.fc", "encoder.layer.1.out"]);
    assert_eq!(
        plan(&quantize("encoder.layer.1.fc")).layer_reduction().and_then(|r| r.indices()),
        Some(&[5, 11][..])
    );
    refused(
        &quantize("encoder.layer.11.fc"),
        &["steps[0].weight_quantization.on[0]: pattern `encoder.layer.11.fc` matches no layer, did you \
             mean `encoder.layer.1.fc`?"],
    );
    let mut both = deepspeed(block(json!({})));
    both[ROOT]["weight_quantization"] = json!({
        "shared_parameters": {"enabled": true},
        "different_groups": {"g": {"params": bits(8), "modules": ["layer.1", "head"]}},
    });
    let steps: Vec<String> = plan(&both).steps().iter().map(|s| s.site.name.clone()).collect();
    assert_eq!(steps, ["encoder.layer.1.fc", "encoder.layer.1.out", "head"]);
}

#[test]
fn mistakes_of_a_native_reduction() {
    let first = "layer_reduction.layers: `layer` is not a list of layers; the model has `encoder.layer`";
    let mut recipe = native(json!({"layers": "layer", "keep": [1]}));
    refused(&recipe, &[first]);
    // What else is wrong is found on the model as it is.
    recipe["steps"] = json!([
        {"weight_quantization": {"on": ["encoder.layer.11.fc"], "bits": 0}},
        {"layer_reduction": {"on": ["*"]}},
    ]);
    let step = "steps[1].layer_reduction: is no step: it is a key of the recipe itself, beside `steps`, and done \
                before all of them";
    let bits = "steps[0].weight_quantization.bits: 0 is not a bit width of 1 to 8";
    refused(&recipe, &[step, first, bits]);
    refused(&native(json!([])), &["layer_reduction: expected an object, found []"]);
    refused(
        &native(json!({"layers": "encoder.layer", "keep": {"count": 13}, "copy": ["wrods"]})),
        &[
            "layer_reduction.keep.count: 13 is not at most 12, the number of layers of `encoder.layer`",
            "layer_reduction.copy[0]: `wrods` is not a parameter of the model or a module that has some, did \
             you mean `words`?",
        ],
    );
    let mut steps = native(json!({"layers": "encoder.layer", "keep": [1]}));
    steps["steps"] = json!({});
    refused(&steps, &["steps: expected a list, found {}"]);
}

#[test]
fn mistakes_of_a_deepspeed_reduction() {
    let place = "layer_reduction";
    let told = |changes: Value, expected: &[&str]| refused(&deepspeed(block(changes)), expected);
    refused(
        &deepspeed(json!({"enabled": true})),
        &[
            "layer_reduction: missing key `module_name_prefix`",
            "layer_reduction: missing key `teacher_layer`",
            "layer_reduction: missing key `other_module_name`",
        ],
    );
    told(
        json!({"keep_number_layer": 5, "teacher_layers": [1]}),
        &[
            &format!("{place}.keep_number_layer: 5 layers are to be kept, `teacher_layer` names 3"),
            &format!("{place}.teacher_layers: unknown key `teacher_layers`, did you mean `teacher_layer`?"),
        ],
    );
    told(
        json!({"teacher_layer": [0, 1, -1]}),
        &[&format!("{place}.teacher_layer: expected a list of non-negative integers, found [0,1,-1]")],
    );
    told(
        json!({"teacher_layer": [3, 1, 12]}),
        &[
            &format!(
                "{place}.teacher_layer: 12 is not a layer of `encoder.layer`, which has 12, counted from 0"
            ),
            &format!("{place}.teacher_layer: layer 1 stands after layer 3; layers are kept in their order"),
        ],
    );
    told(
        json!({"teacher_layer": [1, 1], "keep_number_layer": 2}),
        &[&format!("{place}.teacher_layer: layer 1 is kept twice")],
    );
    told(
        json!({"teacher_layer": [], "keep_number_layer": 0}),
        &[&format!("{place}.teacher_layer: [] is not at least one layer of `encoder.layer`")],
    );
    told(
        json!({"module_name_prefix": "encoder"}),
        &[&format!(
            "{place}.module_name_prefix: `encoder` is not a list of layers; the model has `encoder.layer`"
        )],
    );
    let nothing = "is not a parameter of the model or a module that has some";
    told(
        json!({"other_module_name": ["words", "pooler", "encoder.layer.0"]}),
        &[
            &format!("{place}.other_module_name[1]: `pooler` {nothing}"),
            &format!(
                "{place}.other_module_name[2]: `encoder.layer.0` is of `encoder.layer`, whose kept layers are \
                 taken anyway"
            ),
        ],
    );
    told(json!({"enabled": "yes"}), &[&format!("{place}.enabled: expected true or false, found \"yes\"")]);
}

#[test]
fn a_disabled_reduction_does_nothing() {
    let off = json!({"enabled": false, "keep_number_layer": 5, "teacher_layer": [40, 3]});
    refused(&deepspeed(block(off.clone())), &["recipe: asks for nothing"]);
    let mut recipe = weights(json!({}), bits(8));
    recipe[ROOT]["layer_reduction"] = block(off);
    let plan = plan(&recipe);
    assert!(plan.layer_reduction().is_none());
    assert_eq!(plan.model().lists[0].len, 12);
}

#[test]
fn layers_chosen_by_data_are_decided_later() {
    let recipe = json!({
        "layer_reduction":
            {"layers": "encoder.layer", "keep": {"count": 2, "choice": "block_influence"}},
        "steps": [{"weight_quantization": {"on": ["encoder.layer.1.out"], "bits": 8}}],
    });
    let mut model = net::<Autodiff<Flex>>();
    briquette_core::materialize(&model);
    // Frozen, so that it can be told which layer it was.
    model.layer[11].out.weight = model.layer[11].out.weight.clone().set_require_grad(false);
    let full = model_view(&model);
    let open = Composer::<Flex>::builtin().plan(&Recipe::from_value(&recipe), &full);
    let open = open.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(open.layer_reduction().map(|r| &r.kept), Some(&Kept::ByInfluence(2)));
    assert_eq!(open.model().lists[0].len, 2);
    let told = json!({"count": 2, "choice": "block_influence"});
    assert_eq!(open.to_json()["layer_reduction"]["kept"], told);

    let wrong = |kept: &[usize]| open.clone().with_kept(kept.to_vec()).err().map(|p| p.to_string());
    assert_eq!(wrong(&[4]).as_deref(), Some("1 layers are given, the plan keeps 2"));
    assert_eq!(wrong(&[4, 4]).as_deref(), Some("layer 4 is kept twice"));
    let beyond = "12 is not a layer of `encoder.layer`, which has 12, counted from 0";
    assert_eq!(wrong(&[4, 12]).as_deref(), Some(beyond));

    let decided = open.with_kept(vec![4, 11]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(decided.layer_reduction().and_then(|r| r.indices()), Some(&[4, 11][..]));
    let view = full.keep_layers("encoder.layer", &[4, 11]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(decided.model(), &view);
    assert_eq!(Some(&decided.steps()[0].site), view.site("encoder.layer.1.out"));
    assert!(!decided.steps()[0].site.trainable && view.sites[1].trainable);
    assert_eq!(decided.to_json()["layer_reduction"]["kept"], json!([4, 11]));
    let again = decided.with_kept(vec![1, 2]).err().map(|p| p.to_string());
    assert_eq!(again.as_deref(), Some("the plan leaves no choice of layers open"));
}
