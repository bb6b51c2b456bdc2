//! Golden vectors of DeepSpeed's arithmetic and cases where it gives NaN.

use super::*;
use crate::rounding::Rounding;
use crate::scheme::Granularity;
use briquette_core::LayerKind;
use burn::backend::Flex;

const X: [f32; 8] = [-1.0, -0.6, -0.25, 0.0, 0.1, 0.26, 0.5, 0.9];

fn scheme(bits: u32, symmetric: bool, rule: ScaleRule) -> WeightScheme {
    WeightScheme {
        bits,
        symmetric,
        rule,
        granularity: Granularity::Tensor,
        rounding: Rounding::Nearest,
        search: ScaleSearch::Max,
    }
}

fn run(x: &[f32], groups: usize, scheme: &WeightScheme) -> Vec<f32> {
    let length = x.len() / groups;
    let w = Tensor::<Flex, 2>::from_data(TensorData::new(x.to_vec(), [1, x.len()]), &Default::default());
    host_floats(fake_quantize(w, Groups { count: groups, length }, scheme, 0))
}

/// `expected` holds decimals as they were published, rounded to seven digits; the bit-exact vectors
/// are in the golden file that the cross-crate tests read.
fn check(bits: u32, symmetric: bool, groups: usize, expected: [f32; 8]) {
    let got = run(&X, groups, &scheme(bits, symmetric, ScaleRule::DeepSpeed));
    for (g, e) in got.iter().zip(expected) {
        assert!((g - e).abs() <= 2e-7, "{bits} bits: {got:?} against {expected:?}");
    }
}

#[test]
fn golden_symmetric() {
    check(8, true, 1, [-1.0, -0.6015625, -0.25, 0.0, 0.1015625, 0.2578125, 0.5, 0.8984375]);
    check(4, true, 1, [-1.0, -0.625, -0.25, 0.0, 0.125, 0.25, 0.5, 0.875]);
    check(3, true, 1, [-1.0, -0.5, -0.25, 0.0, 0.0, 0.25, 0.5, 0.75]);
    check(8, true, 2, [-1.0, -0.6015625, -0.25, 0.0, 0.0984375, 0.26015624, 0.49921873, 0.8929687]);
}

#[test]
fn golden_asymmetric() {
    let want = [-1.0019531, -0.60117185, -0.25234377, 0.0, 0.0964843, 0.25976562, 0.49726558, 0.890625];
    check(8, false, 1, want);
    check(4, false, 1, [-0.95, -0.59375, -0.2375, 0.0, 0.11875, 0.2375, 0.475, 0.83125]);
    check(4, false, 2, [-1.0, -0.625, -0.25, -0.0625, 0.1, 0.25, 0.5, 0.85]);
}

#[test]
fn golden_ternary_and_binary() {
    check(2, true, 1, [-0.75, -0.75, 0.0, 0.0, 0.0, 0.0, 0.75, 0.75]);
    check(2, true, 2, [-0.8, -0.8, 0.0, 0.0, 0.0, 0.0, 0.7, 0.7]);
    let m = 0.45125;
    check(1, true, 1, [-m, -m, -m, 0.0, m, m, m, m]);
    check(1, true, 2, [-0.4625, -0.4625, -0.4625, 0.0, 0.44, 0.44, 0.44, 0.44]);
}

#[test]
fn zero_and_constant_groups_are_finite_and_faithful() {
    for rule in [ScaleRule::DeepSpeed, ScaleRule::Paper] {
        for (bits, symmetric) in [(8, true), (4, true), (8, false), (4, false), (2, true), (1, true)] {
            let zeros = run(&[0.0; 8], 2, &scheme(bits, symmetric, rule));
            assert!(zeros.iter().all(|v| *v == 0.0), "{bits} {rule:?}: {zeros:?}");
            let constant = run(&[0.5; 8], 1, &scheme(bits, symmetric, rule));
            assert!(constant.iter().all(|v| v.is_finite()), "{bits} {rule:?}: {constant:?}");
        }
    }
    // One value in one group of zeros: the other groups must not be touched by it.
    let mut x = [0.0; 8];
    x[7] = 3.0;
    let y = run(&x, 2, &scheme(4, true, ScaleRule::Paper));
    assert_eq!(y, x);
}

#[test]
fn paper_rule_represents_both_extremes() {
    let y = run(&X, 1, &scheme(8, true, ScaleRule::Paper));
    assert_eq!(y[0], -1.0);
    let mirrored: Vec<f32> = X.iter().map(|v| -v).collect();
    let z = run(&mirrored, 1, &scheme(8, true, ScaleRule::Paper));
    assert_eq!(z[0], 1.0);
    let a = run(&X, 1, &scheme(4, false, ScaleRule::Paper));
    assert!(a.iter().zip(X).all(|(q, x)| (q - x).abs() <= 1.9 / 15.0));
}

#[test]
fn codes_give_back_the_simulated_weight_bit_for_bit() {
    let values: Vec<f32> = (0..96).map(|i| ((i * 37 % 101) as f32 - 50.0) / 33.0).collect();
    let shape = [6, 16];
    let grains =
        [Granularity::Tensor, Granularity::Channel, Granularity::Groups(3), Granularity::GroupSize(4)];
    for rule in [ScaleRule::DeepSpeed, ScaleRule::Paper] {
        for granularity in grains {
            for (bits, symmetric) in
                [(8, true), (5, true), (3, true), (2, true), (1, true), (8, false), (3, false)]
            {
                let s = WeightScheme { granularity, ..scheme(bits, symmetric, rule) };
                let groups = granularity.groups(LayerKind::Linear, shape).expect("divides");
                let w =
                    Tensor::<Flex, 2>::from_data(TensorData::new(values.clone(), shape), &Default::default());
                let simulated = host_floats(fake_quantize(w.clone(), groups, &s, 0));
                let coded = code(w, groups, &s, 0);
                let exact_zero = |i: usize| bits == 1 && values[i] == 0.0;
                let packed = coded.values();
                for i in (0..96).filter(|i| !exact_zero(*i)) {
                    assert_eq!(packed[i], simulated[i], "{s:?} at {i}");
                }
            }
        }
    }
}

#[test]
fn mse_search_never_loses() {
    let values: Vec<f32> =
        (0..64).map(|i| if i == 5 { 0.8 } else { ((i * 29 % 31) as f32 - 15.0) / 40.0 }).collect();
    let error = |y: Vec<f32>| y.iter().zip(&values).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    for symmetric in [true, false] {
        let plain = scheme(3, symmetric, ScaleRule::Paper);
        let searched = WeightScheme { search: ScaleSearch::Mse, ..plain };
        assert!(error(run(&values, 1, &searched)) < error(run(&values, 1, &plain)));
    }
}
