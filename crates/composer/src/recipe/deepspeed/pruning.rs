//! The four pruning techniques, handed to the native methods.

use super::groups::{self, Group};
use super::quantization::Translated;
use crate::recipe::Recipe;
use briquette_core::fields::Fields;
use briquette_core::{Diagnostics, LayerKind, LayerPattern, Problem, Selector};
use serde_json::{Map, Value, json};

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

impl Technique {
    fn is_sparse(&self) -> bool {
        self.name == "sparse_pruning"
    }

    /// What the native method calls DeepSpeed's `method`.
    fn importance(&self, method: &str) -> &'static str {
        match method {
            "l1" if self.is_sparse() => "magnitude",
            "l1" => "l1",
            "topk" => "movement",
            _ => "snip_momentum",
        }
    }
}

pub(super) fn read(technique: &Technique, f: &mut Fields<'_>, recipe: &mut Recipe) {
    let out = &mut recipe.problems;
    let Some(mut block) = groups::technique(f, technique.name, out) else { return };
    let Some(mut shared) = groups::shared(&mut block, out) else { return };
    let enabled = shared.optional("enabled", out).unwrap_or(false);
    let mut common = Translated::default();
    let snip = read_shared(technique, &mut shared, enabled, &mut common, out);
    shared.finish(out);
    let all = groups::groups(&mut block, enabled && snip.is_none(), out);
    block.finish(out);
    let place = format!("compression_training.{}", technique.name);
    if snip.is_some() && !all.is_empty() {
        let text = "snip_momentum ranks the whole model and takes no groups";
        out.add(format!("{place}.different_groups"), Problem::Conflict(text.into()));
    }
    // Without their number nothing more can be said of heads.
    let told = technique.name != "head_pruning" || common.has("heads");
    let mut entries = Vec::new();
    for group in all {
        let (own, group) = read_group(technique, &common, group, out);
        let on = format!("{}.modules", group.place);
        entries.push(own.entry(technique.name, group.place, on, group.selector));
    }
    if let Some(except) = snip {
        let kinds = [LayerKind::Linear, LayerKind::Conv2d];
        let every = LayerPattern::of_kinds("linear layers and convolutions", &kinds);
        let selector = Selector { on: vec![(place.clone(), every)], except };
        entries = vec![common.entry(technique.name, place.clone(), place, selector)];
    }
    if enabled && told {
        recipe.entries.append(&mut entries);
    }
}

/// The settings of one group, and what else it says.
fn read_group<'a>(
    technique: &Technique,
    common: &Translated,
    mut group: Group<'a>,
    out: &mut Diagnostics,
) -> (Translated, Named) {
    let mut own = common.clone();
    ratio(technique, &mut group.params, true, &mut own, out);
    group.params.finish(out);
    if !technique.is_sparse() {
        let place = format!("{}.related_modules", group.place);
        own.put("remove", json!(group.related.is_some()), place.clone());
        if let Some(related) = group.related {
            let pair = |(of, are): &(String, Vec<String>)| json!({"of": native(of), "are": are.iter().map(|text| native(text)).collect::<Vec<_>>()});
            own.put("related", related.iter().map(pair).collect(), place);
        }
    }
    (own, Named { place: group.place, selector: group.selector })
}

/// A group without its parameters.
struct Named {
    place: String,
    selector: Selector,
}

/// A pattern of DeepSpeed as the native schema writes it.
fn native(text: &str) -> String {
    match text {
        "*" | ".*" | "" => "*".into(),
        _ => format!("re:{text}"),
    }
}

type Patterns = Vec<(String, LayerPattern)>;

/// What all groups share; for snip_momentum, which has none, the layers it leaves out.
fn read_shared(
    technique: &Technique,
    f: &mut Fields<'_>,
    enabled: bool,
    to: &mut Translated,
    out: &mut Diagnostics,
) -> Option<Patterns> {
    let methods: Vec<(&str, &str)> = technique.methods.iter().map(|m| (*m, *m)).collect();
    let method = f.choice("method", &methods, out).unwrap_or(technique.default_method);
    to.put("importance", json!(technique.importance(method)), f.place_of("method"));
    let start = f.optional::<usize>("schedule_offset", out).unwrap_or(1000);
    if technique.name == "head_pruning" {
        heads(f, enabled, to, out);
    }
    let place = f.place_of("schedule_offset_end");
    let end = f.optional::<usize>("schedule_offset_end", out);
    if let Some(end) = end.filter(|end| *end < start) {
        out.add(place, Problem::Conflict(format!("step {end} is before `schedule_offset` {start}")));
    }
    let snip = method == "snip_momentum";
    let every = if technique.is_sparse() { read_stride(f, snip, end, out) } else { None };
    // An end before the start is reported above; masks by magnitude have none.
    let end = end.filter(|end| *end >= start && method != "l1");
    schedule(f, start, end, every, snip, to);
    if !technique.is_sparse() {
        return None;
    }
    let except = read_snip(technique, f, snip, to, out);
    snip.then_some(except)
}

/// The native `schedule`, and where its keys are stated.
fn schedule(
    f: &Fields<'_>,
    start: usize,
    end: Option<usize>,
    every: Option<usize>,
    snip: bool,
    to: &mut Translated,
) {
    let mut schedule = Map::from_iter([("start".to_string(), json!(start))]);
    let growing = snip && end.is_some_and(|end| end > start);
    if growing {
        schedule.insert("shape".into(), json!("exponential"));
        schedule.insert("every".into(), json!(every.unwrap_or(1)));
    }
    if let Some(end) = end.filter(|_| growing || !snip) {
        schedule.insert("end".into(), json!(end));
    }
    to.put("schedule", Value::Object(schedule), f.place_of("schedule_offset"));
    for (key, stated) in [
        ("schedule.start", "schedule_offset"),
        ("schedule.end", "schedule_offset_end"),
        ("schedule.every", "schedule_offset_stride"),
    ] {
        to.alias(key, f.place_of(stated));
    }
}

