//! From nothing to a compressed model in one go, without a download.
//!
//! ```text
//! cargo run --release -p quickstart [FOLDER]
//! ```
//!
//! Trains a small classifier on sentences that it generates itself, compresses it by `recipe.json` (8-bit
//! and 4-bit weights, 8-bit inputs), writes the artefact into `FOLDER` (default `target/quickstart`),
//! loads it into a fresh model that computes on the packed weights, and prints what was gained and lost.
//!
//! - [`data`]: the sentences. [`model`]: the model. [`train`]: its training. [`measure`]: how well and
//!   how fast it works.
//! - [`run`] is the way from one to the other, and the part to read.

#![allow(clippy::print_stdout, reason = "a program that shows its result on the terminal")]

mod data;
mod measure;
mod model;
#[cfg(test)]
mod tests;
mod train;

use briquette_checkpoint::Naming;
use briquette_composer::artefact::{self, Artefact, Source, Staged};
use briquette_composer::report::{Bytes, Latency, LayerReport, Quality, Report, methods, product_kernels};
use briquette_composer::{Composer, Finished, Recipe};
use briquette_nn::{model_view, name_table};
use burn::backend::{Autodiff, Flex};
use burn::module::AutodiffModule;
use burn::prelude::*;
use data::{LENGTH, Sentences, VOCABULARY};
use model::{ClassifierConfig, SentenceClassifier};
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::path::{Path, PathBuf};

/// The backend everything runs on: the CPU, in plain Rust.
type Cpu = Flex;
/// The model as it is used, without gradients.
type Classifier = SentenceClassifier<Cpu>;

/// How to compress. Change it and run again.
const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/recipe.json");
/// The only source of randomness.
const SEED: u64 = 1;

/// How much to train and to measure.
struct Settings {
    train: usize,
    test: usize,
    epochs: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("target/quickstart"), PathBuf::from);
    let report = run(&Settings { train: 12_000, test: 4_000, epochs: 5 }, &folder)?;
    println!("\n{}", report.to_markdown());
    println!("The artefact is in {}.", folder.display());
    Ok(())
}

/// Trains, compresses, writes to `folder`, reloads and compares.
fn run(settings: &Settings, folder: &Path) -> Result<Report, Box<dyn Error>> {
    let test = Sentences::generate(settings.test, SEED + 1);
    println!("training on {} generated sentences ..", settings.train);
    let model = trained(settings);

    let finished = compress(&model)?;
    print!("\n{}", finished.plan);

    // The artefact takes its place only when its report is written, too.
    let staged = stage(&finished, folder)?;
    let artefact = Artefact::open(staged.path())?;
    let report = compare(&model, &reload(&artefact)?, &artefact, &test);
    staged.write("report.json", &report.to_json())?;
    staged.write("report.md", &report.to_markdown())?;
    staged.commit()?;
    Ok(report)
}

/// A model trained in 32-bit floats.
fn trained(settings: &Settings) -> Classifier {
    let device = Default::default();
    Autodiff::<Cpu>::seed(&device, SEED);
    let sentences = Sentences::generate(settings.train, SEED);
    let fresh = ClassifierConfig::new(VOCABULARY).init::<Autodiff<Cpu>>(&device);
    train::train(fresh, &sentences, settings.epochs, SEED, &device).valid()
}

/// Compresses by the recipe. There is nothing to learn and nothing to calibrate in this one, so the
/// session ends as soon as it has begun.
fn compress(model: &Classifier) -> Result<Finished<Cpu, Classifier>, Box<dyn Error>> {
    let recipe = Recipe::from_file(RECIPE)?;
    let plan = Composer::builtin().plan(&recipe, &model_view(model))?;
    Ok(plan.attach(model, SEED).finish()?)
}

/// Writes the compressed model, under the names of its fields, to a temporary folder beside `folder`.
fn stage(finished: &Finished<Cpu, Classifier>, folder: &Path) -> Result<Staged, Box<dyn Error>> {
    let source = Source {
        naming: &Naming::new(name_table(&finished.model)),
        config: serde_json::to_value(ClassifierConfig::new(VOCABULARY))?,
        dtypes: HashMap::new(),
        copy: Vec::new(),
        made_from: BTreeMap::new(),
        seed: SEED,
    };
    Ok(artefact::stage(finished, &source, folder)?)
}

/// A fresh model with the weights of an artefact, packed as they are on disk.
fn reload(artefact: &Artefact) -> Result<Classifier, Box<dyn Error>> {
    let device = Default::default();
    let config: ClassifierConfig = serde_json::from_value(artefact.config().clone())?;
    let fresh = config.init::<Cpu>(&device);
    let naming = Naming::new(name_table(&fresh));
    Ok(artefact.load(fresh, &naming, &device)?)
}

/// Both models side by side.
fn compare(before: &Classifier, after: &Classifier, artefact: &Artefact, test: &Sentences) -> Report {
    let device = Default::default();
    let manifest = artefact.manifest();
    let float_bytes = 4 * before.num_params() as u64;
    let layer =
        |record| LayerReport::new(record, artefact.files(), manifest.inputs.get(&record.name).copied());
    Report {
        model: "quickstart".into(),
        backend: "cpu".into(),
        device: "this machine's processor".into(),
        seed: SEED,
        bytes_before: Bytes { total: float_bytes, by_dtype: BTreeMap::from([("F32".into(), float_bytes)]) },
        bytes_after: Bytes::of(artefact.files()),
        methods: methods(artefact.manifest()),
        layers: manifest.layers.iter().map(layer).collect(),
        quality: Some(Quality {
            metric: "accuracy".into(),
            before: measure::accuracy(before, test, &device),
            after: measure::accuracy(after, test, &device),
            n: test.len(),
            data: "generated sentences".into(),
        }),
        operations: None,
        training: None,
        sensitivity: Vec::new(),
        sparse: Vec::new(),
        removed: Vec::new(),
        latency: Some(Latency {
            batch: measure::BATCH,
            seq: LENGTH,
            before_ms: measure::latency_ms(before, test, &device),
            after_ms: measure::latency_ms(after, test, &device),
            kernels: product_kernels(after, measure::BATCH * LENGTH, &device),
        }),
        seconds: BTreeMap::new(),
    }
}
