//! What all techniques with groups share: `shared_parameters` and `different_groups`.

use crate::recipe::native::read_patterns;
use briquette_core::fields::{Fields, type_problem};
use briquette_core::{Diagnostics, LayerPattern, Problem, Selector};
use serde_json::{Value, json};

/// One of `different_groups`.
pub(super) struct Group<'a> {
    /// Its place, up to and with its name.
    pub(super) place: String,
    /// Its `params`.
    pub(super) params: Fields<'a>,
    /// The layers it names.
    pub(super) selector: Selector,
    /// For each pattern of `modules` those of the layers that change with what it means, where the group says so.
    pub(super) related: Option<Vec<(String, Vec<String>)>>,
}

/// The block of one technique, `None` where it is missing.
pub(super) fn technique<'a>(
    f: &mut Fields<'a>,
    name: &'static str,
    out: &mut Diagnostics,
) -> Option<Fields<'a>> {
    let place = f.place_of(name);
    Fields::open(f.raw(name)?, place, out)
}

/// `shared_parameters`; an empty object where it is missing, so that the defaults hold.
pub(super) fn shared<'a>(technique: &mut Fields<'a>, out: &mut Diagnostics) -> Option<Fields<'a>> {
    static EMPTY: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| json!({}));
    let place = technique.place_of("shared_parameters");
    Fields::open(technique.raw("shared_parameters").unwrap_or(&EMPTY), place, out)
}

/// All groups; `enabled` says whether their absence is a mistake.
pub(super) fn groups<'a>(technique: &mut Fields<'a>, enabled: bool, out: &mut Diagnostics) -> Vec<Group<'a>> {
    let place = technique.place_of("different_groups");
    let Some(value) = technique.raw("different_groups") else {
        if enabled {
            out.add(technique.place(), Problem::Missing { key: "different_groups".into() });
        }
        return Vec::new();
    };
    let Some(map) = value.as_object() else {
        out.add(place, type_problem("an object", value));
        return Vec::new();
    };
    map.iter().filter_map(|(name, group)| read_group(&format!("{place}.{name}"), group, out)).collect()
}

fn read_group<'a>(place: &str, value: &'a Value, out: &mut Diagnostics) -> Option<Group<'a>> {
    let mut f = Fields::open(value, place, out)?;
    let all = json!(["*"]);
    let modules = f.raw("modules").unwrap_or(&all);
    let on = read_patterns(modules, &f.place_of("modules"), LayerPattern::deepspeed, out);
    let related = related(&mut f, modules, out);
    let params_place = f.place_of("params");
    let params = match f.raw("params") {
        Some(value) => Fields::open(value, params_place, out),
        None => {
            out.add(place, Problem::Missing { key: "params".into() });
            None
        }
    };
    f.finish(out);
    let selector = Selector { on, except: Vec::new() };
    Some(Group { place: place.to_string(), params: params?, selector, related })
}

/// DeepSpeed pairs `modules` with `related_modules` and silently drops what one list has more.
fn related(f: &mut Fields<'_>, modules: &Value, out: &mut Diagnostics) -> Option<Vec<(String, Vec<String>)>> {
    let place = f.place_of("related_modules");
    let lists = f.optional::<Vec<Vec<String>>>("related_modules", out)?;
    let patterns: Vec<&str> = modules.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if lists.len() != patterns.len() {
        let text = format!(
            "{} lists for {} patterns of `modules`; they pair one to one",
            lists.len(),
            patterns.len()
        );
        out.add(place.clone(), Problem::Conflict(text));
    }
    for (i, list) in lists.iter().enumerate() {
        for (j, text) in list.iter().enumerate() {
            if let Err(e) = LayerPattern::deepspeed(text) {
                let problem = Problem::Pattern { pattern: e.pattern, reason: e.reason };
                out.add(format!("{place}[{i}][{j}]"), problem);
            }
        }
    }
    Some(patterns.into_iter().map(String::from).zip(lists).collect())
}
