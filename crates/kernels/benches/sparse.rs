//! How much faster a product is without a weight's zeros, by pattern, share of zeros and rows of inputs:
//! `cargo bench -p briquette-kernels --bench sparse -- [SECONDS]` prints a table in Markdown. The products take turns,
//! so that other work on the machine meets all of them; ratios are of their fastest calls, and the dense product is the
//! faster one of burn's and this crate's.
#![expect(clippy::print_stdout, reason = "a program that reports on the terminal")]

use briquette_kernels::backend::Cpu;
use briquette_kernels::{Activation, SparseMatrix, linear, linear_sparse};
use burn::prelude::*;
use burn::tensor::module;
use std::time::{Duration, Instant};

/// Outputs and columns: the layers of MiniLM.
const SHAPES: [[usize; 2]; 3] = [[384, 384], [1536, 384], [384, 1536]];

/// Rows of inputs.
const ROWS: [usize; 6] = [1, 8, 16, 64, 128, 1024];

/// Rows of a block, and the share of zeros; 2:4 is called a block of 0 rows.
const PATTERNS: [(usize, f64); 13] = [
    (1, 0.5),
    (1, 0.6),
    (1, 0.7),
    (1, 0.8),
    (1, 0.9),
    (0, 0.5),
    (2, 0.5),
    (2, 0.7),
    (2, 0.8),
    (4, 0.3),
    (4, 0.5),
    (4, 0.7),
    (4, 0.8),
];

fn main() {
    let seconds = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(0.2);
    println!("| out x in | pattern | zeros | {} | chosen |", ROWS.map(|r| format!("{r} rows")).join(" | "));
    println!("|---|---|---:|{}---|", "---:|".repeat(ROWS.len()));
    for shape in SHAPES {
        for (block, zeros) in PATTERNS {
            let (weight, device) = (weight(shape, block, zeros), Default::default());
            let sparse = SparseMatrix::<Cpu>::new(&weight, shape, &device);
            let dense = Tensor::<Cpu, 2>::from_data(TensorData::new(weight.clone(), shape), &device);
            let dense = Tensor::from_data(dense.transpose().into_data(), &device);
            let ratios = ROWS.map(|rows| format!("{:.2}", ratio(rows, &dense, &sparse, seconds)));
            let chosen = match SparseMatrix::<Cpu>::if_faster(&weight, shape, &device) {
                Some(_) => "without zeros",
                None => "dense",
            };
            let name = if block == 0 { "2:4".to_string() } else { format!("{block}x1") };
            println!(
                "| {} x {} | {name} | {zeros} | {} | {chosen} |",
                shape[0],
                shape[1],
                ratios.join(" | ")
            );
        }
    }
}

/// Time with zeros over time without.
fn ratio(rows: usize, dense: &Tensor<Cpu, 2>, sparse: &SparseMatrix<Cpu>, seconds: f64) -> f64 {
    let columns = dense.dims()[0];
    let x = TensorData::new(values(rows * columns, 7), [rows, columns]);
    let x = Tensor::<Cpu, 2>::from_data(x, &Default::default());
    let forms: [&dyn Fn(); 3] = [
        &|| drop(module::linear(x.clone(), dense.clone(), None)),
        &|| drop(linear(x.clone(), dense.clone(), None, Activation::Identity)),
        &|| drop(linear_sparse(x.clone(), sparse, None)),
    ];
    let (begin, mut best) = (Instant::now(), [f64::INFINITY; 3]);
    while begin.elapsed() < Duration::from_secs_f64(seconds) {
        for (form, best) in forms.iter().zip(&mut best) {
            let start = Instant::now();
            form();
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    best[0].min(best[1]) / best[2]
}

/// `[out, columns]` with zeros in the pattern.
fn weight([out, columns]: [usize; 2], block: usize, zeros: f64) -> Vec<f32> {
    let scores = values(out * columns, 3);
    let gone = |i: usize| match block {
        0 => (i + i / columns) % 4 == (i / 4 * 7) % 4 || (i + i / columns) % 4 == (i / 4 * 7 + 1) % 4,
        rows => f64::from(scores[i / columns / rows * columns + i % columns] + 1.0) / 2.0 < zeros,
    };
    let all = values(out * columns, 5);
    all.into_iter().enumerate().map(|(i, v)| if gone(i) { 0.0 } else { v }).collect()
}

/// Even values in (-1, 1), the same every time.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
