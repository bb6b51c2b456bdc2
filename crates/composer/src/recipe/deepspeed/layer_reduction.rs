//! `layer_reduction`: read and checked; carried out in a later version.

use super::groups;
use crate::recipe::Recipe;
use briquette_core::Problem;
use briquette_core::fields::Fields;

pub(super) fn read(f: &mut Fields<'_>, recipe: &mut Recipe) {
    let out = &mut recipe.problems;
    let before = out.len();
    let Some(mut f) = groups::technique(f, "layer_reduction", out) else { return };
    let enabled = f.optional("enabled", out).unwrap_or(false);
    let keep = f.optional::<usize>("keep_number_layer", out);
    let prefix = f.optional::<String>("module_name_prefix", out);
    let teacher = f.optional::<Vec<usize>>("teacher_layer", out);
    f.optional::<Vec<String>>("other_module_name", out);
    if enabled {
        for (key, there) in [("module_name_prefix", prefix.is_some()), ("teacher_layer", teacher.is_some())] {
            if !there && !f.has(key) {
                out.add(f.place(), Problem::Missing { key: key.into() });
            }
        }
        if !f.has("other_module_name") {
            out.add(f.place(), Problem::Missing { key: "other_module_name".into() });
        }
    }
    if let (Some(keep), Some(teacher)) = (keep, &teacher)
        && keep != teacher.len()
    {
        let text = format!("{keep} layers are to be kept, `teacher_layer` names {}", teacher.len());
        out.add(f.place_of("keep_number_layer"), Problem::Conflict(text));
    }
    let place = f.place().to_string();
    f.finish(out);
    if enabled && out.len() == before {
        out.add(place, Problem::NotAvailable { what: "layer_reduction".into() });
    }
}
