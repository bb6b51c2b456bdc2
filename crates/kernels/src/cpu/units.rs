//! Products in the instructions of every unit that this machine has, against the oracle.

use super::linear::{linear, linear_packed};
use super::product::linear_quantized;
use super::tile::Unit;
use crate::activation::Activation;
use crate::{Code, PackedMatrix, TokenQuant, oracle, pack_rows};
use burn::backend::Flex;
use burn::prelude::*;

/// Rows, outputs, columns, group: tiles and panels that are not full, groups that are no multiple of four, many rows.
const SHAPES: [[usize; 4]; 10] = [
    [1, 1, 64, 64],
    [13, 33, 96, 96],
    [5, 64, 128, 32],
    [25, 40, 160, 160],
    [2, 31, 384, 64],
    [12, 32, 33, 11],
    [3, 65, 7, 1],
    [130, 7, 520, 520],
    [26, 34, 514, 257],
    [270, 200, 48, 16],
];

fn values(count: usize, seed: u32) -> Vec<f32> {
    let value = |i: u32| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
    (0..count as u32).map(value).collect()
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<Flex, D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &Default::default())
}

/// A weight and its values.
fn weight(shape: [usize; 2], bits: u32, code: Code, group: usize) -> (PackedMatrix<Flex>, Vec<f32>) {
    let [out, columns] = shape;
    let codes: Vec<u8> = (0..out * columns).map(|i| (i * 37 % 251 % (1 << bits)) as u8).collect();
    let words = pack_rows(&codes, out, columns, bits);
    let count = out * columns / group;
    let scales: Vec<f32> = (0..count).map(|i| 0.01 + (i % 7) as f32 / 500.0).collect();
    let zeros = if code == Code::Asymmetric { (0..count).map(|i| -(i as i32 % 3)).collect() } else { vec![] };
    let expected = oracle::unpack(&words, &scales, &zeros, bits, code, shape, group);
    (PackedMatrix::new(words, scales, zeros, bits, code, shape, group, &Default::default()), expected)
}

#[track_caller]
fn check(got: Tensor<Flex, 2>, expected: &[f64], tolerance: f64, what: &str) {
    let got = got.into_data().into_vec::<f32>().unwrap();
    let unit = expected.iter().map(|v| v.abs()).sum::<f64>() / expected.len() as f64;
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!(
            (f64::from(*g) - e).abs() <= tolerance * unit.max(0.5),
            "{what}: element {i} is {g}, not {e}"
        );
    }
}

fn activated(y: Vec<f64>, activation: Activation) -> Vec<f64> {
    let apply = |v: f64| match activation {
        Activation::Identity => v,
        Activation::Relu => v.max(0.0),
        Activation::Gelu => oracle::gelu(v as f32),
        Activation::GeluTanh => oracle::gelu_tanh(v as f32),
    };
    y.into_iter().map(apply).collect()
}

#[test]
fn quantized_products() {
    let symmetric = TokenQuant { bits: 8, symmetric: true, full_range: false, range: None };
    let asymmetric = TokenQuant { symmetric: false, ..symmetric };
    for unit in Unit::available() {
        for [rows, out, columns, group] in SHAPES {
            let mut x = values(rows * columns, 3);
            x[(rows - 1) * columns..].fill(0.0);
            let bias = values(out, 5);
            let kinds =
                [(8, Code::Symmetric), (4, Code::Asymmetric), (2, Code::Symmetric), (1, Code::Binary)];
            for ((bits, code), q) in kinds.into_iter().flat_map(|k| [(k, symmetric), (k, asymmetric)]) {
                let (p, w) = weight([out, columns], bits, code, group);
                let simulated = oracle::fake_quantize_rows(&x, columns, q);
                let expected = activated(oracle::linear(&simulated, &w, &bias, columns), Activation::Gelu);
                let layers = vec![(&p, Some(tensor(&bias, [out]))), (&p, Some(tensor(&bias, [out])))];
                for y in linear_quantized(unit, tensor(&x, [rows, columns]), q, layers, Activation::Gelu) {
                    check(
                        y,
                        &expected,
                        1e-5,
                        &format!("{unit:?} {bits} bits {rows} x {columns} x {out} / {group}"),
                    );
                }
            }
        }
    }
}

#[test]
fn float_products() {
    let all = [Activation::Identity, Activation::Relu, Activation::Gelu, Activation::GeluTanh];
    for unit in Unit::available() {
        for ([rows, out, columns, group], activation) in SHAPES.into_iter().zip(all.into_iter().cycle()) {
            let (x, bias) = (values(rows * columns, 7), values(out, 5));
            let what = format!("{unit:?} {rows} x {columns} x {out} / {group}");
            let (p, w) = weight([out, columns], 4, Code::Asymmetric, group);
            let expected = activated(oracle::linear(&x, &w, &bias, columns), activation);
            let (x, bias) = (tensor(&x, [rows, columns]), Some(tensor(&bias, [out])));
            check(linear_packed(unit, x.clone(), &p, bias.clone(), activation), &expected, 1e-4, &what);
            // Once with the outputs contiguous, once with the inputs.
            let transposed = tensor(&w, [out, columns]).transpose();
            let copied = Tensor::from_data(transposed.clone().into_data(), &Default::default());
            for w in [transposed, copied] {
                check(linear(x.clone(), w, bias.clone(), activation), &expected, 1e-4, &what);
            }
        }
    }
}

/// A weight whose tensors were replaced is laid out anew.
#[test]
fn a_changed_weight_is_not_mistaken_for_the_old_one() {
    let (mut p, w) = weight([3, 8], 4, Code::Symmetric, 8);
    let x = values(16, 1);
    let product = |p: &PackedMatrix<Flex>| {
        linear_packed(Unit::best(), tensor(&x, [2, 8]), p, None, Activation::Identity)
    };
    check(product(&p), &oracle::linear(&x, &w, &[], 8), 1e-5, "as made");
    p.scales = p.scales.clone() * 2.0;
    let doubled: Vec<f32> = w.iter().map(|w| 2.0 * w).collect();
    check(product(&p), &oracle::linear(&x, &doubled, &[], 8), 1e-5, "with other scales");
}
