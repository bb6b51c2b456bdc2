//! Result files: each says how it was made, so that anyone can make it again.

use super::Violation;
use serde_json::Value;

const KEYS: [&str; 5] = ["command", "commit", "seed", "device", "data"];

/// Missing or empty keys of one file under `docs/results/`.
pub(super) fn check(path: &str, text: &str) -> Vec<Violation> {
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(error) => return vec![Violation::new(path, error.line().max(1), error.to_string())],
    };
    let empty = |key: &str| match value.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.trim().is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(items)) => items.is_empty(),
        Some(Value::Bool(_) | Value::Number(_)) => false,
    };
    let missing = KEYS.into_iter().filter(|key| empty(key));
    missing.map(|key| Violation::new(path, 1, format!("no `{key}`, or an empty one"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complete_file_passes() {
        let text = r#"{"command": "briquette eval", "commit": "1a2b", "seed": 0, "device": "cpu",
            "data": "dev.tsv", "value": 0.9}"#;
        assert_eq!(check("docs/results/a.json", text), []);
    }

    #[test]
    fn missing_null_and_empty_are_the_same() {
        let text = r#"{"command": "", "commit": null, "device": [], "data": {}}"#;
        assert_eq!(check("docs/results/a.json", text).len(), 5);
        assert_eq!(check("docs/results/a.json", "[]").len(), 5);
    }

    #[test]
    fn broken_json_is_named_at_its_line() {
        assert_eq!(check("docs/results/a.json", "{\n\"a\": }")[0].line, 2);
    }
}
