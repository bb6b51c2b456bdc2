//! `sensitivity`: measuring how much the output changes when one group of units, or one layer, is compressed alone.

use super::training::count;
use briquette_core::fields::{Fields, type_problem};
use briquette_core::{Diagnostics, Problem};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scanned {
    /// What the recipe's steps act on: groups that they remove units of, and weights that they make sparse or quantize.
    Steps,
    /// Every group of units that a trace of the model finds.
    All,
}

/// A scan of sensitivities (Li et al. 2017, arXiv 1608.08710, section 3.2): the recipe's `sensitivity`.
///
/// | key | default | why |
/// |---|---|---|
/// | `keep` | `[0.75, 0.5, 0.25]` | shares of a group's units that stay: enough for the shape of a curve |
/// | `examples` | 64 | of the calibration data; the ranking of groups is the same with more |
/// | `groups` | `"steps"`, without steps `"all"` | [`Scanned`] |
///
/// Nothing is trained. Which units stay is decided by the importance of the step that removes some, as far as it needs no
/// training (`"l1"`, `"l2"`, `"activation"`), otherwise by `"l1"`; they are ranked by the layers that make them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SensitivitySettings {
    /// Shares of a group's units that stay, each over 0 and under 1.
    pub keep: Vec<f64>,
    /// Examples of the data, at most.
    pub examples: usize,
    /// What is scanned; `None` was not said.
    pub groups: Option<Scanned>,
}

impl Default for SensitivitySettings {
    fn default() -> Self {
        Self { keep: vec![0.75, 0.5, 0.25], examples: 64, groups: None }
    }
}

impl SensitivitySettings {
    /// The root key.
    pub const KEY: &'static str = "sensitivity";

    /// Reads the block at `place`; every mistake goes to `out`.
    pub fn read(value: &Value, place: &str, out: &mut Diagnostics) -> Self {
        let usual = Self::default();
        let Some(mut f) = Fields::open(value, place, out) else { return usual };
        let keep = f.raw("keep").map(|value| shares(value, &f.place_of("keep"), out));
        let scanned = [("steps", Scanned::Steps), ("all", Scanned::All)];
        let read = Self {
            keep: keep.unwrap_or(usual.keep),
            examples: count(&mut f, "examples", out).unwrap_or(usual.examples),
            groups: f.choice("groups", &scanned, out),
        };
        f.finish(out);
        read
    }
}

fn shares(value: &Value, place: &str, out: &mut Diagnostics) -> Vec<f64> {
    let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
        out.add(place, type_problem("a list of shares", value));
        return Vec::new();
    };
    let mut shares = Vec::new();
    for (n, value) in list.iter().enumerate() {
        match value.as_f64() {
            Some(share) if share > 0.0 && share < 1.0 => shares.push(share),
            Some(share) => {
                let expected = "a share of the units to keep, over 0 and under 1".into();
                out.add(format!("{place}[{n}]"), Problem::Range { value: share.to_string(), expected });
            }
            None => out.add(format!("{place}[{n}]"), type_problem("a number", value)),
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> (SensitivitySettings, Vec<String>) {
        let mut out = Diagnostics::new();
        let settings = SensitivitySettings::read(&value, "sensitivity", &mut out);
        (settings, out.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_key_is_read_and_every_mistake_reported() {
        let said = json!({"keep": [0.5], "examples": 8, "groups": "all"});
        let (settings, problems) = read(said.clone());
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(serde_json::to_value(settings).expect("plain data"), said);
        assert_eq!(read(json!({})).0, SensitivitySettings::default());
        let (_, problems) = read(json!({"keep": [1.0, "a"], "examples": 0, "groups": "each", "example": 3}));
        assert_eq!(
            problems,
            [
                "sensitivity.keep[0]: 1 is not a share of the units to keep, over 0 and under 1",
                "sensitivity.keep[1]: expected a number, found \"a\"",
                "sensitivity.examples: 0 is not at least 1",
                "sensitivity.groups: `each` is not one of steps, all",
                "sensitivity.example: unknown key `example`, did you mean `examples`?",
            ]
        );
        assert_eq!(read(json!({"keep": []})).1, ["sensitivity.keep: expected a list of shares, found []"]);
    }
}
