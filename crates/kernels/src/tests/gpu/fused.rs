//! Normalization, activations, attention.

use super::*;
use crate::oracle;
use crate::{add_layer_norm, attention, gelu, layer_norm};

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
fn layer_norms_of_any_width_equal_the_oracle() {
    for (rows, width, every) in [(1, 1, 1), (3, 33, 3), (6, 96, 2), (2, 1030, 1), (4, 768, 4)] {
        let (x, residual) = (values(rows * width, 1), values(every * width, 4));
        let (gamma, beta) = (values(width, 2), values(width, 3));
        let scales = || (on_gpu(&gamma, [width]), on_gpu(&beta, [width]));
        let what = format!("{rows} x {width}");
        let expected = oracle::layer_norm(&x, &gamma, &beta, 1e-5);
        let (g, b) = scales();
        let shape = [rows / every, every, width];
        assert_close(&back(layer_norm(on_gpu(&x, shape), g, b, 1e-5)), &expected, 1e-4, &what);
        let sums: Vec<f32> = x.iter().enumerate().map(|(i, x)| x + residual[i % residual.len()]).collect();
        let expected = oracle::layer_norm(&sums, &gamma, &beta, 1e-5);
        let (g, b) = scales();
        let residual = on_gpu(&residual, [1, every, width]);
        let y = add_layer_norm(on_gpu(&x, shape), residual, g, b, 1e-5);
        assert_close(&back(y), &expected, 1e-4, &format!("{what}, added to every {every}"));
    }
    // Read through strides.
    let (x, gamma, beta) = (values(6 * 10, 5), values(6, 2), values(6, 3));
    let transposed = floats(tensor(&x, [6, 10]).transpose());
    let expected = oracle::layer_norm(&transposed, &gamma, &beta, 1e-5);
    let x = on_gpu(&x, [6, 10]).transpose();
    assert_close(
        &back(layer_norm(x, on_gpu(&gamma, [6]), on_gpu(&beta, [6]), 1e-5)),
        &expected,
        1e-4,
        "transposed",
    );
}

/// A backend's half floats take kernels of their own.
#[test]
fn attention_of_half_floats_equals_the_oracle() {
    use burn::tensor::DType;
    let cases = [
        // batch, heads, queries, keys, width, mask, causal
        (2, 3, 65, 130, 64, true, false),
        (2, 1, 70, 77, 16, true, true),
        // A width that no tile takes.
        (1, 2, 7, 9, 24, false, true),
    ];
    for (batch, heads, queries, keys, width, masked, causal) in cases {
        let what = format!("{batch} x {heads}, {queries} of {keys} by {width}, {causal}");
        let shapes =
            [[batch, heads, queries, width], [batch, heads, keys, width], [batch, heads, keys, width]];
        let parts: Vec<Vec<f32>> =
            (0u32..).zip(shapes).map(|(i, s)| values(s.iter().product(), 20 + i)).collect();
        // Nothing of the first sentence's second half is seen, and nothing of the last one's at all.
        let mut hidden = vec![0.0; batch * keys];
        hidden[keys / 2..keys].fill(f32::NEG_INFINITY);
        hidden[(batch - 1) * keys..].fill(f32::NEG_INFINITY);
        let mask_shape = [batch, 1, 1, keys];
        // A software device takes long to compile what it runs for each type.
        let halves: &[DType] =
            if cfg!(feature = "cuda") { &[DType::F16, DType::BF16] } else { &[DType::F16] };
        for dtype in halves.iter().copied() {
            if !<Gpu as Backend>::supports_dtype(&Default::default(), dtype) {
                continue;
            }
            let half = |values: &[f32], shape| on_gpu(values, shape).cast(dtype);
            let [q, k, v] = [0, 1, 2].map(|i: usize| half(&parts[i], shapes[i]));
            let mask = masked.then(|| half(&hidden, mask_shape));
            let got = attention(q, k, v, mask, causal, 0.2);
            assert_eq!((got.dims(), got.dtype()), (shapes[0], dtype));
            let [q, k, v] = [0, 1, 2].map(|i: usize| tensor(&parts[i], shapes[i]));
            let want = attention(q, k, v, masked.then(|| tensor(&hidden, mask_shape)), causal, 0.2);
            let want: Vec<f64> = floats(want).iter().map(|v| f64::from(*v)).collect();
            assert_close(&back(got), &want, 3e-2, &format!("{what}, {dtype:?}"));
        }
    }
}
