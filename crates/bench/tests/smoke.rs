//! The program itself with tiny sizes on the CPU: every section, every kind of row.
#![allow(clippy::unwrap_used, reason = "a test fails where something is missing")]

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};

fn bench(name: &str, arguments: &[&str]) -> (Output, Vec<Value>) {
    let rows = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.jsonl"));
    let _ = std::fs::remove_file(&rows);
    let mut command = Command::new(env!("CARGO_BIN_EXE_briquette-bench"));
    let output = command.args(["--smoke", "--rows"]).arg(&rows).args(arguments).output().unwrap();
    let text = std::fs::read_to_string(&rows).unwrap_or_default();
    (output, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn of_kind<'a>(rows: &'a [Value], kind: &str) -> Vec<&'a Value> {
    rows.iter().filter(|row| row["kind"] == kind).collect()
}

fn names(rows: &[&Value], key: &str) -> BTreeSet<String> {
    rows.iter().map(|row| row[key].as_str().unwrap().to_string()).collect()
}

#[test]
fn everything_runs() {
    let (output, rows) = bench("everything", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(of_kind(&rows, "left_out").is_empty(), "{:?}", of_kind(&rows, "left_out"));
    assert_eq!(rows[0]["backend"], "cpu");
    assert_eq!(of_kind(&rows, "check").len(), 9);
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap();
    assert!(of_kind(&rows, "check").iter().all(|row| number(row, "worst") <= number(row, "limit")));
    let linear = of_kind(&rows, "linear");
    // Two layers, three numbers of rows, five forms.
    assert_eq!(linear.len(), 2 * 3 * 5);
    assert!(linear.iter().all(|row| row["device_us"].as_f64().unwrap() > 0.0));
    let forms = ["W4A16", "W4A8", "W8A16", "W8A8", "burn f32"];
    assert_eq!(names(&linear, "what"), forms.map(String::from).into());
    let models = of_kind(&rows, "model");
    assert_eq!(names(&models, "model"), ["BERT-base", "GPT-2"].map(String::from).into());
    assert_eq!(models.len(), 3 * 4);
    // Two shapes, four forms, five kinds of operation.
    assert_eq!(of_kind(&rows, "part").len(), 2 * 4 * 5);
    assert_eq!(names(&of_kind(&rows, "step"), "what"), ["W1A8", "W8A8", "plain"].map(String::from).into());
    assert_eq!(names(&of_kind(&rows, "ceiling"), "what"), ["copy", "f32"].map(String::from).into());
}

#[test]
fn sections_are_chosen_and_time_ends() {
    let (output, rows) = bench("chosen", &["--only", "models", "--seconds", "0"]);
    assert!(output.status.success());
    assert!(rows[1..].iter().all(|row| row["kind"] == "left_out"));
    assert_eq!(rows.len(), 1 + 3 * 4);
}

#[test]
fn a_backend_that_is_not_there_is_said() {
    #[cfg(not(feature = "cuda"))]
    {
        let (output, _) = bench("absent", &["--backend", "cuda"]);
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("--features cuda"));
    }
}
