//! DeepSpeed's arithmetic, bit for bit, through the public functions; and where its own gives NaN.

use briquette_core::{InputObserver, LayerKind, ScaleRule, host_floats};
use briquette_kernels::{TokenQuant, fake_quantize_rows, quantize_rows, straight_through};
use briquette_quant::fake_quant::{code, fake_quantize};
use briquette_quant::observers::MovingAverage;
use briquette_quant::{Granularity, Rounding, ScaleSearch, WeightScheme};
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use serde_json::Value;

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/deepspeed_vectors.json");
    serde_json::from_slice(&std::fs::read(path).expect("a golden file")).expect("JSON")
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number") as f32).collect()
}

fn number(value: &Value) -> f32 {
    value.as_f64().expect("a number") as f32
}

fn row<B: Backend>(values: &[f32]) -> Tensor<B, 2> {
    Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len()]), &Default::default())
}

/// Bits of the values; the two zeros count as one.
fn exact(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| (v + 0.0).to_bits()).collect()
}

fn scheme(bits: u32, symmetric: bool, groups: usize) -> WeightScheme {
    WeightScheme {
        bits,
        symmetric,
        granularity: Granularity::Groups(groups),
        rule: ScaleRule::DeepSpeed,
        rounding: Rounding::Nearest,
        search: ScaleSearch::Max,
    }
}

fn weights(x: &[f32], scheme: &WeightScheme) -> Vec<f32> {
    let groups = scheme.granularity.groups(LayerKind::Linear, [1, x.len()]).expect("divides");
    host_floats(fake_quantize(row::<Flex>(x), groups, scheme, 0))
}

fn tokens(x: &[f32], rows: usize, q: TokenQuant) -> Vec<f32> {
    let x = row::<Flex>(x).reshape([rows, x.len() / rows]);
    host_floats(fake_quantize_rows(x, q))
}

#[test]
fn weights_are_those_of_deepspeed() {
    let golden = golden();
    let x = floats(&golden["x"]);
    let mut seen = 0;
    for case in golden["quantizers"].as_array().expect("a list") {
        let (bits, groups) = (number(&case["bits"]) as u32, number(&case["groups"]) as usize);
        let symmetric = match case["method"].as_str() {
            Some("symmetric_static") => continue,
            Some(method) => method != "asymmetric",
            None => panic!("a case without a method"),
        };
        let expected = floats(&case["values"]);
        assert_eq!(exact(&weights(&x, &scheme(bits, symmetric, groups))), exact(&expected), "{case}");
        seen += 1;
    }
    assert_eq!(seen, 11);
}

#[test]
fn codes_stand_for_the_same_values() {
    let golden = golden();
    let x = floats(&golden["x"]);
    for case in golden["quantizers"].as_array().expect("a list") {
        let (bits, groups) = (number(&case["bits"]) as u32, number(&case["groups"]) as usize);
        // One bit has no code for zero.
        if case["method"] == "symmetric_static" || bits == 1 {
            continue;
        }
        let scheme = scheme(bits, case["method"] != "asymmetric", groups);
        let groups = scheme.granularity.groups(LayerKind::Linear, [1, x.len()]).expect("divides");
        let coded = code(row::<Flex>(&x), groups, &scheme, 0);
        assert_eq!(exact(&coded.values()), exact(&floats(&case["values"])), "{case}");
    }
}

#[test]
fn dynamic_ranges_of_tokens_are_groups_of_weights() {
    let golden = golden();
    let x = floats(&golden["x"]);
    let mut seen = 0;
    for case in golden["quantizers"].as_array().expect("a list") {
        let (bits, rows) = (number(&case["bits"]) as u32, number(&case["groups"]) as usize);
        let symmetric = match case["method"].as_str() {
            Some("symmetric") => true,
            Some("asymmetric") => false,
            _ => continue,
        };
        let q = TokenQuant { bits, symmetric, full_range: true, range: None };
        assert_eq!(exact(&tokens(&x, rows, q)), exact(&floats(&case["values"])), "{case}");
        let integers = quantize_rows(row::<Flex>(&x).reshape([rows, x.len() / rows]), q);
        assert_eq!(exact(&host_floats(integers.dequantize())), exact(&floats(&case["values"])), "{case}");
        seen += 1;
    }
    assert_eq!(seen, 7);
}

