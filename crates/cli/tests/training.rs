//! `briquette compress --train`: interrupted anywhere it ends where it would have ended, and it refuses what would do
//! nothing.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Place, said};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

const TRAIN: [&str; 4] = ["--train", "train.tsv", "--epochs", "1"];
const TAUGHT: [&str; 6] = ["--train", "train.tsv", "--epochs", "1", "--teacher", "teacher"];

fn recipe() -> Value {
    json!({
        "steps": [
            {"weight_quantization": {"on": ["bert.encoder.layer.**"], "bits": 4}},
            {"activation_quantization": {
                "on": ["bert.encoder.layer.**"], "bits": 8, "range": "static", "observer": "moving_average"
            }}
        ],
        "training": {"batch": 2, "lr": 1e-3, "checkpoint_every": 2}
    })
}

/// The highest step of which there is a checkpoint.
fn checkpoint(folder: &Path) -> Option<usize> {
    let names = fs::read_dir(folder).ok()?.flatten().map(|e| e.file_name());
    names.filter_map(|n| n.to_str()?.strip_prefix("step-")?.parse().ok()).max()
}

/// Starts a training of `steps` steps into `out` and kills it when there is a checkpoint.
fn killed(place: &Place, out: &str, more: &[&str], steps: usize) {
    let checkpoints = place.path(&format!("{out}.training"));
    let mut command = place.compress(out, more);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while checkpoint(&checkpoints).is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no checkpoint was written");
        assert!(child.try_wait().unwrap().is_none(), "the program ended before its first checkpoint");
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None, "the program ended by itself");
    let step = checkpoint(&checkpoints).unwrap();
    assert!(step < steps, "killed after its last step");
    assert!(!place.path(out).exists(), "an artefact of an unfinished training");
}

fn resumes_to_the_same_bytes(more: &[&str]) {
    let place = Place::new(100);
    place.recipe(&recipe());
    said(&place.compress("whole", more).output().unwrap(), 0);
    killed(&place, "parts", more, 50);

    // The checkpoint belongs to this run and no other.
    let resume =
        |extra: &[&str]| place.compress("parts", &[more, &["--resume"], extra].concat()).output().unwrap();
    let text = said(&resume(&["--seed", "1"]), 2);
    assert!(text.contains("is of a run with another model, recipe, data or settings"), "{text}");
    let text = said(&resume(&["--lr", "0.5"]), 2);
    assert!(text.contains("is of a run with another model, recipe, data or settings"), "{text}");

    said(&resume(&[]), 0);
    for file in ["model.safetensors", "briquette.json", "config.json", "tokenizer.json"] {
        let bytes = |folder: &str| fs::read(place.path(folder).join(file)).unwrap();
        assert!(bytes("whole") == bytes("parts"), "{file} differs");
    }
    assert!(!place.path("parts.training").exists(), "checkpoints of a finished training");

    // The weights are trained ones.
    said(&place.compress("other", &[more, &["--lr", "0.5"]].concat()).output().unwrap(), 0);
    let weights = |folder: &str| fs::read(place.path(folder).join("model.safetensors")).unwrap();
    assert!(weights("whole") != weights("other"));
}

#[test]
fn killed_on_labels_and_with_dropout_it_resumes_to_the_same_bytes() {
    resumes_to_the_same_bytes(&TRAIN);
}

#[test]
fn killed_with_a_teacher_it_resumes_to_the_same_bytes() {
    resumes_to_the_same_bytes(&TAUGHT);
}

#[test]
fn without_resume_it_begins_anew() {
    let place = Place::new(100);
    place.recipe(&recipe());
    killed(&place, "out", &TRAIN, 50);
    said(&place.compress("out", &[&TRAIN[..], &["--seed", "1"]].concat()).output().unwrap(), 0);
    assert!(!place.path("out.training").exists());
}

/// What the program says of a mistake; it must write nothing.
fn refused(recipe: &Value, more: &[&str]) -> String {
    let place = Place::new(8);
    place.recipe(recipe);
    let text = said(&place.compress("out", more).output().unwrap(), 2);
    assert!(!place.path("out").exists() && !place.path("out.training").exists(), "{text}");
    text
}

#[test]
fn mistakes_are_the_users_and_say_what_to_do() {
    let text = refused(&recipe(), &[&TRAIN[..], &["--resume"]].concat());
    assert!(text.contains("out.training: holds no checkpoint to resume from"), "{text}");

    let text = refused(&recipe(), &["--train", "train.tsv"]);
    assert!(text.contains("give `--epochs` or `training.epochs`"), "{text}");

    for (flag, more) in [
        ("--teacher", &["--teacher", "teacher"][..]),
        ("--epochs", &["--epochs", "1"]),
        ("--lr", &["--lr", "0.1"]),
        ("--resume", &["--resume"]),
    ] {
        let text = refused(&recipe(), more);
        assert!(text.contains(&format!("{flag}: has an effect with --train FILE only")), "{text}");
    }

    let mut taught = recipe();
    taught["distillation"] = json!({"labels": 0.5, "logits": {"loss": "kl"}});
    let text = refused(&taught, &TRAIN);
    assert!(text.contains("the recipe's distillation needs --teacher DIR"), "{text}");
}

#[test]
fn a_recipe_may_only_train() {
    let place = Place::new(8);
    place.recipe(&json!({"training": {"batch": 2, "lr": 1e-3}}));
    let done = place.compress("out", &TAUGHT).output().unwrap();
    said(&done, 0);
    let weights = |name: &str| fs::read(place.path(name).join("model.safetensors")).unwrap();
    assert_ne!(weights("out"), weights("model"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_mistake() {
    let place = Place::new(2);
    let recipe = place.recipe(&recipe());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_briquette"));
    command.arg("plan").arg("--model").arg(place.path("model")).arg("--recipe").arg(recipe);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
