//! `weight_quantization` and `activation_quantization`, handed to the native methods.

use super::groups::{self, Group};
use crate::recipe::{Entry, Recipe};
use briquette_core::fields::{Fields, FromJson};
use briquette_core::{Diagnostics, Problem, Selector};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Settings of a native method and where the DeepSpeed recipe states each of them.
#[derive(Clone, Default)]
pub(super) struct Translated {
    settings: Map<String, Value>,
    aliases: BTreeMap<String, String>,
}

impl Translated {
    /// Native `key` is `value`, stated at `place`.
    pub(super) fn put(&mut self, key: &str, value: Value, place: String) {
        self.settings.insert(key.into(), value);
        self.aliases.insert(key.into(), place);
    }

    /// Whether native `key` was stated.
    pub(super) fn has(&self, key: &str) -> bool {
        self.settings.contains_key(key)
    }

    /// A mistake in native `key` is one at `place`.
    pub(super) fn alias(&mut self, key: &str, place: String) {
        self.aliases.insert(key.into(), place);
    }

    /// The entry at `place` for the layers that the recipe names at `on`.
    pub(super) fn entry(mut self, method: &str, place: String, on: String, selector: Selector) -> Entry {
        self.settings.insert("arithmetic".into(), json!("deepspeed"));
        self.aliases.insert("on".into(), on);
        let settings = Value::Object(self.settings);
        Entry { place, method: method.into(), settings, selector, aliases: self.aliases }
    }
}

/// DeepSpeed's `quantization_type` as native `symmetric`. A word of neither meaning is reported here.
fn symmetry(shared: &mut Fields<'_>, to: &mut Translated, out: &mut Diagnostics) {
    let place = shared.place_of("quantization_type");
    let types = [("symmetric", true), ("asymmetric", false)];
    let symmetric = shared.choice("quantization_type", &types, out).unwrap_or(true);
    to.put("symmetric", json!(symmetric), place);
}

fn offset(shared: &mut Fields<'_>, default: usize, to: &mut Translated, out: &mut Diagnostics) {
    let start = shared.optional("schedule_offset", out).unwrap_or(default);
    to.put("start", json!(start), shared.place_of("schedule_offset"));
}

