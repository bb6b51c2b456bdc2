//! What a recipe says about layer reduction.

use briquette_core::fields::{Fields, type_problem};
use briquette_core::{Diagnostics, Problem};
use serde_json::Value;

/// Which blocks of one list stay. DeepSpeed's `layer_reduction`; as XTC uses it, Wu et al. 2022, arXiv 2206.01859.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerReduction {
    /// Name of the list of blocks: `bert.encoder.layer`.
    pub layers: String,
    /// Which of them stay.
    pub keep: Keep,
    /// Names of modules and parameters beside the list that a teacher gives to the student; `None` for all that
    /// there are. Without a teacher a model is reduced from itself and has them already.
    pub copy: Option<Vec<String>>,
}

/// Which blocks stay.
#[derive(Debug, Clone, PartialEq)]
pub enum Keep {
    /// These, counted from 0.
    Indices(Vec<usize>),
    /// So many, chosen by a rule.
    Count {
        /// How many.
        count: usize,
        /// The rule.
        choice: Choice,
    },
}

/// A rule that chooses blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The last block of each of `count` runs that are as equal as can be: of 6 blocks 1, 3 and 5. The skip-BERT of
    /// XTC, and what DeepSpeed's examples name one by one.
    EvenlySpaced,
    /// Those next to the input.
    First,
    /// Those next to the output.
    Last,
    /// Those with the greatest [influence](crate::BlockInfluence), which takes data to find out.
    BlockInfluence,
}

impl Choice {
    /// Each rule by its word in recipes.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("evenly_spaced", Self::EvenlySpaced),
        ("first", Self::First),
        ("last", Self::Last),
        ("block_influence", Self::BlockInfluence),
    ];

    /// The `count` blocks that it chooses out of `of`, in order; `None` where that takes data.
    ///
    /// More than there are chooses all.
    pub fn of(self, count: usize, of: usize) -> Option<Vec<usize>> {
        let count = count.min(of);
        match self {
            Self::EvenlySpaced => Some((1..=count).map(|n| n * of / count - 1).collect()),
            Self::First => Some((0..count).collect()),
            Self::Last => Some((of - count..of).collect()),
            Self::BlockInfluence => None,
        }
    }
}

impl LayerReduction {
    /// Reads the JSON object at `place`. What is wrong goes to `out`, and nothing comes back.
    ///
    /// | key | default | meaning |
    /// |---|---|---|
    /// | `layers` | required | name of the list of blocks |
    /// | `keep` | required | numbers from 0, or `{"count": 3, "choice": "evenly_spaced"}` |
    /// | `keep.count` | required | how many |
    /// | `keep.choice` | `evenly_spaced`: takes no data, and no part of the model loses all its blocks | the rule, one of [`Choice::NAMES`] |
    /// | `copy` | all that stand beside the list | names of what a teacher gives |
    pub fn read(value: &Value, place: &str, out: &mut Diagnostics) -> Option<Self> {
        let before = out.len();
        let mut f = Fields::open(value, place, out)?;
        let layers = f.required::<String>("layers", out);
        let keep = read_keep(&mut f, out);
        let copy = f.optional::<Vec<String>>("copy", out);
        f.finish(out);
        let read = Self { layers: layers?, keep: keep?, copy };
        (out.len() == before).then_some(read)
    }
}

fn read_keep(f: &mut Fields<'_>, out: &mut Diagnostics) -> Option<Keep> {
    match f.raw("keep") {
        Some(value @ Value::Object(_)) => read_count(value, &f.place_of("keep"), out),
        Some(value @ Value::Array(_)) => {
            let indices = f.required::<Vec<usize>>("keep", out)?;
            if indices.is_empty() {
                let problem =
                    Problem::Range { value: value.to_string(), expected: "at least one layer".into() };
                out.add(f.place_of("keep"), problem);
            }
            Some(Keep::Indices(indices))
        }
        Some(other) => {
            out.add(f.place_of("keep"), type_problem("a list of layers or a number of them", other));
            None
        }
        None => {
            out.add(f.place(), Problem::Missing { key: "keep".into() });
            None
        }
    }
}

