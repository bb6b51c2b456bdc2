//! Billions of multiplications a second of the CPU's products: `cargo bench -p briquette-kernels -- [SECONDS]`.
#![expect(clippy::print_stdout, reason = "a program that reports on the terminal")]

use briquette_kernels::backend::Cpu;
use briquette_kernels::{Activation, Code, PackedMatrix, TokenQuant, linear, linear_all, pack_rows};
use burn::prelude::*;
use burn::tensor::module;
use std::time::{Duration, Instant};

/// Rows of the input, columns, outputs.
const SHAPES: [[usize; 3]; 8] = [
    [1, 384, 1536],
    [16, 384, 384],
    [16, 1536, 384],
    [128, 384, 384],
    [128, 384, 1536],
    [128, 1536, 384],
    [1024, 384, 1536],
    [1024, 1536, 384],
];

fn main() {
    let seconds = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(0.3);
    println!(
        "{:>18} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "rows x in x out", "burn", "f32", "W8A8", "W4A8", "W8", "W4"
    );
    for shape in SHAPES {
        let [rows, columns, out] = shape;
        let device = Default::default();
        let x =
            Tensor::<Cpu, 2>::from_data(TensorData::new(values(rows * columns), [rows, columns]), &device);
        let w = Tensor::<Cpu, 2>::from_data(TensorData::new(values(columns * out), [columns, out]), &device);
        let (w8, w4) = (packed([out, columns], 8), packed([out, columns], 4));
        let q = Some(TokenQuant { bits: 8, symmetric: true, full_range: false, range: None });
        let all = |q, p: &PackedMatrix<Cpu>| linear_all(x.clone(), q, vec![(p, None)], Activation::Identity);
        let forms: [&dyn Fn(); 6] = [
            &|| drop(module::linear(x.clone(), w.clone(), None)),
            &|| drop(linear(x.clone(), w.clone(), None, Activation::Identity)),
            &|| drop(all(q, &w8)),
            &|| drop(all(q, &w4)),
            &|| drop(all(None, &w8)),
            &|| drop(all(None, &w4)),
        ];
        let speeds =
            forms.map(|form| format!("{:8.1}", (rows * columns * out) as f64 / fastest(form, seconds) / 1e9));
        println!("{:>18} {}", format!("{rows}x{columns}x{out}"), speeds.join(" "));
    }
}

/// Seconds of the fastest call.
fn fastest(form: &dyn Fn(), seconds: f64) -> f64 {
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed() < Duration::from_secs_f64(seconds) {
        let start = Instant::now();
        form();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

fn packed(shape: [usize; 2], bits: u32) -> PackedMatrix<Cpu> {
    let [out, columns] = shape;
    let codes: Vec<u8> = (0..out * columns).map(|i| (i * 37 % (1 << bits)) as u8).collect();
    let words = pack_rows(&codes, out, columns, bits);
    let scales = vec![0.01; out];
    PackedMatrix::new(words, scales, vec![], bits, Code::Symmetric, shape, columns, &Default::default())
}
