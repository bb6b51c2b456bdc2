//! Reading the settings that all methods on groups share.

use super::related::Related;
use crate::budget::{Budget, MAX_SPARSITY};
use crate::importance::Importance;
use crate::scope::Scope;
use crate::selection::kept_count;
use crate::sparsity_schedule::{Follows, SparsitySchedule};
use briquette_core::fields::Fields;
use briquette_core::{Diagnostics, Problem};
use serde_json::{Map, Value, json};

/// Settings of a method on groups.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) keep: Keep,
    pub(super) importance: Importance,
    pub(super) scope: Scope,
    pub(super) schedule: SparsitySchedule,
    pub(super) multiple_of: usize,
    pub(super) related: Vec<Related>,
    pub(super) heads: Option<usize>,
    pub(super) remove: bool,
    pub(super) deepspeed: bool,
}

/// How many units stay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Keep {
    /// This share.
    Share(f64),
    /// So many of each group.
    Number(usize),
    /// As many as the whole model can afford.
    Within(Budget),
}

const IMPORTANCES: [(&str, Importance); 6] = [
    ("l1", Importance::L1),
    ("l2", Importance::L2),
    ("activation", Importance::Activation),
    ("movement", Importance::Movement),
    ("taylor", Importance::Taylor),
    ("random", Importance::Random),
];

impl Settings {
    pub(super) fn read(value: &Value, place: &str, heads: bool, out: &mut Diagnostics) -> Option<Self> {
        let before = out.len();
        let mut f = Fields::open(value, place, out)?;
        let within = f.has("budget");
        let scope = match within {
            true => scope_within(&mut f, out),
            false => Scope::read(&mut f, false, Scope::Layer, out),
        };
        let keep = match within {
            true => read_budget(&mut f, out),
            false => read_keep(&mut f, &scope, out),
        };
        if f.raw("allocate").is_some() && !within {
            let text = "`allocate` has an effect with a `budget` only";
            out.add(f.place_of("allocate"), Problem::Conflict(text.into()));
        }
        let importance = f.choice("importance", &IMPORTANCES, out).unwrap_or(Importance::L1);
        // Across groups the choice is made on the host.
        let every = if scope == Scope::Layer { 1 } else { 32 };
        let follows = (importance == Importance::Movement).then_some(Follows { every });
        let schedule = SparsitySchedule::read(&mut f, follows, out);
        importance.check_start(&f, &schedule, out);
        let multiple_of = at_least_one(&mut f, "multiple_of", out).unwrap_or(1);
        let heads = if heads { at_least_one(&mut f, "heads", out) } else { None };
        let related = Related::read(&mut f, out);
        let remove = f.optional("remove", out).unwrap_or(true);
        if within {
            check_within(&f, importance, remove, out);
        }
        let arithmetics = [("paper", false), ("deepspeed", true)];
        let deepspeed = f.choice("arithmetic", &arithmetics, out).unwrap_or(false);
        f.finish(out);
        let keep = keep.filter(|_| out.len() == before)?;
        Some(Self { keep, importance, scope, schedule, multiple_of, related, heads, remove, deepspeed })
    }

    /// Whether what stays is chosen at the beginning of the session, whenever it comes into effect.
    pub(super) fn chosen_first(&self) -> bool {
        self.deepspeed
            && matches!(self.importance, Importance::L1 | Importance::L2)
            && self.schedule.is_one_shot()
    }

    /// How many of `units` stay in the end where groups do not compete. `each` entries of the consumers go with a unit.
    pub(super) fn kept(&self, units: usize, each: usize) -> usize {
        match self.keep {
            Keep::Share(share) => self.rounded(kept_count(share, units), units, each),
            Keep::Number(number) => self.rounded(number.min(units), units, each),
            Keep::Within(_) => units,
        }
    }

    /// What the whole model may cost, where the entry says that.
    pub(super) fn budget(&self) -> Option<Budget> {
        match self.keep {
            Keep::Within(budget) => Some(budget),
            _ => None,
        }
    }

    /// Largest share of a group that may go where groups compete.
    pub(super) fn max_sparsity(&self) -> f64 {
        match self.scope {
            Scope::Global { max_sparsity, .. } => max_sparsity,
            _ => 1.0,
        }
    }

    /// Units that go at a time so that the entries of the consumers, `each` for a unit, are a multiple of what was asked
    /// for.
    pub(super) fn step(&self, each: usize) -> usize {
        (1..=self.multiple_of).find(|n| (n * each).is_multiple_of(self.multiple_of)).unwrap_or(1)
    }

