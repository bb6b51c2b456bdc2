//! Among what units compete.

use crate::selection::kept_count;
use briquette_core::fields::Fields;
use briquette_core::{Diagnostics, Problem};
use serde_json::{Map, Value, json};

/// Among what units compete.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scope {
    /// Within each layer or group, which all lose the same share.
    Layer,
    /// Within each row of a layer, or row of blocks.
    Row,
    /// Across all layers or groups of the entry: those with little to lose lose more.
    Global {
        /// Largest share that one of them may lose.
        max_sparsity: f64,
        /// Smallest share that each of them loses.
        min_sparsity: f64,
    },
}

impl Scope {
    /// Reads `scope`, `max_sparsity` and `min_sparsity` of an entry; every mistake goes to `out`. `rows` says whether
    /// there are any, `usual` what holds where nothing is said.
    pub fn read(f: &mut Fields<'_>, rows: bool, usual: Self, out: &mut Diagnostics) -> Self {
        let words = [("layer", Some(Self::Layer)), ("global", None), ("row", Some(Self::Row))];
        let words = if rows { &words[..] } else { &words[..2] };
        let scope = f.choice("scope", words, out).unwrap_or(Some(usual));
        let global = scope.is_none();
        // neural_compressor's limits.
        let max_sparsity = limit(f, "max_sparsity", global, out).unwrap_or(0.98);
        let min_sparsity = limit(f, "min_sparsity", global, out).unwrap_or(0.0);
        if let Some(scope) = scope {
            return scope;
        }
        if min_sparsity > max_sparsity {
            let text = format!("{min_sparsity} is over `max_sparsity` {max_sparsity}");
            out.add(f.place_of("min_sparsity"), Problem::Conflict(text));
        }
        Self::Global { max_sparsity, min_sparsity }
    }

    /// Whether all layers could lose this share.
    pub fn allows(&self, share: f64) -> Result<(), String> {
        match *self {
            Self::Global { max_sparsity, .. } if share > max_sparsity + 1e-9 => {
                Err(format!("at most `max_sparsity`, {max_sparsity}"))
            }
            Self::Global { min_sparsity, .. } if share < min_sparsity - 1e-9 => {
                Err(format!("at least `min_sparsity`, {min_sparsity}"))
            }
            _ => Ok(()),
        }
    }

    /// Fewest and most weights of `count` that stay in one layer, where `share` of all are removed.
    ///
    /// While the share grows, the smallest share of each layer grows with it.
    pub fn limits(&self, count: usize, share: f64) -> [usize; 2] {
        match *self {
            Self::Layer | Self::Row => [0, count],
            Self::Global { max_sparsity, min_sparsity } => {
                let removed = kept_count(min_sparsity.min(share), count);
                [kept_count(1.0 - max_sparsity, count), count - removed]
            }
        }
    }

    /// What a plan says of it.
    pub fn details(&self, details: &mut Map<String, Value>) {
        if *self == Self::Row {
            details.insert("scope".into(), json!("row"));
        }
        if let Self::Global { max_sparsity, min_sparsity } = self {
            details.insert("scope".into(), json!("global"));
            details.insert("max_sparsity".into(), json!(max_sparsity));
            if *min_sparsity > 0.0 {
                details.insert("min_sparsity".into(), json!(min_sparsity));
            }
        }
    }
}

fn limit(f: &mut Fields<'_>, key: &'static str, global: bool, out: &mut Diagnostics) -> Option<f64> {
    let value = f.optional::<f64>(key, out)?;
    if !(0.0..=1.0).contains(&value) {
        let problem = Problem::Range { value: value.to_string(), expected: "a share of 0 to 1".into() };
        out.add(f.place_of(key), problem);
        return None;
    }
    if !global {
        let text = format!("`{key}` has an effect with `scope: global` only");
        out.add(f.place_of(key), Problem::Conflict(text));
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: Value) -> Result<Scope, Vec<String>> {
        let mut out = Diagnostics::new();
        let mut f = Fields::open(&value, "p", &mut out).expect("an object");
        let read = Scope::read(&mut f, false, Scope::Layer, &mut out);
        if out.is_empty() { Ok(read) } else { Err(out.iter().map(|d| d.to_string()).collect()) }
    }

    #[test]
    fn limits_of_a_layer() {
        let scope =
            read(json!({"scope": "global", "max_sparsity": 0.9, "min_sparsity": 0.25})).expect("good");
        assert_eq!(scope.limits(100, 0.5), [10, 75]);
        assert_eq!(scope.limits(100, 0.1), [10, 90]);
        assert_eq!(Scope::Layer.limits(100, 0.5), [0, 100]);
        assert_eq!(read(json!({"scope": "global"})).expect("good").limits(50, 0.5), [1, 50]);
        assert!(scope.allows(0.5).is_ok() && scope.allows(0.9).is_ok());
        assert_eq!(scope.allows(0.95), Err("at most `max_sparsity`, 0.9".into()));
        assert_eq!(scope.allows(0.2), Err("at least `min_sparsity`, 0.25".into()));
    }

    #[test]
    fn mistakes() {
        assert_eq!(
            read(json!({"max_sparsity": 0.5, "min_sparsity": -1})).expect_err("mistakes"),
            [
                "p.max_sparsity: `max_sparsity` has an effect with `scope: global` only",
                "p.min_sparsity: -1 is not a share of 0 to 1",
            ]
        );
        assert_eq!(
            read(json!({"scope": "global", "max_sparsity": 0.2, "min_sparsity": 0.3}))
                .expect_err("a mistake"),
            ["p.min_sparsity: 0.3 is over `max_sparsity` 0.2"]
        );
        assert_eq!(read(json!({"scope": "model"})).expect_err("a mistake").len(), 1);
        assert_eq!(
            read(json!({"scope": "row"})).expect_err("no rows"),
            ["p.scope: `row` is not one of layer, global"]
        );
    }
}
