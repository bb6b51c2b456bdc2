//! The kernels below the layer that fuses operations: to it each of them is one operation that it does not look into.

mod operation;

use super::linear::nothing;
use super::one;
use super::packed::{Choice, Form, Problem, choose};
use crate::activation::Activation;
use crate::linear::PackedLayer;
use crate::ops::CompressOps;
use crate::optimizer::{AdamWState, AdamWStep};
use crate::packed_matrix::{Code, PackedMatrix, Prepared};
use crate::portable;
use crate::product_kernel::PackedProduct;
use crate::quantize::{QuantizedRows, TokenQuant};
use burn::prelude::*;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{DType, Element, TensorPrimitive};
use burn_fusion::{Fusion, FusionBackend};
use operation::{Any, Input, Operands, Output, register};
use std::marker::PhantomData;

/// Registers an operation that gives a tensor like its one input.
fn rowwise<B: FusionBackend>(
    id: &'static str,
    x: Tensor<Fusion<B>, 2>,
    body: impl Fn(Tensor<B, 2>) -> Tensor<B, 2> + Send + Sync + 'static,
) -> Tensor<Fusion<B>, 2> {
    let output = Output::new(x.dims(), x.dtype());
    let body = move |mut inputs: Operands<B>| vec![Any::of(body(inputs.float()))];
    let y = register::<B>(id, vec![Input::of(x)], vec![output], body);
    tensor(one(y))
}

/// A packed weight among the inputs of an operation.
struct Weight<B: FusionBackend> {
    bits: u32,
    code: Code,
    shape: [usize; 2],
    group: usize,
    has_zeros: bool,
    prepared: Prepared,
    backend: PhantomData<B>,
}

impl<B: FusionBackend> Weight<B> {
    /// The parts of `p` become inputs.
    fn enter(p: &PackedMatrix<Fusion<B>>, inputs: &mut Vec<Input<B>>) -> Self {
        inputs.extend([Input::of_int(p.words.clone()), Input::of(p.scales.clone())]);
        inputs.extend(p.zeros.clone().map(Input::of));
        Self {
            bits: p.bits,
            code: p.code,
            shape: p.shape,
            group: p.group,
            has_zeros: p.zeros.is_some(),
            prepared: p.prepared.clone(),
            backend: PhantomData,
        }
    }

    /// The weight on the backend below, of the next inputs.
    fn take(&self, inputs: &mut Operands<B>) -> PackedMatrix<B> {
        PackedMatrix {
            words: inputs.int(),
            scales: inputs.float(),
            zeros: self.has_zeros.then(|| inputs.float()),
            bits: self.bits,
            code: self.code,
            shape: self.shape,
            group: self.group,
            prepared: self.prepared.clone(),
        }
    }
}

/// Registers the products of one input with several layers as one operation.
fn products<B: FusionBackend + CompressOps>(
    x: Tensor<Fusion<B>, 2>,
    q: Option<TokenQuant>,
    layers: Vec<PackedLayer<'_, Fusion<B>>>,
    activation: Activation,
) -> Vec<Tensor<Fusion<B>, 2>> {
    let (rows, dtype) = (x.dims()[0], x.dtype());
    let mut inputs = vec![Input::of(x)];
    let mut outputs = vec![];
    let mut weights = vec![];
    for (p, bias) in layers {
        outputs.push(Output::new([rows, p.shape[0]], dtype));
        weights.push((Weight::enter(p, &mut inputs), bias.is_some()));
        inputs.extend(bias.map(Input::of));
    }
    let body = move |mut inputs: Operands<B>| {
        let x = inputs.float();
        let layer =
            |(weight, biased): &(Weight<B>, bool)| (weight.take(&mut inputs), biased.then(|| inputs.float()));
        let layers: Vec<_> = weights.iter().map(layer).collect();
        let layers = layers.iter().map(|(p, bias)| (p, bias.clone())).collect();
        B::linear_all(x, q, layers, activation).into_iter().map(Any::of).collect()
    };
    register::<B>("briquette_linear", inputs, outputs, body).into_iter().map(tensor).collect()
}

/// Whether a product of `x` runs in a kernel of ours, or may.
fn has_kernel<B: FusionBackend + CompressOps>(
    x: &Tensor<Fusion<B>, 2>,
    q: Option<TokenQuant>,
    p: &PackedMatrix<Fusion<B>>,
) -> bool {
    let in_codes = q.is_some() && B::multiplies_codes(p.code, p.shape, p.group);
    let in_halves = B::multiplies_halves(x.dtype(), p.shape);
    in_codes || in_halves || choose(Problem::of(x.dims()[0], p)) != Choice::One(Form::Unpacked)
}

/// One product, by a kernel of ours or by this layer's own operations, which fuse with what comes after.
fn product<B: FusionBackend + CompressOps>(
    x: Tensor<Fusion<B>, 2>,
    q: Option<TokenQuant>,
    (p, bias): PackedLayer<'_, Fusion<B>>,
    activation: Activation,
) -> Tensor<Fusion<B>, 2> {
    if x.dims()[0] == 0 || p.shape.contains(&0) {
        return nothing(&x, p, bias, activation);
    }
    if has_kernel(&x, q, p) {
        return one(products(x, q, vec![(p, bias)], activation));
    }
    let x = match q {
        Some(q) => Fusion::<B>::fake_quantize_rows(x, q),
        None => x,
    };
    activation.forward(portable::linear_packed(x, p, bias))
}

