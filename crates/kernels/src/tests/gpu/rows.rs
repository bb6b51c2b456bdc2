//! Rounding and quantization of rows.

use super::*;
use crate::{
    TokenQuant, fake_binarize_rows, fake_quantize_rows, fake_ternarize_rows, quantize_rows, round_half_even,
};

#[test]
fn rounding_is_half_to_even() {
    let x = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.4999, 0.49999997, -7.0, 1e6];
    let want = [-2.0, -2.0, 0.0, 0.0, 2.0, 2.0, 3.0, 0.0, -7.0, 1e6];
    assert_eq!(back(round_half_even(on_gpu(&x, [10]))), want);
}

#[test]
fn token_quantization_equals_the_cpu_and_zero_rows_stay_zero() {
    let mut x = values(6 * 48, 5);
    x[48..96].fill(0.0);
    for symmetric in [true, false] {
        for full_range in [true, false] {
            let q = TokenQuant { bits: 8, symmetric, full_range, range: None };
            let want = floats(fake_quantize_rows(tensor(&x, [6, 48]), q));
            let got = back(fake_quantize_rows(on_gpu(&x, [6, 48]), q));
            assert!(got[48..96].iter().all(|v| *v == 0.0), "{q:?}");
            // One code is 1/127 of the largest value.
            let step = 2.0 / 127.0;
            let want: Vec<f64> = want.iter().map(|v| f64::from(*v)).collect();
            assert_close(&got, &want, 1.01 * step, &format!("{q:?}"));
        }
    }
}

#[test]
fn rows_of_any_length_are_quantized_as_on_the_cpu() {
    for (rows, columns) in [(1, 1), (3, 7), (2, 128), (5, 129), (300, 33), (4, 1536)] {
        let x = values(rows * columns, (rows + columns) as u32);
        for symmetric in [true, false] {
            for range in [None, Some((-0.75, 0.5))] {
                let q = TokenQuant { bits: 8, symmetric, full_range: false, range };
                let want = floats(fake_quantize_rows(tensor(&x, [rows, columns]), q));
                let got = back(fake_quantize_rows(on_gpu(&x, [rows, columns]), q));
                let off = got.iter().zip(&want).filter(|(g, w)| (**g - **w).abs() > 1e-5).count();
                // A division rounded differently moves a value to the next code where it is near a tie.
                assert!(off * 1000 <= got.len(), "{off} of {rows} x {columns} differ: {q:?}");
            }
        }
    }
    for (rows, columns) in [(1, 1), (3, 7), (300, 33), (4, 1536)] {
        let x = values(rows * columns, columns as u32);
        let want = floats(fake_binarize_rows(tensor(&x, [rows, columns])));
        near(&back(fake_binarize_rows(on_gpu(&x, [rows, columns]))), &want, "binary");
        let want = floats(fake_ternarize_rows(tensor(&x, [rows, columns])));
        assert!(columns < 30 || want.contains(&0.0));
        near(&back(fake_ternarize_rows(on_gpu(&x, [rows, columns]))), &want, "ternary");
    }
    // Read through strides.
    let x = values(6 * 10, 3);
    let q = TokenQuant { bits: 8, symmetric: true, full_range: false, range: None };
    let want = floats(fake_quantize_rows(tensor(&x, [6, 10]).transpose(), q));
    let got = back(fake_quantize_rows(on_gpu(&x, [6, 10]).transpose(), q));
    near(&got, &want, "transposed");
    assert!(back(fake_quantize_rows(on_gpu(&[], [0, 4]), q)).is_empty());
}

#[test]
fn codes_and_scales_equal_the_cpu() {
    for (rows, columns) in [(1, 1), (3, 33), (5, 160)] {
        let x = values(rows * columns, columns as u32);
        for symmetric in [true, false] {
            for range in [None, Some((-0.75, 0.5))] {
                let q = TokenQuant { bits: 8, symmetric, full_range: false, range };
                let want = quantize_rows(tensor(&x, [rows, columns]), q);
                let got = quantize_rows(on_gpu(&x, [rows, columns]), q);
                let codes: Vec<i32> = got.codes.into_data().convert::<i32>().into_vec().unwrap();
                let off = codes.iter().zip(&ints(want.codes)).filter(|(g, w)| g != w).count();
                // A division rounded differently moves a value to the next code where it is near a tie.
                assert!(off * 100 <= codes.len(), "{off} of {rows} x {columns} differ: {q:?}");
                near(&back(got.scale), &floats(want.scale), "scales");
                assert_eq!(got.zero.is_none(), symmetric);
                if let (Some(got), Some(want)) = (got.zero, want.zero) {
                    near(&back(got), &floats(want), "zeros");
                }
            }
        }
    }
}