fn read_count(value: &Value, place: &str, out: &mut Diagnostics) -> Option<Keep> {
    let mut f = Fields::open(value, place, out)?;
    let count = f.required::<usize>("count", out);
    if count == Some(0) {
        let problem = Problem::Range { value: "0".into(), expected: "at least 1".into() };
        out.add(f.place_of("count"), problem);
    }
    let choice = f.choice("choice", &Choice::NAMES, out).unwrap_or(Choice::EvenlySpaced);
    f.finish(out);
    Some(Keep::Count { count: count?, choice })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problems(value: &Value) -> Vec<String> {
        let mut out = Diagnostics::new();
        let read = LayerReduction::read(value, "layer_reduction", &mut out);
        assert_eq!(read.is_none(), !out.is_empty(), "{value}");
        out.iter().map(|d| d.to_string()).collect()
    }

    #[test]
    fn what_may_be_said() {
        let read = |value: Value| {
            let mut out = Diagnostics::new();
            LayerReduction::read(&value, "", &mut out).unwrap_or_else(|| panic!("{out}"))
        };
        let copy = Some(vec!["pooler".to_string()]);
        assert_eq!(
            read(json!({"layers": "h", "keep": [1, 3], "copy": ["pooler"]})),
            LayerReduction { layers: "h".into(), keep: Keep::Indices(vec![1, 3]), copy }
        );
        for (name, choice) in Choice::NAMES {
            let keep = read(json!({"layers": "h", "keep": {"count": 2, "choice": name}})).keep;
            assert_eq!(keep, Keep::Count { count: 2, choice });
        }
        let keep = read(json!({"layers": "h", "keep": {"count": 2}})).keep;
        assert_eq!(keep, Keep::Count { count: 2, choice: Choice::EvenlySpaced });
    }

    #[test]
    fn all_mistakes_are_reported_with_their_place() {
        assert_eq!(problems(&json!(3)), ["layer_reduction: expected an object, found 3"]);
        assert_eq!(
            problems(&json!({"layer": "h", "copy": "pooler"})),
            [
                "layer_reduction: missing key `layers`",
                "layer_reduction: missing key `keep`",
                "layer_reduction.copy: expected a list of strings, found \"pooler\"",
                "layer_reduction.layer: unknown key `layer`, did you mean `layers`?",
            ]
        );
        let keep = |keep: Value| problems(&json!({"layers": "h", "keep": keep}));
        assert_eq!(
            keep(json!(3)),
            ["layer_reduction.keep: expected a list of layers or a number of them, found 3"]
        );
        assert_eq!(
            keep(json!([0, -1])),
            ["layer_reduction.keep: expected a list of non-negative integers, found [0,-1]"]
        );
        assert_eq!(keep(json!([])), ["layer_reduction.keep: [] is not at least one layer"]);
        assert_eq!(
            keep(json!({"count": 0, "choice": "best", "by": 1})),
            [
                "layer_reduction.keep.count: 0 is not at least 1",
                "layer_reduction.keep.choice: `best` is not one of evenly_spaced, first, last, block_influence",
                "layer_reduction.keep.by: unknown key `by`",
            ]
        );
        assert_eq!(keep(json!({})), ["layer_reduction.keep: missing key `count`"]);
    }

    #[test]
    fn each_rule_chooses_other_blocks() {
        let of = |choice: Choice, count, of| choice.of(count, of).expect("needs no data");
        assert_eq!(of(Choice::EvenlySpaced, 3, 6), [1, 3, 5]);
        assert_eq!(of(Choice::EvenlySpaced, 5, 12), [1, 3, 6, 8, 11]);
        assert_eq!(of(Choice::EvenlySpaced, 10, 12), [0, 1, 2, 3, 5, 6, 7, 8, 9, 11]);
        assert_eq!(of(Choice::EvenlySpaced, 1, 6), [5]);
        assert_eq!(of(Choice::First, 3, 6), [0, 1, 2]);
        assert_eq!(of(Choice::Last, 3, 6), [3, 4, 5]);
        assert_eq!(Choice::BlockInfluence.of(3, 6), None);
        for of_all in 1..=12 {
            for count in 1..=of_all {
                let chosen = of(Choice::EvenlySpaced, count, of_all);
                assert_eq!(chosen.len(), count);
                assert!(chosen.windows(2).all(|p| p[0] < p[1]) && chosen[count - 1] == of_all - 1);
            }
        }
    }
}
