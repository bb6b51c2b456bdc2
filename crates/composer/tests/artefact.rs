//! Saving and loading.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod common;

use briquette_checkpoint::{Dtype, Naming};
use briquette_composer::artefact::{Artefact, ArtefactError, Source, ZeroLayout, stage};
use briquette_composer::{CalibrationError, Finished};
use briquette_nn::{Compressible, name_table};
use burn::backend::Flex;
use burn::prelude::*;
use common::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

fn naming<M: Module<Flex> + Compressible<Flex>>(model: &M) -> Naming {
    Naming::new(name_table(model))
}

fn source(naming: &Naming) -> Source<'_> {
    Source {
        naming,
        config: json!({"model_type": "test"}),
        dtypes: HashMap::new(),
        copy: vec![],
        made_from: BTreeMap::new(),
        seed: 4,
    }
}

fn save<M>(finished: &Finished<Flex, M>, destination: &Path) -> Result<PathBuf, ArtefactError>
where
    M: Module<Flex> + Compressible<Flex>,
{
    let naming = naming(&finished.model);
    stage(finished, &source(&naming), destination)?.commit()
}

fn finish<M>(model: &M, recipe: &Value) -> Finished<Flex, M>
where
    M: Module<Flex> + Compressible<Flex>,
{
    plan(model, recipe).attach(model, 4).finish().unwrap()
}

fn weights(settings: Value) -> Value {
    json!({"steps": [{"weight_quantization": settings}]})
}

/// Everything a scheme can be.
fn schemes() -> Vec<Value> {
    let mut all = Vec::new();
    for granularity in [json!("tensor"), json!("channel"), json!({"groups": 4}), json!({"group_size": 2})] {
        for bits in 1..=8 {
            for symmetric in [true, false] {
                if symmetric || bits > 2 {
                    all.push(json!({"on": ["*"], "bits": bits, "symmetric": symmetric, "granularity": granularity}));
                }
            }
        }
    }
    all
}

#[test]
fn a_loaded_model_computes_what_the_packed_one_does() {
    let folder = tempfile::tempdir().unwrap();
    for settings in schemes() {
        let model = Net::<Flex>::new();
        let finished = finish(&model, &weights(settings.clone()));
        let at = save(&finished, &folder.path().join("out")).unwrap();
        let artefact = Artefact::open(&at).unwrap();
        // The plain layer of burn cannot hold a packed weight; its values are stored as they are.
        let packed: Vec<&str> = artefact.manifest().layers.iter().map(|l| l.name.as_str()).collect();
        assert_eq!(packed, ["words", "fc1", "fc2"]);
        assert_eq!(artefact.files().get("plain.weight").unwrap().dtype(), Dtype::F32);
        let loaded: Net<Flex> =
            artefact.load(zeroed(Net::new()), &naming(&model), &Default::default()).unwrap();
        assert!(loaded.fc1.packed().is_some() && loaded.words.packed().is_some());
        let packed = floats(finished.pack().forward(ids()));
        assert_eq!(floats(loaded.forward(ids())), packed, "{settings}");
    }
}

#[test]
fn a_loaded_convolution_computes_what_the_packed_one_does() {
    let folder = tempfile::tempdir().unwrap();
    for settings in schemes() {
        let model = Vision::<Flex>::new();
        let finished = finish(&model, &weights(settings.clone()));
        let at = save(&finished, &folder.path().join("out")).unwrap();
        let artefact = Artefact::open(&at).unwrap();
        let loaded: Vision<Flex> =
            artefact.load(zeroed(Vision::new()), &naming(&model), &Default::default()).unwrap();
        assert!(loaded.conv.packed().is_some());
        let packed = floats(finished.pack().forward(images()));
        assert_eq!(floats(loaded.forward(images())), packed, "{settings}");
    }
}

/// A model of the right shapes and other values.
fn zeroed<M: Module<Flex>>(model: M) -> M {
    struct Zero;
    impl burn::module::ModuleMapper<Flex> for Zero {
        fn map_float<const D: usize>(
            &mut self,
            param: burn::module::Param<Tensor<Flex, D>>,
        ) -> burn::module::Param<Tensor<Flex, D>> {
            param.map(|t| t.zeros_like())
        }
    }
    model.map(&mut Zero)
}

