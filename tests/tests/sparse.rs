//! Pruned real models: smaller files, and the same results when zeros are left out.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]
#![allow(clippy::print_stderr, reason = "a test that skips says so")]

use briquette_checkpoint::TensorFiles;
use briquette_composer::artefact::{Artefact, Source, TENSORS, stage};
use briquette_composer::report::sparse_layers;
use briquette_composer::{Composer, Plan, Recipe};
use briquette_core::host_floats;
use briquette_kernels::backend::Cpu;
use briquette_kernels::runs_sparse;
use briquette_models::bert::BertForSequenceClassification;
use briquette_models::{Inputs, ModelConfig, Pretrained, PretrainedConfig, load};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

type Bert = BertForSequenceClassification<Cpu>;
type Config = <Bert as Pretrained<Cpu>>::Config;

/// The folder of a real model, or a line that says that it is missing.
fn minilm() -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let root = std::env::var_os("BRIQUETTE_DATA").map_or(default, PathBuf::from);
    let found = root.join("models/minilm-sst2");
    if found.exists() {
        return Some(found);
    }
    eprintln!(
        "SKIPPED: {} is missing; set BRIQUETTE_DATA to the folder with models and data",
        found.display()
    );
    None
}

/// Bytes of the pruned weights with and without zeros, of the whole file, and how many layers leave them out.
struct Pruned {
    dense: u64,
    stored: u64,
    file: u64,
    sparse_layers: usize,
}

/// Prunes all encoder layers, writes the artefact, loads it, and compares logits with those of the masked model.
fn prune(source: &Path, settings: Value) -> Pruned {
    let device = Default::default();
    let config = Config::pick(&ModelConfig::from_dir(source).unwrap()).unwrap().clone();
    let model: Bert = load(&config, source, &device).unwrap();
    let recipe = Recipe::from_value(&json!({"steps": [{"sparse_pruning": settings}]}));
    let plan: Plan<Cpu> = Composer::builtin().plan(&recipe, &model.view()).unwrap();
    let finished = plan.attach(&model, 0).finish().unwrap();
    let naming = finished.model.naming();
    let files = TensorFiles::open(source).unwrap();
    let from = Source {
        config: config.to_json(),
        dtypes: naming.dtypes(&files),
        naming: &naming,
        copy: vec![],
        made_from: BTreeMap::new(),
        seed: 0,
    };
    let folder = tempfile::tempdir().unwrap();
    let at = stage(&finished, &from, &folder.path().join("out")).unwrap().commit().unwrap();
    let artefact = Artefact::open(&at).unwrap();
    let loaded: Bert = artefact.load(Bert::init(&config, &device), &naming, &device).unwrap();
    let inputs = Inputs::dummy(&config.task(), 2, 37, &device).unwrap();
    let logits = |model: &Bert| host_floats(model.logits(inputs.clone()));
    let (masked, found) = (logits(&finished.model), logits(&loaded));
    for (a, b) in masked.iter().zip(&found) {
        assert!((a - b).abs() <= 1e-5 * a.abs().max(1.0), "{masked:?} and {found:?}");
    }
    let records = &artefact.manifest().sparse;
    assert_eq!(records.len(), 36);
    Pruned {
        dense: records.iter().map(|r| r.dense_bytes).sum(),
        stored: records.iter().map(|r| r.stored_bytes()).sum(),
        file: std::fs::metadata(at.join(TENSORS)).unwrap().len(),
        sparse_layers: sparse_layers(&loaded).len(),
    }
}

#[test]
fn a_fifth_of_the_blocks_is_a_little_more_than_a_fifth_of_the_file() {
    let Some(source) = minilm() else { return };
    let before = std::fs::metadata(source.join(TENSORS)).unwrap().len();
    let on = json!(["bert.encoder.**"]);
    let pruned = prune(&source, json!({"on": on, "pattern": "4x1", "sparsity": 0.8}));
    // 16-bit entries: a fifth of them, and a bit for four.
    let share = pruned.stored as f64 / pruned.dense as f64;
    assert!((share - (0.2 + 1.0 / 64.0)).abs() < 1e-3, "{share}");
    assert_eq!(pruned.dense, 21_233_664);
    let saved = before - pruned.file;
    assert!(saved.abs_diff(pruned.dense - pruned.stored) < 16 << 10, "headers aside: {saved}");
    assert_eq!(pruned.sparse_layers, if runs_sparse::<Cpu>() { 36 } else { 0 });
}

#[test]
fn two_of_four_is_a_half_and_a_bit_each_and_runs_dense() {
    let Some(source) = minilm() else { return };
    let pruned = prune(&source, json!({"on": ["bert.encoder.**"], "pattern": "2:4"}));
    let share = pruned.stored as f64 / pruned.dense as f64;
    assert!((share - (0.5 + 1.0 / 16.0)).abs() < 1e-3, "{share}");
    assert_eq!(pruned.sparse_layers, 0, "dense is faster");
}
