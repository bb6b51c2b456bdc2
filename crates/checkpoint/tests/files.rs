//! Damaged, contradictory and unusual files: errors that name file and tensor, never a panic.
#![allow(clippy::unwrap_used)]

use briquette_checkpoint::{CheckpointError, Dtype, NamedTensor, TensorFiles, write};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn sample(folder: &Path, name: &str, tensors: &[(&str, usize)]) -> PathBuf {
    let path = folder.join(name);
    let tensors: Vec<NamedTensor> = tensors
        .iter()
        .map(|(name, n)| {
            let values: Vec<f32> = (0..*n).map(|i| i as f32).collect();
            NamedTensor::floats(*name, Dtype::F32, vec![*n], &values).unwrap()
        })
        .collect();
    write(&path, &tensors, &BTreeMap::from([("format".into(), "pt".into())])).unwrap();
    path
}

fn raw(folder: &Path, header: &str, data: usize) -> PathBuf {
    let path = folder.join("raw.safetensors");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(vec![0; data]);
    fs::write(&path, bytes).unwrap();
    path
}

fn message(path: &Path) -> String {
    TensorFiles::open(path).unwrap_err().to_string()
}

#[test]
fn what_was_written_is_read() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.safetensors");
    let tensors = [
        NamedTensor::floats("half", Dtype::F16, vec![2], &[1.5, -2.0]).unwrap(),
        NamedTensor::words("packed", vec![1, 2], &[u32::MAX, 7]).unwrap(),
        NamedTensor::new("bytes", Dtype::I8, vec![3], vec![1, 255, 128]).unwrap(),
        NamedTensor::floats("scalar", Dtype::F64, vec![], &[0.25]).unwrap(),
    ];
    write(&path, &tensors, &BTreeMap::new()).unwrap();
    let files = TensorFiles::open(&path).unwrap();
    assert_eq!(files.names().collect::<Vec<_>>(), ["scalar", "packed", "half", "bytes"]);
    assert_eq!(files.get("half").unwrap().to_f32().unwrap(), [1.5, -2.0]);
    assert_eq!(files.get("packed").unwrap().to_words().unwrap(), [u32::MAX, 7]);
    assert_eq!(files.get("packed").unwrap().to_i64().unwrap(), [-1, 7]);
    assert_eq!(files.get("bytes").unwrap().to_i64().unwrap(), [1, -1, -128]);
    assert_eq!(files.get("scalar").unwrap().to_f32().unwrap(), [0.25]);
    assert_eq!(files.data_bytes(), 4 + 8 + 3 + 8);
    let wrong = files.get("packed").unwrap().to_f32().unwrap_err().to_string();
    assert!(wrong.ends_with("tensor `packed` is of type I32, one of F16, BF16, F32, F64 wanted"), "{wrong}");
    assert!(matches!(files.get("none").unwrap_err(), CheckpointError::Missing { .. }));
}

#[test]
fn every_truncation_is_an_error() {
    let dir = TempDir::new().unwrap();
    let whole = fs::read(sample(dir.path(), "a.safetensors", &[("x", 5), ("y", 3)])).unwrap();
    for length in 0..whole.len() {
        let cut = dir.path().join("cut.safetensors");
        fs::write(&cut, &whole[..length]).unwrap();
        let text = message(&cut);
        assert!(text.contains("cut.safetensors"), "{length}: {text}");
    }
}

#[test]
fn damaged_headers_never_panic() {
    let dir = TempDir::new().unwrap();
    let whole = fs::read(sample(dir.path(), "a.safetensors", &[("x", 5), ("y", 3)])).unwrap();
    let path = dir.path().join("damaged.safetensors");
    let mut state = 1u64;
    for _ in 0..500 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let mut bytes = whole.clone();
        let at = (state >> 33) as usize % (bytes.len() - 32);
        bytes[at] = (state >> 25) as u8;
        fs::write(&path, &bytes).unwrap();
        if let Ok(files) = TensorFiles::open(&path) {
            files.tensors().for_each(|t| drop(t.bytes().unwrap()));
        }
    }
}

