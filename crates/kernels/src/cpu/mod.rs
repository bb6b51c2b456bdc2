//! The operations on the CPU backend's memory: slices, vector units and all threads.

mod attention;
mod codes;
mod dot;
mod fused;
mod linear;
mod math;
mod memory;
#[cfg_attr(not(target_arch = "x86_64"), path = "no_panels.rs")]
mod panels;
mod product;
mod quantize;
mod simd;
#[cfg(target_arch = "x86_64")]
mod vnni;

use crate::ops::CompressOps;
use crate::packed_matrix::PackedMatrix;
use crate::portable;
use crate::quantize::{QuantizedRows, TokenQuant};
use burn::backend::Flex;
use burn::prelude::*;
use burn::tensor::DType;

/// Whether the loops of this module apply: other float types are rare on a CPU and take the
/// portable way, and packed words are read as little-endian bytes.
fn native(dtypes: &[DType]) -> bool {
    cfg!(target_endian = "little") && dtypes.iter().all(|d| *d == DType::F32)
}

impl CompressOps for Flex {
    fn round_half_even(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if native(&[x.dtype()]) { quantize::round_half_even(x) } else { portable::round_half_even(x) }
    }

    fn fake_quantize_rows(x: Tensor<Self, 2>, q: TokenQuant) -> Tensor<Self, 2> {
        if native(&[x.dtype()]) {
            quantize::fake_quantize_rows(x, q)
        } else {
            portable::fake_quantize_rows(x, q)
        }
    }

    fn quantize_rows(x: Tensor<Self, 2>, q: TokenQuant) -> QuantizedRows<Self> {
        if native(&[x.dtype()]) { quantize::quantize_rows(x, q) } else { portable::quantize_rows(x, q) }
    }

    fn unpack(p: &PackedMatrix<Self>) -> Tensor<Self, 2> {
        if native(&[p.scales.dtype()]) { codes::unpack(p) } else { portable::unpack(p) }
    }

    fn linear_packed(
        x: Tensor<Self, 2>,
        p: &PackedMatrix<Self>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        if native(&[x.dtype(), p.scales.dtype()]) {
            linear::linear_packed(x, p, bias)
        } else {
            portable::linear_packed(x, p, bias)
        }
    }

    fn linear_quantized(
        x: Tensor<Self, 2>,
        q: TokenQuant,
        p: &PackedMatrix<Self>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        if native(&[x.dtype(), p.scales.dtype()]) {
            product::linear_quantized(x, q, p, bias)
        } else {
            portable::linear_quantized(x, q, p, bias)
        }
    }

    fn layer_norm(
        x: Tensor<Self, 2>,
        gamma: Tensor<Self, 1>,
        beta: Tensor<Self, 1>,
        epsilon: f64,
    ) -> Tensor<Self, 2> {
        if native(&[x.dtype()]) {
            fused::layer_norm(x, gamma, beta, epsilon)
        } else {
            portable::layer_norm(x, gamma, beta, epsilon)
        }
    }

    fn gelu(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if native(&[x.dtype()]) { fused::gelu(x) } else { portable::gelu(x) }
    }

    fn gelu_tanh(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        if native(&[x.dtype()]) { fused::gelu_tanh(x) } else { portable::gelu_tanh(x) }
    }

    fn attention(
        q: Tensor<Self, 4>,
        k: Tensor<Self, 4>,
        v: Tensor<Self, 4>,
        mask: Option<Tensor<Self, 4>>,
        causal: bool,
        scale: f64,
    ) -> Tensor<Self, 4> {
        let mask_dtype = mask.as_ref().map_or(DType::F32, Tensor::dtype);
        if native(&[q.dtype(), k.dtype(), v.dtype(), mask_dtype]) {
            attention::attention(q, k, v, mask, causal, scale)
        } else {
            portable::attention(q, k, v, mask, causal, scale)
        }
    }
}
