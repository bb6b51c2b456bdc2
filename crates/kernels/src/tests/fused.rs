//! Layer normalization, GELU and attention: portable bodies and CPU bodies against the oracle.

use super::*;
use crate::{add_layer_norm, attention, gelu, gelu_tanh, layer_norm, oracle, portable};
use burn::backend::Autodiff;
use burn::tensor::DType;

#[test]
fn layer_norm_equals_the_oracle() {
    for (rows, width) in [(1, 1), (3, 33), (2, 64), (5, 96), (40, 768), (300, 160)] {
        let mut x = values(rows * width, 1);
        x[..width].fill(0.7);
        let (gamma, beta) = (values(width, 2), values(width, 3));
        let expected = oracle::layer_norm(&x, &gamma, &beta, 1e-5);
        let (gamma, beta) = (tensor(&gamma, [width]), tensor(&beta, [width]));
        for (layout, t) in layouts(&x, rows, width) {
            let y = layer_norm(t.clone().reshape([1, rows, width]), gamma.clone(), beta.clone(), 1e-5);
            assert_eq!(y.dims(), [1, rows, width]);
            assert_close(&floats(y), &expected, 1e-6, layout);
            // In the constant row, 1 / sqrt(epsilon) magnifies the rounding of burn's sums.
            let y = floats(portable::layer_norm(t, gamma.clone(), beta.clone(), 1e-5));
            assert_close(&y[width..], &expected[width..], 2e-4, layout);
        }
    }
}

#[test]
fn sums_are_normalized_with_a_residual_for_all_or_for_each() {
    for [batch, seq, width] in [[1, 1, 1], [3, 5, 33], [1, 4, 64], [40, 20, 160], [2, 0, 8], [0, 3, 8]] {
        let x = values(batch * seq * width, 1);
        let (gamma, beta) = (values(width, 2), values(width, 3));
        let (g, b) = (tensor(&gamma, [width]), tensor(&beta, [width]));
        for first in [1, batch] {
            let residual = values(first * seq * width, 4);
            let sum: Vec<f32> = x.iter().zip(residual.iter().cycle()).map(|(x, r)| x + r).collect();
            let expected = oracle::layer_norm(&sum, &gamma, &beta, 1e-5);
            let (x, residual) = (tensor(&x, [batch, seq, width]), tensor(&residual, [first, seq, width]));
            let y = add_layer_norm(x.clone(), residual.clone(), g.clone(), b.clone(), 1e-5);
            assert_eq!(y.dims(), [batch, seq, width]);
            assert_close(&floats(y), &expected, 1e-5, "CPU");
            let tracked = |t: &Tensor<Flex, 3>| Tensor::<Autodiff<Flex>, 3>::from_inner(t.clone());
            let [tracked_g, tracked_b] = [&g, &b].map(|t| Tensor::from_inner(t.clone()));
            let y = add_layer_norm(tracked(&x), tracked(&residual), tracked_g, tracked_b, 1e-5);
            assert_close(&floats(y.inner()), &expected, 1e-4, "repeated before");
            if batch * seq == 0 {
                continue;
            }
            let [x, residual] = [(x, batch), (residual, first)].map(|(t, n)| t.reshape([n * seq, width]));
            let y = portable::layer_norm(portable::add_to_every(x, residual), g.clone(), b.clone(), 1e-5);
            assert_close(&floats(y), &expected, 1e-4, "portable");
        }
    }
}

#[test]
fn large_means_do_not_hurt_layer_norm() {
    let x: Vec<f32> = values(768, 1).iter().map(|v| v + 1000.0).collect();
    let one = vec![1.0; 768];
    let expected = oracle::layer_norm(&x, &one, &vec![0.0; 768], 1e-12);
    let y = layer_norm(tensor(&x, [768]), tensor(&one, [768]), tensor(&[0.0; 768], [768]), 1e-12);
    assert_close(&floats(y), &expected, 1e-6, "mean 1000");
}

#[test]
fn activations_equal_the_oracle() {
    for count in [1, 15, 17, 100_000] {
        let x: Vec<f32> = values(count, 4).iter().map(|v| 4.0 * v).collect();
        let t = tensor(&x, [count]);
        let exact: Vec<f64> = x.iter().map(|v| oracle::gelu(*v)).collect();
        assert_close(&floats(gelu(t.clone())), &exact, 1e-6, "gelu");
        assert_close(&floats(portable::gelu(t.clone())), &exact, 2e-6, "gelu, portable");
        let exact: Vec<f64> = x.iter().map(|v| oracle::gelu_tanh(*v)).collect();
        assert_close(&floats(gelu_tanh(t.clone())), &exact, 2e-6, "gelu_tanh");
        assert_close(&floats(portable::gelu_tanh(t)), &exact, 2e-6, "gelu_tanh, portable");
    }
}

#[test]
fn gradients_flow() {
    let x = Tensor::<Autodiff<Flex>, 2>::from_inner(tensor(&values(66, 1), [2, 33])).require_grad();
    let gamma = Tensor::ones([33], &Default::default()).require_grad();
    let y = gelu(layer_norm(x.clone(), gamma.clone(), Tensor::zeros([33], &Default::default()), 1e-5));
    let heads = gelu_tanh(y).reshape([1, 2, 3, 11]);
    let y = attention(heads.clone(), heads.clone(), heads, None, true, 0.3);
    let gradients = y.powi_scalar(2).sum().backward();
    let of = |t: Option<Tensor<Flex, 2>>| floats(t.unwrap().abs().sum())[0];
    assert!(of(x.grad(&gradients)) > 1e-4);
    assert!(of(gamma.grad(&gradients).map(|g| g.reshape([1, 33]))) > 1e-4);
}