#[test]
fn contradictions_name_the_tensor() {
    let dir = TempDir::new().unwrap();
    let check = |header: &str, data: usize, wanted: &str| {
        let text = message(&raw(dir.path(), header, data));
        assert!(text.contains("raw.safetensors") && text.contains(wanted), "{text}");
    };
    check(r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#, 8, "no JSON object");
    check("garbage!", 0, "no JSON object");
    check(r#"[1, 2]"#, 0, "no JSON object");
    check(r#"{"x":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#, 8, "tensor `x`: unknown variant");
    check(r#"{"x":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, 8, "tensor `x`:");
    check(
        r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"y":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
        12,
        "tensor `y`: its bytes start at 4, the previous tensor's end at 8",
    );
    check(
        r#"{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#,
        8,
        "tensor `x`: its bytes 0..16 lie outside the 8 bytes",
    );
    check(
        r#"{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        9,
        "its tensors take 8 bytes, 9 follow",
    );
    check(
        r#"{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#,
        8,
        "tensor `x`: F32 of shape [3] does not take 8",
    );
    check(
        r#"{"x":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}}"#,
        0,
        "tensor `x`: F32 of shape",
    );
    check(r#"{"__metadata__":{"a":1}}"#, 0, "`__metadata__` is no table of strings");
}

#[test]
fn a_header_that_claims_the_moon_is_refused_before_memory_is_taken() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("moon.safetensors");
    for length in [u64::MAX, 99_000_000, 1 << 40] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([b'{'; 64]);
        fs::write(&path, bytes).unwrap();
        assert!(message(&path).contains("claims a header of"), "{length}");
    }
}

#[test]
fn folders_without_weights_and_missing_files() {
    let dir = TempDir::new().unwrap();
    assert!(message(dir.path()).contains("holds neither `model.safetensors`"));
    assert!(message(&dir.path().join("none.safetensors")).contains("none.safetensors"));
}

fn index(folder: &Path, text: &str) {
    fs::write(folder.join("model.safetensors.index.json"), text).unwrap();
}

#[test]
fn shards_read_as_one() {
    let dir = TempDir::new().unwrap();
    sample(dir.path(), "a.safetensors", &[("x", 2)]);
    sample(dir.path(), "b.safetensors", &[("y", 3)]);
    index(dir.path(), r#"{"metadata": {}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#);
    let files = TensorFiles::open(dir.path()).unwrap();
    assert_eq!(files.get("y").unwrap().to_f32().unwrap(), [0.0, 1.0, 2.0]);
    assert_eq!(files.names().count(), 2);
    assert_eq!(files.paths().count(), 2);
}

#[test]
fn malformed_indices() {
    let dir = TempDir::new().unwrap();
    sample(dir.path(), "a.safetensors", &[("x", 2), ("z", 1)]);
    let check = |text: &str, wanted: &str| {
        index(dir.path(), text);
        let found = message(dir.path());
        assert!(found.contains("index.json") && found.contains(wanted), "{found}");
    };
    check("{", "EOF");
    check("{}", "missing field `weight_map`");
    check(r#"{"weight_map": {"x": 3}}"#, "invalid type");
    check(r#"{"weight_map": {"x": "b.safetensors"}}"#, "shard `b.safetensors` does not exist");
    check(r#"{"weight_map": {"x": "../a.safetensors"}}"#, "not the name of a file in the same folder");
    check(r#"{"weight_map": {"x": "/etc/passwd"}}"#, "not the name of a file in the same folder");
    check(r#"{"weight_map": {"y": "a.safetensors"}}"#, "tensor `y` is not in `a.safetensors`");
    check(r#"{"weight_map": {"x": "a.safetensors"}}"#, "tensor `z` of `a.safetensors` is not listed");
}

#[test]
fn a_tensor_in_two_shards_is_an_error() {
    let dir = TempDir::new().unwrap();
    sample(dir.path(), "a.safetensors", &[("x", 2)]);
    sample(dir.path(), "b.safetensors", &[("x", 2), ("y", 1)]);
    index(dir.path(), r#"{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#);
    assert!(message(dir.path()).contains("tensor `x`: it is in `a.safetensors` too"));
}

#[test]
fn writing_refuses_what_no_reader_would_take() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a.safetensors");
    let x = NamedTensor::floats("x", Dtype::F32, vec![1], &[1.0]).unwrap();
    let twice = write(&path, &[x.clone(), x], &BTreeMap::new()).unwrap_err().to_string();
    assert_eq!(twice, "tensor `x` cannot be written: its name is taken");
    assert!(NamedTensor::floats("x", Dtype::F32, vec![2], &[1.0]).is_err());
    assert!(NamedTensor::floats("x", Dtype::I8, vec![1], &[1.0]).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}
