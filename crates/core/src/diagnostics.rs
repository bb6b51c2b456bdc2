//! Problems of a recipe, all at once, each with its place.

use std::fmt;

/// What is wrong with one value of a recipe.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A key nobody reads.
    #[error("unknown key `{key}`{}", suggestion(.nearest))]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The known key that it resembles most, if any does.
        nearest: Option<String>,
    },
    /// A technique that the registry does not hold.
    #[error("unknown method `{name}`{}; known are {}", suggestion(.nearest), .known.join(", "))]
    UnknownMethod {
        /// The name as written.
        name: String,
        /// The known name that it resembles most, if any does.
        nearest: Option<String>,
        /// All names of the registry.
        known: Vec<String>,
    },
    /// A key that must be there.
    #[error("missing key `{key}`")]
    Missing {
        /// The missing key.
        key: String,
    },
    /// A value of the wrong JSON type.
    #[error("expected {expected}, found {found}")]
    Type {
        /// What would have been right.
        expected: String,
        /// The value as written, shortened.
        found: String,
    },
    /// A value outside its range.
    #[error("{value} is not {expected}")]
    Range {
        /// The value as written.
        value: String,
        /// The legal range, in words.
        expected: String,
    },
    /// A pattern that is not a legal pattern.
    #[error("pattern `{pattern}`: {reason}")]
    Pattern {
        /// The pattern as written.
        pattern: String,
        /// Why it is refused.
        reason: String,
    },
    /// A pattern that selects nothing.
    #[error("pattern `{pattern}` matches no layer{}", suggestion(.nearest))]
    NoMatch {
        /// The pattern as written.
        pattern: String,
        /// The layer whose name it resembles most, if any does.
        nearest: Option<String>,
    },
    /// A size that does not divide another.
    #[error("{by} {what} do not divide {size}")]
    NotDivisible {
        /// What was to be divided evenly: "groups", "heads".
        what: String,
        /// The divisor.
        by: usize,
        /// The size to be divided.
        size: usize,
    },
    /// One layer claimed twice by one technique.
    #[error("already claimed by {by}")]
    Claimed {
        /// The place of the first claim.
        by: String,
    },
    /// A layer of a kind the method cannot work on.
    #[error("{method} cannot act on {kind}")]
    WrongKind {
        /// The method.
        method: String,
        /// The layer's kind.
        kind: String,
    },
    /// Two methods on one weight in an order that has no meaning.
    #[error("{method} cannot follow {after}")]
    Order {
        /// The later method.
        method: String,
        /// The earlier one.
        after: String,
    },
    /// Two settings that exclude each other.
    #[error("{0}")]
    Conflict(String),
    /// A technique or option that is known but not built yet.
    #[error("{what} is not available in this version")]
    NotAvailable {
        /// The technique or option.
        what: String,
    },
    /// Anything a method from outside the library reports.
    #[error("{0}")]
    Other(String),
}

fn suggestion(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!(", did you mean `{name}`?"),
        None => String::new(),
    }
}

/// One problem and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Diagnostic {
    /// Path of the value in the recipe's JSON, such as `steps[0].weight_quantization.bits`.
    pub place: String,
    /// Name of the layer concerned, where there is one.
    pub layer: Option<String>,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(layer) = &self.layer {
            write!(f, "{layer}: ")?;
        }
        write!(f, "{}", self.problem)
    }
}

/// A list of problems that is filled while a recipe is read and a plan is made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Diagnostics {
    found: Vec<Diagnostic>,
}

impl Diagnostics {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a problem with no particular layer.
    pub fn add(&mut self, place: impl Into<String>, problem: Problem) {
        self.push(Diagnostic { place: place.into(), layer: None, problem });
    }

    /// Adds a problem of one layer.
    pub fn add_at(&mut self, place: impl Into<String>, layer: impl Into<String>, problem: Problem) {
        self.push(Diagnostic { place: place.into(), layer: Some(layer.into()), problem });
    }

    /// Adds a finished diagnostic.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// Moves all problems of `other` to the end of this list.
    pub fn append(&mut self, mut other: Diagnostics) {
        self.found.append(&mut other.found);
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// How many problems there are.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// The problems in the order in which they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.found.iter()
    }

    /// `value` when nothing is wrong, all the problems otherwise.
    ///
    /// # Errors
    /// The list itself, when it is not empty.
    pub fn into_result<T>(self, value: T) -> Result<T, Diagnostics> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.found.len();
        write!(f, "{n} problem{} in the recipe", if n == 1 { "" } else { "s" })?;
        self.found.iter().try_for_each(|d| write!(f, "\n  {d}"))
    }
}

impl std::error::Error for Diagnostics {}

/// The entry of `known` that `word` resembles most, if one is close enough to be a misspelling.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    known
        .into_iter()
        .map(|k| (strsim::normalized_damerau_levenshtein(word, k), k))
        .filter(|(score, _)| *score >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names_place_layer_and_problem() {
        let mut d = Diagnostics::new();
        d.add_at(
            "steps[0].weight_quantization.groups",
            "fc1",
            Problem::NotDivisible { what: "groups".into(), by: 7, size: 64 },
        );
        assert_eq!(
            d.to_string(),
            "1 problem in the recipe\n  steps[0].weight_quantization.groups: fc1: 7 groups do not divide 64"
        );
    }

    #[test]
    fn nearest_needs_a_resemblance() {
        assert_eq!(nearest("densty", ["density", "on"]), Some("density".into()));
        assert_eq!(nearest("zzz", ["density", "on"]), None);
    }
}