fn tensor<B: FusionBackend, const D: usize>(x: FloatTensor<Fusion<B>>) -> Tensor<Fusion<B>, D> {
    Tensor::from_primitive(TensorPrimitive::Float(x))
}

impl<B: FusionBackend + CompressOps> CompressOps for Fusion<B> {
    fn keeps_sums() -> bool {
        B::keeps_sums()
    }

    fn fake_quantize_rows(x: Tensor<Self, 2>, q: TokenQuant) -> Tensor<Self, 2> {
        rowwise::<B>("briquette_fake_quantize_rows", x, move |x| B::fake_quantize_rows(x, q))
    }

    fn fake_binarize_rows(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        rowwise::<B>("briquette_fake_binarize_rows", x, B::fake_binarize_rows)
    }

    fn fake_ternarize_rows(x: Tensor<Self, 2>) -> Tensor<Self, 2> {
        rowwise::<B>("briquette_fake_ternarize_rows", x, B::fake_ternarize_rows)
    }

    fn rows_in_one_pass() -> bool {
        B::rows_in_one_pass()
    }

    fn unfolds_convolutions() -> bool {
        B::unfolds_convolutions()
    }

    fn quantize_rows(x: Tensor<Self, 2>, q: TokenQuant) -> QuantizedRows<Self> {
        let ([rows, columns], dtype) = (x.dims(), x.dtype());
        let mut outputs = vec![
            Output::new([rows, columns], <B::IntElem as Element>::dtype()),
            Output::new([rows, 1], dtype),
        ];
        if !q.symmetric {
            outputs.push(Output::new([rows, 1], dtype));
        }
        let body = move |mut inputs: Operands<B>| {
            let QuantizedRows { codes, scale, zero } = B::quantize_rows(inputs.float(), q);
            [Any::of_int(codes), Any::of(scale)].into_iter().chain(zero.map(Any::of)).collect()
        };
        let found = register::<B>("briquette_quantize_rows", vec![Input::of(x)], outputs, body);
        let mut found = found.into_iter();
        let mut next = || found.next().expect("codes and a scale");
        QuantizedRows {
            codes: Tensor::from_primitive(next()),
            scale: tensor(next()),
            zero: found.next().map(tensor),
        }
    }

    fn unpack(p: &PackedMatrix<Self>) -> Tensor<Self, 2> {
        if p.shape.contains(&0) {
            return portable::unpack(p);
        }
        let mut inputs = vec![];
        let weight = Weight::enter(p, &mut inputs);
        let output = Output::new(p.shape, p.scales.dtype());
        let body = move |mut inputs: Operands<B>| vec![Any::of(B::unpack(&weight.take(&mut inputs)))];
        tensor(one(register::<B>("briquette_unpack", inputs, vec![output], body)))
    }

    fn linear_packed(
        x: Tensor<Self, 2>,
        p: &PackedMatrix<Self>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        product(x, None, (p, bias), Activation::Identity)
    }

    fn linear_quantized(
        x: Tensor<Self, 2>,
        q: TokenQuant,
        p: &PackedMatrix<Self>,
        bias: Option<Tensor<Self, 1>>,
    ) -> Tensor<Self, 2> {
        product(x, Some(q), (p, bias), Activation::Identity)
    }

    fn linear_all(
        x: Tensor<Self, 2>,
        q: Option<TokenQuant>,
        layers: Vec<PackedLayer<'_, Self>>,
        activation: Activation,
    ) -> Vec<Tensor<Self, 2>> {
        let rows = x.dims()[0];
        let ours = |p: &PackedMatrix<Self>| rows > 0 && !p.shape.contains(&0) && has_kernel(&x, q, p);
        if layers.iter().all(|(p, _)| ours(p)) {
            return products(x, q, layers, activation);
        }
        if let Some(q) = q.filter(|_| rows > 0 && !layers.iter().any(|(p, _)| ours(p))) {
            let x = Self::fake_quantize_rows(x, q);
            return layers.into_iter().map(|layer| product(x.clone(), None, layer, activation)).collect();
        }
        layers.into_iter().map(|layer| product(x.clone(), q, layer, activation)).collect()
    }

    fn embedding_packed(p: &PackedMatrix<Self>, ids: Tensor<Self, 2, Int>) -> Tensor<Self, 3> {
        let ([batch, seq], width) = (ids.dims(), p.shape[1]);
        if batch * seq == 0 || p.shape.contains(&0) {
            return portable::embedding_packed(p, ids);
        }
        let mut inputs = vec![Input::of_int(ids)];
        let weight = Weight::enter(p, &mut inputs);
        let output = Output::new([batch, seq, width], p.scales.dtype());
        let body = move |mut inputs: Operands<B>| {
            let ids = inputs.int();
            vec![Any::of(B::embedding_packed(&weight.take(&mut inputs), ids))]
        };
        tensor(one(register::<B>("briquette_embedding_packed", inputs, vec![output], body)))
    }