    /// `kept`, rounded up until their entries are a multiple of what was asked for, or all stay.
    pub(super) fn rounded(&self, kept: usize, units: usize, each: usize) -> usize {
        (kept..units).find(|n| (n * each).is_multiple_of(self.multiple_of)).unwrap_or(units)
    }

    /// What a plan says of it; `kept` where it is known.
    pub(super) fn details(&self, group: &str, units: usize, kept: Option<usize>) -> Map<String, Value> {
        let mut details = Map::new();
        let word = IMPORTANCES.iter().find(|(_, i)| *i == self.importance).map_or("", |(word, _)| *word);
        details.insert("group".into(), json!(group));
        details.insert("units".into(), json!(units));
        match (kept, self.keep) {
            (Some(kept), _) => details.insert("kept".into(), json!(kept)),
            (None, Keep::Share(share)) => details.insert("keep".into(), json!(share)),
            (None, Keep::Number(_) | Keep::Within(_)) => None,
        };
        if let Keep::Within(budget) = self.keep {
            budget.details(&mut details);
        }
        details.insert("importance".into(), json!(word));
        match (self.budget(), self.max_sparsity()) {
            (Some(_), most) => _ = details.insert("max_sparsity".into(), json!(most)),
            (None, _) => self.scope.details(&mut details),
        }
        self.schedule.details(&mut details);
        if self.multiple_of > 1 {
            details.insert("multiple_of".into(), json!(self.multiple_of));
        }
        if !self.remove {
            details.insert("remove".into(), json!(false));
        }
        details
    }
}

/// Groups share a budget; `max_sparsity` limits what one of them loses.
fn scope_within(f: &mut Fields<'_>, out: &mut Diagnostics) -> Scope {
    for key in ["scope", "min_sparsity"] {
        if f.raw(key).is_some() {
            let text = format!("groups share a budget; an entry with one has no `{key}`");
            out.add(f.place_of(key), Problem::Conflict(text));
        }
    }
    let most = f.optional::<f64>("max_sparsity", out).unwrap_or(MAX_SPARSITY);
    if !(0.0..1.0).contains(&most) {
        let expected = "a share of at least 0 and under 1".into();
        out.add(f.place_of("max_sparsity"), Problem::Range { value: most.to_string(), expected });
    }
    Scope::Global { max_sparsity: most, min_sparsity: 0.0 }
}

fn read_budget(f: &mut Fields<'_>, out: &mut Diagnostics) -> Option<Keep> {
    for key in ["keep", "keep_number"] {
        if f.raw(key).is_some() {
            let text = format!("`{key}` and `budget` are two ways to say it; an entry has one of them");
            out.add(f.place_of(key), Problem::Conflict(text));
        }
    }
    Budget::read(f, out).map(Keep::Within)
}

/// What goes with no budget.
fn check_within(f: &Fields<'_>, importance: Importance, remove: bool, out: &mut Diagnostics) {
    if importance == Importance::Movement {
        let text = "learned scores have no zero: nothing says how much more one unit is worth than another";
        out.add(f.place_of("importance"), Problem::Conflict(text.into()));
    }
    if !remove {
        let text = "what stays as zeros costs what it did: a budget is kept by removing";
        out.add(f.place_of("remove"), Problem::Conflict(text.into()));
    }
}

fn read_keep(f: &mut Fields<'_>, scope: &Scope, out: &mut Diagnostics) -> Option<Keep> {
    let number = at_least_one(f, "keep_number", out);
    if f.has("keep_number") {
        if f.has("keep") {
            let text = "`keep` and `keep_number` are two ways to say it; an entry has one of them";
            out.add(f.place_of("keep"), Problem::Conflict(text.into()));
        }
        if *scope != Scope::Layer {
            let text = "a number is that of each group; groups that compete share a `keep`";
            out.add(f.place_of("keep_number"), Problem::Conflict(text.into()));
        }
        f.raw("keep");
        return number.map(Keep::Number);
    }
    let share = f.required::<f64>("keep", out)?;
    let range = |expected: String| Problem::Range { value: share.to_string(), expected };
    if !(share > 0.0 && share <= 1.0) {
        out.add(f.place_of("keep"), range("a share to keep, over 0 and at most 1".into()));
        return None;
    }
    if let Err(expected) = scope.allows(1.0 - share) {
        let removed = format!("a share whose rest, which is removed, is {expected}");
        out.add(f.place_of("keep"), range(removed));
        return None;
    }
    Some(Keep::Share(share))
}

fn at_least_one(f: &mut Fields<'_>, key: &'static str, out: &mut Diagnostics) -> Option<usize> {
    let value = f.optional::<usize>(key, out)?;
    if value == 0 {
        out.add(f.place_of(key), Problem::Range { value: "0".into(), expected: "at least 1".into() });
        return None;
    }
    Some(value)
}
