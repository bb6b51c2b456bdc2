//! Products with packed weights.

use super::super::packed::weight_on;
use super::*;
use crate::{
    Activation, Code, PackedMatrix, PackedProduct, TokenQuant, linear_all, linear_packed, linear_quantized,
    oracle, product_kernel,
};
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

/// Has one bit more than the operands of tensor cores that multiply 32-bit floats.
const PROBE: f32 = 1.0 + 1.0 / 4096.0;

/// What each product of `x: [rows, columns]` and `w: [out, columns]` would be without signs: the unit of errors of rounded
/// operands.
fn absolute_products(x: &[f32], w: &[f32], columns: usize) -> Vec<f64> {
    let absolute = |values: &[f32]| values.iter().map(|v| v.abs()).collect::<Vec<_>>();
    oracle::linear(&absolute(x), &absolute(w), &[], columns)
}

/// How far, relative to [`absolute_products`], a product of floats with an unpacked weight may be off because burn's own
/// product rounds both operands to 11 bits, which it does where it finds that fastest. Measured on the spot, with a product
/// of the same sizes in the same layout: inputs of [`PROBE`] times ones.
fn operand_rounding(probe: Tensor<Gpu, 2>, p: &PackedMatrix<Gpu>) -> f64 {
    let [rows, columns] = probe.dims();
    let kernel = product_kernel::<Gpu>(PackedProduct::of(rows, None, p), &Default::default());
    if !kernel.starts_with("the weight unpacked to memory for a product of floats") {
        return 0.0;
    }
    let ones = on_gpu(&vec![1.0; p.shape[0] * columns], p.shape);
    let exact = columns as f64 * f64::from(PROBE);
    let rounded =
        back(probe.matmul(ones.transpose())).iter().any(|y| (f64::from(*y) / exact - 1.0).abs() > 1e-5);
    if rounded { 2.0 * f64::powi(2.0, -11) } else { 0.0 }
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
        let sizes = absolute_products(&x, &w, columns);
        let probes = on_gpu_in_layouts(&vec![PROBE; rows * columns], rows, columns);
        for ((layout, x), (_, probe)) in on_gpu_in_layouts(&x, rows, columns).into_iter().zip(probes) {
            let what = format!("{} {layout}", name(case));
            let y = linear_packed(x.clone(), &p, Some(on_gpu(&bias, [out])));
            assert_eq!(y.dims(), [rows, out]);
            // Once it is known which form was the faster one.
            let rounding = operand_rounding(probe, &p);
            let close = |y: Tensor<Gpu, 2>, expected: &[f64]| {
                for (i, (y, (e, size))) in back(y).iter().zip(expected.iter().zip(&sizes)).enumerate() {
                    let limit = tolerance + rounding * size;
                    assert!((f64::from(*y) - e).abs() <= limit, "{what}: element {i} is {y}, not {e}");
                }
            };
            close(y, &expected);
            if layout == "contiguous" && i % 4 == 0 {
                close(linear_packed(x, &p, None), &plain);
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

/// Whole steps of 64 bytes of codes, so that tensor cores multiply them where there are some: few rows and more, one output
/// and tiles that end early, groups of one step and of several.
const HALVES: [Case; 14] = [
    (8, Code::Symmetric, [40, 128], 64, 1),
    (8, Code::Asymmetric, [17, 192], 192, 4),
    (8, Code::Symmetric, [1, 64], 64, 3),
    (4, Code::Symmetric, [33, 384], 128, 1),
    (4, Code::Asymmetric, [16, 256], 256, 2),
    (4, Code::Symmetric, [130, 2432], 2432, 1),
    (4, Code::Asymmetric, [50, 128], 128, 9),
    (2, Code::Symmetric, [70, 512], 256, 4),
    (2, Code::Asymmetric, [5, 256], 256, 1),
    (1, Code::Binary, [34, 1024], 512, 2),
    (1, Code::Binary, [65, 512], 512, 1),
    // More tiles than blocks run at once on any device yet.
    (4, Code::Symmetric, [9000, 128], 128, 1),
    (8, Code::Symmetric, [9000, 64], 64, 2),
    (1, Code::Binary, [9000, 512], 512, 1),
];

#[test]
fn few_rows_of_half_floats_equal_the_oracle() {
    for (dtype, relative) in half_floats() {
        for (i, case) in HALVES.into_iter().enumerate() {
            let (bits, code, [out, columns], group, rows) = case;
            let (p, w) = weight_on::<Gpu>(out, columns, bits, code, group);
            let x = half_inputs(rows, columns, dtype);
            let bias = values(out, 6);
            let inputs = || on_gpu(&x, [rows, columns]).cast(dtype);
            let with_bias = || (i % 2 == 0).then(|| on_gpu(&bias, [out]).cast(dtype));
            let added = if i % 2 == 0 { bias.as_slice() } else { &[] };
            let what = format!("{} {dtype:?}", name(case));
            let expected = oracle::linear(&x, &w, added, columns);
            let y = linear_packed(inputs(), &p, with_bias());
            assert_eq!(y.dtype(), dtype);
            assert_close(&back(y), &expected, relative * largest(&expected), &what);
            let range = (i % 4 == 3).then_some((-1.5, 1.0));
            let q = TokenQuant { bits: 8, symmetric: i % 3 != 0, full_range: i % 5 == 0, range };
            let simulated = oracle::fake_quantize_rows(&x, columns, q);
            let expected = oracle::linear(&simulated, &w, added, columns);
            let y = back(linear_quantized(inputs(), q, &p, with_bias()));
            assert_close(&y, &expected, relative * largest(&expected), &format!("{what} {q:?}"));
        }
    }
}

#[test]
fn inputs_of_any_size_are_multiplied_as_exactly() {
    for (dtype, relative) in half_floats() {
        let (p, w) = weight_on::<Gpu>(20, 512, 4, Code::Symmetric, 128);
        // From the smallest whole floats to large ones, a step of zeros, and one input far above all others.
        for (size, outlier) in [(1.0, 1.0), (6e-5, 1.0), (1000.0, 1.0), (1.0, 500.0)] {
            let mut x: Vec<f32> = half_inputs(1, 512, dtype).iter().map(|v| v * size).collect();
            x[128..256].fill(0.0);
            x[300] *= outlier;
            let rounded = back(on_gpu(&x, [1, 512]).cast(dtype));
            let expected = oracle::linear(&rounded, &w, &[], 512);
            let y = back(linear_packed(on_gpu(&x, [1, 512]).cast(dtype), &p, None));
            // Between products that nearly cancel there is what f16 cannot hold.
            let smallest = if dtype == DType::F16 { 6e-8 } else { 0.0 };
            let what = format!("{dtype:?} {size} {outlier}");
            assert_close(&y, &expected, relative * largest(&expected) + smallest, &what);
        }
        let mut x = half_inputs(1, 512, dtype);
        x[7] = f32::NAN;
        let y = back(linear_packed(on_gpu(&x, [1, 512]).cast(dtype), &p, None));
        assert!(y.iter().all(|y| y.is_nan()), "what is no number gives none: {dtype:?}");
    }
}

/// The types of 16 bits that the device has, and the relative error of a result: its own rounding, and the sums'.
fn half_floats() -> Vec<(DType, f64)> {
    on_gpu(&[0.0], [1, 1]);
    let known = |dtype| <Gpu as Backend>::supports_dtype(&Default::default(), dtype);
    [(DType::F16, 1e-3), (DType::BF16, 5e-3)].into_iter().filter(|(dtype, _)| known(*dtype)).collect()
}

/// Inputs as a type of 16 bits holds them; the last of several rows is zero.
fn half_inputs(rows: usize, columns: usize, dtype: DType) -> Vec<f32> {
    let mut x = back(on_gpu(&values(rows * columns, 3), [rows, columns]).cast(dtype));
    if rows > 1 {
        x[(rows - 1) * columns..].fill(0.0);
    }
    x
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, v| most.max(v.abs()))
}

#[test]
fn kernels_are_named() {
    let (p, _) = weight_on::<Gpu>(5, 64, 4, Code::Symmetric, 64);
    on_gpu(&[0.0], [1, 1]);
    let name = |rows, q| product_kernel::<Gpu>(PackedProduct::of(rows, q, &p), &Default::default());
    for (rows, form) in [
        (3, "codes unpacked in registers, 4 rows at a time"),
        (3000, "the weight unpacked to memory for a product of floats"),
    ] {
        let found = name(rows, None);
        assert!(found.starts_with(&format!("{form}; not 16-bit floats on tensor cores: ")), "{found}");
    }
    let q = TokenQuant { bits: 8, symmetric: true, full_range: false, range: None };
    let quantized = name(3000, Some(q));
    let refused = "the weight unpacked to memory for a product of floats; not int8 on tensor cores: ";
    assert!(quantized == "int8 on tensor cores" || quantized.starts_with(refused), "{quantized}");
}

#[test]
fn the_faster_form_is_found_once() {
    let (p, w) = weight_on::<Gpu>(5, 96, 4, Code::Symmetric, 32);
    let (x, rows) = (values(40 * 96, 3), 40);
    let name = || product_kernel::<Gpu>(PackedProduct::of(rows, None, &p), &Default::default());
    on_gpu(&[0.0], [1, 1]);
    assert!(name().contains(", as will be measured; "), "{}", name());
    let expected = oracle::linear(&x, &w, &[], 96);
    let sizes = absolute_products(&x, &w, 96);
    for _ in 0..2 {
        let y = back(linear_packed(on_gpu(&x, [rows, 96]), &p, None));
        let rounding = operand_rounding(on_gpu(&vec![PROBE; rows * 96], [rows, 96]), &p);
        for (i, (y, (e, size))) in y.iter().zip(expected.iter().zip(&sizes)).enumerate() {
            let limit = RELATIVE + rounding * size;
            assert!((f64::from(*y) - e).abs() <= limit, "element {i} is {y}, not {e}");
        }
        assert!(name().contains(", measured to be the faster form; "), "{}", name());
    }
}
