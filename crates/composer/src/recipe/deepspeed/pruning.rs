//! The four pruning techniques: read and checked; carried out in a later version.

use super::groups;
use crate::recipe::{Entry, Recipe};
use briquette_core::fields::Fields;
use briquette_core::{Diagnostics, Problem};
use serde_json::Value;
use std::collections::BTreeMap;

/// What tells the techniques apart.
pub(super) struct Technique {
    name: &'static str,
    methods: &'static [&'static str],
    default_method: &'static str,
}

/// All of them. DeepSpeed lets `l1` pass for heads and fails later; here it is refused.
pub(super) const TECHNIQUES: [&Technique; 4] = [
    &Technique { name: "sparse_pruning", methods: &["l1", "topk", "snip_momentum"], default_method: "l1" },
    &Technique { name: "row_pruning", methods: &["l1", "topk"], default_method: "l1" },
    &Technique { name: "head_pruning", methods: &["topk"], default_method: "topk" },
    &Technique { name: "channel_pruning", methods: &["l1", "topk"], default_method: "l1" },
];

pub(super) fn read(technique: &Technique, f: &mut Fields<'_>, recipe: &mut Recipe) {
    let out = &mut recipe.problems;
    let before = out.len();
    let Some(mut block) = groups::technique(f, technique.name, out) else { return };
    let Some(mut shared) = groups::shared(&mut block, out) else { return };
    let enabled = shared.optional("enabled", out).unwrap_or(false);
    let snip = read_shared(technique, &mut shared, enabled, out);
    shared.finish(out);
    let all = groups::groups(&mut block, enabled && !snip, out);
    block.finish(out);
    if snip && !all.is_empty() {
        let text = "snip_momentum ranks the whole model and takes no groups";
        out.add(format!("{}.different_groups", block_place(technique)), Problem::Conflict(text.into()));
    }
    let mut entries = Vec::new();
    for mut group in all {
        let start = out.len();
        ratio(&mut group.params, true, out);
        group.params.finish(out);
        entries.push(Entry {
            aliases: BTreeMap::from([("on".into(), format!("{}.modules", group.place))]),
            place: group.place,
            method: technique.name.into(),
            settings: Value::Null,
            selector: group.selector,
            faulty: out.len() > start,
        });
    }
    if enabled {
        let faulty = out.len() > before;
        if entries.is_empty() && !faulty {
            out.add(block_place(technique), Problem::NotAvailable { what: technique.name.into() });
        }
        entries.iter_mut().for_each(|e| e.faulty |= faulty);
        recipe.entries.append(&mut entries);
    }
}

fn block_place(technique: &Technique) -> String {
    format!("compression_training.{}", technique.name)
}

/// Whether the method is snip_momentum.
fn read_shared(technique: &Technique, f: &mut Fields<'_>, enabled: bool, out: &mut Diagnostics) -> bool {
    let methods: Vec<(&str, &str)> = technique.methods.iter().map(|m| (*m, *m)).collect();
    let method = f.choice("method", &methods, out).unwrap_or(technique.default_method);
    let start = f.optional::<usize>("schedule_offset", out).unwrap_or(1000);
    if technique.name == "head_pruning" {
        heads(f, enabled, out);
    }
    if technique.name != "sparse_pruning" {
        return false;
    }
    let place = f.place_of("schedule_offset_end");
    if let Some(end) = f.optional::<usize>("schedule_offset_end", out)
        && end < start
    {
        out.add(place, Problem::Conflict(format!("step {end} is before `schedule_offset` {start}")));
    }
    let snip = method == "snip_momentum";
    read_snip(f, snip, out);
    snip
}

fn heads(f: &mut Fields<'_>, enabled: bool, out: &mut Diagnostics) {
    match f.optional::<usize>("num_heads", out) {
        Some(0) => {
            out.add(
                f.place_of("num_heads"),
                Problem::Range { value: "0".into(), expected: "at least 1".into() },
            );
        }
        None if enabled && !f.has("num_heads") => {
            out.add(f.place(), Problem::Missing { key: "num_heads".into() });
        }
        _ => {}
    }
}

/// Keys that only snip_momentum reads.
fn read_snip(f: &mut Fields<'_>, snip: bool, out: &mut Diagnostics) {
    for key in ["schedule_offset_stride", "block_pattern", "dense_ratio", "excluded_modules"] {
        if f.has(key) && !snip {
            let text = "has an effect with the method `snip_momentum` only";
            out.add(f.place_of(key), Problem::Conflict(text.into()));
        }
    }
    if f.optional::<usize>("schedule_offset_stride", out) == Some(0) {
        let problem = Problem::Range { value: "0".into(), expected: "at least 1".into() };
        out.add(f.place_of("schedule_offset_stride"), problem);
    }
    if let Some(pattern) = f.optional::<String>("block_pattern", out)
        && !is_block_pattern(&pattern)
    {
        let expected = "a block pattern such as 4x1, channelx1, 1xchannel or 2:4".into();
        out.add(f.place_of("block_pattern"), Problem::Range { value: format!("`{pattern}`"), expected });
    }
    ratio(f, false, out);
    let place = f.place_of("excluded_modules");
    for (n, text) in f.optional::<Vec<String>>("excluded_modules", out).unwrap_or_default().iter().enumerate()
    {
        if let Err(e) = briquette_core::LayerPattern::deepspeed(text) {
            let problem = Problem::Pattern { pattern: e.pattern, reason: e.reason };
            out.add(format!("{place}[{n}]"), problem);
        }
    }
}

fn is_block_pattern(text: &str) -> bool {
    let side = |s: &str| s == "channel" || s.parse::<usize>().is_ok_and(|n| n > 0);
    if let Some((n, m)) = text.split_once(':') {
        return matches!((n.parse::<usize>(), m.parse::<usize>()), (Ok(n), Ok(m)) if n > 0 && n < m);
    }
    text.split_once('x').is_some_and(|(n, m)| side(n) && side(m) && (n, m) != ("channel", "channel"))
}

/// `dense_ratio`, the share that is kept. DeepSpeed takes any number; 7.5 kept everything in silence.
fn ratio(f: &mut Fields<'_>, mandatory: bool, out: &mut Diagnostics) {
    let value =
        if mandatory { f.required::<f64>("dense_ratio", out) } else { f.optional("dense_ratio", out) };
    // snip_momentum, the one method that can do without, cannot keep everything either.
    let legal = |value: f64| value > 0.0 && (value < 1.0 || mandatory && value == 1.0);
    if let Some(value) = value.filter(|v| !legal(*v)) {
        let most = if mandatory { "at most" } else { "below" };
        let expected = format!("a share to keep, over 0 and {most} 1");
        out.add(f.place_of("dense_ratio"), Problem::Range { value: value.to_string(), expected });
    }
}
