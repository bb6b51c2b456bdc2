//! Ten mistakes in one recipe are ten diagnostics of one run, in both schemas.

mod common;

use briquette_core::{LayerKind, ModelView, Site};
use briquette_nn::model_view;
use burn::backend::Flex;
use common::{Net, problems};
use serde_json::{Value, json};

/// BERT's layers with a hidden width of 8 and two blocks.
fn bert() -> ModelView {
    let site = |name: &str, kind: LayerKind, shape: [usize; 2]| Site {
        name: name.into(),
        path: name.replace("self", "self_"),
        kind,
        shape,
        native: if kind == LayerKind::Linear { vec![shape[1], shape[0]] } else { shape.to_vec() },
        trainable: true,
        tied: vec![],
        drop_in: true,
    };
    let linear = |name: &str, shape| site(name, LayerKind::Linear, shape);
    let mut sites = vec![site("bert.embeddings.word_embeddings", LayerKind::Embedding, [20, 8])];
    for n in 0..2 {
        let layer = format!("bert.encoder.layer.{n}");
        for part in ["query", "key", "value"] {
            sites.push(linear(&format!("{layer}.attention.self.{part}"), [8, 8]));
        }
        sites.push(linear(&format!("{layer}.attention.output.dense"), [8, 8]));
        sites.push(linear(&format!("{layer}.intermediate.dense"), [32, 8]));
        sites.push(linear(&format!("{layer}.output.dense"), [8, 32]));
    }
    sites.push(linear("bert.pooler.dense", [8, 8]));
    sites.push(linear("classifier", [2, 8]));
    ModelView { sites, ..ModelView::default() }
}

/// `dense_ratio` belongs to no technique of the native schema; the value out of range is a percentile.
fn native() -> Value {
    json!({ "steps": [
        { "weight_quantization": { "on": ["fc1"], "bits": 0 } },
        { "weight_quantization": { "on": ["plain"], "bits": 8, "granularity": { "groups": 7 } } },
        { "weight_quantization": { "on": ["fc3"], "bits": 8 } },
        { "weight_quantization": { "on": ["fc2"], "bits": 8, "rouding": "nearest" } },
        { "weight_quantization": { "on": ["fc2"], "bits": 4 } },
        { "weight_quantization": { "on": ["words"], "bits": 2, "symmetric": false } },
        { "weight_quantisation": { "on": ["fc1"], "bits": 8 } },
        { "activation_quantization":
            { "on": ["fc1"], "range": "static", "observer": "percentile", "percentile": 101 } },
        { "activation_quantization": { "on": "fc2" } },
        { "activation_quantization": { "on": ["words"] } },
    ]})
}

#[test]
fn ten_mistakes_of_a_native_recipe() {
    let view = model_view(&Net::<Flex>::new());
    assert_eq!(
        problems(&view, &native()),
        [
            "steps[8].activation_quantization.on: expected a list of patterns, found \"fc2\"",
            "steps[0].weight_quantization.bits: 0 is not a bit width of 1 to 8",
            "steps[1].weight_quantization.granularity: plain: 7 groups do not divide 1024",
            "steps[2].weight_quantization.on[0]: pattern `fc3` matches no layer, did you mean `fc2`?",
            "steps[3].weight_quantization.rouding: unknown key `rouding`, did you mean `rounding`?",
            "steps[4].weight_quantization.on: fc2: already claimed by steps[3].weight_quantization.on",
            "steps[5].weight_quantization.symmetric: ternary weights (2 bits) are always symmetric",
            "steps[6].weight_quantisation: unknown method `weight_quantisation`, did you mean \
             `weight_quantization`?; known are activation_quantization, channel_pruning, head_pruning, low_rank_compensation, row_pruning, sparse_pruning, structure_pruning, weight_quantization, width_pruning",
            "steps[7].activation_quantization.percentile: 101 is not over 50 and at most 100",
            "steps[9].activation_quantization.on: words: activation_quantization cannot act on an embedding",
        ]
    );
}

fn deepspeed() -> Value {
    let group = |start: u64, target: u64, modules: Value| json!({ "params": { "start_bits": start, "target_bits": target }, "modules": modules });
    json!({ "compression_training": {
        "weight_quantization": {
            "shared_parameters": {
                "enabled": true, "quantization_type": "asymmetric", "quantize_groups": 64,
                "quantise_verbose": true
            },
            "different_groups": {
                "zero": group(0, 0, json!(["pooler"])),
                "ternary": group(2, 2, json!(["word_embeddings"])),
                "first": group(8, 8, json!(["attention.self"])),
                "second": group(4, 4, json!(["layer.1.attention.self.query"])),
                "odd": group(8, 8, json!(["classifier"])),
                "none": group(8, 8, json!(["lm_head"])),
            }
        },
        "activation_quantization": {
            "shared_parameters": { "enabled": true, "schedule_offset": 0 },
            "different_groups": {
                "embedding": { "params": { "bits": 8 }, "modules": ["word_embeddings"] },
                "string": { "params": { "bits": 8 }, "modules": "attention" },
            }
        },
        "sparse_pruning": {
            "shared_parameters": { "enabled": true, "method": "l1" },
            "different_groups": { "sp": { "params": { "dense_ratio": 7.5 }, "modules": ["output.dense"] } }
        },
        "row_prunning": { "shared_parameters": { "enabled": true } },
    }})
}

#[test]
fn ten_mistakes_of_a_deepspeed_recipe() {
    let root = "compression_training";
    let (w, a) = (format!("{root}.weight_quantization"), format!("{root}.activation_quantization"));
    assert_eq!(
        problems(&bert(), &deepspeed()),
        [
            format!(
                "{w}.shared_parameters.quantise_verbose: unknown key `quantise_verbose`, did you mean \
                 `quantize_verbose`?"
            ),
            format!("{a}.different_groups.string.modules: expected a list of patterns, found \"attention\""),
            format!(
                "{root}.sparse_pruning.different_groups.sp.params.dense_ratio: 7.5 is not a share to keep, \
                 over 0 and at most 1"
            ),
            format!("{root}.row_prunning: unknown key `row_prunning`, did you mean `row_pruning`?"),
            format!("{w}.different_groups.zero.params.target_bits: 0 is not a bit width of 1 to 8"),
            format!("{w}.shared_parameters.quantization_type: ternary weights (2 bits) are always symmetric"),
            format!(
                "{w}.different_groups.second.modules: bert.encoder.layer.1.attention.self.query: \
                 already claimed by {w}.different_groups.first.modules"
            ),
            format!("{w}.shared_parameters.quantize_groups: classifier: 64 groups do not divide 16"),
            format!("{w}.different_groups.none.modules[0]: pattern `lm_head` matches no layer"),
            format!(
                "{a}.different_groups.embedding.modules: bert.embeddings.word_embeddings: \
                 activation_quantization cannot act on an embedding"
            ),
        ]
    );
}

#[test]
fn the_same_mistakes_are_found_again_in_the_same_order() {
    let view = bert();
    assert_eq!(problems(&view, &deepspeed()), problems(&view, &deepspeed()));
}

#[test]
fn an_input_of_a_plain_layer_cannot_be_quantized() {
    let view = model_view(&Net::<Flex>::new());
    let found = problems(&view, &json!({"steps": [{"activation_quantization": {"on": ["plain"]}}]}));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("steps[0].activation_quantization.on: plain: inputs can be quantized"));
}