#[test]
fn static_ranges_are_those_of_deepspeed() {
    let golden = golden();
    let x = floats(&golden["x"]);
    let mut seen = 0;
    for case in golden["quantizers"].as_array().expect("a list") {
        if case["method"] != "symmetric_static" {
            continue;
        }
        let range = Some((number(&case["min"]), number(&case["max"])));
        let q = TokenQuant { bits: number(&case["bits"]) as u32, symmetric: true, full_range: true, range };
        // The range is the whole tensor's, however it is cut into rows.
        for rows in [1, 2, 4] {
            assert_eq!(exact(&tokens(&x, rows, q)), exact(&floats(&case["values"])), "{case}");
        }
        seen += 1;
    }
    assert_eq!(seen, 2);
}

#[test]
fn the_gradient_is_straight_through() {
    type A = Autodiff<Flex>;
    let golden = golden();
    let x = row::<A>(&floats(&golden["x"])).require_grad();
    let scheme = scheme(4, true, 1);
    let groups = scheme.granularity.groups(LayerKind::Linear, x.dims()).expect("divides");
    let quantized = fake_quantize(briquette_core::stop(x.clone()), groups, &scheme, 0);
    let gradients = straight_through(x.clone(), quantized).square().sum().backward();
    let gradient = host_floats(x.grad(&gradients).expect("a gradient"));
    assert_eq!(exact(&gradient), exact(&floats(&golden["straight_through"]["gradient"])));
}

#[test]
fn the_moving_range_is_that_of_deepspeed() {
    let golden = &golden()["moving_range"];
    let observer = MovingAverage::new(golden["momentum"].as_f64().expect("a number"));
    let batches = golden["batches"].as_array().expect("a list");
    let ranges = golden["ranges"].as_array().expect("a list");
    for (batch, range) in batches.iter().zip(ranges) {
        observer.observe(&floats(batch));
        let (low, high) = observer.range().expect("observed");
        assert_eq!(exact(&[low, high]), exact(&floats(range)));
    }
}

#[test]
fn groups_and_tokens_that_make_deepspeed_divide_by_zero_are_finite() {
    let mut padding = vec![0.0; 16];
    padding[8..].copy_from_slice(&[0.5, -1.0, 0.25, 0.75, -0.5, 0.1, 0.2, -0.3]);
    let inputs = [vec![0.0; 16], vec![0.7; 16], vec![-0.7; 16], padding, vec![1e-42; 16]];
    for x in &inputs {
        for (bits, symmetric) in
            [(8, true), (8, false), (4, true), (4, false), (3, true), (2, true), (1, true)]
        {
            for groups in [1, 2, 4, 16] {
                let y = weights(x, &scheme(bits, symmetric, groups));
                assert!(y.iter().all(|v| v.is_finite()), "{bits} bits, {groups} groups of {x:?}: {y:?}");
            }
        }
        for (bits, symmetric) in [(8, true), (8, false), (4, true), (4, false)] {
            for range in [None, Some((0.0, 0.0)), Some((0.5, 0.5))] {
                let q = TokenQuant { bits, symmetric, full_range: true, range };
                let y = tokens(x, 2, q);
                assert!(y.iter().all(|v| v.is_finite()), "{q:?} of {x:?}: {y:?}");
            }
        }
    }
    // A padding row stays exactly zero and its neighbour is quantized as if it were alone.
    let whole = weights(&inputs[3], &scheme(8, true, 2));
    assert_eq!(whole[..8], [0.0; 8]);
    assert_eq!(exact(&whole[8..]), exact(&weights(&inputs[3][8..], &scheme(8, true, 1))));
}
