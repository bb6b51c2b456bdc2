//! Every kernel beside plain loops on the CPU, at odd shapes.
//!
//! Inputs are read back from the device first, so that rounding them to its floats does not count as a difference.

use crate::job::{Floats, Job};
use crate::numbers::{HostWeight, Numbers, Packing, difference, tensor};
use crate::{BenchError, Row};
use briquette_core::host_floats;
use briquette_kernels::{
    self as kernels, Activation, Code, PackedMatrix, TokenQuant, embedding_packed, fake_quantize_rows,
    oracle, quantize_rows, unpack,
};
use burn::prelude::*;

/// `[rows, d_input, d_output, group]`: one row and one output, sizes that no tile divides, several groups, and rows and groups
/// so long that every width of codes is unpacked in registers where few rows are.
const SHAPES: [[usize; 4]; 7] = [
    [1, 64, 33, 32],
    [3, 96, 130, 96],
    [17, 128, 65, 64],
    [37, 160, 48, 80],
    [70, 384, 129, 128],
    [5, 512, 33, 512],
    [33, 1024, 40, 512],
];

/// How weights are packed.
const PACKINGS: [(u32, Code); 8] = [
    (1, Code::Binary),
    (2, Code::Symmetric),
    (3, Code::Symmetric),
    (4, Code::Symmetric),
    (4, Code::Asymmetric),
    (5, Code::Asymmetric),
    (8, Code::Symmetric),
    (8, Code::Asymmetric),
];

/// How inputs are quantized.
const INPUTS: [TokenQuant; 3] = [
    TokenQuant { bits: 8, symmetric: true, full_range: false, range: None },
    TokenQuant { bits: 8, symmetric: false, full_range: true, range: None },
    TokenQuant { bits: 4, symmetric: true, full_range: true, range: Some((-0.75, 0.5)) },
];

/// Differences of one kernel.
struct Check {
    what: &'static str,
    /// The most that is accepted.
    limit: f64,
    errors: Vec<f64>,
}

/// What is accepted.
struct Limits {
    /// Of results that are rounded once.
    rounding: f64,
    /// Of sums of products, whose factors tensor cores round.
    products: f64,
    /// Where values become codes: one between two codes may go to either after it was rounded.
    codes: f64,
}

/// Checks all kernels.
///
/// # Errors
/// When one is wrong: all that are, together.
pub(crate) fn run<B: Backend>(
    job: &mut Job<'_>,
    floats: Floats,
    device: &B::Device,
) -> Result<(), BenchError> {
    let limits = match floats.name {
        "bf16" => Limits { rounding: 1e-2, products: 2e-2, codes: 5e-2 },
        _ => Limits { rounding: 1e-4, products: 2e-3, codes: 2e-3 },
    };
    let kernels: [fn(&B::Device, &Limits) -> Check; 9] = [
        unpacking::<B>,
        embedding::<B>,
        fake_quantization::<B>,
        quantization::<B>,
        weight_only::<B>,
        integer::<B>,
        several_layers::<B>,
        elementwise::<B>,
        attention::<B>,
    ];
    let mut wrong = Vec::new();
    for kernel in kernels {
        let (row, problem) = judged(&kernel(device, &limits), floats.name);
        wrong.extend(problem);
        job.add(&row)?;
    }
    eprintln!("{}: {} kernels checked, {} wrong", floats.name, kernels.len(), wrong.len());
    if wrong.is_empty() { Ok(()) } else { Err(BenchError::Wrong { wrong, total: kernels.len() }) }
}

/// The row of a check, and what is wrong, if anything is.
fn judged(check: &Check, float: &str) -> (Row, Option<String>) {
    let Check { what, limit, errors } = check;
    let worst = errors.iter().copied().fold(0.0, f64::max);
    let wrong =
        (worst > *limit).then(|| format!("{what} in {float}: off by {worst:.2e}, at most {limit:.0e}"));
    // JSON has no infinity.
    let (worst, cases) = (worst.min(f64::MAX), errors.len());
    (Row::Check { what: (*what).into(), float: float.into(), cases, worst, limit: *limit }, wrong)
}

/// A packed weight on the device and its values, with scales as the device rounds them.
fn weight<B: Backend>(
    shape: [usize; 2],
    packing: Packing,
    device: &B::Device,
) -> (PackedMatrix<B>, Vec<f32>) {
    let mut host = HostWeight::random(shape, packing, &mut Numbers::new(packing.bits));
    let packed = host.on::<B>(device);
    host.scales = host_floats(packed.scales.clone());
    (packed, host.head(shape[0]))
}

