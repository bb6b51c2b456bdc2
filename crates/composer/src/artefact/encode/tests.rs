//! The layouts of compressed-tensors, bit for bit, from what that package itself wrote.

use super::*;
use crate::artefact::decode::packed;
use briquette_checkpoint::{TensorFiles, write};
use briquette_core::{ScaleRule, host_floats};
use briquette_kernels::unpack;
use burn::backend::Flex;
use serde_json::Value;
use std::collections::BTreeMap;

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/compressed_tensors.json");
    serde_json::from_slice(&std::fs::read(path).expect("a golden file")).expect("JSON")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|v| v as f32).collect()
}

fn integer(value: &Value) -> usize {
    value.as_u64().expect("an integer") as usize
}

/// The package's codes, scales and zero points as ours.
fn coded(case: &Value) -> CodedWeight {
    let bits = integer(&case["num_bits"]) as u32;
    let half = 1i32 << (bits - 1);
    let shape = [integer(&case["shape"][0]), integer(&case["shape"][1])];
    let symmetric = case["symmetric"] == true;
    let zeros = if symmetric { vec![] } else { numbers(&case["zeros"]) };
    CodedWeight {
        bits,
        kind: if symmetric { CodeKind::Symmetric } else { CodeKind::Asymmetric },
        shape,
        group: case["group_size"].as_u64().map_or(shape[1], |n| n as usize),
        codes: numbers(&case["codes_unsigned"]).iter().map(|u| *u as u8).collect(),
        scales: floats(&case["scales"]),
        zeros: zeros.iter().map(|z| -(*z as i32) - half).collect(),
    }
}

fn layer(coded: &CodedWeight) -> FinishedLayer {
    let [rows, columns] = coded.shape;
    let site = Site {
        name: "fc".into(),
        path: "fc".into(),
        kind: LayerKind::Linear,
        shape: coded.shape,
        native: vec![columns, rows],
        trainable: true,
        tied: vec![],
        drop_in: true,
    };
    FinishedLayer { site, left: vec![], relative_error: 0.0 }
}

fn bytes(tensor: &Value) -> Vec<u8> {
    let data = numbers(&tensor["data"]);
    let each = |v: &f64| match tensor["dtype"].as_str() {
        Some("F32") => (*v as f32).to_le_bytes().to_vec(),
        Some("I8") => vec![*v as i8 as u8],
        Some("I32") => (*v as i32).to_le_bytes().to_vec(),
        Some("I64") => (*v as i64).to_le_bytes().to_vec(),
        other => panic!("type {other:?}"),
    };
    data.iter().flat_map(each).collect()
}

fn same(found: &NamedTensor, expected: &Value, what: &str) {
    assert_eq!(found.dtype().to_string(), expected["dtype"].as_str().expect("a type"), "{what}");
    let shape: Vec<usize> = numbers(&expected["shape"]).iter().map(|n| *n as usize).collect();
    assert_eq!(found.shape(), shape, "{what}");
    assert_eq!(found.bytes(), bytes(expected), "{what}");
}

#[test]
fn weights_lie_as_the_package_writes_them() {
    let golden = golden();
    let cases = golden["weights"].as_array().expect("a list");
    assert!(cases.len() >= 20);
    for case in cases {
        let coded = coded(case);
        // Quantized inputs are what makes 8 bits bytes rather than packed words.
        let record = record(&layer(&coded), &coded, case["format"] == "int-quantized");
        assert_eq!(serde_json::to_value(record.format).expect("a word"), case["format"]);
        let made = tensors(&record, &coded).expect("values that fit");
        let expected = case["tensors"].as_object().expect("tensors by name");
        assert_eq!(made.len(), expected.len(), "{}", case["name"]);
        for tensor in &made {
            let suffix = tensor.name().strip_prefix("fc.").expect("the layer's name");
            same(tensor, &expected[suffix], &format!("{} {suffix}", case["name"]));
        }
    }
}

#[test]
fn weights_read_back_are_the_values_that_the_package_reads() {
    for case in golden()["weights"].as_array().expect("a list") {
        let coded = coded(case);
        let record = record(&layer(&coded), &coded, case["format"] == "int-quantized");
        let file = tempfile::tempdir().expect("a folder");
        let path = file.path().join("model.safetensors");
        let made = tensors(&record, &coded).expect("values that fit");
        write(&path, &made, &BTreeMap::new()).expect("written");
        let files = TensorFiles::open(&path).expect("whole");
        let weight = packed::<Flex>(&record, &files, &Default::default()).expect("consistent");
        let values = host_floats(unpack(&weight));
        assert_eq!(values, coded.values(), "{}", case["name"]);
        for (ours, theirs) in values.iter().zip(floats(&case["values"])) {
            // `(q - zero) * scale` there, `u * scale + zero * scale` here: off by a rounding at most.
            assert!((ours - theirs).abs() <= 1e-6 * (1.0 + theirs.abs()), "{}", case["name"]);
        }
    }
}

#[test]
fn static_ranges_become_the_scale_and_zero_point_of_the_package() {
    for case in golden()["inputs"].as_array().expect("a list") {
        let scale = floats(&case["input_scale"]["data"])[0];
        let (bits, symmetric) = (integer(&case["num_bits"]) as u32, case["symmetric"] == true);
        let n = (1i32 << bits) as f32;
        let (min, max) = if symmetric {
            let largest = scale * (n / 2.0 - 1.0);
            (-largest, largest)
        } else {
            let zero = -numbers(&case["input_zero_point"]["data"])[0] as f32 - n / 2.0;
            (zero * scale, (zero + n - 1.0) * scale)
        };
        let range = InputRange::Static { min, max };
        let q = InputQuantization { bits, symmetric, rule: ScaleRule::Paper, range };
        let made = input_tensors("fc", &q).expect("values that fit");
        assert_eq!(made.len(), if symmetric { 1 } else { 2 });
        assert_eq!(
            (made[0].name(), made[0].dtype(), made[0].shape()),
            ("fc.input_scale", Dtype::F32, &[1][..])
        );
        let found = f32::from_le_bytes(made[0].bytes().try_into().expect("one float"));
        assert!((found - scale).abs() <= 1e-6 * scale, "{found} {scale}");
        if let Some(zero) = made.get(1) {
            same(zero, &case["input_zero_point"], "zero point");
        }
    }
    let dynamic =
        InputQuantization { bits: 8, symmetric: true, rule: ScaleRule::Paper, range: InputRange::Dynamic };
    assert!(input_tensors("fc", &dynamic).expect("nothing to write").is_empty());
}

#[test]
fn zero_points_beyond_the_codes_are_written_as_integers() {
    let coded = CodedWeight {
        bits: 4,
        kind: CodeKind::Asymmetric,
        shape: [2, 8],
        group: 4,
        codes: (0..16).collect(),
        scales: vec![0.5, 0.25, 1.0, 2.0],
        zeros: vec![80, -3, -200, 0],
    };
    let record = record(&layer(&coded), &coded, false);
    assert_eq!(record.zeros, Some(ZeroLayout::Plain));
    let made = tensors(&record, &coded).expect("values that fit");
    let zeros = made.iter().find(|t| t.name().ends_with("zero_point")).expect("zero points");
    assert_eq!((zeros.dtype(), zeros.shape()), (Dtype::I32, &[2, 2][..]));
    let words: Vec<u8> = [80i32, -3, -200, 0].iter().flat_map(|z| z.to_le_bytes()).collect();
    assert_eq!(zeros.bytes(), words);
}
