//! What the tests share.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses a part of it")]

use briquette_core::{CodeKind, CodedWeight, InputQuantization, InputRange, ScaleRule};
use briquette_kernels::{Code, PackedMatrix, pack_rows};
use burn::backend::{Autodiff, Flex};
use burn::prelude::*;
use burn::tensor::Distribution;

pub(crate) type A = Autodiff<Flex>;

pub(crate) fn random<B: Backend, const D: usize>(shape: [usize; D]) -> Tensor<B, D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
}

pub(crate) fn floats<B: Backend, const D: usize>(tensor: &Tensor<B, D>) -> Vec<f32> {
    tensor.to_data().convert::<f32>().into_vec().unwrap()
}

pub(crate) fn assert_close<B: Backend, const D: usize>(a: &Tensor<B, D>, b: &Tensor<B, D>, tolerance: f32) {
    assert_eq!(a.dims(), b.dims());
    for (x, y) in floats(a).into_iter().zip(floats(b)) {
        assert!((x - y).abs() <= tolerance * (1.0 + x.abs()), "{x} and {y}");
    }
}

pub(crate) fn assert_same<B: Backend, const D: usize>(a: &Tensor<B, D>, b: &Tensor<B, D>) {
    assert_eq!(a.to_data(), b.to_data());
}

/// A 4-bit symmetric weight `[out, in]` with groups of `group`, and its values.
pub(crate) fn coded(shape: [usize; 2], group: usize) -> CodedWeight {
    let [rows, columns] = shape;
    CodedWeight {
        bits: 4,
        kind: CodeKind::Symmetric,
        shape,
        group,
        codes: (0..rows * columns).map(|i| ((i * 7 + i / 3) % 16) as u8).collect(),
        scales: (0..rows * columns / group).map(|i| 0.05 + 0.01 * (i % 5) as f32).collect(),
        zeros: vec![],
    }
}

pub(crate) fn pack<B: Backend>(weight: &CodedWeight) -> PackedMatrix<B> {
    let [rows, columns] = weight.shape;
    let words = pack_rows(&weight.codes, rows, columns, weight.bits);
    let (scales, zeros) = (weight.scales.clone(), weight.zeros.clone());
    let device = Default::default();
    PackedMatrix::new(words, scales, zeros, weight.bits, Code::Symmetric, weight.shape, weight.group, &device)
}

/// The values of a coded weight, `[out, in]`.
pub(crate) fn values<B: Backend>(weight: &CodedWeight) -> Tensor<B, 2> {
    Tensor::from_data(TensorData::new(weight.values(), weight.shape), &Default::default())
}

pub(crate) fn eight_bits(range: InputRange) -> Option<InputQuantization> {
    Some(InputQuantization { bits: 8, symmetric: true, rule: ScaleRule::Paper, range })
}