/// Values in -1 to 1 on the device, the last row zeros, and the same on the host.
fn inputs<B: Backend>(rows: usize, columns: usize, device: &B::Device) -> (Tensor<B, 2>, Vec<f32>) {
    let mut values = Numbers::new(rows as u32).floats(rows * columns);
    if rows > 1 {
        values[(rows - 1) * columns..].fill(0.0);
    }
    let x = tensor::<B, 2>(&values, [rows, columns], device);
    let values = host_floats(x.clone());
    (x, values)
}

fn vector<B: Backend>(width: usize, device: &B::Device) -> (Tensor<B, 1>, Vec<f32>) {
    let v = tensor::<B, 1>(&Numbers::new(9).floats(width), [width], device);
    let values = host_floats(v.clone());
    (v, values)
}

/// Shapes with each way of packing.
fn cases() -> impl Iterator<Item = ([usize; 3], Packing)> {
    let with = |(bits, code)| {
        SHAPES.into_iter().map(move |[rows, d_input, d_output, group]| {
            ([rows, d_input, d_output], Packing { bits, code, group })
        })
    };
    PACKINGS.into_iter().flat_map(with)
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

fn unpacking<B: Backend>(device: &B::Device, limits: &Limits) -> Check {
    let errors = cases().map(|([_, d_input, d_output], packing)| {
        let (p, values) = weight::<B>([d_output, d_input], packing, device);
        difference(&host_floats(unpack(&p)), &wide(&values))
    });
    Check { what: "unpack", limit: limits.rounding, errors: errors.collect() }
}

fn embedding<B: Backend>(device: &B::Device, limits: &Limits) -> Check {
    let errors = cases().map(|([rows, width, vocabulary], packing)| {
        let (p, values) = weight::<B>([vocabulary, width], packing, device);
        let ids: Vec<i32> = (0..rows * 3).map(|i| (i * 7 % vocabulary) as i32).collect();
        let right = ids.iter().flat_map(|i| &values[*i as usize * width..][..width]);
        let right: Vec<f64> = right.copied().map(f64::from).collect();
        let ids = Tensor::<B, 2, Int>::from_data(TensorData::new(ids, [rows, 3]), device);
        difference(&host_floats(embedding_packed(&p, ids)), &right)
    });
    Check { what: "embedding_packed", limit: limits.rounding, errors: errors.collect() }
}

fn fake_quantization<B: Backend>(device: &B::Device, limits: &Limits) -> Check {
    let errors = SHAPES.into_iter().flat_map(|[rows, columns, ..]| {
        let (x, values) = inputs::<B>(rows, columns, device);
        INPUTS.map(|q| {
            let right = oracle::fake_quantize_rows(&values, columns, q);
            difference(&host_floats(fake_quantize_rows(x.clone(), q)), &wide(&right))
        })
    });
    Check { what: "fake_quantize_rows", limit: limits.codes, errors: errors.collect() }
}

fn quantization<B: Backend>(device: &B::Device, limits: &Limits) -> Check {
    let errors = SHAPES.into_iter().flat_map(|[rows, columns, ..]| {
        let (x, values) = inputs::<B>(rows, columns, device);
        INPUTS.map(|q| {
            let right = oracle::quantize_rows(&values, columns, q);
            let found = quantize_rows(x.clone(), q);
            let codes = host_floats(found.codes.float());
            let right_codes: Vec<f64> = right.codes.iter().map(|c| f64::from(*c)).collect();
            let scales = difference(&host_floats(found.scale), &wide(&right.scale));
            difference(&codes, &right_codes).max(scales)
        })
    });
    Check { what: "quantize_rows", limit: limits.codes, errors: errors.collect() }
}

fn weight_only<B: Backend>(device: &B::Device, limits: &Limits) -> Check {
    let errors = cases().map(|([rows, d_input, d_output], packing)| {
        let (p, w) = weight::<B>([d_output, d_input], packing, device);
        let (x, values) = inputs::<B>(rows, d_input, device);
        let (bias, offsets) = vector::<B>(d_output, device);
        let right = oracle::linear(&values, &w, &offsets, d_input);
        difference(&host_floats(kernels::linear_packed(x, &p, Some(bias))), &right)
    });
    Check { what: "linear_packed", limit: limits.products, errors: errors.collect() }
}

fn integer<B: Backend>(device: &B::Device, limits: &Limits) -> Check {
    let errors = cases().flat_map(|([rows, d_input, d_output], packing)| {
        let (p, w) = weight::<B>([d_output, d_input], packing, device);
        let (x, values) = inputs::<B>(rows, d_input, device);
        INPUTS.map(|q| {
            let values = oracle::fake_quantize_rows(&values, d_input, q);
            let right = oracle::linear(&values, &w, &[], d_input);
            difference(&host_floats(kernels::linear_quantized(x.clone(), q, &p, None)), &right)
        })
    });
    Check { what: "linear_quantized", limit: limits.codes, errors: errors.collect() }
}

/// Layers of different weights on one input, with a function behind.
fn several_layers<B: Backend>(device: &B::Device, limits: &Limits) -> Check {
    let packings = [(4, Code::Symmetric), (8, Code::Asymmetric)];
    let quants = [None, Some(INPUTS[0])];
    let errors = SHAPES.into_iter().flat_map(|shape| quants.map(|q| (shape, q))).flat_map(|(shape, q)| {
        let [rows, d_input, d_output, group] = shape;
        let made = packings
            .map(|(bits, code)| weight::<B>([d_output, d_input], Packing { bits, code, group }, device));
        let (x, values) = inputs::<B>(rows, d_input, device);
        let values = q.map_or(values.clone(), |q| oracle::fake_quantize_rows(&values, d_input, q));
        let (bias, offsets) = vector::<B>(d_output, device);
        let layers = made.iter().map(|(p, _)| (p, Some(bias.clone()))).collect();
        let found = kernels::linear_all(x, q, layers, Activation::Gelu);
        let compare = |(found, (_, w)): (Tensor<B, 2>, &(_, Vec<f32>))| {
            let sums = oracle::linear(&values, w, &offsets, d_input);
            let right: Vec<f64> = sums.into_iter().map(|v| oracle::gelu(v as f32)).collect();
            difference(&host_floats(found), &right)
        };
        found.into_iter().zip(&made).map(compare).collect::<Vec<_>>()
    });
    Check { what: "linear_all", limit: limits.codes, errors: errors.collect() }
}

fn elementwise<B: Backend>(device: &B::Device, limits: &Limits) -> Check {
    let errors = SHAPES.into_iter().flat_map(|[rows, width, ..]| {
        let ((x, values), (gamma, scales)) = (inputs::<B>(rows, width, device), vector::<B>(width, device));
        let beta = gamma.clone();
        let single = oracle::layer_norm(&values, &scales, &scales, 1e-5);
        let doubled: Vec<f32> = values.iter().map(|v| 2.0 * v).collect();
        let sum = oracle::layer_norm(&doubled, &scales, &scales, 1e-5);
        let gelu: Vec<f64> = values.iter().map(|v| oracle::gelu(*v)).collect();
        let tanh: Vec<f64> = values.iter().map(|v| oracle::gelu_tanh(*v)).collect();
        let of_sum = kernels::add_layer_norm(x.clone(), x.clone(), gamma.clone(), beta.clone(), 1e-5);
        [
            (kernels::layer_norm(x.clone(), gamma, beta, 1e-5), single),
            (of_sum, sum),
            (kernels::gelu(x.clone()), gelu),
            (kernels::gelu_tanh(x), tanh),
        ]
        .map(|(found, right)| difference(&host_floats(found), &right))
    });
    Check {
        what: "layer_norm, add_layer_norm, gelu, gelu_tanh",
        limit: limits.rounding,
        errors: errors.collect(),
    }
}

/// One head at a time in the oracle; with and without causality.
fn attention<B: Backend>(device: &B::Device, limits: &Limits) -> Check {
    let (batch, heads) = (2, 3);
    let errors = [[1, 64], [33, 40], [128, 64]].into_iter().flat_map(|[seq, d_head]| {
        let made = [1, 2, 3].map(|seed| {
            let values = Numbers::new(seed).floats(batch * heads * seq * d_head);
            let x = tensor::<B, 4>(&values, [batch, heads, seq, d_head], device);
            let values = host_floats(x.clone());
            (x, values)
        });
        [false, true].map(|causal| {
            let [(q, of_q), (k, of_k), (v, of_v)] = &made;
            let each = seq * d_head;
            let right: Vec<f64> = (0..batch * heads)
                .flat_map(|at| {
                    let [q, k, v] = [of_q, of_k, of_v].map(|values| &values[at * each..][..each]);
                    oracle::attention(q, k, v, &[], causal, 0.3, d_head)
                })
                .collect();
            let found = kernels::attention(q.clone(), k.clone(), v.clone(), None, causal, 0.3);
            difference(&host_floats(found), &right)
        })
    });
    Check { what: "attention", limit: limits.products, errors: errors.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_case_that_is_off_makes_a_kernel_wrong() {
        let check = |errors| Check { what: "unpack", limit: 1e-2, errors };
        assert_eq!(judged(&check(vec![0.0, 1e-2]), "f32").1, None);
        for worst in [0.02, f64::INFINITY] {
            let (row, wrong) = judged(&check(vec![0.0, worst]), "f32");
            assert!(wrong.is_some_and(|w| w.starts_with("unpack in f32: off by")));
            assert!(serde_json::to_value(&row).expect("JSON")["worst"].is_number());
        }
    }
}
