//! Steps of AdamW and the common norm against plain loops.

use super::*;
use crate::{AdamWState, AdamWStep, adamw, clip_factor};

const STEP: AdamWStep =
    AdamWStep { beta_1: 0.9, beta_2: 0.99, epsilon: 1e-6, kept: 0.98, rate: 0.05, root: 0.7 };

fn on<B: Backend, const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<B, D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &Default::default())
}

/// Weight, both means and gradient of `n` values; mean squares are positive.
fn parts(n: usize) -> [Vec<f32>; 4] {
    let squares = values(n, 3).iter().map(|x| x * x).collect();
    [values(n, 1), values(n, 2), squares, values(n, 4)]
}

/// On backend `B`: a step on `[rows, columns]`, with the gradient times `factor`.
fn stepped<B: Backend>(rows: usize, columns: usize, factor: Option<f32>) -> [Vec<f32>; 3] {
    let [w, m, v, g] = parts(rows * columns).map(|p| on::<B, 2>(&p, [rows, columns]));
    let factor = factor.map(|f| on::<B, 1>(&[f], [1]));
    let new = adamw(AdamWState { weight: w, first: m, second: v }, g, factor, STEP);
    [new.weight, new.first, new.second].map(host)
}

fn by_hand(n: usize, factor: f32) -> [Vec<f64>; 3] {
    let [w, m, v, g] = parts(n).map(|p| p.into_iter().map(f64::from).collect::<Vec<_>>());
    let mut found = [vec![], vec![], vec![]];
    for i in 0..n {
        let g = g[i] * f64::from(factor);
        let m = 0.9 * m[i] + 0.1 * g;
        let v = 0.99 * v[i] + 0.01 * g * g;
        found[0].push(0.98 * w[i] - 0.05 * m / (v.sqrt() / 0.7 + 1e-6));
        found[1].push(m);
        found[2].push(v);
    }
    found
}

pub(super) fn steps_are_those_of_the_paper<B: Backend>() {
    for (rows, columns) in [(0, 3), (1, 1), (3, 7), (16, 384), (1, 5000)] {
        for factor in [None, Some(0.25)] {
            let found = stepped::<B>(rows, columns, factor);
            let expected = by_hand(rows * columns, factor.unwrap_or(1.0));
            for (f, e) in found.iter().zip(&expected) {
                assert_close(f, e, 2e-5, &format!("{rows} x {columns}, factor {factor:?}"));
            }
        }
    }
}

pub(super) fn the_factor_limits_the_common_norm<B: Backend>() {
    let gradients: Vec<Vec<f32>> = [0, 1, 384, 5000, 40_000].map(|n| values(n, n as u32)).to_vec();
    let norm = gradients.iter().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
    for limit in [norm / 3.0, norm * 2.0] {
        let primitives =
            gradients.iter().map(|g| on::<B, 1>(g, [g.len()]).into_primitive().tensor()).collect();
        let factor = clip_factor::<B>(primitives, limit).unwrap();
        let factor = host(factor);
        assert_close(&factor, &[(limit / norm).min(1.0)], 1e-5, &format!("limit {limit} of {norm}"));
    }
    assert!(clip_factor::<B>(Vec::new(), 1.0).is_none());
    let nothing = vec![on::<B, 1>(&[], [0]).into_primitive().tensor()];
    let factor = clip_factor::<B>(nothing, 0.5).unwrap().into_data().convert::<f32>();
    assert_eq!(factor.into_vec::<f32>().unwrap(), [1.0]);
}

#[test]
fn steps_on_the_cpu() {
    steps_are_those_of_the_paper::<Flex>();
}

#[test]
fn the_factor_on_the_cpu() {
    the_factor_limits_the_common_norm::<Flex>();
}
