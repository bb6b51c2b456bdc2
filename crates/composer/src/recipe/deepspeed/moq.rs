//! Mixture-of-quantization: the older block `quantize_training`, and `eigenvalue` beside or in it.
//!
//! `quantize_training` became `weight_quantization` of `compression_training`; DeepSpeed has not read it since, but
//! its tutorial still teaches it. It has no patterns: DeepSpeed's optimizer quantized every parameter of rank 2 and
//! more. Here it means every linear layer and convolution. `quantizer_kernel`, which the tutorial sets, chose between
//! two implementations of the same formulas and is of no consequence here.

use super::quantization::{Translated, bits_fall, mixed};
use crate::recipe::{EigenvalueEntry, Recipe};
use briquette_core::fields::Fields;
use briquette_core::{Diagnostics, LayerKind, LayerPattern, Problem, Selector};
use briquette_quant::Eigenvalue;
use serde_json::{Map, Value, json};

const BLOCK: &str = "quantize_training";

/// Both blocks at the root.
pub(super) fn read(root: &Map<String, Value>, recipe: &mut Recipe) {
    if let Some(value) = root.get("eigenvalue") {
        recipe.eigenvalue = eigenvalue(value, "eigenvalue".into(), &mut recipe.problems);
    }
    let Some(value) = root.get(BLOCK) else { return };
    let out = &mut recipe.problems;
    let Some(mut f) = Fields::open(value, BLOCK, out) else { return };
    let enabled = f.optional("enabled", out).unwrap_or(false);
    // Only says how much DeepSpeed prints.
    f.optional::<bool>("quantize_verbose", out);
    f.optional::<bool>("quantizer_kernel", out);
    let mut to = Translated::default();
    formula(&mut f, &mut to, out);
    let groups = f.optional::<usize>("quantize_groups", out).unwrap_or(1);
    let place = f.place_of("quantize_groups");
    if groups == 0 {
        out.add(&place, Problem::Range { value: "0".into(), expected: "at least 1".into() });
    }
    to.put("granularity", json!({"groups": groups.max(1)}), place);
    let period = schedule(&mut f, &mut to, out);
    bits(&mut f, period, &mut to, out);
    mixed(&mut f, &mut to, out);
    let place = f.place_of("eigenvalue");
    let inside = f.raw("eigenvalue").and_then(|value| eigenvalue(value, place.clone(), out));
    f.finish(out);
    if !enabled {
        return;
    }
    if let (Some(_), Some(outside)) = (&inside, &recipe.eigenvalue) {
        let problem = Problem::Claimed { by: outside.place.clone() };
        out.add(place, problem);
    }
    recipe.eigenvalue = recipe.eigenvalue.take().or(inside);
    let kinds =
        LayerPattern::of_kinds("linear layers and convolutions", &[LayerKind::Linear, LayerKind::Conv2d]);
    let selector = Selector { on: vec![(BLOCK.into(), kinds)], except: Vec::new() };
    recipe.entries.push(to.entry("weight_quantization", BLOCK.into(), BLOCK.into(), selector));
}

/// `eigenvalue`, where it is enabled.
fn eigenvalue(value: &Value, place: String, out: &mut Diagnostics) -> Option<EigenvalueEntry> {
    let mut f = Fields::open(value, &place, out)?;
    let enabled = f.optional("enabled", out).unwrap_or(false);
    f.optional::<bool>("verbose", out);
    let settings = Eigenvalue::from_fields(&mut f, out);
    f.finish(out);
    enabled.then_some(EigenvalueEntry { place, settings })
}

/// `quantize_type` and `quantize_algo`, which the tutorial also spells `quantize-algo`.
fn formula(f: &mut Fields<'_>, to: &mut Translated, out: &mut Diagnostics) {
    let types = [("symmetric", true), ("asymmetric", false)];
    let mut place = f.place_of("quantize_type");
    let mut symmetric = f.choice("quantize_type", &types, out);
    let mut rounding = None;
    for key in ["quantize_algo", "quantize-algo"] {
        let at = f.place_of(key);
        let Some(mut f) = f.raw(key).and_then(|value| Fields::open(value, at, out)) else { continue };
        let said = f.choice("q_type", &types, out);
        let here = f.place_of("q_type");
        if let (Some(first), Some(then)) = (symmetric, said)
            && first != then
        {
            out.add(here.clone(), Problem::Conflict(format!("says otherwise than `{place}`")));
        }
        if symmetric.is_none() && said.is_some() {
            (symmetric, place) = (said, here);
        }
        let roundings = [("nearest", "nearest"), ("stochastic", "stochastic")];
        if let Some(word) = f.choice("rounding", &roundings, out) {
            rounding = Some((word, f.place_of("rounding")));
        }
        f.finish(out);
    }
    to.put("symmetric", json!(symmetric.unwrap_or(true)), place);
    if let Some((word, place)) = rounding {
        to.put("rounding", json!(word), place);
    }
}

/// `quantize_schedule`; the period and where it is stated.
fn schedule(f: &mut Fields<'_>, to: &mut Translated, out: &mut Diagnostics) -> (usize, String) {
    let empty = json!({});
    let place = f.place_of("quantize_schedule");
    let value = f.raw("quantize_schedule").unwrap_or(&empty);
    let Some(mut f) = Fields::open(value, place.clone(), out) else { return (100, place) };
    let period = f.optional("quantize_period", out).unwrap_or(100);
    let offset = f.optional::<usize>("schedule_offset", out).unwrap_or(100);
    to.put("start", json!(offset), f.place_of("schedule_offset"));
    let place = f.place_of("quantize_period");
    f.finish(out);
    (period, place)
}

/// `quantize_bits`, with the pace of `quantize_schedule`.
fn bits(f: &mut Fields<'_>, (period, pace): (usize, String), to: &mut Translated, out: &mut Diagnostics) {
    let empty = json!({});
    let place = f.place_of("quantize_bits");
    let value = f.raw("quantize_bits").unwrap_or(&empty);
    let Some(mut f) = Fields::open(value, place, out) else { return };
    let start = f.optional::<u64>("start_bits", out).unwrap_or(16);
    let target = f.optional::<u64>("target_bits", out).unwrap_or(16);
    to.put("bits", json!(target), f.place_of("target_bits"));
    if bits_fall(start, target, f.place_of("start_bits"), to, out) {
        to.put("period", json!(period), pace);
    }
    f.finish(out);
}
