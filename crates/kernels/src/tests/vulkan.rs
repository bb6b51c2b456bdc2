//! The public functions on Vulkan, a software device included, against the CPU.

use super::packed::weight_on;
use super::*;
use crate::backend::Wgpu;
use crate::{
    Code, TokenQuant, attention, embedding_packed, fake_binarize_rows, fake_quantize_rows,
    fake_ternarize_rows, gelu, layer_norm, linear_packed, linear_quantized, round_half_even, unpack,
};

/// Graphics processors round divisions differently: a code may be off by one where it is near a tie.
const RELATIVE: f64 = 1e-3;

fn on_gpu<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<Wgpu, D> {
    crate::register::<Wgpu>();
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &Default::default())
}

fn back<const D: usize>(x: Tensor<Wgpu, D>) -> Vec<f32> {
    x.into_data().convert::<f32>().into_vec().unwrap()
}

#[track_caller]
fn near(got: &[f32], expected: &[f32], what: &str) {
    let expected: Vec<f64> = expected.iter().map(|v| f64::from(*v)).collect();
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    assert_close(got, &expected, RELATIVE * largest.max(1e-6), what);
}

#[test]
fn rounding_is_half_to_even() {
    let x = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.4999, 0.49999997, -7.0, 1e6];
    let want = [-2.0, -2.0, 0.0, 0.0, 2.0, 2.0, 3.0, 0.0, -7.0, 1e6];
    assert_eq!(back(round_half_even(on_gpu(&x, [10]))), want);
}

#[test]
fn packed_products_equal_the_cpu() {
    let kinds = [
        (1, Code::Binary),
        (2, Code::Symmetric),
        (3, Code::Symmetric),
        (4, Code::Asymmetric),
        (8, Code::Symmetric),
    ];
    for (bits, code) in kinds {
        for (out, columns, group) in [(1, 64, 64), (5, 96, 32), (17, 160, 80), (8, 384, 384), (3, 33, 11)] {
            let what = format!("{bits} bits {code:?} [{out}, {columns}] / {group}");
            let (cpu, values) = weight_on::<Flex>(out, columns, bits, code, group);
            let (gpu, _) = weight_on::<Wgpu>(out, columns, bits, code, group);
            near(&back(unpack(&gpu)), &values, &what);
            let x = super::values(7 * columns, bits);
            let product = linear_packed(tensor(&x, [7, columns]), &cpu, None);
            near(&back(linear_packed(on_gpu(&x, [7, columns]), &gpu, None)), &floats(product), &what);
            let q = TokenQuant { bits: 8, symmetric: true, full_range: false, range: None };
            let product = linear_quantized(tensor(&x, [7, columns]), q, &cpu, None);
            near(&back(linear_quantized(on_gpu(&x, [7, columns]), q, &gpu, None)), &floats(product), &what);
        }
    }
}

/// Tables whose scales, or words, are one column beside wider words or scales were once selected from
/// wrongly by fused kernels.
#[test]
fn embeddings_of_packed_tables_equal_the_cpu() {
    let picks: [(&[i32], [usize; 2]); 2] = [(&[3, 19, 0, 7, 7, 1], [2, 3]), (&[19], [1, 1])];
    let kinds = [(8, Code::Symmetric), (4, Code::Asymmetric), (3, Code::Symmetric)];
    for (bits, code) in kinds {
        for (columns, group) in [(96, 96), (96, 32), (33, 11), (4, 2), (4, 4)] {
            let (cpu, _) = weight_on::<Flex>(20, columns, bits, code, group);
            let (gpu, _) = weight_on::<Wgpu>(20, columns, bits, code, group);
            for (ids, shape) in picks {
                let ids = TensorData::new(ids.to_vec(), shape);
                let want = embedding_packed(&cpu, Tensor::from_data(ids.clone(), &Default::default()));
                let got = embedding_packed(&gpu, Tensor::from_data(ids, &Default::default()));
                let what = format!("{bits} bits {code:?} [20, {columns}] / {group}, ids {shape:?}");
                near(&back(got), &floats(want), &what);
            }
        }
    }
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
fn elementwise_functions_and_attention_equal_the_cpu() {
    let x = values(5 * 96, 1);
    let (gamma, beta) = (values(96, 2), values(96, 3));
    near(&back(gelu(on_gpu(&x, [5, 96]))), &floats(gelu(tensor(&x, [5, 96]))), "gelu");
    let want = layer_norm(tensor(&x, [5, 96]), tensor(&gamma, [96]), tensor(&beta, [96]), 1e-12);
    let got = layer_norm(on_gpu(&x, [5, 96]), on_gpu(&gamma, [96]), on_gpu(&beta, [96]), 1e-12);
    near(&back(got), &floats(want), "layer norm");
    let shape = [2, 3, 7, 16];
    let parts: Vec<Vec<f32>> = (0..3).map(|s| values(2 * 3 * 7 * 16, 10 + s)).collect();
    for causal in [false, true] {
        let [q, k, v] = [0, 1, 2].map(|i: usize| tensor(&parts[i], shape));
        let want = attention(q, k, v, None, causal, 0.25);
        let [q, k, v] = [0, 1, 2].map(|i: usize| on_gpu(&parts[i], shape));
        near(&back(attention(q, k, v, None, causal, 0.25)), &floats(want), "attention");
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
fn optimizer_steps_and_norms_equal_plain_loops() {
    crate::register::<Wgpu>();
    super::optimizer::steps_are_those_of_the_paper::<Wgpu>();
    super::optimizer::the_factor_limits_the_common_norm::<Wgpu>();
}
