//! The whole flow in small.

#![allow(clippy::unwrap_used, reason = "a test fails where something is missing")]

use crate::*;
use std::fs;

const SMALL: Settings = Settings { train: 4_000, test: 500, epochs: 5 };

fn write(model: &Classifier, folder: &Path) {
    stage(&compress(model).unwrap(), folder).unwrap().commit().unwrap();
}

#[test]
fn the_artefact_is_small_and_as_good_as_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let artefact = folder.path().join("artefact");
    let report = run(&SMALL, &artefact).unwrap();
    let quality = report.quality.clone().unwrap();
    assert!(quality.before > 0.93, "{quality:?}");
    assert!((quality.before - quality.after).abs() <= 0.02, "{quality:?}");

    // The file as it lies on disk, headers and scales included.
    let file = fs::metadata(artefact.join(artefact::TENSORS)).unwrap().len() as f64;
    let float = report.bytes_before.total as f64;
    assert!(file < 0.35 * float, "{file} of {float} bytes");

    let written = fs::read_to_string(artefact.join("report.json")).unwrap();
    assert_eq!(written, report.to_json());
    let names: Vec<&str> = report.layers.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["words", "pair", "hidden", "output"]);
}

#[test]
fn compressing_twice_gives_the_same_files() {
    let folder = tempfile::tempdir().unwrap();
    let model = ClassifierConfig::new(VOCABULARY).init::<Cpu>(&Default::default());
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    write(&model, &first);
    write(&model, &second);
    for name in [artefact::TENSORS, artefact::MANIFEST] {
        assert!(fs::read(first.join(name)).unwrap() == fs::read(second.join(name)).unwrap(), "{name}");
    }
}

#[test]
fn the_reloaded_model_is_packed_and_computes_what_was_planned() {
    let device = Default::default();
    let folder = tempfile::tempdir().unwrap();
    let model = ClassifierConfig::new(VOCABULARY).init::<Cpu>(&device);
    write(&model, &folder.path().join("artefact"));
    let packed = reload(&Artefact::open(folder.path().join("artefact")).unwrap()).unwrap();
    // Only biases and the normalization are still floats.
    assert!(packed.num_params() < model.num_params() / 50, "{}", packed.num_params());

    let ids = Sentences::generate(32, 9).batch::<Cpu>(&(0..32).collect::<Vec<_>>(), &device).ids;
    let simulated = compress(&model).unwrap().model.forward(ids.clone());
    let difference = (packed.forward(ids) - simulated).abs().max().into_scalar();
    assert!(difference < 1e-4, "{difference}");
}

#[test]
fn sentences_come_from_their_seed() {
    let batch = |seed| {
        let sentences = Sentences::generate(50, seed);
        sentences.batch::<Cpu>(&(0..50).collect::<Vec<_>>(), &Default::default())
    };
    assert_eq!(batch(3).ids.into_data(), batch(3).ids.into_data());
    assert_ne!(batch(3).ids.into_data(), batch(4).ids.into_data());
    let kind = batch(3).labels.float().mean().into_scalar();
    assert!((0.3..0.7).contains(&kind), "{kind}");
}