#[test]
fn quantized_inputs_are_loaded_too() {
    let folder = tempfile::tempdir().unwrap();
    for range in ["dynamic", "static"] {
        for symmetric in [true, false] {
            let model = Net::<Flex>::new();
            let recipe = json!({"steps": [
                {"weight_quantization": {"on": ["words", "fc1", "fc2"], "bits": 8}},
                {"activation_quantization": {"on": ["*"], "symmetric": symmetric, "range": range}},
            ]});
            let mut session = plan(&model, &recipe).attach(&model, 0);
            session
                .calibrate::<CalibrationError>(|m| {
                    m.forward(ids());
                    Ok(())
                })
                .unwrap();
            let finished = session.finish().unwrap();
            let at = save(&finished, &folder.path().join("out")).unwrap();
            let artefact = Artefact::open(&at).unwrap();
            assert_eq!(artefact.manifest().inputs, finished.inputs);
            let scale = artefact.files().contains("fc1.input_scale");
            assert_eq!(scale, range == "static");
            let loaded: Net<Flex> =
                artefact.load(zeroed(Net::new()), &naming(&model), &Default::default()).unwrap();
            assert_eq!(floats(loaded.forward(ids())), floats(finished.pack().forward(ids())));
        }
    }
}

#[test]
fn zero_points_beyond_the_codes_survive() {
    let folder = tempfile::tempdir().unwrap();
    for bits in [8, 4] {
        let mut model = Net::<Flex>::new();
        model.fc1.weight = model.fc1.weight.map(|w| w + 3.0);
        let recipe = json!({"compression_training": {"weight_quantization": {
            "shared_parameters":
                {"enabled": true, "quantization_type": "asymmetric", "quantize_groups": 8},
            "different_groups":
                {"g": {"params": {"start_bits": bits, "target_bits": bits}, "modules": ["fc1"]}}
        }}});
        let finished = finish(&model, &recipe);
        let at = save(&finished, &folder.path().join("out")).unwrap();
        let artefact = Artefact::open(&at).unwrap();
        assert_eq!(artefact.manifest().layers[0].zeros, Some(ZeroLayout::Plain));
        assert!(artefact.config().get("quantization_config").is_none(), "other readers could not say it");
        let loaded: Net<Flex> =
            artefact.load(zeroed(Net::new()), &naming(&model), &Default::default()).unwrap();
        assert_eq!(floats(loaded.forward(ids())), floats(finished.pack().forward(ids())));
    }
}

#[test]
fn the_configuration_tells_other_readers_what_they_can_read() {
    let folder = tempfile::tempdir().unwrap();
    let config = |recipe: &Value| {
        let finished = finish(&Net::<Flex>::new(), recipe);
        let at = save(&finished, &folder.path().join("out")).unwrap();
        Artefact::open(at).unwrap().config().clone()
    };
    let group = |config: &Value| config["quantization_config"]["config_groups"]["group_0"].clone();
    let four = config(&weights(json!({"on": ["fc1"], "bits": 4, "granularity": {"group_size": 8}})));
    assert_eq!(four["model_type"], "test");
    assert_eq!(four["quantization_config"]["format"], "pack-quantized");
    let expected = json!({"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 8,
                          "dynamic": false});
    assert_eq!(group(&four)["weights"], expected);
    assert_eq!(group(&four)["targets"], json!(["fc1"]));
    let eight = config(&json!({"steps": [
        {"weight_quantization": {"on": ["fc1"], "bits": 8, "symmetric": false}},
        {"activation_quantization": {"on": ["fc1"]}},
    ]}));
    assert_eq!(eight["quantization_config"]["format"], "int-quantized");
    assert_eq!(group(&eight)["input_activations"]["strategy"], "token");
    assert_eq!(group(&eight)["weights"]["symmetric"], false);
    let binary = config(&weights(json!({"on": ["fc1"], "bits": 1})));
    assert!(binary.get("quantization_config").is_none());
}

#[test]
fn fewer_bits_take_fewer_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |bits: u64| {
        let finished = finish(&Net::<Flex>::new(), &weights(json!({"on": ["fc1"], "bits": bits})));
        let at = save(&finished, &folder.path().join("out")).unwrap();
        let artefact = Artefact::open(at).unwrap();
        artefact.files().get("fc1.weight_packed").unwrap().byte_len()
    };
    // 16 columns of 32 rows; a row is whole 32-bit words.
    assert_eq!([1, 2, 4, 8].map(bytes), [128, 128, 256, 512]);
}

