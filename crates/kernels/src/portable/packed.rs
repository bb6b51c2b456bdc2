//! Unpacking, and products with unpacked weights.

use crate::activation::Activation;
use crate::packed_matrix::{Code, PackedMatrix};
use crate::quantize::TokenQuant;
use burn::prelude::*;
use burn::tensor::{BasicOps, DType};

pub(crate) fn unpack<B: Backend>(p: &PackedMatrix<B>) -> Tensor<B, 2> {
    let [out, columns] = p.shape;
    if out == 0 || columns == 0 {
        return Tensor::zeros([out, columns], (&p.device(), p.scales.dtype()));
    }
    let codes = codes(p).float().cast(p.scales.dtype()).reshape([out, p.groups(), p.group]);
    let scales = p.scales.clone().unsqueeze_dim(2);
    let values = match (p.code, &p.zeros) {
        (Code::Symmetric, _) => (codes - (1u32 << (p.bits - 1)) as f32) * scales,
        (Code::Binary, _) => (codes * 2.0 - 1.0) * scales,
        (Code::Asymmetric, Some(zeros)) => codes * scales + zeros.clone().unsqueeze_dim(2),
        (Code::Asymmetric, None) => codes * scales,
    };
    values.reshape([out, columns])
}

pub(crate) fn linear<B: Backend>(
    x: Tensor<B, 2>,
    w: Tensor<B, 2>,
    bias: Option<Tensor<B, 1>>,
    activation: Activation,
) -> Tensor<B, 2> {
    activation.forward(burn::tensor::module::linear(x, w, bias))
}

pub(crate) fn linear_packed<B: Backend>(
    x: Tensor<B, 2>,
    p: &PackedMatrix<B>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, 2> {
    // The weight is a constant: a differentiable backend need not track how it was unpacked.
    let w = crate::unpack(p);
    let w = if w.dtype() == x.dtype() { w } else { w.cast(x.dtype()) };
    let product = x.matmul(w.transpose());
    match bias {
        Some(bias) => product + bias.unsqueeze(),
        None => product,
    }
}

pub(crate) fn linear_quantized<B: Backend>(
    x: Tensor<B, 2>,
    q: TokenQuant,
    p: &PackedMatrix<B>,
    bias: Option<Tensor<B, 1>>,
) -> Tensor<B, 2> {
    linear_packed(super::fake_quantize_rows(x, q), p, bias)
}

pub(crate) fn embedding_packed<B: Backend>(p: &PackedMatrix<B>, ids: Tensor<B, 2, Int>) -> Tensor<B, 3> {
    let [batch, seq] = ids.dims();
    let width = p.shape[1];
    if batch * seq == 0 {
        return Tensor::zeros([batch, seq, width], (&p.device(), p.scales.dtype()));
    }
    let ids = ids.reshape([batch * seq]);
    let rows = PackedMatrix {
        words: pick(p.words.clone(), ids.clone()),
        scales: pick(p.scales.clone(), ids.clone()),
        zeros: p.zeros.clone().map(|z| pick(z, ids)),
        bits: p.bits,
        code: p.code,
        shape: [batch * seq, width],
        group: p.group,
        prepared: Default::default(),
    };
    crate::unpack(&rows).reshape([batch, seq, width])
}

/// Rows `ids: [count]` of `table: [rows, width]` -> `[count, width]`.
///
/// A table of one column is picked from as a vector. burn fuses selections by the same ids into one
/// kernel whose vectors are as wide as the widest table allows; it walks along the columns of each, and
/// in a table that has only one it would end some rows further on.
fn pick<B: Backend, K: BasicOps<B>>(table: Tensor<B, 2, K>, ids: Tensor<B, 1, Int>) -> Tensor<B, 2, K> {
    let ([rows, width], [count]) = (table.dims(), ids.dims());
    if width == 1 { table.reshape([rows]).select(0, ids).reshape([count, 1]) } else { table.select(0, ids) }
}

/// Unsigned codes `[out, in]`.
fn codes<B: Backend>(p: &PackedMatrix<B>) -> Tensor<B, 2, Int> {
    if 32 % p.bits == 0 { aligned_codes(p) } else { straddling_codes(p) }
}

/// Widths that divide 32: a word holds whole codes, so that shifting copies of it is enough.
fn aligned_codes<B: Backend>(p: &PackedMatrix<B>) -> Tensor<B, 2, Int> {
    let [out, width] = p.words.dims();
    let per_word = (32 / p.bits) as usize;
    let shifts = (0..per_word).map(|i| i as i32 * p.bits as i32).collect();
    let shifts = ints(shifts, &p.device()).reshape([1, 1, per_word]).expand([out, width, per_word]);
    let copies = p.words.clone().unsqueeze_dim::<3>(2).expand([out, width, per_word]);
    let mask = ((1u32 << p.bits) - 1).cast_signed();
    // An arithmetic shift brings in copies of the sign bit, but never below the code's own bits.
    let codes = copies.bitwise_right_shift(shifts).bitwise_and_scalar(mask.elem());
    codes.reshape([out, width * per_word]).narrow(1, 0, p.shape[1])
}

/// Widths that do not: a code takes its low bits from one word and the rest from the next.
fn straddling_codes<B: Backend>(p: &PackedMatrix<B>) -> Tensor<B, 2, Int> {
    let [out, width] = p.words.dims();
    let columns = p.shape[1];
    let device = p.device();
    let offset = |i: usize| (i * p.bits as usize) % 32;
    let low_bits = |i: usize| (32 - offset(i)).min(p.bits as usize);
    let per_column = |f: &dyn Fn(usize) -> usize| {
        ints((0..columns).map(|i| f(i) as i32).collect(), &device)
            .reshape([1, columns])
            .expand([out, columns])
    };
    let word = |next: usize| {
        let at = (0..columns).map(|i| (i * p.bits as usize / 32 + next).min(width - 1) as i32).collect();
        p.words.clone().select(1, ints(at, &device))
    };
    let low_mask = per_column(&|i| (1 << low_bits(i)) - 1);
    let high_mask = per_column(&|i| (1 << p.bits) - (1 << low_bits(i)));
    let low = word(0).bitwise_right_shift(per_column(&offset)).bitwise_and(low_mask);
    let high = word(1).bitwise_left_shift(per_column(&low_bits)).bitwise_and(high_mask);
    low.bitwise_or(high)
}

fn ints<B: Backend>(values: Vec<i32>, device: &B::Device) -> Tensor<B, 1, Int> {
    let shape = [values.len()];
    Tensor::from_data(TensorData::new(values, shape), (device, DType::I32))
}
