//! A damaged artefact is an error that names the file, never a panic.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod common;

use briquette_checkpoint::Naming;
use briquette_composer::artefact::{
    Artefact, ArtefactError, CONFIG, MANIFEST, Source, TENSORS, sha256_hex, stage,
};
use briquette_composer::{CalibrationError, Finished};
use briquette_nn::name_table;
use burn::backend::Flex;
use common::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const FILES: [&str; 3] = [CONFIG, MANIFEST, TENSORS];

/// An artefact with symmetric, asymmetric and binary weights, bytes and words, and static inputs.
fn artefact() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let model = Net::<Flex>::new();
    let recipe = json!({"steps": [
        {"weight_quantization": {"on": ["words"], "bits": 8}},
        {"weight_quantization": {"on": ["fc1"], "bits": 4, "symmetric": false, "granularity": {"group_size": 8}}},
        {"weight_quantization": {"on": ["fc2"], "bits": 1}},
        {"low_rank_compensation": {"on": ["fc2"], "rank": 2}},
        {"activation_quantization": {"on": ["fc1"], "range": "static", "observer": "min_max"}},
    ]});
    let mut session = plan(&model, &recipe).attach(&model, 0);
    session
        .calibrate::<CalibrationError>(|m| {
            m.forward(ids());
            Ok(())
        })
        .unwrap();
    let out = folder.path().join("out");
    save(&session.finish().unwrap(), &out);
    (folder, out)
}

fn save(finished: &Finished<Flex, Net<Flex>>, out: &Path) {
    let naming = Naming::new(name_table(&finished.model));
    let source = Source {
        naming: &naming,
        config: json!({"model_type": "test"}),
        dtypes: HashMap::new(),
        copy: vec![],
        made_from: BTreeMap::new(),
        seed: 0,
    };
    stage(finished, &source, out).unwrap().commit().unwrap();
}

fn load(at: &Path) -> Result<Net<Flex>, ArtefactError> {
    let model = Net::new();
    let naming = Naming::new(name_table(&model));
    Artefact::open(at)?.load(model, &naming, &Default::default())
}

/// Makes the digests those of the files again, after `edit` has changed the manifest.
fn redigest(at: &Path, edit: impl FnOnce(&mut Value)) {
    let path = at.join(MANIFEST);
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut manifest);
    for name in [CONFIG, TENSORS] {
        if let Some(digest) = manifest["files"].get_mut(name) {
            *digest = json!(sha256_hex(&std::fs::read(at.join(name)).unwrap()));
        }
    }
    manifest["digest"] = json!("");
    manifest["digest"] = json!(sha256_hex(manifest.to_string().as_bytes()));
    std::fs::write(path, serde_json::to_string_pretty(&manifest).unwrap()).unwrap();
}

/// The file's bytes while `check` runs are `bytes`.
fn with_bytes(file: &Path, bytes: &[u8], check: impl FnOnce()) {
    let whole = std::fs::read(file).unwrap();
    std::fs::write(file, bytes).unwrap();
    check();
    std::fs::write(file, whole).unwrap();
}

#[test]
fn an_artefact_that_is_whole_opens_and_a_new_digest_is_accepted() {
    let (_folder, at) = artefact();
    let expected = floats(load(&at).unwrap().forward(ids()));
    redigest(&at, |_| {});
    assert_eq!(floats(load(&at).unwrap().forward(ids())), expected);
}

#[test]
fn truncated_files() {
    let (_folder, at) = artefact();
    for name in FILES {
        let file = at.join(name);
        let whole = std::fs::read(&file).unwrap();
        let n = whole.len();
        for length in [0, 1, 7, 8, n / 4, n / 2, n - n / 8, n - 2] {
            with_bytes(&file, &whole[..length], || {
                let error = load(&at).expect_err(name).to_string();
                assert!(error.contains(name), "{name} of {length} bytes: {error}");
            });
        }
        let longer = [whole.as_slice(), b"}"].concat();
        with_bytes(&file, &longer, || {
            assert!(load(&at).expect_err(name).to_string().contains(name));
        });
    }
}

