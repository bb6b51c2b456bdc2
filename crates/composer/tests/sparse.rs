//! Pruned weights without their zeros: in files, and when they run.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod common;

use briquette_checkpoint::{Dtype, Naming, TensorFiles};
use briquette_composer::Finished;
use briquette_composer::artefact::{
    Artefact, ArtefactError, CONFIG, MANIFEST, Source, SparseFormat, TENSORS, sha256_hex, stage,
};
use briquette_composer::report::{SparseExecution, SparseReport};
use briquette_core::SparsePattern;
use briquette_nn::{Compressible, Linear, LinearConfig, name_table};
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use common::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

fn pruned<M>(model: &M, settings: Value) -> Finished<Flex, M>
where
    M: Module<Flex> + Compressible<Flex>,
{
    plan(model, &json!({"steps": [{"sparse_pruning": settings}]})).attach(model, 4).finish().unwrap()
}

/// Writes an artefact whose tensors were of `dtype` in the source; linear layers `[in, out]` where `input_major`.
fn save<M>(finished: &Finished<Flex, M>, at: &Path, dtype: Dtype, input_major: bool) -> Artefact
where
    M: Module<Flex> + Compressible<Flex>,
{
    let naming = naming(&finished.model, input_major);
    let weights = ["words", "fc1", "fc2", "plain", "conv", "deep", "head", "wide"];
    let source = Source {
        naming: &naming,
        config: json!({"model_type": "test"}),
        dtypes: weights.iter().map(|name| (format!("{name}.weight"), dtype)).collect(),
        copy: vec![],
        made_from: BTreeMap::new(),
        seed: 4,
    };
    Artefact::open(stage(finished, &source, at).unwrap().commit().unwrap()).unwrap()
}

fn naming<M: Module<Flex> + Compressible<Flex>>(model: &M, input_major: bool) -> Naming {
    let naming = Naming::new(name_table(model));
    if input_major { Naming { input_major: |_| true, ..naming } } else { naming }
}

fn load<M>(artefact: &Artefact, model: M, input_major: bool) -> Result<M, ArtefactError>
where
    M: Module<Flex> + Compressible<Flex>,
{
    let naming = naming(&model, input_major);
    artefact.load_floats(model, &naming, &Default::default())
}

/// Values after they went through a type of fewer bits.
fn rounded(values: &[f32], dtype: Dtype) -> Vec<f32> {
    let to = |v: &f32| match dtype {
        Dtype::F16 => half::f16::from_f32(*v).to_f32(),
        Dtype::BF16 => half::bf16::from_f32(*v).to_f32(),
        _ => *v,
    };
    values.iter().map(to).collect()
}

const PATTERNS: [(&str, f64, SparseFormat); 7] = [
    ("unstructured", 0.6, SparseFormat::Bitmask),
    ("4x1", 0.75, SparseFormat::Blocks),
    ("1x4", 0.75, SparseFormat::Blocks),
    ("2x2", 0.5, SparseFormat::Blocks),
    ("2:4", 0.5, SparseFormat::TwoOfFour),
    ("1:4", 0.75, SparseFormat::Bitmask),
    ("4:8", 0.5, SparseFormat::Bitmask),
];

fn settings(pattern: &str, sparsity: f64) -> Value {
    match pattern.contains(':') {
        true => json!({"on": ["*"], "pattern": pattern}),
        false => json!({"on": ["*"], "pattern": pattern, "sparsity": sparsity}),
    }
}

