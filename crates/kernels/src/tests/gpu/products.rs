//! Products with packed weights.

use super::super::packed::weight_on;
use super::*;
use crate::{Activation, Code, TokenQuant, linear_all, linear_packed, linear_quantized, oracle};
use burn::tensor::DType;

/// bits, code, `[out, in]`, group, rows
type Case = (u32, Code, [usize; 2], usize, usize);

/// Every width and code, one to many rows, groups and whole rows, rows that end within a chunk.
const CASES: [Case; 21] = [
    (1, Code::Binary, [1, 64], 64, 1),
    (1, Code::Asymmetric, [5, 96], 32, 3),
    (2, Code::Symmetric, [17, 160], 80, 2),
    (3, Code::Asymmetric, [6, 384], 64, 1),
    (4, Code::Asymmetric, [5, 922], 922, 2),
    (4, Code::Symmetric, [130, 96], 96, 6),
    // More chunks than a cube has threads.
    (4, Code::Asymmetric, [5, 2560], 128, 1),
    (5, Code::Symmetric, [3, 922], 922, 7),
    (6, Code::Asymmetric, [4, 160], 32, 5),
    (7, Code::Symmetric, [2, 384], 128, 2),
    (8, Code::Symmetric, [17, 160], 160, 1),
    (8, Code::Asymmetric, [3, 64], 32, 3),
    // One output, more rows than a cube takes.
    (8, Code::Symmetric, [1, 96], 96, 33),
    // Unpacked to memory: many rows, or groups that end within a chunk.
    (4, Code::Symmetric, [8, 128], 64, 18),
    (3, Code::Symmetric, [3, 33], 11, 2),
    // More rows than unpack in registers and one scale a row: tensor cores, where there are some, in one tile or several
    // that the edges cut, with blocks of codes that end early.
    (8, Code::Symmetric, [7, 96], 96, 17),
    (4, Code::Symmetric, [130, 160], 160, 70),
    (2, Code::Symmetric, [65, 384], 384, 129),
    (8, Code::Symmetric, [258, 64], 64, 33),
    (1, Code::Binary, [33, 922], 922, 64),
    (3, Code::Symmetric, [72, 128], 128, 20),
];

/// The same matrix three times over: contiguous, transposed in memory, and a slice of a larger one.
fn on_gpu_in_layouts(values: &[f32], rows: usize, columns: usize) -> Vec<(&'static str, Tensor<Gpu, 2>)> {
    let x = on_gpu(values, [rows, columns]);
    let transposed = on_gpu(&floats(tensor(values, [rows, columns]).transpose()), [columns, rows]);
    let padded = Tensor::cat(vec![x.clone() * 0.0 + 9.0, x.clone(), x.clone() * 0.0 - 9.0], 1);
    let sliced = padded.narrow(1, columns, columns);
    vec![("contiguous", x), ("transposed", transposed.transpose()), ("sliced", sliced)]
}

fn name((bits, code, shape, group, rows): Case) -> String {
    format!("{bits} bits {code:?} {shape:?} / {group}, {rows} rows")
}

#[test]
fn weight_only_products_equal_the_oracle() {
    for (i, case) in CASES.into_iter().enumerate() {
        let (bits, code, [out, columns], group, rows) = case;
        let (p, w) = weight_on::<Gpu>(out, columns, bits, code, group);
        let mut x = values(rows * columns, 5);
        x[(rows - 1) * columns..].fill(if rows > 1 { 0.0 } else { 0.5 });
        let bias = values(out, 6);
        let expected = oracle::linear(&x, &w, &bias, columns);
        let plain = oracle::linear(&x, &w, &[], columns);
        let tolerance = RELATIVE * magnitude(&expected).max(1.0);
        for (layout, x) in on_gpu_in_layouts(&x, rows, columns) {
            let what = format!("{} {layout}", name(case));
            let y = linear_packed(x.clone(), &p, Some(on_gpu(&bias, [out])));
            assert_eq!(y.dims(), [rows, out]);
            assert_close(&back(y), &expected, tolerance, &what);
            if layout == "contiguous" && i % 4 == 0 {
                assert_close(&back(linear_packed(x, &p, None)), &plain, tolerance, &what);
            }
        }
    }
}

