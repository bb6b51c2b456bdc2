//! The result file.

use super::rows::{Check, LayerOf, Linear, Part, Pass, Rows, distinct};
use crate::bench::written;
use serde_json::{Value, json};

/// Pairs of linear layers whose ratio of times is quoted, the first by the second.
pub(super) const LINEAR_RATIOS: [(&str, &str); 13] = [
    ("W8A8", "burn f32"),
    ("W8A8", "burn bf16"),
    ("W8A16", "burn bf16"),
    ("W4A16", "burn bf16"),
    ("W4A8", "burn bf16"),
    ("W8A8", "torch compiled W8A8"),
    ("W8A8", "torch bf16"),
    ("W8A8", "torch _int_mm alone"),
    ("W8A16", "torch bf16"),
    ("W4A16", "torch bf16"),
    ("W4A16", "torch int4 tinygemm"),
    ("W4A8", "torch bf16"),
    ("burn bf16", "torch bf16"),
];

/// The same of forward passes.
pub(super) const PASS_RATIOS: [(&str, &str); 10] = [
    ("W8A8", "burn f32"),
    ("W8A8", "burn bf16"),
    ("W4A16", "burn bf16"),
    ("W4A8", "burn bf16"),
    ("W8A8 f32", "burn f32"),
    ("W8A8", "torch fp16 eager"),
    ("W8A8", "torch fp16 SDPA"),
    ("W8A8", "torch fp16 compiled"),
    ("W4A16", "torch fp16 SDPA"),
    ("burn bf16", "torch fp16 SDPA"),
];

/// What compressed layers of any kind must not be slower than.
const FLOAT: &str = "burn bf16";
/// Where there are no 16-bit floats.
const WIDE_FLOAT: &str = "burn f32";

/// Everything that was measured, and what follows from it; `made_by` holds the command and the commit.
pub(super) fn result(rows: &Rows, made_by: &Value) -> Value {
    let check = |c: &Check| json!({"what": c.what, "float": c.float, "cases": c.cases, "worst": c.worst, "limit": c.limit});
    let pass = |p: &Pass| json!({"what": p.what, "model": p.model, "shape": written(p.shape), "median_ms": p.median_ms, "min_ms": p.min_ms, "runs": p.runs});
    let part = |p: &Part| json!({"what": p.what, "model": p.model, "shape": written(p.shape), "part": p.part, "calls": p.calls, "device_us": p.device_us});
    json!({
        "command": made_by["command"],
        "commit": made_by["commit"],
        "seed": 0,
        "device": rows.device,
        "backend": rows.backend,
        "data": "random weights and inputs",
        "torch": rows.torch,
        "ceilings": rows.ceilings.iter().map(|(who, what, rate)| json!({"by": who, "what": what, "per_second": rate})).collect::<Vec<_>>(),
        "checks": rows.checks.iter().map(check).collect::<Vec<_>>(),
        "linear": rows.linear.iter().map(|l| linear(rows, l)).collect::<Vec<_>>(),
        "linear_ratios": linear_ratios(rows),
        "slower_than_float": slower(rows).into_iter().map(|(l, ratio)| json!({"what": l.what, "model": l.layer.0, "layer": layer(l.layer.1), "rows": l.rows, "ratio": ratio})).collect::<Vec<_>>(),
        "models": rows.passes.iter().map(pass).collect::<Vec<_>>(),
        "model_ratios": pass_ratios(rows),
        "training": rows.steps.iter().map(pass).collect::<Vec<_>>(),
        "parts": rows.parts.iter().map(part).collect::<Vec<_>>(),
        "left_out": rows.left_out.iter().map(|(what, why)| json!({"what": what, "why": why})).collect::<Vec<_>>(),
    })
}

/// A layer as in tables, inputs first.
pub(super) fn layer([d_input, d_output]: [usize; 2]) -> String {
    format!("{d_input}x{d_output}")
}

/// Fraction of the copy bandwidth that a layer's bytes are moved at.
pub(super) fn of_bandwidth(rows: &Rows, l: &Linear) -> Option<f64> {
    rows.ceiling("copy").map(|best| l.bytes / l.device_us * 1e6 / best)
}

/// Fraction of the best rate of a 16-bit product; of a 32-bit one where that was not measured.
pub(super) fn of_peak(rows: &Rows, l: &Linear) -> Option<f64> {
    let best = rows.ceiling("bf16").or_else(|| rows.ceiling("f32"));
    best.map(|best| l.operations() / l.device_us * 1e6 / best)
}

fn linear(rows: &Rows, l: &Linear) -> Value {
    json!({
        "what": l.what, "model": l.layer.0, "layer": layer(l.layer.1), "rows": l.rows, "device_us": l.device_us,
        "call_us": l.call_us, "bytes": l.bytes, "of_copy_bandwidth": of_bandwidth(rows, l), "of_peak": of_peak(rows, l),
    })
}

fn linear_ratios(rows: &Rows) -> Vec<Value> {
    let places = distinct(&rows.linear, |l| (l.layer.clone(), l.rows));
    let of_pair = |(of, by): &(&str, &str)| {
        let ratio = |(place, n): &(LayerOf, usize)| {
            let ratio = rows.linear_us(of, place, *n)? / rows.linear_us(by, place, *n)?;
            let (model, layer) = (&place.0, layer(place.1));
            Some(
                json!({"time_of": of, "by_time_of": by, "model": model, "layer": layer, "rows": n, "ratio": ratio}),
            )
        };
        places.iter().filter_map(ratio).collect::<Vec<_>>()
    };
    LINEAR_RATIOS.iter().flat_map(of_pair).collect()
}

fn pass_ratios(rows: &Rows) -> Vec<Value> {
    let places = distinct(&rows.passes, |p| (p.model.clone(), p.shape));
    let of_pair = |(of, by): &(&str, &str)| {
        let ratio = |(model, shape): &(String, [usize; 2])| {
            let ratio = rows.pass_ms(of, model, *shape)? / rows.pass_ms(by, model, *shape)?;
            Some(
                json!({"time_of": of, "by_time_of": by, "model": model, "shape": written(*shape), "ratio": ratio}),
            )
        };
        places.iter().filter_map(ratio).collect::<Vec<_>>()
    };
    PASS_RATIOS.iter().flat_map(of_pair).collect()
}

/// Compressed layers that take longer than float ones, and how many times as long.
pub(super) fn slower(rows: &Rows) -> Vec<(&Linear, f64)> {
    beside_floats(rows).filter(|(_, ratio)| *ratio > 1.0).collect()
}

/// Compressed layers and their time by that of the float layer, where both were measured.
pub(super) fn beside_floats(rows: &Rows) -> impl Iterator<Item = (&Linear, f64)> {
    let ours = rows.linear.iter().filter(|l| l.what.starts_with('W'));
    ours.filter_map(|l| {
        let float = rows.linear_us(FLOAT, &l.layer, l.rows);
        Some((l, l.device_us / float.or_else(|| rows.linear_us(WIDE_FLOAT, &l.layer, l.rows))?))
    })
}