#[test]
fn every_pattern_comes_back_bit_for_bit_in_every_type() {
    let folder = tempfile::tempdir().unwrap();
    for (pattern, sparsity, form) in PATTERNS {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            for input_major in [false, true] {
                let finished = pruned(&Net::<Flex>::new(), settings(pattern, sparsity));
                let artefact = save(&finished, &folder.path().join("out"), dtype, input_major);
                let what = format!("{pattern} {dtype} input-major {input_major}");
                let records = &artefact.manifest().sparse;
                assert_eq!(records.len(), 3, "{what}: burn's own layer too");
                for record in records {
                    assert_eq!((record.format, record.dtype), (form, dtype), "{what}");
                    let of = record.shape[0] * record.shape[1];
                    assert!((record.kept as f64 / of as f64 - (1.0 - sparsity)).abs() < 0.01, "{what}");
                    assert!(!artefact.files().contains(&format!("{}.weight", record.name)));
                }
                let loaded = load(&artefact, Net::<Flex>::new(), input_major).unwrap();
                let expected =
                    parameters(&finished.model).iter().map(|p| rounded(p, dtype)).collect::<Vec<_>>();
                let found = parameters(&loaded);
                for (n, (a, b)) in found.iter().zip(&expected).enumerate() {
                    // Biases are stored as 32-bit floats here.
                    let bias = parameters(&finished.model)[n].len() < 40;
                    assert!(a == b || bias, "{what}: parameter {n}");
                }
            }
        }
    }
}

#[test]
fn convolutions_come_back() {
    let folder = tempfile::tempdir().unwrap();
    for (pattern, sparsity) in [("unstructured", 0.9), ("2x1", 0.5), ("1x4", 0.75)] {
        let settings = json!({"on": ["deep"], "pattern": pattern, "sparsity": sparsity});
        let finished = pruned(&Vision::<Flex>::new(), settings);
        let artefact = save(&finished, &folder.path().join("out"), Dtype::F32, false);
        assert!(artefact.manifest().sparse[0].format.is_sparse(), "{pattern}");
        let loaded = load(&artefact, Vision::<Flex>::new(), false).unwrap();
        assert_eq!(parameters(&loaded), parameters(&finished.model), "{pattern}");
    }
}

#[test]
fn sizes_are_those_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("out");
    let artefact = save(&pruned(&Net::<Flex>::new(), settings("2:4", 0.5)), &at, Dtype::F16, false);
    let record = artefact.manifest().sparse.iter().find(|r| r.name == "fc1").unwrap();
    // 32 x 16: half the entries of 2 bytes, a bit each, two lengths of 8 bytes.
    assert_eq!((record.dense_bytes, record.sparse_bytes), (1024, 512 + 64 + 16));
    assert_eq!(artefact.files().get("fc1.compressed").unwrap().shape(), [32, 8]);
    assert_eq!(artefact.files().get("fc1.shape").unwrap().shape(), [2, 1]);
    let artefact = save(&pruned(&Net::<Flex>::new(), settings("4x1", 0.75)), &at, Dtype::F16, false);
    let record = artefact.manifest().sparse.iter().find(|r| r.name == "fc1").unwrap();
    // A bit for each of 8 x 16 blocks.
    assert_eq!((record.dense_bytes, record.sparse_bytes), (1024, 256 + 16 + 16));
    assert_eq!(artefact.files().get("fc1.weight.compressed").unwrap().shape(), [32, 4, 1]);
    let artefact = save(&pruned(&Net::<Flex>::new(), settings("unstructured", 0.75)), &at, Dtype::F32, false);
    let record = artefact.manifest().sparse.iter().find(|r| r.name == "fc1").unwrap();
    assert_eq!((record.dense_bytes, record.sparse_bytes), (2048, 512 + 64 + 256 + 16));
    let parts = artefact.files().tensors().filter(|t| t.name().starts_with("fc1.weight"));
    assert_eq!(parts.map(|t| t.byte_len() as u64).sum::<u64>(), record.stored_bytes());
}

#[test]
fn what_would_not_be_smaller_keeps_its_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let finished = pruned(&Net::<Flex>::new(), json!({"on": ["fc1", "fc2"], "sparsity": 0.02}));
    let artefact = save(&finished, &folder.path().join("out"), Dtype::F16, false);
    for record in &artefact.manifest().sparse {
        assert_eq!(record.format, SparseFormat::Dense);
        assert!(record.sparse_bytes >= record.dense_bytes && record.stored_bytes() == record.dense_bytes);
        assert!(artefact.files().contains(&format!("{}.weight", record.name)));
    }
    assert_eq!(artefact.manifest().sparse.len(), 2);
    assert!(load(&artefact, Net::<Flex>::new(), false).is_ok());
}