#[test]
fn tensors_that_are_not_packed_keep_their_type() {
    let folder = tempfile::tempdir().unwrap();
    let finished = finish(&Net::<Flex>::new(), &weights(json!({"on": ["fc1", "plain"], "bits": 4})));
    let naming = naming(&finished.model);
    let half = ["fc1.weight", "fc2.weight", "plain.weight"].map(|name| (name.to_string(), Dtype::F16));
    let dtypes = HashMap::from(half);
    let source = Source { dtypes, ..source(&naming) };
    let at = stage(&finished, &source, &folder.path().join("out")).unwrap().commit().unwrap();
    let artefact = Artefact::open(at).unwrap();
    assert_eq!(artefact.files().get("fc2.weight").unwrap().dtype(), Dtype::F16);
    assert_eq!(artefact.files().get("plain.weight").unwrap().dtype(), Dtype::F32);
    assert_eq!(artefact.files().get("fc1.weight_scale").unwrap().dtype(), Dtype::F32);
    assert_eq!(artefact.files().get("fc1.bias").unwrap().dtype(), Dtype::F32);
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entry = |e: std::io::Result<std::fs::DirEntry>| {
        let e = e.unwrap();
        (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())
    };
    std::fs::read_dir(folder).unwrap().map(entry).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

#[test]
fn saving_twice_writes_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = json!({"steps": [
        {"weight_quantization": {"on": ["*"], "bits": 4, "rounding": "stochastic"}},
        {"activation_quantization": {"on": ["*"]}},
    ]});
    let write = |name: &str| {
        contents(&save(&finish(&Net::<Flex>::new(), &recipe), &folder.path().join(name)).unwrap())
    };
    let first = write("a");
    assert_eq!(first.keys().collect::<Vec<_>>(), ["briquette.json", "config.json", "model.safetensors"]);
    assert!(first == write("b"), "two saves differ");
}

#[test]
fn what_is_no_artefact_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let finished = finish(&Net::<Flex>::new(), &weights(json!({"on": ["*"], "bits": 8})));
    let foreign = folder.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("notes.txt"), "mine").unwrap();
    let error = save(&finished, &foreign).unwrap_err();
    assert!(
        matches!(error, ArtefactError::Occupied { .. }) && error.to_string().contains("foreign"),
        "{error}"
    );
    assert_eq!(names(&foreign), ["notes.txt"]);
    let file = folder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    assert!(matches!(save(&finished, &file), Err(ArtefactError::Occupied { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    assert_eq!(names(folder.path()), ["file", "foreign"]);
    assert!(!Artefact::is_at(&foreign) && Artefact::open(&foreign).is_err());
}

#[test]
fn an_older_artefact_and_an_empty_folder_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    for bits in [8, 4] {
        let finished = finish(&Net::<Flex>::new(), &weights(json!({"on": ["*"], "bits": bits})));
        save(&finished, &out).unwrap();
        assert_eq!(Artefact::open(&out).unwrap().manifest().layers[0].bits, bits);
        assert_eq!(names(folder.path()), ["out"]);
    }
}

#[test]
fn what_is_staged_and_dropped_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let finished = finish(&Net::<Flex>::new(), &weights(json!({"on": ["*"], "bits": 8})));
    let naming = naming(&finished.model);
    let staged = stage(&finished, &source(&naming), &folder.path().join("out")).unwrap();
    assert!(Artefact::open(staged.path()).is_ok(), "a staged artefact can be read");
    drop(staged);
    assert!(names(folder.path()).is_empty());
}

#[test]
fn files_are_copied_and_a_missing_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = folder.path().join("tokenizer.json");
    std::fs::write(&tokenizer, "{}").unwrap();
    let finished = finish(&Net::<Flex>::new(), &weights(json!({"on": ["*"], "bits": 8})));
    let naming = naming(&finished.model);
    let with = |copy| Source { copy, ..source(&naming) };
    let out = folder.path().join("out");
    stage(&finished, &with(vec![tokenizer]), &out).unwrap().commit().unwrap();
    assert_eq!(std::fs::read(out.join("tokenizer.json")).unwrap(), b"{}");
    let missing = folder.path().join("vocab.txt");
    let error = stage(&finished, &with(vec![missing]), &out).err().unwrap();
    assert!(error.to_string().contains("vocab.txt"), "{error}");
    assert!(Artefact::open(&out).is_ok(), "the artefact that was there is whole");
}

#[test]
fn a_model_of_another_shape_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let finished = finish(&Net::<Flex>::new(), &weights(json!({"on": ["fc1"], "bits": 8})));
    let at = save(&finished, &folder.path().join("out")).unwrap();
    let artefact = Artefact::open(at).unwrap();
    let mut other = Net::<Flex>::new();
    other.fc1 = briquette_nn::LinearConfig::new(16, 31).init(&Default::default());
    let naming = naming(&other);
    let error = artefact.load(other, &naming, &Default::default()).unwrap_err().to_string();
    assert!(error.contains("fc1") && error.contains("briquette.json"), "{error}");
    let vision = Vision::<Flex>::new();
    let naming = Naming::new(name_table(&vision));
    let error = artefact.load(vision, &naming, &Default::default()).unwrap_err().to_string();
    assert!(error.contains("fc1"), "{error}");
}
