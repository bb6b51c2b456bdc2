//! A budget: units go, whatever group they are of, until the whole model costs no more than a share of what it did.
//!
//! ```json
//! { "structure_pruning": { "on": ["*"], "budget": { "flops": 0.5 } } }
//! ```
//!
//! Units go in ascending order of what the model loses with them by the operations (or parameters) that it saves. What is
//! lost is made comparable between groups: a unit loses the share of the importance that is left of its group when it
//! goes, the mean over the layers that rank the group, times the number of layers that read the group.
//!
//! - The share of what is left is LAMP's (Lee et al. 2021, arXiv 2010.07611, equation 4, there for squares of single
//!   weights). It does not depend on how large a layer's weights are or how many units it has, and grows while the layer
//!   becomes small, so that layers shrink together. Shares of the whole, or importance by its mean, would stay as they are:
//!   the groups whose units save most would be emptied down to `max_sparsity` before others lose anything.
//! - That coupled layers count together is DepGraph's (Fang et al. 2023, arXiv 2301.12900, section 3.3). Counted are those
//!   that read: a channel of a residual stream is missed by every convolution after it, a head by one projection, though
//!   queries, keys and values make it.

mod choose;

pub use choose::{Competing, Worth, lowest, within};

use briquette_core::fields::{Fields, join, type_problem};
use briquette_core::{Diagnostics, Measure, Problem};
use serde_json::{Map, Value, json};

/// What a recipe's `budget` says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// What is counted.
    pub measure: Measure,
    /// The share of it that the model keeps at most, over 0 and at most 1.
    pub share: f64,
    /// What decides how many units each group loses.
    pub allocate: Allocate,
}

/// What decides how many units of each group go; which ones of a group is decided by their importance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// The units' importance.
    Importance,
    /// How much the model's output changes when the group alone loses units, as a scan of sensitivities measured it.
    Sensitivity,
}

const ALLOCATES: [(&str, Allocate); 2] =
    [("importance", Allocate::Importance), ("sensitivity", Allocate::Sensitivity)];

/// Largest share of a group's units, and of any one layer's, that go where nothing else is said: no layer is left with
/// less than a fifth. Across groups one would otherwise be emptied while others stay whole, as magnitudes tell little
/// about a layer of which almost nothing is left.
pub const MAX_SPARSITY: f64 = 0.8;

impl Budget {
    /// Reads `budget` and `allocate` of an entry; every mistake goes to `out`.
    pub fn read(f: &mut Fields<'_>, out: &mut Diagnostics) -> Option<Self> {
        let place = f.place_of("budget");
        let allocate = f.choice("allocate", &ALLOCATES, out).unwrap_or(Allocate::Importance);
        let value = f.raw("budget")?;
        let one = value.as_object().filter(|o| o.len() == 1).and_then(|o| o.iter().next());
        let Some((key, share)) = one else {
            out.add(place, type_problem("an object with one key, `flops` or `parameters`", value));
            return None;
        };
        let place = join(&place, key);
        let measure = measure(key, &place, out)?;
        let Some(share) = share.as_f64() else {
            out.add(place, type_problem("a number", share));
            return None;
        };
        if !(share > 0.0 && share <= 1.0) {
            let expected = "a share of the whole model, over 0 and at most 1".into();
            out.add(place, Problem::Range { value: share.to_string(), expected });
            return None;
        }
        Some(Self { measure, share, allocate })
    }

    /// What a plan says of it.
    pub fn details(&self, details: &mut Map<String, Value>) {
        details.insert("budget".into(), json!({ self.key(): self.share }));
        if self.allocate == Allocate::Sensitivity {
            details.insert("allocate".into(), json!("sensitivity"));
        }
    }

    /// The key of `budget` that says the share.
    pub fn key(&self) -> &'static str {
        match self.measure {
            Measure::Flops => "flops",
            Measure::Parameters => "parameters",
        }
    }
}

/// What a key of `budget` counts.
fn measure(key: &str, place: &str, out: &mut Diagnostics) -> Option<Measure> {
    let problem = match key {
        "flops" => return Some(Measure::Flops),
        "parameters" => return Some(Measure::Parameters),
        "latency" => {
            let text = "nothing measures the time of each layer yet: use `flops` or `parameters`";
            Problem::Other(text.into())
        }
        _ => {
            let nearest = briquette_core::nearest(key, ["flops", "parameters"]);
            Problem::UnknownKey { key: key.into(), nearest }
        }
    };
    out.add(place, problem);
    None
}

#[cfg(test)]
mod tests;