#[test]
fn zeros_of_quantized_weights_are_codes() {
    let folder = tempfile::tempdir().unwrap();
    let model = Net::<Flex>::new();
    let recipe = json!({"steps": [
        {"sparse_pruning": {"on": ["fc1", "fc2"], "sparsity": 0.75}},
        {"weight_quantization": {"on": ["fc1"], "bits": 4}},
    ]});
    let finished = plan(&model, &recipe).attach(&model, 4).finish().unwrap();
    let artefact = save(&finished, &folder.path().join("out"), Dtype::F32, false);
    let [fc1, fc2] = artefact.manifest().sparse.as_slice() else { panic!("two pruned weights") };
    assert_eq!((fc1.format, fc1.dense_bytes, fc1.sparse_bytes), (SparseFormat::Codes, 256, 64 + 64));
    assert_eq!(fc2.format, SparseFormat::Bitmask);
    let packed = floats(finished.pack().forward(ids()));
    let naming = naming(&model, false);
    let loaded: Net<Flex> = artefact.load(Net::new(), &naming, &Default::default()).unwrap();
    assert!(loaded.fc1.packed().is_some());
    assert_eq!(floats(loaded.forward(ids())), packed);
}

#[test]
fn saving_twice_writes_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |name: &str| {
        let at = folder.path().join(name);
        save(&pruned(&Net::<Flex>::new(), settings("unstructured", 0.6)), &at, Dtype::F16, false);
        [MANIFEST, TENSORS, CONFIG].map(|file| std::fs::read(at.join(file)).unwrap())
    };
    assert!(bytes("a") == bytes("b"));
}

/// A model that is large enough for its product without zeros.
#[derive(Module, Debug, Compressible)]
struct Wide<B: Backend> {
    wide: Linear<B>,
    half: Linear<B>,
}

impl<B: Backend> Wide<B> {
    fn new() -> Self {
        let device = Default::default();
        let layer = |inputs: usize, outputs: usize| {
            let mut layer: Linear<B> = LinearConfig::new(inputs, outputs).init(&device);
            layer.weight =
                layer.weight.map(|w| waves(w.dims(), inputs).set_require_grad(w.is_require_grad()));
            layer.bias = layer.bias.map(|b| b.map(|b| waves(b.dims(), outputs)));
            layer
        };
        Self { wide: layer(160, 200), half: layer(200, 36) }
    }

    fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        self.half.forward(self.wide.forward(x))
    }
}

#[test]
fn pruned_layers_run_without_zeros_where_that_is_faster() {
    let folder = tempfile::tempdir().unwrap();
    let model = Wide::<Flex>::new();
    let recipe = json!({"steps": [
        {"sparse_pruning": {"on": ["wide"], "sparsity": 0.8, "pattern": "4x1"}},
        {"sparse_pruning": {"on": ["half"], "sparsity": 0.3}},
    ]});
    let finished = plan(&model, &recipe).attach(&model, 4).finish().unwrap();
    let artefact = save(&finished, &folder.path().join("out"), Dtype::F32, false);
    let naming = naming(&model, false);
    let loaded: Wide<Flex> = artefact.load(Wide::new(), &naming, &Default::default()).unwrap();
    let fast = briquette_kernels::runs_sparse::<Flex>();
    assert_eq!(loaded.wide.sparse().is_some(), fast);
    assert!(loaded.half.sparse().is_none(), "dense is faster");
    let x = || waves::<Flex, 2>([37, 160], 3);
    let masked = floats(finished.model.forward(x()));
    let found = floats(loaded.forward(x()));
    assert!(distance(&masked, &found) <= 1e-5);
    assert_eq!(floats(finished.pack().forward(x())), found, "packed as loaded");
    let report = SparseReport::all(artefact.manifest(), &loaded);
    let expected = if fast { SparseExecution::Sparse } else { SparseExecution::Dense };
    let other = if fast { SparseExecution::DenseIsFaster } else { SparseExecution::Dense };
    assert_eq!([report[0].execution, report[1].execution], [expected, other]);
    assert_eq!(report[0].pattern, SparsePattern::Block { rows: 4, columns: 1 });
}

