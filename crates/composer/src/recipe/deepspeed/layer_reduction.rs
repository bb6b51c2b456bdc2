//! `layer_reduction`. DeepSpeed reads `keep_number_layer` nowhere, and fails on a wrong name or number only while it
//! copies; here all of it is checked.

use super::groups;
use crate::recipe::{Recipe, ReductionEntry};
use briquette_core::Problem;
use briquette_core::fields::Fields;
use briquette_layer_reduce::{Keep, LayerReduction};
use std::collections::BTreeMap;

/// DeepSpeed's keys and the native ones that they mean.
const KEYS: [(&str, &str); 3] =
    [("module_name_prefix", "layers"), ("teacher_layer", "keep"), ("other_module_name", "copy")];

pub(super) fn read(f: &mut Fields<'_>, recipe: &mut Recipe) {
    let out = &mut recipe.problems;
    let before = out.len();
    let Some(mut f) = groups::technique(f, "layer_reduction", out) else { return };
    let enabled = f.optional("enabled", out).unwrap_or(false);
    let keep = f.optional::<usize>("keep_number_layer", out);
    let prefix = f.optional::<String>("module_name_prefix", out);
    let teacher = f.optional::<Vec<usize>>("teacher_layer", out);
    let other = f.optional::<Vec<String>>("other_module_name", out);
    let place = f.place().to_string();
    let place_of = |key: &str| format!("{place}.{key}");
    if enabled {
        for (key, _) in KEYS.iter().filter(|(key, _)| !f.has(key)) {
            out.add(&place, Problem::Missing { key: (*key).into() });
        }
        if let (Some(keep), Some(teacher)) = (keep, &teacher)
            && keep != teacher.len()
        {
            let text = format!("{keep} layers are to be kept, `teacher_layer` names {}", teacher.len());
            out.add(place_of("keep_number_layer"), Problem::Conflict(text));
        }
    }
    f.finish(out);
    let (Some(layers), Some(teacher)) = (prefix, teacher) else { return };
    if !enabled || out.len() > before {
        return;
    }
    let aliases: BTreeMap<String, String> =
        KEYS.iter().map(|(theirs, ours)| ((*ours).to_string(), place_of(theirs))).collect();
    let settings = LayerReduction { layers, keep: Keep::Indices(teacher), copy: other };
    recipe.layer_reduction = Some(ReductionEntry { place, settings, aliases });
}
