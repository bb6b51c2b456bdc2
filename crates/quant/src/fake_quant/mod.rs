//! Fake quantization of grouped values `[groups, length]`: integer codes, scales, and the values
//! that they stand for.

mod asymmetric;
mod binary;
mod symmetric;
mod ternary;

use crate::scheme::{Groups, ScaleSearch, WeightScheme};
use briquette_core::{CodeKind, CodedWeight, ScaleRule, host_floats};
use burn::prelude::*;

/// Grouped values as codes and scales.
#[derive(Debug, Clone)]
pub struct Quantized<B: Backend> {
    /// Whole numbers as floats, `[groups, length]`: signed around zero where symmetric, from 0 up
    /// where asymmetric.
    pub codes: Tensor<B, 2>,
    /// `[groups, 1]`, positive.
    pub scale: Tensor<B, 2>,
    /// Whole number `[groups, 1]` such that `value = codes * scale + zero * scale`; asymmetric only.
    pub zero: Option<Tensor<B, 2>>,
}

impl<B: Backend> Quantized<B> {
    /// The values the codes stand for, `[groups, length]`.
    pub fn values(&self) -> Tensor<B, 2> {
        let scaled = self.codes.clone() * self.scale.clone();
        match &self.zero {
            Some(zero) => scaled + zero.clone() * self.scale.clone(),
            None => scaled,
        }
    }
}

/// Codes and scales of `x` `[groups, length]`.
///
/// Zero groups and constant groups give finite results. With the rule `DeepSpeed` the values equal
/// DeepSpeed's bit for bit wherever DeepSpeed's are finite.
pub fn quantize<B: Backend>(x: Tensor<B, 2>, scheme: &WeightScheme, seed: u64) -> Quantized<B> {
    match (scheme.bits, scheme.symmetric) {
        (1, _) => binary::quantize(x, scheme.rule),
        (2, _) => ternary::quantize(x),
        _ => match scheme.search {
            ScaleSearch::Max => uniform(x, scheme, 1.0, seed),
            ScaleSearch::Mse => search(x, scheme, seed),
        },
    }
}

fn uniform<B: Backend>(x: Tensor<B, 2>, s: &WeightScheme, shrink: f32, seed: u64) -> Quantized<B> {
    if s.symmetric {
        symmetric::quantize(x, s.bits, s.rule, s.rounding, shrink, seed)
    } else {
        asymmetric::quantize(x, s.bits, s.rule, s.rounding, shrink, seed)
    }
}

/// For every group the candidate range with the smallest squared error.
fn search<B: Backend>(x: Tensor<B, 2>, scheme: &WeightScheme, seed: u64) -> Quantized<B> {
    let error = |q: &Quantized<B>| (q.values() - x.clone()).square().sum_dim(1);
    let mut best = uniform(x.clone(), scheme, 1.0, seed);
    let mut least = error(&best);
    for step in 1..=25 {
        let next = uniform(x.clone(), scheme, 1.0 - 0.02 * step as f32, seed);
        let e = error(&next);
        let better = e.clone().lower(least.clone());
        let wide = better.clone().expand(x.dims());
        best = Quantized {
            codes: best.codes.mask_where(wide, next.codes),
            scale: best.scale.mask_where(better.clone(), next.scale),
            zero: best.zero.zip(next.zero).map(|(b, n)| b.mask_where(better.clone(), n)),
        };
        least = least.mask_where(better, e);
    }
    best
}

/// A positive divisor: 1 where `scale` is zero, so that a group of zeros stays zero.
fn nonzero<B: Backend>(scale: Tensor<B, 2>) -> Tensor<B, 2> {
    let zero = scale.clone().equal_elem(0.0);
    scale.mask_fill(zero, 1.0)
}

/// The fake-quantized weight, `[out, in]`.
pub fn fake_quantize<B: Backend>(
    weight: Tensor<B, 2>,
    groups: Groups,
    scheme: &WeightScheme,
    seed: u64,
) -> Tensor<B, 2> {
    let shape = weight.dims();
    quantize(weight.reshape([groups.count, groups.length]), scheme, seed).values().reshape(shape)
}

/// The weight `[out, in]` as codes for packing, one scale for each run of columns within a row.
///
/// One bit cannot say zero: with the rule `DeepSpeed` a binary weight of exactly zero stays zero
/// while simulated and is coded as the positive value.
pub fn code<B: Backend>(
    weight: Tensor<B, 2>,
    groups: Groups,
    scheme: &WeightScheme,
    seed: u64,
) -> CodedWeight {
    let shape = weight.dims();
    let q = quantize(weight.reshape([groups.count, groups.length]), scheme, seed);
    let (kind, bits) = match (scheme.bits, scheme.symmetric) {
        (1, _) => (CodeKind::Binary, 1),
        (b, true) => (CodeKind::Symmetric, b),
        (b, false) => (CodeKind::Asymmetric, b),
    };
    let group = groups.columns(shape[1]);
    let spread = |values: Vec<f32>| spread(&values, groups, shape, group);
    CodedWeight {
        bits,
        kind,
        shape,
        group,
        codes: unsigned(host_floats(q.codes), kind, bits),
        scales: spread(host_floats(q.scale)),
        zeros: q.zero.map_or(Vec::new(), |z| spread(host_floats(z)).iter().map(|z| *z as i32).collect()),
    }
}

fn unsigned(codes: Vec<f32>, kind: CodeKind, bits: u32) -> Vec<u8> {
    let offset = match kind {
        CodeKind::Symmetric => (1u32 << (bits - 1)) as f32,
        CodeKind::Asymmetric => 0.0,
        CodeKind::Binary => return codes.iter().map(|c| u8::from(*c >= 0.0)).collect(),
    };
    codes.iter().map(|c| (c + offset) as u8).collect()
}

/// One value for each group, repeated for each run of `group` columns within the rows.
fn spread(values: &[f32], groups: Groups, shape: [usize; 2], group: usize) -> Vec<f32> {
    (0..shape[0] * shape[1] / group).map(|run| values[run * group / groups.length]).collect()
}

/// Levels on either side of zero, and the largest positive code, of a symmetric code.
fn symmetric_levels(bits: u32, rule: ScaleRule) -> (f32, f32, f32) {
    let half = (1u32 << (bits - 1)) as f32;
    match rule {
        ScaleRule::Paper => (half - 1.0, -(half - 1.0), half - 1.0),
        ScaleRule::DeepSpeed => (half, -half, half - 1.0),
    }
}

#[cfg(test)]
mod tests;
