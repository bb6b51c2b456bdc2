//! The native recipe.
//!
//! ```json
//! { "steps": [
//!     { "weight_quantization": { "on": ["bert.encoder.**"], "except": ["re:LayerNorm"], "bits": 8 } },
//!     { "activation_quantization": { "on": ["bert.encoder.layer.{0..5}.**"], "bits": 8 } } ] }
//! ```
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `layer_reduction` | none | which layers stay, see [`briquette_layer_reduce::LayerReduction::read`]; done first, all entries speak of the layers that are left |
//! | `sensitivity` | none | how much the output changes when each group of units, or layer, is compressed alone, see [`super::SensitivitySettings`] |
//! | `steps` | required, beside `layer_reduction`, `sensitivity` or `training` optional | entries, each an object with one key: the method's name |
//! | `compat` | none | `"deepspeed"`: every quantizer and pruning method that does not say otherwise uses DeepSpeed's arithmetic |
//! | `version` | 1 | of this schema |
//! | `distillation` | none, the task's where there is a teacher | what is learnt from a teacher, see [`briquette_distill::DistillationSettings`] |
//! | `eigenvalue` | none | sensitive blocks keep their bits longer, see [`briquette_quant::Eigenvalue`] |
//! | `layer_by_layer` | none | blocks learn from the teacher's, see [`super::LayerByLayerSettings`] |
//! | `training` | defaults by task | how the model is trained, see [`super::TrainingSettings`] |
//!
//! In an entry `on` (required) and `except` are lists of layer patterns
//! ([`briquette_core::LayerPattern`]); all other keys are the method's own.

use super::{EigenvalueEntry, Entry, Recipe, ReductionEntry};
use briquette_core::fields::{Fields, join, type_problem};
use briquette_core::{Diagnostics, LayerPattern, Problem, Selector};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Methods whose settings have the key `arithmetic`, which `compat` sets.
const WITH_ARITHMETIC: [&str; 8] = [
    "weight_quantization",
    "activation_quantization",
    "sparse_pruning",
    "row_pruning",
    "head_pruning",
    "channel_pruning",
    "width_pruning",
    "structure_pruning",
];

pub(super) fn read(value: &Value, recipe: &mut Recipe) {
    let out = &mut recipe.problems;
    let Some(mut f) = Fields::open(value, "", out) else { return };
    let compat = f.choice("compat", &[("deepspeed", "deepspeed")], out);
    let version = f.optional::<u64>("version", out).unwrap_or(1);
    if version != 1 {
        let problem =
            Problem::Range { value: version.to_string(), expected: "a known version; known is 1".into() };
        out.add("version", problem);
    }
    if let Some(value) = f.raw("layer_reduction") {
        recipe.layer_reduction = ReductionEntry::read(value, "layer_reduction", out);
    }
    if let Some(value) = f.raw("eigenvalue") {
        recipe.eigenvalue = EigenvalueEntry::read(value, "eigenvalue", out);
    }
    match f.raw("steps") {
        None if ["layer_reduction", "sensitivity", "training"].iter().any(|key| f.has(key)) => {}
        None => out.add("recipe", Problem::Missing { key: "steps".into() }),
        Some(Value::Array(steps)) => {
            let entries = steps.iter().enumerate();
            let read = entries.filter_map(|(n, step)| entry(step, &format!("steps[{n}]"), compat, out));
            recipe.entries = read.collect();
        }
        Some(other) => out.add("steps", type_problem("a list", other)),
    }
    for key in super::COMMON_KEYS {
        f.raw(key);
    }
    f.finish(out);
}

fn entry(step: &Value, place: &str, compat: Option<&str>, out: &mut Diagnostics) -> Option<Entry> {
    let one = step.as_object().filter(|o| o.len() == 1).and_then(|o| o.iter().next());
    let Some((method, settings)) = one else {
        out.add(place, type_problem("an object with one key, the method's name", step));
        return None;
    };
    let place = join(place, method);
    if method == "layer_reduction" {
        let text =
            "is no step: it is a key of the recipe itself, beside `steps`, and done before all of them";
        out.add(place, Problem::Conflict(text.into()));
        return None;
    }
    let Some(mut settings) = settings.as_object().cloned() else {
        out.add(place, type_problem("an object", settings));
        return None;
    };
    let on = patterns(settings.shift_remove("on"), "on", &place, out);
    if on.is_none() {
        out.add(&place, Problem::Missing { key: "on".into() });
    }
    let except = patterns(settings.shift_remove("except"), "except", &place, out);
    if let Some(name) = compat.filter(|_| WITH_ARITHMETIC.contains(&method.as_str())) {
        settings.entry("arithmetic").or_insert_with(|| json!(name));
    }
    let selector = Selector { on: on.unwrap_or_default(), except: except.unwrap_or_default() };
    Some(Entry {
        place,
        method: method.clone(),
        settings: Value::Object(settings as Map<String, Value>),
        selector,
        aliases: BTreeMap::new(),
    })
}

type Patterns = Vec<(String, LayerPattern)>;

fn patterns(value: Option<Value>, key: &str, place: &str, out: &mut Diagnostics) -> Option<Patterns> {
    let value = value?;
    let place = join(place, key);
    Some(read_patterns(&value, &place, LayerPattern::native, out))
}

/// The patterns of a list, each with its place; what is wrong goes to `out`.
pub(super) fn read_patterns(
    value: &Value,
    place: &str,
    read: fn(&str) -> Result<LayerPattern, briquette_core::PatternError>,
    out: &mut Diagnostics,
) -> Patterns {
    let Some(list) = value.as_array() else {
        out.add(place, type_problem("a list of patterns", value));
        return Vec::new();
    };
    if list.is_empty() {
        out.add(
            place,
            Problem::Range { value: "[]".into(), expected: "a list with at least one pattern".into() },
        );
    }
    let mut patterns = Vec::new();
    for (n, item) in list.iter().enumerate() {
        let place = format!("{place}[{n}]");
        match item.as_str().map(read) {
            None => out.add(place, type_problem("a pattern", item)),
            Some(Ok(pattern)) => patterns.push((place, pattern)),
            Some(Err(e)) => out.add(place, Problem::Pattern { pattern: e.pattern, reason: e.reason }),
        }
    }
    patterns
}