struct Case {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    d_head: usize,
    d_value: usize,
}

/// One attention problem by the oracle, head by head.
fn attend(case: &Case, [q, k, v]: [&[f32]; 3], mask: &[f32], causal: bool) -> Vec<f64> {
    let Case { batch, heads, queries, keys, d_head, d_value } = *case;
    let part = |x: &[f32], i: usize, size: usize| x[i * size..(i + 1) * size].to_vec();
    (0..batch * heads)
        .flat_map(|i| {
            let (q, k) = (part(q, i, queries * d_head), part(k, i, keys * d_head));
            let mask = if mask.is_empty() { vec![] } else { part(mask, i / heads, queries * keys) };
            oracle::attention(&q, &k, &part(v, i, keys * d_value), &mask, causal, 0.2, d_head)
        })
        .collect()
}

/// `[batch, heads, seq, d]` as it comes from a projection: heads interleaved in memory.
fn interleaved(values: &[f32], dims: [usize; 4]) -> Tensor<Flex, 4> {
    let x = tensor(values, dims);
    let swapped = floats(x.swap_dims(1, 2));
    tensor(&swapped, [dims[0], dims[2], dims[1], dims[3]]).swap_dims(1, 2)
}

fn check_attention(case: Case) {
    let Case { batch, heads, queries, keys, d_head, d_value } = case;
    let q = values(batch * heads * queries * d_head, 1);
    let k = values(batch * heads * keys * d_head, 2);
    let v = values(batch * heads * keys * d_value, 3);
    let mut mask = vec![0.0f32; batch * queries * keys];
    for (i, m) in mask.iter_mut().enumerate() {
        *m = if i % 5 == 0 { f32::NEG_INFINITY } else { 0.0 };
    }
    // One row is masked everywhere.
    mask[..keys].fill(f32::NEG_INFINITY);
    for (mask, causal) in [(vec![], false), (vec![], true), (mask.clone(), false), (mask, true)] {
        if causal && queries > keys {
            continue;
        }
        let expected = attend(&case, [&q, &k, &v], &mask, causal);
        let mask = (!mask.is_empty()).then(|| tensor(&mask, [batch, 1, queries, keys]));
        let what =
            format!("{batch} {heads} {queries} {keys} {d_head}, causal {causal}, mask {}", mask.is_some());
        for make in [tensor::<4>, interleaved] {
            let t = || {
                (
                    make(&q, [batch, heads, queries, d_head]),
                    make(&k, [batch, heads, keys, d_head]),
                    make(&v, [batch, heads, keys, d_value]),
                )
            };
            let (tq, tk, tv) = t();
            let y = attention(tq, tk, tv, mask.clone(), causal, 0.2);
            assert_eq!(y.dims(), [batch, heads, queries, d_value]);
            assert_close(&floats(y), &expected, 1e-5, &what);
            let (tq, tk, tv) = t();
            let y = portable::attention(tq, tk, tv, mask.clone(), causal, 0.2);
            assert_close(&floats(y), &expected, 1e-5, &format!("{what}, portable"));
        }
    }
}

#[test]
fn attention_equals_the_oracle() {
    let case = |batch, heads, queries, keys, d_head, d_value| {
        check_attention(Case { batch, heads, queries, keys, d_head, d_value });
    };
    case(1, 1, 1, 1, 1, 1);
    case(1, 2, 33, 33, 64, 64);
    case(2, 3, 17, 40, 5, 7);
    case(3, 2, 9, 4, 8, 8);
    case(1, 12, 200, 200, 32, 32);
    case(5, 1, 64, 64, 16, 16);
}

#[test]
fn a_shared_mask_and_nothing_at_all() {
    let x = tensor(&values(2 * 3 * 6 * 4, 1), [2, 3, 6, 4]);
    let mask = tensor(&values(12, 2), [2, 1, 1, 6]);
    let got = attention(x.clone(), x.clone(), x.clone(), Some(mask.clone()), false, 0.5);
    let full = mask.clone().expand([2, 3, 6, 6]);
    let same = attention(x.clone(), x.clone(), x.clone(), Some(full), false, 0.5);
    assert_eq!(floats(got.clone()), floats(same));
    let expected: Vec<f64> = floats(portable::attention(x.clone(), x.clone(), x, Some(mask), false, 0.5))
        .into_iter()
        .map(f64::from)
        .collect();
    assert_close(&floats(got), &expected, 1e-5, "shared mask");
    let none = Tensor::<Flex, 4>::zeros([0, 3, 6, 4], &Default::default());
    assert_eq!(attention(none.clone(), none.clone(), none, None, true, 1.0).dims(), [0, 3, 6, 4]);
}

#[test]
fn half_precision_takes_the_portable_way() {
    let x = tensor(&values(66, 1), [2, 33]).cast(DType::F16);
    assert_eq!(gelu(x.clone()).dtype(), DType::F16);
    let heads = x.reshape([1, 2, 3, 11]);
    let mask = Tensor::<Flex, 4>::full([1, 1, 1, 3], f32::NEG_INFINITY, &Default::default()).cast(DType::F16);
    let y = attention(heads.clone(), heads.clone(), heads, Some(mask), true, 0.3);
    assert!(floats(y).iter().all(|v| v.is_finite()));
}