#[test]
fn products_with_quantized_inputs_equal_simulated_ones() {
    for (i, case) in CASES.into_iter().enumerate() {
        let (bits, code, [out, columns], group, rows) = case;
        let (p, w) = weight_on::<Gpu>(out, columns, bits, code, group);
        let mut x = values(rows * columns, 7);
        x[(rows - 1) * columns..].fill(if rows > 1 { 0.0 } else { 0.5 });
        let bias = values(out, 8);
        let range = (i % 5 == 4).then_some((-1.5, 1.0));
        let q = TokenQuant { bits: 8, symmetric: i % 2 == 0, full_range: i % 3 == 0, range };
        let simulated = oracle::fake_quantize_rows(&x, columns, q);
        let expected = oracle::linear(&simulated, &w, &bias, columns);
        // A division rounded differently moves an input to the next code where it is near a tie.
        let code = 4.0 / 255.0 * w.iter().fold(0.0f32, |m, w| m.max(w.abs()));
        let tolerance = f64::from(code) + RELATIVE * magnitude(&expected).max(1.0);
        let y = linear_quantized(on_gpu(&x, [rows, columns]), q, &p, Some(on_gpu(&bias, [out])));
        assert_close(&back(y), &expected, tolerance, &format!("{} {q:?}", name(case)));
    }
}

#[test]
fn products_of_one_input_equal_single_ones() {
    for (rows, symmetric) in [(2, true), (20, false)] {
        let kinds = [(4, Code::Symmetric, 5, 32), (4, Code::Asymmetric, 3, 64), (3, Code::Symmetric, 2, 16)];
        let weights = kinds.map(|(bits, code, out, group)| weight_on::<Gpu>(out, 64, bits, code, group));
        let (x, bias) = (values(rows * 64, 4), values(5, 9));
        let q = TokenQuant { bits: 8, symmetric, full_range: false, range: Some((-2.0, 2.0)) };
        for (q, activation) in
            [(None, Activation::GeluTanh), (Some(q), Activation::Gelu), (Some(q), Activation::Relu)]
        {
            let bias_of = |i| (i == 0).then(|| on_gpu(&bias, [5]));
            let layers = weights.iter().enumerate().map(|(i, (p, _))| (p, bias_of(i))).collect();
            let found = linear_all(on_gpu(&x, [rows, 64]), q, layers, activation);
            let seen = q.map_or(x.clone(), |q| oracle::fake_quantize_rows(&x, 64, q));
            for (i, (y, (p, w))) in found.into_iter().zip(&weights).enumerate() {
                let sums = oracle::linear(&seen, w, if i == 0 { &bias } else { &[] }, 64);
                let sums: Vec<f32> = sums.into_iter().map(|v| v as f32).collect();
                let expected = floats(activation.forward(tensor(&sums, [rows, p.shape[0]])));
                near(&back(y), &expected, &format!("{rows} rows, {q:?}, {activation:?}, weight {i}"));
            }
        }
    }
}

#[test]
fn no_rows_give_no_rows() {
    let (p, _) = weight_on::<Gpu>(5, 64, 4, Code::Symmetric, 32);
    let none = || on_gpu(&[], [0, 64]);
    let q = TokenQuant { bits: 8, symmetric: true, full_range: false, range: None };
    assert_eq!(back(linear_packed(none(), &p, None)).len(), 0);
    assert_eq!(back(linear_quantized(none(), q, &p, None)).len(), 0);
}

#[test]
fn inputs_of_half_precision_keep_their_type() {
    let device = Default::default();
    if !<Gpu as Backend>::supports_dtype(&device, DType::F16) {
        return;
    }
    for rows in [1, 6] {
        let (p, w) = weight_on::<Gpu>(6, 128, 4, Code::Symmetric, 32);
        let x = values(rows * 128, 3);
        let expected = oracle::linear(&x, &w, &[], 128);
        let y = linear_packed(on_gpu(&x, [rows, 128]).cast(DType::F16), &p, None);
        assert_eq!(y.dtype(), DType::F16);
        assert_close(&back(y), &expected, 5e-3 * magnitude(&expected).max(1.0), &format!("{rows} rows"));
    }
}

#[test]
fn kernels_are_named() {
    use crate::{PackedProduct, product_kernel};
    let (p, _) = weight_on::<Gpu>(5, 64, 4, Code::Symmetric, 64);
    on_gpu(&[0.0], [1, 1]);
    let name = |rows, q| product_kernel::<Gpu>(PackedProduct::of(rows, q, &p), &Default::default());
    for (rows, form) in [
        (3, "codes unpacked in registers, 4 rows at a time"),
        (300, "the weight unpacked to memory for a product of floats"),
    ] {
        let found = name(rows, None);
        assert!(found.starts_with(&format!("{form}; not 16-bit floats on tensor cores: ")), "{found}");
    }
    let q = TokenQuant { bits: 8, symmetric: true, full_range: false, range: None };
    let quantized = name(300, Some(q));
    let refused = "the weight unpacked to memory for a product of floats; not int8 on tensor cores: ";
    assert!(quantized == "int8 on tensor cores" || quantized.starts_with(refused), "{quantized}");
}