#[test]
fn on_a_backend_with_gradients_pruned_layers_can_be_trained() {
    let folder = tempfile::tempdir().unwrap();
    let finished = pruned(&Wide::<Flex>::new(), json!({"on": ["wide"], "sparsity": 0.9}));
    let artefact = save(&finished, &folder.path().join("out"), Dtype::F32, false);
    let model = Wide::<Autodiff<Flex>>::new();
    let naming = Naming::new(name_table(&model));
    let loaded = artefact.load(model, &naming, &Default::default()).unwrap();
    assert!(loaded.wide.sparse().is_none());
    let gradients = loaded.forward(waves([3, 160], 1)).sum().backward();
    assert!(loaded.wide.weight.val().grad(&gradients).is_some());
}

/// Makes the digests those of the files again, after `edit` has changed the manifest.
fn redigest(at: &Path, edit: impl FnOnce(&mut Value)) {
    let path = at.join(MANIFEST);
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut manifest);
    manifest["files"][TENSORS] = json!(sha256_hex(&std::fs::read(at.join(TENSORS)).unwrap()));
    manifest["digest"] = json!("");
    manifest["digest"] = json!(sha256_hex(manifest.to_string().as_bytes()));
    std::fs::write(path, serde_json::to_string_pretty(&manifest).unwrap()).unwrap();
}

/// Three layers in the three forms.
fn artefact() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let model = Net::<Flex>::new();
    let recipe = json!({"steps": [
        {"sparse_pruning": {"on": ["words"], "sparsity": 0.75}},
        {"sparse_pruning": {"on": ["fc1"], "pattern": "2:4"}},
        {"sparse_pruning": {"on": ["fc2"], "pattern": "4x1", "sparsity": 0.75}},
    ]});
    let finished = plan(&model, &recipe).attach(&model, 4).finish().unwrap();
    let at = folder.path().join("out");
    save(&finished, &at, Dtype::F32, false);
    (folder, at)
}

fn error_of(at: &Path) -> Option<String> {
    let opened = Artefact::open(at).and_then(|artefact| load(&artefact, Net::<Flex>::new(), false));
    opened.err().map(|e| e.to_string())
}

