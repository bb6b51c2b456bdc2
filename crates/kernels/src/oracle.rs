//! What the operations mean, in plain loops over slices. For tests: slow, and nothing but clear.

use crate::packed_matrix::Code;
use crate::packing::{unpack_rows, words_per_row};
use crate::quantize::TokenQuant;

/// Rows of codes: `value = code * scale + zero`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// `[rows, columns]`.
    pub codes: Vec<i32>,
    /// `[rows]`.
    pub scale: Vec<f32>,
    /// `[rows]`, `zero_point * scale`; zeros if symmetric.
    pub zero: Vec<f32>,
}

/// See [`crate::quantize_rows`]. `x: [rows, columns]`.
pub fn quantize_rows(x: &[f32], columns: usize, q: TokenQuant) -> Rows {
    let mut out = Rows { codes: vec![], scale: vec![], zero: vec![] };
    for row in x.chunks_exact(columns) {
        let (scale, zero) = scale_and_zero(row, q);
        out.codes.extend(row.iter().map(|v| code(*v, scale, zero, q)));
        out.scale.push(scale);
        out.zero.push(zero);
    }
    out
}

/// See [`crate::fake_quantize_rows`]. `x: [rows, columns]`.
pub fn fake_quantize_rows(x: &[f32], columns: usize, q: TokenQuant) -> Vec<f32> {
    let rows = quantize_rows(x, columns, q);
    let value = |(i, code): (usize, &i32)| {
        let product = *code as f32 * rows.scale[i / columns];
        if q.symmetric { product } else { product + rows.zero[i / columns] }
    };
    rows.codes.iter().enumerate().map(value).collect()
}

fn scale_and_zero(row: &[f32], q: TokenQuant) -> (f32, f32) {
    let n = 2f32.powi(q.bits as i32);
    let (mut min, mut max) = q.range.unwrap_or_else(|| {
        let fold = |f: fn(f32, f32) -> f32| row.iter().copied().reduce(f).unwrap_or(0.0);
        (fold(f32::min), fold(f32::max))
    });
    let length = match (q.symmetric, q.full_range) {
        (true, true) => 2.0 * min.abs().max(max) / n,
        (true, false) => min.abs().max(max) / (n / 2.0 - 1.0),
        (false, true) => (max - min) / n,
        (false, false) => {
            (min, max) = (min.min(0.0), max.max(0.0));
            (max - min) / (n - 1.0)
        }
    };
    let scale = if length == 0.0 { 1.0 } else { length };
    let zero = if q.symmetric { 0.0 } else { (min / scale).round_ties_even() * scale };
    (scale, zero)
}

fn code(x: f32, scale: f32, zero: f32, q: TokenQuant) -> i32 {
    let n = 1i32 << q.bits;
    let (low, high) = match (q.symmetric, q.full_range) {
        (true, true) => (-n / 2, n / 2 - 1),
        (true, false) => (1 - n / 2, n / 2 - 1),
        (false, _) => (0, n - 1),
    };
    (((x - zero) / scale).round_ties_even() as i32).clamp(low, high)
}

/// See [`crate::unpack`]: `words: [out, words_per_row]`, `scales` and integer `zeros`
/// `[out, in / group]` (`zeros` empty unless asymmetric).
pub fn unpack(
    words: &[u32],
    scales: &[f32],
    zeros: &[i32],
    bits: u32,
    code: Code,
    shape: [usize; 2],
    group: usize,
) -> Vec<f32> {
    assert_eq!(words.len(), shape[0] * words_per_row(shape[1], bits), "words do not fit {shape:?}");
    let half = (1i32 << (bits - 1)) as f32;
    let codes = unpack_rows(words, shape[0], shape[1], bits);
    let value = |(i, u): (usize, &u8)| {
        let at = i / shape[1] * (shape[1] / group) + i % shape[1] / group;
        let (u, scale) = (f32::from(*u), scales[at]);
        match code {
            Code::Symmetric => (u - half) * scale,
            Code::Asymmetric => u * scale + zeros[at] as f32 * scale,
            Code::Binary => (2.0 * u - 1.0) * scale,
        }
    };
    codes.iter().enumerate().map(value).collect()
}