fn heads(f: &mut Fields<'_>, enabled: bool, to: &mut Translated, out: &mut Diagnostics) {
    match f.optional::<usize>("num_heads", out) {
        Some(0) => {
            out.add(
                f.place_of("num_heads"),
                Problem::Range { value: "0".into(), expected: "at least 1".into() },
            );
        }
        Some(heads) => to.put("heads", json!(heads), f.place_of("num_heads")),
        None if enabled && !f.has("num_heads") => {
            out.add(f.place(), Problem::Missing { key: "num_heads".into() });
        }
        None => {}
    }
}

/// `schedule_offset_stride`, which only snip_momentum reads.
fn read_stride(f: &mut Fields<'_>, snip: bool, end: Option<usize>, out: &mut Diagnostics) -> Option<usize> {
    let stride = f.optional::<usize>("schedule_offset_stride", out)?;
    let place = f.place_of("schedule_offset_stride");
    if !snip {
        only_snip(f, "schedule_offset_stride", out);
    } else if stride == 0 {
        out.add(place, Problem::Range { value: "0".into(), expected: "at least 1".into() });
        return None;
    } else if end.is_none() {
        let text = "has an effect with `schedule_offset_end` only: without it everything is pruned at once";
        out.add(place, Problem::Conflict(text.into()));
    }
    Some(stride)
}

fn only_snip(f: &Fields<'_>, key: &str, out: &mut Diagnostics) {
    let text = "has an effect with the method `snip_momentum` only";
    out.add(f.place_of(key), Problem::Conflict(text.into()));
}

/// Keys that only snip_momentum reads, and the layers that it leaves out.
fn read_snip(
    technique: &Technique,
    f: &mut Fields<'_>,
    snip: bool,
    to: &mut Translated,
    out: &mut Diagnostics,
) -> Patterns {
    for key in ["block_pattern", "dense_ratio", "excluded_modules"] {
        if f.has(key) && !snip {
            only_snip(f, key, out);
        }
    }
    let place = f.place_of("block_pattern");
    let pattern = f.optional::<String>("block_pattern", out);
    match block_pattern(pattern.as_deref().unwrap_or("4x1")) {
        Some(pattern) if snip => to.put("pattern", json!(pattern), place),
        Some(_) => {}
        None => {
            let expected = "a block pattern such as 4x1, channelx1, 1xchannel or 2:4".into();
            let value = format!("`{}`", pattern.unwrap_or_default());
            out.add(place, Problem::Range { value, expected });
        }
    }
    if snip {
        to.put("scope", json!("global"), f.place_of("method"));
        ratio(technique, f, false, to, out);
    } else {
        f.raw("dense_ratio");
    }
    excluded(f, out)
}

fn excluded(f: &mut Fields<'_>, out: &mut Diagnostics) -> Patterns {
    let place = f.place_of("excluded_modules");
    let mut patterns = Vec::new();
    for (n, text) in f.optional::<Vec<String>>("excluded_modules", out).unwrap_or_default().iter().enumerate()
    {
        let place = format!("{place}[{n}]");
        match LayerPattern::deepspeed(text) {
            Ok(pattern) => patterns.push((place, pattern)),
            Err(e) => out.add(place, Problem::Pattern { pattern: e.pattern, reason: e.reason }),
        }
    }
    patterns
}

/// The native pattern: of `n:m`, neural_compressor removes `n`, where others say that `n` stay.
fn block_pattern(text: &str) -> Option<String> {
    let side = |s: &str| s == "channel" || s.parse::<usize>().is_ok_and(|n| n > 0);
    if let Some((n, m)) = text.split_once(':') {
        let (n, m): (usize, usize) = (n.parse().ok()?, m.parse().ok()?);
        return (0 < n && n < m).then(|| format!("{}:{m}", m - n));
    }
    let (n, m) = text.split_once('x')?;
    (side(n) && side(m) && (n, m) != ("channel", "channel")).then(|| text.into())
}

/// `dense_ratio`, the share that is kept. DeepSpeed takes any number; 7.5 kept everything in silence.
fn ratio(
    technique: &Technique,
    f: &mut Fields<'_>,
    mandatory: bool,
    to: &mut Translated,
    out: &mut Diagnostics,
) {
    let value =
        if mandatory { f.required::<f64>("dense_ratio", out) } else { f.optional("dense_ratio", out) };
    // snip_momentum, the one method that can do without, cannot keep everything either.
    let legal = |value: f64| value > 0.0 && (value < 1.0 || mandatory && value == 1.0);
    let place = f.place_of("dense_ratio");
    if let Some(value) = value.filter(|v| !legal(*v)) {
        let most = if mandatory { "at most" } else { "below" };
        let expected = format!("a share to keep, over 0 and {most} 1");
        out.add(&place, Problem::Range { value: value.to_string(), expected });
    }
    // neural_compressor's default; a mistake is reported above, and the method need not report it again.
    let keep = value.filter(|v| legal(*v)).unwrap_or(0.1);
    if technique.is_sparse() {
        // As many digits as people write: 0.6, not 0.6000000000000001.
        to.put("sparsity", json!(((1.0 - keep) * 1e12).round() / 1e12), place);
    } else {
        to.put("keep", json!(keep), place);
    }
}