#[test]
fn manifests_that_contradict_the_tensors_or_the_model() {
    type Edit = fn(&mut Value);
    const WORDS: usize = 0;
    const FC1: usize = 1;
    const FC2: usize = 2;
    let edits: [(&str, Edit); 22] = [
        ("words", |m| m["sparse"][WORDS]["kept"] = json!(47)),
        ("words", |m| m["sparse"][WORDS]["kept"] = json!(u64::MAX)),
        ("words", |m| m["sparse"][WORDS]["shape"] = json!([16, 12])),
        ("words", |m| m["sparse"][WORDS]["shape"] = json!([u64::MAX, 2])),
        ("words", |m| m["sparse"][WORDS]["dtype"] = json!("F16")),
        ("words", |m| m["sparse"][WORDS]["dtype"] = json!("I32")),
        ("words", |m| m["sparse"][WORDS]["kind"] = json!("linear")),
        ("words", |m| m["sparse"][WORDS]["kind"] = json!("batch_norm")),
        ("words", |m| m["sparse"][WORDS]["format"] = json!("sparse-24-bitmask")),
        ("words", |m| m["sparse"][WORDS]["format"] = json!("block-bitmask")),
        ("words", |m| m["sparse"][WORDS]["format"] = json!("dense")),
        ("nothing", |m| m["sparse"][WORDS]["name"] = json!("nothing")),
        ("fc1", |m| m["sparse"][FC1]["kept"] = json!(255)),
        ("fc1", |m| m["sparse"][FC1]["pattern"] = json!({"run_of": {"kept": 1, "of": 4}})),
        ("fc1", |m| m["sparse"][FC1]["shape"] = json!([16, 32])),
        ("fc1", |m| m["sparse"][FC1]["format"] = json!("codes")),
        ("fc2", |m| m["sparse"][FC2]["pattern"] = json!({"block": {"rows": 0, "columns": 1}})),
        ("fc2", |m| m["sparse"][FC2]["pattern"] = json!({"block": {"rows": 3, "columns": 1}})),
        ("fc2", |m| m["sparse"][FC2]["pattern"] = json!({"block": {"rows": u64::MAX, "columns": u64::MAX}})),
        ("fc2", |m| m["sparse"][FC2]["pattern"] = json!({"block": {"rows": 2, "columns": 2}})),
        ("fc2", |m| m["sparse"][FC2]["extra"] = json!(1)),
        ("fc2", |m| drop(m["sparse"].as_array_mut().unwrap().pop())),
    ];
    let (_folder, at) = artefact();
    assert_eq!(error_of(&at), None);
    let whole = std::fs::read(at.join(MANIFEST)).unwrap();
    for (n, (name, edit)) in edits.into_iter().enumerate() {
        redigest(&at, edit);
        let error = error_of(&at).unwrap_or_else(|| panic!("edit {n} passed"));
        let file = error.contains("briquette.json") || error.contains("model.safetensors");
        assert!(file && (error.contains(name) || error.contains("briquette.json")), "edit {n}: {error}");
        std::fs::write(at.join(MANIFEST), &whole).unwrap();
    }
}

/// Where a tensor's bytes begin in the file.
fn start_of(bytes: &[u8], tensor: &str) -> usize {
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    8 + header + json[tensor]["data_offsets"][0].as_u64().unwrap() as usize
}

#[test]
fn damaged_bits_offsets_and_shapes_name_their_tensor() {
    let (_folder, at) = artefact();
    let file = at.join(TENSORS);
    let whole = std::fs::read(&file).unwrap();
    for (tensor, byte) in [
        ("words.weight.bitmask", 0),
        ("words.weight.row_offsets", 8),
        ("words.weight.shape", 0),
        ("fc1.bitmask", 3),
        ("fc1.shape", 8),
        ("fc2.weight.bitmask", 1),
        ("fc2.weight.shape", 8),
    ] {
        let mut bytes = whole.clone();
        bytes[start_of(&whole, tensor) + byte] ^= 4;
        std::fs::write(&file, &bytes).unwrap();
        redigest(&at, |_| {});
        let error = error_of(&at).unwrap_or_else(|| panic!("{tensor} passed"));
        assert!(error.contains(tensor) && error.contains("model.safetensors"), "{error}");
    }
    // As many bits as before, but not two of each four.
    let mut bytes = whole.clone();
    let at_bits = start_of(&whole, "fc1.bitmask");
    bytes[at_bits] = 0b0001_0111;
    std::fs::write(&file, &bytes).unwrap();
    redigest(&at, |_| {});
    assert!(error_of(&at).unwrap().contains("two of each four"));
}

#[test]
fn a_model_of_another_shape_is_refused() {
    let (_folder, at) = artefact();
    let artefact = Artefact::open(&at).unwrap();
    let mut other = Net::<Flex>::new();
    other.fc1 = LinearConfig::new(12, 32).init(&Default::default());
    let error = load(&artefact, other, false).unwrap_err().to_string();
    assert!(error.contains("fc1") && error.contains("briquette.json"), "{error}");
    let names: HashMap<String, usize> =
        TensorFiles::open(&at).unwrap().tensors().map(|t| (t.name().to_string(), t.byte_len())).collect();
    assert!(names.contains_key("fc1.compressed") && !names.contains_key("fc1.weight"));
}