/// `x w^T + bias` with `x: [rows, in]`, `w: [out, in]`, `bias: [out]` or empty -> `[rows, out]`.
pub fn linear(x: &[f32], w: &[f32], bias: &[f32], columns: usize) -> Vec<f64> {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    let row = |x| {
        let offset = |o| bias.get(o).copied().map_or(0.0, f64::from);
        w.chunks_exact(columns).enumerate().map(move |(o, w)| dot(x, w) + offset(o))
    };
    x.chunks_exact(columns).flat_map(row).collect()
}

/// Integer products `[rows, out]` of codes `x: [rows, in]` and `w: [out, in]`.
pub fn integer_products(x: &[i32], w: &[i32], columns: usize) -> Vec<i64> {
    let dot =
        |a: &[i32], b: &[i32]| -> i64 { a.iter().zip(b).map(|(a, b)| i64::from(*a) * i64::from(*b)).sum() };
    x.chunks_exact(columns).flat_map(|x| w.chunks_exact(columns).map(move |w| dot(x, w))).collect()
}

/// See [`crate::layer_norm`]. `x: [rows, width]`.
pub fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f64) -> Vec<f64> {
    let width = gamma.len();
    let mut out = vec![];
    for row in x.chunks_exact(width) {
        let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
        let mean = row.iter().sum::<f64>() / width as f64;
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / width as f64;
        let scaled = |(i, v): (usize, &f64)| {
            (v - mean) / (variance + epsilon).sqrt() * f64::from(gamma[i]) + f64::from(beta[i])
        };
        out.extend(row.iter().enumerate().map(scaled));
    }
    out
}

/// See [`crate::gelu`].
pub fn gelu(x: f32) -> f64 {
    let x = f64::from(x);
    0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// See [`crate::gelu_tanh`].
pub fn gelu_tanh(x: f32) -> f64 {
    let x = f64::from(x);
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

/// The error function, by the series `2/sqrt(pi) exp(-x^2) sum 2^n x^(2n+1) / (1 3 5 .. (2n+1))`
/// (Abramowitz and Stegun 1964, 7.1.6), whose terms have one sign.
pub fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    while term.abs() > 1e-18 * sum.abs() {
        odd += 2.0;
        term *= 2.0 * x * x / odd;
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

/// See [`crate::attention`], for one batch entry and one head: `q: [seq_q, d_head]`,
/// `k: [seq_k, d_head]`, `v: [seq_k, d_value]`, `mask: [seq_q, seq_k]` or empty.
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    mask: &[f32],
    causal: bool,
    scale: f64,
    d_head: usize,
) -> Vec<f64> {
    let (queries, keys) = (q.len() / d_head, k.len() / d_head);
    let d_value = v.len() / keys;
    let mut out = vec![0.0; queries * d_value];
    for i in 0..queries {
        let visible = if causal { i + keys - queries + 1 } else { keys };
        let dot = |j: usize| -> f64 {
            (0..d_head).map(|d| f64::from(q[i * d_head + d]) * f64::from(k[j * d_head + d])).sum()
        };
        let added = |j: usize| mask.get(i * keys + j).map_or(0.0, |m| f64::from(*m));
        let scores: Vec<f64> = (0..visible).map(|j| (dot(j) * scale + added(j)).max(-1e30)).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (j, weight) in weights.iter().enumerate() {
            for d in 0..d_value {
                out[i * d_value + d] += weight / total * f64::from(v[j * d_value + d]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_at_known_points() {
        // Abramowitz and Stegun 1964, table 7.1.
        for (x, y) in [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)] {
            assert!((erf(x) - y).abs() < 1e-10 && (erf(-x) + y).abs() < 1e-10, "erf({x})");
        }
        assert_eq!(erf(7.0), 1.0);
    }
}
