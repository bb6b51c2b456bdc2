//! Reading a JSON object key by key, so that all its mistakes are reported at once.
//!
//! serde stops at the first error and cannot combine `flatten` with `deny_unknown_fields`; a
//! recipe's author wants every problem in one run.

use crate::diagnostics::{Diagnostics, Problem, nearest};
use serde_json::{Map, Value};

/// A type that a JSON value can stand for.
pub trait FromJson: Sized {
    /// What a value of this type is called in messages.
    const EXPECTED: &'static str;
    /// The value, or `None` where the JSON type is wrong.
    fn from_json(value: &Value) -> Option<Self>;
}

macro_rules! from_json {
    ($($type:ty, $expected:literal, $body:expr;)*) => {
        $(impl FromJson for $type {
            const EXPECTED: &'static str = $expected;
            fn from_json(value: &Value) -> Option<Self> {
                let read: fn(&Value) -> Option<Self> = $body;
                read(value)
            }
        })*
    };
}

from_json! {
    bool, "true or false", |v| v.as_bool();
    f64, "a number", |v| v.as_f64();
    i64, "an integer", |v| v.as_i64();
    u64, "a non-negative integer", |v| v.as_u64();
    usize, "a non-negative integer", |v| v.as_u64().and_then(|n| usize::try_from(n).ok());
    String, "a string", |v| v.as_str().map(str::to_string);
    Value, "a value", |v| Some(v.clone());
    Vec<String>, "a list of strings", |v| v.as_array()?.iter().map(String::from_json).collect();
    Vec<usize>, "a list of non-negative integers", |v| v.as_array()?.iter().map(usize::from_json).collect();
    Vec<Vec<String>>, "a list of lists of strings", |v| v.as_array()?.iter().map(Vec::<String>::from_json).collect();
}

/// One JSON object being read. Each key is taken at most once; what is left over is unknown.
#[derive(Debug)]
pub struct Fields<'a> {
    place: String,
    map: &'a Map<String, Value>,
    taken: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The object at `place`, or `None` and a diagnostic where `value` is none.
    pub fn open(value: &'a Value, place: impl Into<String>, out: &mut Diagnostics) -> Option<Self> {
        let place = place.into();
        match value.as_object() {
            Some(map) => Some(Self { place, map, taken: Vec::new() }),
            None => {
                out.add(place, type_problem("an object", value));
                None
            }
        }
    }

    /// Where this object stands.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Where one of its keys stands.
    pub fn place_of(&self, key: &str) -> String {
        join(&self.place, key)
    }

    /// Whether the object holds this key.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// The raw value of a key, which then counts as known.
    pub fn raw(&mut self, key: &'static str) -> Option<&'a Value> {
        self.taken.push(key);
        self.map.get(key)
    }

    /// A key that may be missing. A wrong type is reported and reads as missing.
    pub fn optional<T: FromJson>(&mut self, key: &'static str, out: &mut Diagnostics) -> Option<T> {
        let value = self.raw(key)?;
        let read = T::from_json(value);
        if read.is_none() {
            out.add(self.place_of(key), type_problem(T::EXPECTED, value));
        }
        read
    }

    /// A key that must be there; its absence is reported.
    pub fn required<T: FromJson>(&mut self, key: &'static str, out: &mut Diagnostics) -> Option<T> {
        if !self.has(key) {
            self.taken.push(key);
            out.add(self.place.clone(), Problem::Missing { key: key.into() });
            return None;
        }
        self.optional(key, out)
    }

    /// One of the words in `known`, given with what each means.
    pub fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        known: &[(&str, T)],
        out: &mut Diagnostics,
    ) -> Option<T> {
        let word: String = self.optional(key, out)?;
        let hit = known.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
        if hit.is_none() {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            out.add(
                self.place_of(key),
                Problem::Range {
                    value: format!("`{word}`"),
                    expected: format!("one of {}", names.join(", ")),
                },
            );
        }
        hit
    }

    /// Reports every key that nobody took.
    pub fn finish(self, out: &mut Diagnostics) {
        for key in self.map.keys().filter(|k| !self.taken.contains(&k.as_str())) {
            let nearest = nearest(key, self.taken.iter().copied());
            out.add(self.place_of(key), Problem::UnknownKey { key: key.clone(), nearest });
        }
    }
}

/// `place.key`, or `key` at the root.
pub fn join(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_string() } else { format!("{place}.{key}") }
}

/// The problem of a value of the wrong JSON type.
pub fn type_problem(expected: &str, found: &Value) -> Problem {
    let mut text = found.to_string();
    if text.chars().count() > 40 {
        text = format!("{}...", text.chars().take(37).collect::<String>());
    }
    Problem::Type { expected: expected.into(), found: text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_mistakes_of_an_object_are_reported() {
        let value = json!({"bits": "eight", "groupz": 3, "range": "sometimes"});
        let mut out = Diagnostics::new();
        let mut f = Fields::open(&value, "a", &mut out).expect("an object");
        assert_eq!(f.required::<usize>("bits", &mut out), None);
        assert_eq!(f.optional::<usize>("groups", &mut out), None);
        assert_eq!(f.required::<bool>("symmetric", &mut out), None);
        assert_eq!(f.choice("range", &[("static", 1), ("dynamic", 2)], &mut out), None);
        f.finish(&mut out);
        let lines: Vec<String> = out.iter().map(|d| d.to_string()).collect();
        assert_eq!(
            lines,
            [
                "a.bits: expected a non-negative integer, found \"eight\"",
                "a: missing key `symmetric`",
                "a.range: `sometimes` is not one of static, dynamic",
                "a.groupz: unknown key `groupz`, did you mean `groups`?",
            ]
        );
    }
}
