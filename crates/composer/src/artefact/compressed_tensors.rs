//! `quantization_config` of the compressed-tensors format, which Transformers and vLLM read.

use super::manifest::{Format, LayerRecord, ZeroLayout};
use briquette_core::{CodeKind, InputQuantization, InputRange, LayerKind};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The version of the format in which 3, 5, 6 and 7 bits are packed densely, as here.
const VERSION: &str = "0.18.0";

/// The configuration, or `None` where the format cannot say what was done: binary weights,
/// convolutions, GPT-2's input-major layers, zero points outside the range of the codes, quantized
/// inputs of layers whose weights are not.
pub(super) fn quantization_config(
    layers: &[LayerRecord],
    inputs: &BTreeMap<String, InputQuantization>,
    input_major: fn(&str) -> bool,
) -> Option<Value> {
    let expressible = |l: &LayerRecord| {
        l.code != CodeKind::Binary
            && l.kind != LayerKind::Conv2d
            && l.zeros != Some(ZeroLayout::Plain)
            && l.low_rank.is_none()
            && !input_major(&l.name)
    };
    let coded = |name: &String| layers.iter().any(|l| l.name == *name);
    if layers.is_empty() || !layers.iter().all(expressible) || !inputs.keys().all(coded) {
        return None;
    }
    let groups = groups(layers, inputs);
    let formats: Vec<&str> = groups.iter().map(|(scheme, _)| format_of(scheme)).collect();
    let format = if formats.iter().all(|f| *f == formats[0]) { formats[0] } else { "mixed-precision" };
    let config_groups: Map<String, Value> = groups
        .iter()
        .enumerate()
        .map(|(n, (scheme, targets))| {
            let mut group = scheme.clone();
            group["targets"] = json!(targets);
            (format!("group_{n}"), group)
        })
        .collect();
    Some(json!({
        "config_groups": config_groups,
        "format": format,
        "global_compression_ratio": null,
        "ignore": [],
        "kv_cache_scheme": null,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": VERSION,
    }))
}

/// Distinct schemes in order of appearance, each with the layers it is for.
fn groups<'a>(
    layers: &'a [LayerRecord],
    inputs: &BTreeMap<String, InputQuantization>,
) -> Vec<(Value, Vec<&'a str>)> {
    let mut groups: Vec<(Value, Vec<&str>)> = Vec::new();
    for layer in layers {
        let scheme = scheme(layer, inputs.get(&layer.name));
        match groups.iter_mut().find(|(s, _)| *s == scheme) {
            Some((_, targets)) => targets.push(&layer.name),
            None => groups.push((scheme, vec![&layer.name])),
        }
    }
    groups
}

fn scheme(layer: &LayerRecord, input: Option<&InputQuantization>) -> Value {
    let whole_row = layer.group == layer.shape[1];
    let format = match layer.format {
        Format::IntQuantized => "int-quantized",
        Format::PackQuantized => "pack-quantized",
    };
    json!({
        "targets": [],
        "weights": {
            "num_bits": layer.bits,
            "type": "int",
            "symmetric": layer.code == CodeKind::Symmetric,
            "strategy": if whole_row { "channel" } else { "group" },
            "group_size": if whole_row { Value::Null } else { json!(layer.group) },
            "dynamic": false,
        },
        "input_activations": input.map(activations),
        "output_activations": null,
        "format": format,
    })
}

fn activations(q: &InputQuantization) -> Value {
    let dynamic = !matches!(q.range, InputRange::Static { .. });
    json!({
        "num_bits": q.bits,
        "type": "int",
        "symmetric": q.symmetric,
        "strategy": if dynamic { "token" } else { "tensor" },
        "group_size": null,
        "dynamic": dynamic,
    })
}

fn format_of(scheme: &Value) -> &str {
    scheme["format"].as_str().expect("set to a string above")
}
