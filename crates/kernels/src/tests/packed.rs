//! Packing, unpacking and products with packed weights: every body against the oracle.

use super::*;
use crate::{
    Code, PackedMatrix, TokenQuant, embedding_packed, fake_quantize_rows, linear_packed, linear_quantized,
    oracle, pack_rows, portable, unpack,
};
use burn::backend::Autodiff;

/// A packed weight and its values.
fn weight(out: usize, columns: usize, bits: u32, code: Code, group: usize) -> (PackedMatrix<Flex>, Vec<f32>) {
    weight_on(out, columns, bits, code, group)
}

/// The same on any backend's default device.
pub(super) fn weight_on<B: Backend>(
    out: usize,
    columns: usize,
    bits: u32,
    code: Code,
    group: usize,
) -> (PackedMatrix<B>, Vec<f32>) {
    let mask = (1u32 << bits) - 1;
    let codes: Vec<u8> =
        (0..out * columns).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 13 & mask) as u8).collect();
    let words = pack_rows(&codes, out, columns, bits);
    let count = out * columns / group;
    let scales: Vec<f32> = values(count, bits).iter().map(|v| 0.01 + v.abs() / 50.0).collect();
    let zeros: Vec<i32> = match code {
        Code::Asymmetric => (0..count).map(|i| -((i as i32 * 7) % (1 << bits))).collect(),
        _ => vec![],
    };
    let shape = [out, columns];
    let expected = oracle::unpack(&words, &scales, &zeros, bits, code, shape, group);
    (PackedMatrix::new(words, scales, zeros, bits, code, shape, group, &Default::default()), expected)
}

pub(super) fn kinds(bits: u32) -> Vec<Code> {
    if bits == 1 {
        vec![Code::Binary, Code::Symmetric, Code::Asymmetric]
    } else {
        vec![Code::Symmetric, Code::Asymmetric]
    }
}

const SHAPES: [(usize, usize, usize); 9] = [
    (1, 33, 33),
    (5, 64, 64),
    (3, 96, 32),
    (17, 128, 128),
    (4, 160, 80),
    (6, 384, 64),
    (3, 33, 11),
    (2, 7, 1),
    (130, 96, 96),
];

#[test]
fn unpacking_equals_the_oracle() {
    for bits in 1..=8 {
        for code in kinds(bits) {
            for (out, columns, group) in SHAPES {
                let (p, expected) = weight(out, columns, bits, code, group);
                let what = format!("{bits} bits {code:?} [{out}, {columns}] / {group}");
                assert_eq!(floats(unpack(&p)), expected, "{what}");
                assert_eq!(floats(portable::unpack(&p)), expected, "{what}, portable");
                let q = PackedMatrix::<Autodiff<Flex>>::from_inner(p);
                assert_eq!(floats(unpack(&q).inner()), expected, "{what}, autodiff");
            }
        }
    }
}

#[test]
fn strided_words_unpack() {
    let (mut p, expected) = weight(6, 96, 5, Code::Symmetric, 32);
    p.words = Tensor::cat(vec![p.words.clone(), p.words.clone()], 1).narrow(1, 15, 15);
    p.scales = p.scales.transpose().reshape([3, 6]).transpose();
    assert_eq!(floats(unpack(&p)), expected);
    assert_eq!(floats(portable::unpack(&p)), expected);
}

#[test]
fn empty_weights_and_inputs() {
    let device = Default::default();
    let p = PackedMatrix::<Flex>::new(vec![], vec![], vec![], 3, Code::Symmetric, [0, 8], 8, &device);
    assert_eq!(unpack(&p).dims(), [0, 8]);
    let (p, _) = weight(5, 64, 4, Code::Symmetric, 32);
    let none = Tensor::<Flex, 2>::zeros([0, 64], &device);
    let q = TokenQuant { bits: 8, symmetric: true, full_range: false, range: None };
    assert_eq!(linear_packed(none.clone(), &p, None).dims(), [0, 5]);
    assert_eq!(linear_quantized(none, q, &p, None).dims(), [0, 5]);
    let ids = Tensor::<Flex, 2, Int>::zeros([2, 0], &device);
    assert_eq!(embedding_packed(&p, ids).dims(), [2, 0, 64]);
}

#[test]
fn bytes_count_words_scales_and_zeros() {
    let (p, _) = weight(3, 33, 3, Code::Asymmetric, 11);
    assert_eq!(p.bytes(), 3 * 4 * 4 + 2 * 3 * 3 * 4);
    let (p, _) = weight(3, 32, 1, Code::Binary, 32);
    assert_eq!(p.bytes(), 3 * 4 + 3 * 4);
}