#[test]
fn flipped_bytes() {
    let (_folder, at) = artefact();
    let manifest = Artefact::open(&at).unwrap().manifest().clone();
    for name in FILES {
        let file = at.join(name);
        let whole = std::fs::read(&file).unwrap();
        for position in (0..whole.len()).step_by(5) {
            let mut bytes = whole.clone();
            bytes[position] ^= (position * 37 % 255) as u8 + 1;
            with_bytes(&file, &bytes, || match Artefact::open(&at) {
                Err(error) => assert!(error.to_string().contains(name), "{name} at {position}: {error}"),
                // JSON says some things in two ways: a space and a line's end, `e` and `E`.
                Ok(found) => {
                    assert!(name == MANIFEST && *found.manifest() == manifest, "{name} at {position}")
                }
            });
        }
    }
}

#[test]
fn missing_files() {
    let (_folder, at) = artefact();
    for name in FILES {
        let file = at.join(name);
        let whole = std::fs::read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        let error = load(&at).expect_err(name).to_string();
        assert!(error.contains(name), "{error}");
        std::fs::create_dir(&file).unwrap();
        let error = load(&at).expect_err(name).to_string();
        assert!(error.contains(name), "{error}");
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, whole).unwrap();
    }
    assert!(load(&at).is_ok());
}

/// Layers of the manifest, in model order.
const WORDS: usize = 0;
const FC1: usize = 1;
const FC2: usize = 2;

#[test]
fn manifests_that_contradict_the_tensors_or_the_model() {
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit); 32] = [
        ("fc1", |m| m["layers"][FC1]["shape"] = json!([16, 32])),
        ("fc1", |m| m["layers"][FC1]["shape"] = json!([0, 0])),
        ("fc1", |m| m["layers"][FC1]["shape"] = json!([u64::MAX, 2])),
        ("fc1", |m| m["layers"][FC1]["stored_shape"] = json!([512])),
        ("fc1", |m| m["layers"][FC1]["stored_shape"] = json!([16, 32])),
        ("fc1", |m| m["layers"][FC1]["bits"] = json!(5)),
        ("fc1", |m| m["layers"][FC1]["bits"] = json!(0)),
        ("fc1", |m| m["layers"][FC1]["bits"] = json!(40)),
        ("fc1", |m| m["layers"][FC1]["group"] = json!(0)),
        ("fc1", |m| m["layers"][FC1]["group"] = json!(5)),
        ("fc1", |m| m["layers"][FC1]["group"] = json!(16)),
        ("fc1", |m| drop(m["layers"][FC1].as_object_mut().unwrap().shift_remove("zeros"))),
        ("fc1", |m| m["layers"][FC1]["zeros"] = json!("plain")),
        ("fc1", |m| m["layers"][FC1]["code"] = json!("symmetric")),
        ("fc1", |m| m["layers"][FC1]["format"] = json!("int-quantized")),
        ("fc1", |m| m["layers"][FC1]["kind"] = json!("conv2d")),
        ("fc1", |m| m["layers"][FC1]["kind"] = json!("batch_norm")),
        ("words", |m| m["layers"][WORDS]["format"] = json!("pack-quantized")),
        ("words", |m| m["layers"][WORDS]["code"] = json!("binary")),
        ("fc2", |m| m["layers"][FC2]["code"] = json!("symmetric_")),
        ("fc2", |m| m["layers"][FC2]["low_rank"] = json!(3)),
        ("fc2", |m| m["layers"][FC2]["low_rank"] = json!(0)),
        ("fc2", |m| m["layers"][FC2]["low_rank"] = json!(u64::MAX)),
        ("fc2", |m| drop(m["layers"][FC2].as_object_mut().unwrap().shift_remove("low_rank"))),
        ("words", |m| m["layers"][WORDS]["low_rank"] = json!(2)),
        ("fc3", |m| m["layers"][FC2]["name"] = json!("fc3")),
        ("fc2", |m| drop(m["layers"].as_array_mut().unwrap().pop())),
        ("fc1", |m| m["inputs"]["fc1"]["bits"] = json!(99)),
        ("fc1", |m| m["inputs"]["fc1"]["range"] = json!("pending")),
        ("fc1", |m| m["inputs"]["fc1"]["range"] = json!({"static": {"min": 2.0, "max": 1.0}})),
        ("words", |m| {
            let input = m["inputs"]["fc1"].clone();
            m["inputs"]["words"] = input;
        }),
        ("nothing", |m| {
            let input = m["inputs"]["fc1"].clone();
            m["inputs"]["nothing"] = input;
        }),
    ];
    let (_folder, at) = artefact();
    let whole = std::fs::read(at.join(MANIFEST)).unwrap();
    for (n, (name, edit)) in edits.into_iter().enumerate() {
        redigest(&at, edit);
        let error = load(&at).err().unwrap_or_else(|| panic!("edit {n} passed")).to_string();
        assert!(error.contains(name) || error.contains("briquette.json"), "edit {n}: {error}");
        let typed = error.contains(".json") || error.contains(".safetensors");
        assert!(typed, "edit {n} names no file: {error}");
        std::fs::write(at.join(MANIFEST), &whole).unwrap();
    }
}

