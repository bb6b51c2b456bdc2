//! Fake quantization of grouped values `[groups, length]`: integer codes, scales, and the values
//! that they stand for.

mod asymmetric;
mod binary;
mod learned;
mod quantizer;
mod reduce;
mod search;
mod symmetric;
mod ternary;

pub(crate) use quantizer::Quantizer;

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
/// DeepSpeed's bit for bit wherever DeepSpeed's are finite. More than 8 bits are for training; 32-bit floats have no
/// codes of more than 24 bits, so beyond that the values come out all but unchanged.
pub fn quantize<B: Backend>(x: Tensor<B, 2>, scheme: &WeightScheme, seed: u64) -> Quantized<B> {
    match (scheme.bits, scheme.search) {
        (1, _) => binary::by_sign(x, scheme.rule),
        (2, _) => ternary::quantize(x),
        (_, ScaleSearch::Max) => uniform(x, scheme, scheme.rounding, None, seed),
        (_, ScaleSearch::Mse) => {
            let shrink = search::shrink(&x, scheme, seed);
            uniform(x, scheme, scheme.rounding, Some(shrink), seed)
        }
    }
}

/// Codes of 3 bits and more; the range is `shrink`, `[groups, 1]`, times that of the group.
fn uniform<B: Backend>(
    x: Tensor<B, 2>,
    s: &WeightScheme,
    rounding: crate::rounding::Rounding,
    shrink: Option<Tensor<B, 2>>,
    seed: u64,
) -> Quantized<B> {
    if s.symmetric {
        symmetric::quantize(x, s, rounding, shrink, seed)
    } else {
        asymmetric::quantize(x, s, rounding, shrink, seed)
    }
}

/// A positive divisor: 1 where `scale` is zero, so that a group of zeros stays zero.
fn nonzero<B: Backend>(scale: Tensor<B, 2>) -> Tensor<B, 2> {
    let zero = as_numbers(scale.clone().equal_elem(0.0), &scale);
    scale + zero
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
    let quantized = quantize(weight.reshape([groups.count, groups.length]), scheme, seed);
    coded(quantized, shape, groups, scheme)
}

/// The codes of a weight `[out, in]`, unsigned on the host.
fn coded<B: Backend>(
    q: Quantized<B>,
    shape: [usize; 2],
    groups: Groups,
    scheme: &WeightScheme,
) -> CodedWeight {
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

/// Smallest and largest code.
fn limits(scheme: &WeightScheme) -> (f32, f32) {
    let half = (scheme.bits as f32 - 1.0).exp2();
    match (scheme.bits, scheme.symmetric, scheme.rule) {
        (1 | 2, ..) => (-1.0, 1.0),
        (_, true, ScaleRule::Paper) => (1.0 - half, half - 1.0),
        (_, true, ScaleRule::DeepSpeed) => (-half, half - 1.0),
        (_, false, _) => (0.0, 2.0 * half - 1.0),
    }
}

/// Where values `[groups, length]` lie on the axis of their codes.
fn position<B: Backend>(x: Tensor<B, 2>, q: &Quantized<B>) -> Tensor<B, 2> {
    let position = x / q.scale.clone();
    match &q.zero {
        Some(zero) => position - zero.clone(),
        None => position,
    }
}

/// 1 for positions between the outermost codes, both included, and 0 beyond.
fn inside<B: Backend>(position: Tensor<B, 2>, scheme: &WeightScheme) -> Tensor<B, 2> {
    let (low, high) = limits(scheme);
    as_numbers(position.clone().clamp(low, high).equal(position.clone()), &position)
}

/// 1 where true and 0 where not, in the element type of `like`: burn's own choice is the backend's.
fn as_numbers<B: Backend>(truth: Tensor<B, 2, Bool>, like: &Tensor<B, 2>) -> Tensor<B, 2> {
    truth.float().cast(like.dtype())
}

#[cfg(test)]
mod tests;
