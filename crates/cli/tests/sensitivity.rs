//! `sensitivity` in a recipe: each of its settings changes the report's table, and it asks for the data it needs.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, said};
use serde_json::{Value, json};
use std::fs;

/// The table of a recipe that says this of the scan.
fn table(place: &Place, out: &str, settings: &Value) -> Vec<Value> {
    place.recipe(&json!({
        "steps": [{"row_pruning": {"on": ["**.intermediate.dense"], "keep": 0.5}}], "sensitivity": settings
    }));
    said(&place.compress(out, &["--calib", "train.tsv"]).output().unwrap(), 0);
    let report: Value =
        serde_json::from_slice(&fs::read(place.path(out).join("report.json")).unwrap()).unwrap();
    report["sensitivity"].as_array().unwrap().clone()
}

#[test]
fn every_setting_of_a_scan_changes_its_table() {
    let place = Place::new(24);
    let usual = table(&place, "usual", &json!({"examples": 24}));
    // Two blocks, three shares; the shares are those of the documentation.
    assert_eq!(usual.len(), 6);
    assert_eq!(usual, table(&place, "default", &json!({"keep": [0.75, 0.5, 0.25]})));
    assert!(usual.iter().all(|row| row["error"].as_f64().unwrap() > 0.0));
    let units: Vec<&Value> = usual.iter().map(|row| &row["units"]).collect();
    assert_eq!(json!(units), json!([[32, 24], [32, 16], [32, 8], [32, 24], [32, 16], [32, 8]]));

    let few = table(&place, "few", &json!({"examples": 3}));
    assert_eq!(few.len(), 6);
    assert!(few.iter().zip(&usual).all(|(few, usual)| few["error"] != usual["error"]));
    let one = table(&place, "one", &json!({"examples": 24, "keep": [0.5]}));
    assert_eq!(one, [usual[1].clone(), usual[4].clone()]);
    let all = table(&place, "all", &json!({"examples": 24, "groups": "all"}));
    assert!(all.len() > 6 && usual.iter().all(|row| all.contains(row)), "{all:?}");
}

#[test]
fn a_scan_without_data_is_refused() {
    let place = Place::new(4);
    place.recipe(&json!({"steps": [], "sensitivity": {}}));
    let text = said(&place.compress("out", &[]).output().unwrap(), 2);
    assert!(text.contains("--calib"), "{text}");
    assert!(!place.path("out").exists());
}
