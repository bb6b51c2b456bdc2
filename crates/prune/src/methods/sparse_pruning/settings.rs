//! Reading the settings of sparse pruning.

use super::SparsePruning;
use crate::importance::Importance;
use crate::pattern::Pattern;
use crate::scope::Scope;
use crate::sparsity_schedule::{Follows, SparsitySchedule};
use briquette_core::fields::Fields;
use briquette_core::{Diagnostics, Problem};
use serde_json::Value;

const IMPORTANCES: [(&str, Importance); 6] = [
    ("magnitude", Importance::L1),
    ("activation", Importance::Activation),
    ("movement", Importance::Movement),
    ("snip_momentum", Importance::SnipMomentum),
    ("taylor", Importance::Taylor),
    ("random", Importance::Random),
];

/// What a recipe calls it.
pub(super) fn word(importance: Importance) -> &'static str {
    IMPORTANCES.iter().find(|(_, i)| *i == importance).map_or("", |(word, _)| *word)
}

impl SparsePruning {
    /// Reads the entry's settings; every mistake goes to `out`.
    pub fn read(value: &Value, place: &str, out: &mut Diagnostics) -> Option<Self> {
        let before = out.len();
        let mut f = Fields::open(value, place, out)?;
        let pattern = read_pattern(&mut f, out);
        let importance = f.choice("importance", &IMPORTANCES, out).unwrap_or(Importance::L1);
        // Outputs of one layer see the same inputs, and the paper compares within each.
        let usual = if importance == Importance::Activation { Scope::Row } else { Scope::Layer };
        let scope = Scope::read(&mut f, true, usual, out);
        let sparsity = read_sparsity(&mut f, pattern, out);
        let follows = (importance == Importance::Movement).then_some(Follows { every: 32 });
        let schedule = SparsitySchedule::read(&mut f, follows, out);
        let deepspeed =
            f.choice("arithmetic", &[("paper", false), ("deepspeed", true)], out).unwrap_or(false);
        if let Some(Err(expected)) = sparsity.map(|s| scope.allows(s)) {
            let value = sparsity.map(|s| s.to_string()).unwrap_or_default();
            out.add(f.place_of("sparsity"), Problem::Range { value, expected });
        }
        importance.check_start(&f, &schedule, out);
        f.finish(out);
        let sparsity = sparsity.filter(|_| out.len() == before)?;
        Some(Self { sparsity, pattern, importance, scope, schedule, deepspeed })
    }
}

fn read_pattern(f: &mut Fields<'_>, out: &mut Diagnostics) -> Pattern {
    let Some(text) = f.optional::<String>("pattern", out) else { return Pattern::Unstructured };
    Pattern::read(&text).unwrap_or_else(|| {
        let problem = Problem::Range { value: format!("`{text}`"), expected: Pattern::EXPECTED.into() };
        out.add(f.place_of("pattern"), problem);
        Pattern::Unstructured
    })
}

fn read_sparsity(f: &mut Fields<'_>, pattern: Pattern, out: &mut Diagnostics) -> Option<f64> {
    let most = pattern.most();
    if most < 1.0 && !f.has("sparsity") {
        f.raw("sparsity");
        return Some(most);
    }
    let value = f.required::<f64>("sparsity", out)?;
    let legal = if most < 1.0 { (0.0..=most + 1e-9).contains(&value) } else { (0.0..1.0).contains(&value) };
    if !legal {
        let expected = match most < 1.0 {
            true => format!("a share to remove, of 0 to {most}: more is not in {pattern}"),
            false => "a share to remove, of 0 to below 1".into(),
        };
        out.add(f.place_of("sparsity"), Problem::Range { value: value.to_string(), expected });
        return None;
    }
    Some(value.min(most))
}
