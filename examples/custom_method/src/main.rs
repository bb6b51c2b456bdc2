//! Compresses a model with a method that the library does not know.
//!
//! ```text
//! cargo run -p custom_method
//! ```
//!
//! The same weights are quantized to 3 bits twice: as they are, and with their outliers clipped before.
//! The plans, the errors of both and what the manifest says are printed.

#![allow(clippy::print_stdout, reason = "a program that shows its result on the terminal")]

use briquette_checkpoint::Naming;
use briquette_composer::artefact::{self, Artefact, LayerRecord, Source};
use briquette_composer::{Composer, Finished, Recipe};
use briquette_nn::{Compressible, Initializer, Linear, LinearConfig, model_view, name_table};
use burn::backend::Flex;
use burn::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::error::Error;

const QUANTIZED: &str = r#"{ "steps": [
    { "weight_quantization": { "on": ["*"], "bits": 3 } } ] }"#;

const CLIPPED_AND_QUANTIZED: &str = r#"{ "steps": [
    { "outlier_clipping": { "on": ["*"], "deviations": 2.15 } },
    { "weight_quantization": { "on": ["*"], "bits": 3 } } ] }"#;

/// The only source of randomness.
const SEED: u64 = 7;

/// Two layers with bell-shaped weights, as training leaves them.
#[derive(Module, Debug, Compressible)]
struct Net<B: Backend> {
    hidden: Linear<B>,
    output: Linear<B>,
}

impl<B: Backend> Net<B> {
    fn init(device: &B::Device) -> Self {
        let bell = Initializer::Normal { mean: 0.0, std: 0.05 };
        let linear = |i, o| LinearConfig::new(i, o).with_initializer(bell.clone()).init(device);
        Self { hidden: linear(256, 128), output: linear(128, 16) }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = Default::default();
    Flex::seed(&device, SEED);
    let net = Net::<Flex>::init(&device);

    let without = compress(&net, QUANTIZED)?;
    let with = compress(&net, CLIPPED_AND_QUANTIZED)?;
    println!("without clipping:\n{}", without.plan);
    println!("with clipping:\n{}", with.plan);

    println!("relative error of the weights:");
    for (a, b) in without.layers.iter().zip(&with.layers) {
        println!("  {:8} {:.4} without, {:.4} with", a.site.name, a.relative_error, b.relative_error);
    }

    let (layers, plan) = written(&with)?;
    println!("\nin the artefact, {} packed layers and these steps:", layers.len());
    for step in plan["steps"].as_array().into_iter().flatten() {
        println!("  {}: {} {}", step["layer"], step["method"], step["details"]);
    }
    Ok(())
}

/// Compresses by `recipe` with a registry that holds the method of this crate, too.
fn compress(net: &Net<Flex>, recipe: &str) -> Result<Finished<Flex, Net<Flex>>, Box<dyn Error>> {
    let composer = Composer::new(custom_method::registry()?);
    let plan = composer.plan(&Recipe::from_json(recipe)?, &model_view(net))?;
    Ok(plan.attach(net, SEED).finish()?)
}

/// What the manifest of an artefact says: the packed layers and the plan.
fn written(
    finished: &Finished<Flex, Net<Flex>>,
) -> Result<(Vec<LayerRecord>, serde_json::Value), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let source = Source {
        naming: &Naming::new(name_table(&finished.model)),
        config: json!({}),
        dtypes: HashMap::new(),
        copy: Vec::new(),
        made_from: BTreeMap::new(),
        seed: SEED,
    };
    let staged = artefact::stage(finished, &source, &folder.path().join("artefact"))?;
    let manifest = Artefact::open(staged.path())?.manifest().clone();
    Ok((manifest.layers, manifest.plan))
}