#[test]
fn manifests_of_another_form() {
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit); 7] = [
        ("format version 2", |m| m["format_version"] = json!(2)),
        ("extra", |m| m["extra"] = json!(1)),
        ("extra", |m| m["layers"][FC1]["extra"] = json!(1)),
        ("seed", |m| drop(m.as_object_mut().unwrap().shift_remove("seed"))),
        ("layers", |m| m["layers"] = json!({})),
        ("config.json", |m| drop(m["files"].as_object_mut().unwrap().shift_remove(CONFIG))),
        ("model.safetensors", |m| drop(m["files"].as_object_mut().unwrap().shift_remove(TENSORS))),
    ];
    let (_folder, at) = artefact();
    let whole = std::fs::read(at.join(MANIFEST)).unwrap();
    for (n, (text, edit)) in edits.into_iter().enumerate() {
        redigest(&at, edit);
        let error = load(&at).err().unwrap_or_else(|| panic!("edit {n} passed")).to_string();
        let serde = ["layers", "seed"].contains(&text) && error.contains("briquette.json");
        assert!(error.contains(text) || serde, "edit {n}: {error}");
        std::fs::write(at.join(MANIFEST), &whole).unwrap();
    }
}

#[test]
fn corrections_that_are_no_numbers() {
    let (_folder, at) = artefact();
    let file = at.join(TENSORS);
    let mut bytes = std::fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = 8 + header + json["fc2.low_rank_left"]["data_offsets"][0].as_u64().unwrap() as usize;
    // Infinity of 16 bits.
    bytes[start..start + 2].copy_from_slice(&0x7c00u16.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    redigest(&at, |_| {});
    let error = load(&at).unwrap_err().to_string();
    assert!(error.contains("fc2.low_rank_left") && error.contains("inf"), "{error}");
}

#[test]
fn scales_that_are_none() {
    for (bad, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (-1.0, "-1")] {
        let (_folder, at) = artefact();
        let file = at.join(TENSORS);
        let mut bytes = std::fs::read(&file).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        let start = 8 + header + json["fc1.weight_scale"]["data_offsets"][0].as_u64().unwrap() as usize;
        bytes[start..start + 4].copy_from_slice(&bad.to_le_bytes());
        std::fs::write(&file, bytes).unwrap();
        redigest(&at, |_| {});
        let error = load(&at).unwrap_err().to_string();
        assert!(error.contains("fc1.weight_scale") && error.contains(text), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_as_manifest(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(MANIFEST), bytes).unwrap();
        prop_assert!(load(folder.path()).is_err());
    }

    #[test]
    fn any_bytes_as_tensors(bytes in proptest::collection::vec(any::<u8>(), 0..300), length in 0u64..300) {
        let (_folder, at) = artefact();
        for bytes in [bytes.clone(), [&length.to_le_bytes()[..], &bytes].concat()] {
            std::fs::write(at.join(TENSORS), bytes).unwrap();
            redigest(&at, |_| {});
            let error = load(&at).expect_err("no tensors").to_string();
            prop_assert!(error.contains(TENSORS), "{}", error);
        }
    }

    /// With digests made right again, so that the checks behind them are reached.
    #[test]
    fn changed_tensors(changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4)) {
        let (_folder, at) = artefact();
        let file = at.join(TENSORS);
        let mut bytes = std::fs::read(&file).unwrap();
        for (at, byte) in changes {
            let position = at.index(bytes.len());
            bytes[position] = byte;
        }
        std::fs::write(&file, bytes).unwrap();
        redigest(&at, |_| {});
        let _ = load(&at);
    }

    /// Changes in the header, where shapes and offsets stand.
    #[test]
    fn changed_headers(position in 0usize..1400, byte in proptest::sample::select(b"0123456789[]{}\",:IF".to_vec())) {
        let (_folder, at) = artefact();
        let file = at.join(TENSORS);
        let mut bytes = std::fs::read(&file).unwrap();
        let position = position % bytes.len();
        bytes[position] = byte;
        std::fs::write(&file, bytes).unwrap();
        redigest(&at, |_| {});
        let _ = load(&at);
    }
}