    // GELU stays with this layer's own operations, which fuse with their neighbours.

    fn product_kernel(product: PackedProduct, device: &Self::Device) -> String {
        B::product_kernel(product, device)
    }

    fn multiplies_codes(code: Code, shape: [usize; 2], group: usize) -> bool {
        B::multiplies_codes(code, shape, group)
    }

    fn multiplies_halves(floats: DType, shape: [usize; 2]) -> bool {
        B::multiplies_halves(floats, shape)
    }

    fn attends(dtype: DType, width: usize) -> bool {
        B::attends(dtype, width)
    }

    fn attention(
        q: Tensor<Self, 4>,
        k: Tensor<Self, 4>,
        v: Tensor<Self, 4>,
        mask: Option<Tensor<Self, 4>>,
        causal: bool,
        scale: f64,
    ) -> Tensor<Self, 4> {
        let ([batch, heads, queries, width], value_width) = (q.dims(), v.dims()[3]);
        if !B::attends(q.dtype(), width) || width != value_width {
            return portable::attention(q, k, v, mask, causal, scale);
        }
        let output = Output::new([batch, heads, queries, width], q.dtype());
        let masked = mask.is_some();
        let body = move |mut inputs: Operands<B>| {
            let (q, k, v) = (inputs.float(), inputs.float(), inputs.float());
            let mask = masked.then(|| inputs.float());
            vec![Any::of(<B as CompressOps>::attention(q, k, v, mask, causal, scale))]
        };
        let mut inputs = vec![Input::of(q), Input::of(k), Input::of(v)];
        inputs.extend(mask.map(Input::of));
        tensor(one(register::<B>("briquette_attention", inputs, vec![output], body)))
    }

    fn layer_norm(
        x: Tensor<Self, 2>,
        gamma: Tensor<Self, 1>,
        beta: Tensor<Self, 1>,
        epsilon: f64,
    ) -> Tensor<Self, 2> {
        if x.shape().num_elements() == 0 {
            return x;
        }
        let output = Output::new(x.dims(), x.dtype());
        let body = move |mut inputs: Operands<B>| {
            let (x, gamma, beta) = (inputs.float(), inputs.float(), inputs.float());
            vec![Any::of(<B as CompressOps>::layer_norm(x, gamma, beta, epsilon))]
        };
        let inputs = vec![Input::of(x), Input::of(gamma), Input::of(beta)];
        tensor(one(register::<B>("briquette_layer_norm", inputs, vec![output], body)))
    }

    fn add_layer_norm(
        x: Tensor<Self, 2>,
        residual: Tensor<Self, 2>,
        gamma: Tensor<Self, 1>,
        beta: Tensor<Self, 1>,
        epsilon: f64,
    ) -> Tensor<Self, 2> {
        if x.shape().num_elements() == 0 {
            return x;
        }
        let output = Output::new(x.dims(), x.dtype());
        let body = move |mut inputs: Operands<B>| {
            let (x, residual, gamma) = (inputs.float(), inputs.float(), inputs.float());
            vec![Any::of(B::add_layer_norm(x, residual, gamma, inputs.float(), epsilon))]
        };
        let inputs = vec![Input::of(x), Input::of(residual), Input::of(gamma), Input::of(beta)];
        tensor(one(register::<B>("briquette_add_layer_norm", inputs, vec![output], body)))
    }

    fn adamw(
        state: AdamWState<FloatTensor<Self>>,
        gradient: FloatTensor<Self>,
        factor: Option<FloatTensor<Self>>,
        step: AdamWStep,
    ) -> AdamWState<FloatTensor<Self>> {
        let outputs = [&state.weight, &state.first, &state.second].map(Output::like::<B>).to_vec();
        let mut inputs = vec![state.weight, state.first, state.second, gradient];
        inputs.extend(factor);
        let inputs = inputs.into_iter().map(Input::float).collect();
        let body = move |inputs: Operands<B>| {
            let mut inputs = inputs.floats().into_iter();
            let mut next = || inputs.next().expect("four inputs");
            let state = AdamWState { weight: next(), first: next(), second: next() };
            let (gradient, factor) = (next(), inputs.next());
            let AdamWState { weight, first, second } = B::adamw(state, gradient, factor, step);
            [weight, first, second].map(Any::Float).to_vec()
        };
        let found = register::<B>("briquette_adamw", inputs, outputs, body);
        let [weight, first, second] = found.try_into().expect("three outputs");
        AdamWState { weight, first, second }
    }

    fn clip_factor(gradients: Vec<FloatTensor<Self>>, limit: f64) -> FloatTensor<Self> {
        let output = Output::new([1], gradients[0].dtype);
        let gradients = gradients.into_iter().map(Input::float).collect();
        let body = move |inputs: Operands<B>| vec![Any::Float(B::clip_factor(inputs.floats(), limit))];
        one(register::<B>("briquette_clip_factor", gradients, vec![output], body))
    }
}
