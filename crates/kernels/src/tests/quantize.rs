//! Rounding and quantization of rows: every body against the oracle.

use super::*;
use crate::{TokenQuant, fake_quantize_rows, oracle, portable, quantize_rows, round_half_even};
use burn::backend::Autodiff;

fn quantizations() -> Vec<TokenQuant> {
    let mut all = vec![];
    for bits in 3..=8 {
        for symmetric in [true, false] {
            for full_range in [true, false] {
                for range in [None, Some((-1.0, 0.7)), Some((-0.25, -0.1)), Some((0.0, 0.0))] {
                    all.push(TokenQuant { bits, symmetric, full_range, range });
                }
            }
        }
    }
    all
}

#[test]
fn ties_go_to_even() {
    let x =
        [-2.5f32, -1.5, -0.5, 0.5, 1.5, 2.5, 0.499_999_97, -0.499_999_97, 8_388_609.0, -4_194_303.5, 1e30];
    let expected: Vec<f32> = x.iter().map(|v| v.round_ties_even()).collect();
    let t = tensor(&x, [x.len()]);
    assert_eq!(floats(round_half_even(t.clone())), expected);
    assert_eq!(floats(portable::round_half_even(t.clone())), expected);
    assert_eq!(floats(portable::round_by_adding(t.clone())), expected);
    assert_eq!(floats(round_half_even(t.reshape([1, 1, x.len()]))), expected);
}

#[test]
fn adding_rounds_as_comparing_does() {
    let x: Vec<f32> = (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(0x9E37_79B1)) % 9e6).collect();
    let x: Vec<f32> = x.into_iter().filter(|v| v.is_finite()).collect();
    let t = tensor(&x, [x.len()]);
    assert_eq!(floats(portable::round_by_adding(t.clone())), floats(portable::round_half_even(t)));
}

#[test]
fn a_range_becomes_a_scale_and_a_zero_point() {
    let rule = |symmetric, full_range| TokenQuant { bits: 4, symmetric, full_range, range: None };
    // 16 codes, 7 steps or 8 to either side of zero.
    assert_eq!(rule(true, false).scale_and_zero_point(-3.5, 1.0), (0.5, 0.0));
    assert_eq!(rule(true, false).scale_and_zero_point(-1.0, 3.5), (0.5, 0.0));
    assert_eq!(rule(true, true).scale_and_zero_point(-4.0, 1.0), (0.5, 0.0));
    // 15 steps over a range with zero in it, or 16 over the range as it is.
    assert_eq!(rule(false, false).scale_and_zero_point(-1.25, 6.25), (0.5, -2.0));
    assert_eq!(rule(false, false).scale_and_zero_point(2.0, 7.5), (0.5, 0.0));
    assert_eq!(rule(false, false).scale_and_zero_point(-7.5, -2.0), (0.5, -15.0));
    assert_eq!(rule(false, true).scale_and_zero_point(2.0, 10.0), (0.5, 4.0));
    // A tie goes to the even one; a range without length has scale 1.
    assert_eq!(rule(false, true).scale_and_zero_point(-1.25, 6.75).1, -2.0);
    for symmetric in [true, false] {
        for full_range in [true, false] {
            assert_eq!(rule(symmetric, full_range).scale_and_zero_point(0.0, 0.0), (1.0, 0.0));
        }
    }
    assert_eq!(rule(false, true).scale_and_zero_point(3.0, 3.0), (1.0, 3.0));
}

#[test]
fn portable_and_cpu_bodies_equal_the_oracle() {
    for (rows, columns) in [(1, 1), (3, 33), (2, 64), (5, 96), (7, 128), (4, 160), (3, 384), (64, 300)] {
        let mut x = values(rows * columns, columns as u32);
        if rows > 2 {
            x[columns..2 * columns].fill(0.0);
            x[2 * columns..3 * columns].fill(0.3);
        }
        for q in quantizations() {
            let expected = oracle::quantize_rows(&x, columns, q);
            let simulated = oracle::fake_quantize_rows(&x, columns, q);
            for (layout, t) in layouts(&x, rows, columns) {
                let what = format!("{layout} {rows} x {columns}, {q:?}");
                for rows in [quantize_rows(t.clone(), q), portable::quantize_rows(t.clone(), q)] {
                    assert_eq!(floats(rows.clone().dequantize()), simulated, "{what}: values");
                    assert_eq!(ints(rows.codes), expected.codes, "{what}: codes");
                    assert_eq!(floats(rows.scale), expected.scale, "{what}: scale");
                    assert_eq!(rows.zero.is_none(), q.symmetric);
                    if let Some(zero) = rows.zero {
                        assert_eq!(floats(zero), expected.zero, "{what}: zero");
                    }
                }
                assert_eq!(floats(fake_quantize_rows(t.clone(), q)), simulated, "{what}");
                assert_eq!(floats(portable::fake_quantize_rows(t, q)), simulated, "{what}, portable");
            }
            assert!(simulated.iter().all(|v| v.is_finite()));
        }
    }
}