/// Reads a technique's shared block and all its groups, and appends an entry for each group.
fn technique(
    f: &mut Fields<'_>,
    name: &'static str,
    recipe: &mut Recipe,
    shared: fn(&mut Fields<'_>, &mut Translated, &mut Diagnostics),
    params: fn(&mut Fields<'_>, &mut Translated, &mut Diagnostics),
) {
    let out = &mut recipe.problems;
    let Some(mut technique) = groups::technique(f, name, out) else { return };
    let Some(mut block) = groups::shared(&mut technique, out) else { return };
    let enabled = block.optional("enabled", out).unwrap_or(false);
    let mut common = Translated::default();
    shared(&mut block, &mut common, out);
    block.finish(out);
    let groups = groups::groups(&mut technique, enabled, out);
    technique.finish(out);
    for mut group in groups {
        let mut own = common.clone();
        params(&mut group.params, &mut own, out);
        let Group { place, params, selector, .. } = group;
        params.finish(out);
        if enabled {
            let on = format!("{place}.modules");
            recipe.entries.push(own.entry(name, place, on, selector));
        }
    }
}

pub(super) fn weights(f: &mut Fields<'_>, recipe: &mut Recipe) {
    technique(f, "weight_quantization", recipe, weight_shared, weight_params);
}

fn weight_shared(f: &mut Fields<'_>, to: &mut Translated, out: &mut Diagnostics) {
    symmetry(f, to, out);
    offset(f, 0, to, out);
    let groups = f.optional::<usize>("quantize_groups", out).unwrap_or(1);
    let place = f.place_of("quantize_groups");
    if groups == 0 {
        out.add(&place, Problem::Range { value: "0".into(), expected: "at least 1".into() });
    }
    to.put("granularity", json!({"groups": groups.max(1)}), place);
    let roundings = [("nearest", "nearest"), ("stochastic", "stochastic")];
    let rounding = f.choice("rounding", &roundings, out).unwrap_or("nearest");
    to.put("rounding", json!(rounding), f.place_of("rounding"));
    // DeepSpeed's two modes differ in where the quantized copy of a weight lives, and its forward mode does without
    // schedules; here the view is quantized and schedules act in either.
    f.optional::<bool>("quantize_weight_in_forward", out);
    // Only says how much DeepSpeed prints; the plan lists every layer anyway.
    f.optional::<bool>("quantize_verbose", out);
    if f.optional("quantizer_kernel", out).unwrap_or(false) {
        let what = "`quantizer_kernel` (DeepSpeed's own CUDA kernel)".into();
        out.add(f.place_of("quantizer_kernel"), Problem::NotAvailable { what });
    }
    if let Some(end) = f.optional::<usize>("schedule_offset_end", out) {
        to.put("end", json!(end), f.place_of("schedule_offset_end"));
    }
    mixed(f, to, out);
}

/// `fp16_mixed_quantize` as native `mixed`.
pub(super) fn mixed(f: &mut Fields<'_>, to: &mut Translated, out: &mut Diagnostics) {
    let place = f.place_of("fp16_mixed_quantize");
    let Some(value) = f.raw("fp16_mixed_quantize") else { return };
    let Some(mut f) = Fields::open(value, place.clone(), out) else { return };
    let enabled = f.optional("enabled", out).unwrap_or(false);
    let ratio = f.optional::<f64>("quantize_change_ratio", out).unwrap_or(0.001);
    let good = ratio > 0.0 && ratio <= 1.0;
    if !good {
        let problem = Problem::Range { value: ratio.to_string(), expected: "over 0 and at most 1".into() };
        out.add(f.place_of("quantize_change_ratio"), problem);
    }
    if enabled && good {
        to.put("mixed", json!({ "change_ratio": ratio }), place);
    }
    f.finish(out);
}

fn weight_params(f: &mut Fields<'_>, to: &mut Translated, out: &mut Diagnostics) {
    let start = f.required::<u64>("start_bits", out);
    let target_place = f.place_of("target_bits");
    let target = f.required::<u64>("target_bits", out);
    let period = f.optional::<usize>("quantization_period", out);
    // Where none was given that is reported above, and the method need not miss it as well.
    to.put("bits", json!(target.unwrap_or(8)), target_place);
    let (Some(start), Some(target)) = (start, target) else { return };
    if bits_fall(start, target, f.place_of("start_bits"), to, out) {
        // DeepSpeed's default is a period of 1.
        let period = period.or(if to.settings.contains_key("end") { None } else { Some(1) });
        if let Some(period) = period {
            to.put("period", json!(period), f.place_of("quantization_period"));
        }
    }
}

/// States `start_bits` where there are more of them than in the end. `false` where they do not fall, or cannot.
pub(super) fn bits_fall(
    start: u64,
    target: u64,
    place: String,
    to: &mut Translated,
    out: &mut Diagnostics,
) -> bool {
    if start == 0 && target == 0 {
        // One mistake; the method reports it for `target_bits`.
    } else if !(1..=32).contains(&start) {
        let problem = Problem::Range { value: start.to_string(), expected: "a bit width of 1 to 32".into() };
        out.add(place, problem);
    } else if start < target {
        let text = format!("{start} bits at the start are fewer than {target} at the end");
        out.add(place, Problem::Conflict(text));
    } else if start > target && target > 0 {
        to.put("start_bits", json!(start), place);
        return true;
    }
    false
}

pub(super) fn activations(f: &mut Fields<'_>, recipe: &mut Recipe) {
    technique(f, "activation_quantization", recipe, activation_shared, activation_params);
}

fn activation_shared(f: &mut Fields<'_>, to: &mut Translated, out: &mut Diagnostics) {
    symmetry(f, to, out);
    // The default in DeepSpeed's code; its documentation says 0.
    offset(f, 1000, to, out);
    let place = f.place_of("range_calibration");
    let ranges = [("dynamic", "dynamic"), ("static", "static")];
    let range = f.choice("range_calibration", &ranges, out).unwrap_or("dynamic");
    to.put("range", json!(range), place.clone());
    if range == "static" {
        to.put("observer", json!("moving_average"), place);
    }
}

fn activation_params(f: &mut Fields<'_>, to: &mut Translated, out: &mut Diagnostics) {
    let place = f.place_of("bits");
    if let Some(bits) = f.required::<Value>("bits", out) {
        // The method reports a value that is no width at this place.
        let bits = u64::from_json(&bits).map_or(bits, |n| json!(n));
        to.put("bits", bits, place);
    }
}