#[test]
fn weight_only_products_equal_the_oracle() {
    for bits in 1..=8 {
        for code in kinds(bits) {
            for (out, columns, group) in SHAPES {
                for rows in [1, 3, 9] {
                    let (p, w) = weight(out, columns, bits, code, group);
                    let x = values(rows * columns, 5);
                    let bias = values(out, 6);
                    let expected = oracle::linear(&x, &w, &bias, columns);
                    let tolerance = 1e-4 * magnitude(&expected).max(1.0);
                    for (layout, t) in layouts(&x, rows, columns) {
                        let what =
                            format!("{bits} bits {code:?} {layout} {rows} x {columns} x {out} / {group}");
                        let bias = Some(tensor(&bias, [out]));
                        let y = linear_packed(t.clone(), &p, bias.clone());
                        assert_eq!(y.dims(), [rows, out]);
                        assert_close(&floats(y), &expected, tolerance, &what);
                        let y = portable::linear_packed(t, &p, bias);
                        assert_close(&floats(y), &expected, tolerance, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn integer_products_equal_simulated_ones() {
    for bits in [1, 2, 3, 4, 8] {
        for code in kinds(bits) {
            for (out, columns, group) in SHAPES {
                for rows in [1, 2, 6, 37] {
                    let (p, w) = weight(out, columns, bits, code, group);
                    let mut x = values(rows * columns, 7);
                    x[(rows - 1) * columns..].fill(0.0);
                    check_quantized(&x, &p, &w);
                }
            }
        }
    }
}

fn check_quantized(x: &[f32], p: &PackedMatrix<Flex>, w: &[f32]) {
    let [out, columns] = p.shape;
    let rows = x.len() / columns;
    let bias = values(out, 8);
    for q in [
        (8, true, true),
        (8, true, false),
        (8, false, true),
        (8, false, false),
        (4, true, false),
        (3, false, true),
    ] {
        let q = TokenQuant { bits: q.0, symmetric: q.1, full_range: q.2, range: None };
        for (range, bias) in [(None, &[][..]), (Some((-1.5, 1.0)), &bias[..])] {
            let q = TokenQuant { range, ..q };
            let simulated = oracle::fake_quantize_rows(x, columns, q);
            let expected = oracle::linear(&simulated, w, bias, columns);
            let tolerance = 1e-5 * magnitude(&expected).max(0.5);
            let what = format!("{q:?} {rows} rows, {:?} {} bits {:?}", p.code, p.bits, p.shape);
            let bias = (!bias.is_empty()).then(|| tensor(bias, [out]));
            for (layout, t) in layouts(x, rows, columns) {
                let y = linear_quantized(t.clone(), q, p, bias.clone());
                assert_close(&floats(y), &expected, tolerance, &format!("{what} {layout}"));
                let y = portable::linear_quantized(t, q, p, bias.clone());
                assert_close(&floats(y), &expected, 10.0 * tolerance, &format!("{what} {layout}, portable"));
            }
        }
    }
}

/// With scales of one, all is integers, and the result is exact.
#[test]
fn integer_accumulators_are_exact() {
    let (rows, out, columns) = (9, 21, 160);
    let codes: Vec<u8> = (0..out * columns).map(|i| (i * 37 % 251) as u8).collect();
    let words = pack_rows(&codes, out, columns, 8);
    let p = PackedMatrix::<Flex>::new(
        words,
        vec![1.0; out],
        vec![],
        8,
        Code::Symmetric,
        [out, columns],
        columns,
        &Default::default(),
    );
    let x: Vec<i32> = (0..rows * columns).map(|i| (i * 29 % 256) as i32 - 128).collect();
    let w: Vec<i32> = codes.iter().map(|c| i32::from(*c) - 128).collect();
    let expected: Vec<f32> = oracle::integer_products(&x, &w, columns).iter().map(|v| *v as f32).collect();
    let floats_of_codes: Vec<f32> = x.iter().map(|v| *v as f32).collect();
    let q = TokenQuant { bits: 8, symmetric: true, full_range: true, range: Some((-128.0, 127.0)) };
    let y = linear_quantized(tensor(&floats_of_codes, [rows, columns]), q, &p, None);
    assert_eq!(floats(y), expected);
}

/// More columns than a 32-bit sum of products holds.
#[test]
fn very_long_rows_do_not_overflow() {
    let columns = 140_000;
    let words = pack_rows(&vec![255u8; columns], 1, columns, 8);
    let p = PackedMatrix::<Flex>::new(
        words,
        vec![1.0],
        vec![0],
        8,
        Code::Asymmetric,
        [1, columns],
        columns,
        &Default::default(),
    );
    let x = Tensor::<Flex, 2>::full([1, columns], -128.0, &Default::default());
    let q = TokenQuant { bits: 8, symmetric: true, full_range: true, range: Some((-128.0, 127.0)) };
    assert_eq!(floats(linear_quantized(x, q, &p, None)), [-128.0 * 255.0 * columns as f32]);
}

#[test]
fn embeddings_unpack_the_rows_asked_for() {
    for bits in 1..=8 {
        let (p, w) = weight(11, 33, bits, kinds(bits)[0], 11);
        let ids = [3, 0, 10, 3, 7, 7];
        let t = Tensor::<Flex, 2, Int>::from_data([[3, 0, 10], [3, 7, 7]], &Default::default());
        let expected: Vec<f32> = ids.iter().flat_map(|i| w[i * 33..(i + 1) * 33].to_vec()).collect();
        let y = embedding_packed(&p, t);
        assert_eq!(y.dims(), [2, 3, 33]);
        assert_eq!(floats(y), expected);
    }
}

#[test]
fn gradients_reach_the_input_of_a_packed_layer() {
    let (p, w) = weight(3, 33, 4, Code::Symmetric, 33);
    let p = PackedMatrix::<Autodiff<Flex>>::from_inner(p);
    let x = Tensor::<Autodiff<Flex>, 2>::from_inner(tensor(&values(33, 1), [1, 33])).require_grad();
    let gradients = linear_packed(x.clone(), &p, None).sum().backward();
    let expected: Vec<f64> = (0..33).map(|k| (0..3).map(|o| f64::from(w[o * 33 + k])).sum()).collect();
    assert_close(&floats(x.grad(&gradients).unwrap()), &expected, 1e-5, "gradient");
    let q = TokenQuant { bits: 8, symmetric: true, full_range: false, range: None };
    let y = linear_quantized(x.clone(), q, &p, None).inner();
    let reference = fake_quantize_rows(x.inner(), q).matmul(tensor(&w, [3, 33]).transpose());
    assert_close(
        &floats(y),
        &floats(reference).into_iter().map(f64::from).collect::<Vec<_>>(),
        1e-4,
        "value",
    );
}