#[test]
fn empty_tensors_stay_empty() {
    for q in quantizations() {
        for shape in [[0, 5], [3, 0]] {
            let x = Tensor::<Flex, 2>::zeros(shape, &Default::default());
            assert_eq!(fake_quantize_rows(x.clone(), q).dims(), shape);
            assert_eq!(quantize_rows(x.clone(), q).codes.dims(), shape);
            assert_eq!(portable::quantize_rows(x, q).scale.dims(), [shape[0], 1]);
        }
    }
}

/// What PyTorch gives for DeepSpeed's formulas in float32.
#[test]
fn golden_vectors_of_deepspeed() {
    let x = [-1.0f32, -0.6, -0.25, 0.0, 0.1, 0.26, 0.5, 0.9];
    let check = |bits, symmetric, range, columns, expected: [f32; 8]| {
        let q = TokenQuant { bits, symmetric, full_range: true, range };
        let got = floats(fake_quantize_rows(tensor(&x, [8 / columns, columns]), q));
        for (g, e) in got.iter().zip(expected) {
            assert!((g - e).abs() <= 1e-6 * e.abs(), "{bits} bits, symmetric {symmetric}: {got:?}");
        }
    };
    let sym8 = [-1.0, -0.601_562_5, -0.25, 0.0, 0.101_562_5, 0.257_812_5, 0.5, 0.898_437_5];
    check(8, true, None, 8, sym8);
    check(8, true, Some((-1.0, 0.5)), 8, sym8);
    check(4, true, None, 8, [-1.0, -0.625, -0.25, 0.0, 0.125, 0.25, 0.5, 0.875]);
    check(3, true, None, 8, [-1.0, -0.5, -0.25, 0.0, 0.0, 0.25, 0.5, 0.75]);
    let second = [0.098_437_5, 0.260_156_24, 0.499_218_73, 0.892_968_7];
    check(8, true, None, 4, [-1.0, -0.601_562_5, -0.25, 0.0, second[0], second[1], second[2], second[3]]);
    let asym8 =
        [-1.001_953_1, -0.601_171_85, -0.252_343_77, 0.0, 0.096_484_3, 0.259_765_63, 0.497_265_58, 0.890_625];
    check(8, false, None, 8, asym8);
    check(4, false, None, 8, [-0.95, -0.593_75, -0.2375, 0.0, 0.118_75, 0.2375, 0.475, 0.831_25]);
    check(4, false, None, 4, [-1.0, -0.625, -0.25, -0.0625, 0.1, 0.25, 0.5, 0.85]);
    let q = TokenQuant { bits: 8, symmetric: true, full_range: true, range: Some((-0.5, -0.1)) };
    let clipped = floats(fake_quantize_rows(tensor(&x, [1, 8]), q));
    assert_eq!((clipped[0], clipped[7]), (-0.5, 0.496_093_75));
}

#[test]
fn a_nan_spoils_its_row_and_no_other() {
    for symmetric in [true, false] {
        let q = TokenQuant { bits: 8, symmetric, full_range: false, range: None };
        let x = tensor(&[1.0, f32::NAN, 2.0, 3.0], [2, 2]);
        let y = floats(quantize_rows(x, q).dequantize());
        assert!(y[0].is_nan() && y[1].is_nan() && y[2].is_finite() && y[3].is_finite());
    }
}

#[test]
fn shared_tensors_are_not_changed() {
    let x = tensor(&[0.3, 0.7], [1, 2]);
    let q = TokenQuant { bits: 3, symmetric: true, full_range: true, range: None };
    let _ = fake_quantize_rows(x.clone(), q);
    assert_eq!(floats(x), [0.3, 0.7]);
}

#[test]
fn differentiable_backends_give_the_same_values() {
    for q in quantizations() {
        let x = values(66, 1);
        let t = Tensor::<Autodiff<Flex>, 2>::from_inner(tensor(&x, [2, 33])).require_grad();
        let y = fake_quantize_rows(t.clone(), q).inner();
        assert_eq!(floats(y), oracle::fake_quantize_rows(&x, 33, q));
        let unregistered = Tensor::<Autodiff<Autodiff<Flex>>, 2>::from_inner(t);
        let y = fake_quantize_rows(unregistered, q).inner().inner();
        assert_eq!(floats(y), oracle::fake_quantize_rows(&x, 33, q));
    }
}
