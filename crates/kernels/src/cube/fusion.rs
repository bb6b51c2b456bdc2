//! The kernels below the layer that fuses operations: to it each of them is one operation that it does not look into.

use crate::ops::CompressOps;
use crate::optimizer::{AdamWState, AdamWStep};
use crate::quantize::TokenQuant;
use burn::prelude::*;
use burn::tensor::TensorPrimitive;
use burn::tensor::ops::FloatTensor;
use burn_fusion::stream::{Operation, OperationStreams};
use burn_fusion::{Fusion, FusionBackend, FusionRuntime};
use burn_ir::{CustomOpIr, HandleContainer, OperationIr, TensorIr};
use std::fmt;

type Handles<B> = HandleContainer<<<B as FusionBackend>::FusionRuntime as FusionRuntime>::FusionHandle>;

/// What an operation computes, from its inputs to its outputs, on the backend below.
type Body<B> = dyn Fn(Vec<FloatTensor<B>>) -> Vec<FloatTensor<B>> + Send + Sync;

/// An operation on float tensors with a body of its own.
struct Own<B: FusionBackend> {
    ir: CustomOpIr,
    body: Box<Body<B>>,
}

impl<B: FusionBackend> fmt::Debug for Own<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ir.fmt(f)
    }
}

impl<B: FusionBackend> Operation<B::FusionRuntime> for Own<B> {
    fn execute(&self, handles: &mut Handles<B>) {
        let inputs = self.ir.inputs.iter().map(|ir| handles.get_float_tensor::<B>(ir)).collect();
        for (ir, output) in self.ir.outputs.iter().zip((self.body)(inputs)) {
            handles.register_float_tensor::<B>(&ir.id, output);
        }
    }
}

/// Registers an operation whose outputs are like the inputs at the given places, or `[1]` for none.
fn register<B: FusionBackend>(
    id: &'static str,
    inputs: Vec<FloatTensor<Fusion<B>>>,
    like: &[Option<usize>],
    body: impl Fn(Vec<FloatTensor<B>>) -> Vec<FloatTensor<B>> + Send + Sync + 'static,
) -> Vec<FloatTensor<Fusion<B>>> {
    let client = inputs[0].client.clone();
    let streams = OperationStreams::with_inputs(&inputs);
    let output = |like: &Option<usize>| {
        let shape = like.map_or_else(|| Shape::new([1]), |at| inputs[at].shape.clone());
        TensorIr::uninit(client.create_empty_handle(), shape, inputs[like.unwrap_or(0)].dtype)
    };
    let outputs: Vec<TensorIr> = like.iter().map(output).collect();
    let inputs: Vec<TensorIr> = inputs.into_iter().map(|x| x.into_ir()).collect();
    let ir = CustomOpIr::new(id, &inputs, &outputs);
    client.register(streams, OperationIr::Custom(ir.clone()), Own::<B> { ir, body: Box::new(body) })
}

/// Registers an operation that gives a tensor like its one input.
fn rowwise<B: FusionBackend>(
    id: &'static str,
    x: Tensor<Fusion<B>, 2>,
    body: impl Fn(Tensor<B, 2>) -> Tensor<B, 2> + Send + Sync + 'static,
) -> Tensor<Fusion<B>, 2> {
    let body = move |inputs: Vec<FloatTensor<B>>| {
        let x = inputs.into_iter().next().expect("one input");
        vec![body(Tensor::from_primitive(TensorPrimitive::Float(x))).into_primitive().tensor()]
    };
    let y = register::<B>(id, vec![x.into_primitive().tensor()], &[Some(0)], body);
    Tensor::from_primitive(TensorPrimitive::Float(y.into_iter().next().expect("one output")))
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

    fn adamw(
        state: AdamWState<FloatTensor<Self>>,
        gradient: FloatTensor<Self>,
        factor: Option<FloatTensor<Self>>,
        step: AdamWStep,
    ) -> AdamWState<FloatTensor<Self>> {
        let mut inputs = vec![state.weight, state.first, state.second, gradient];
        inputs.extend(factor);
        let body = move |inputs: Vec<FloatTensor<B>>| {
            let mut inputs = inputs.into_iter();
            let mut next = || inputs.next().expect("four inputs");
            let state = AdamWState { weight: next(), first: next(), second: next() };
            let (gradient, factor) = (next(), inputs.next());
            let AdamWState { weight, first, second } = B::adamw(state, gradient, factor, step);
            vec![weight, first, second]
        };
        let found = register::<B>("briquette_adamw", inputs, &[Some(0), Some(1), Some(2)], body);
        let [weight, first, second] = found.try_into().expect("three outputs");
        AdamWState { weight, first, second }
    }

    fn clip_factor(gradients: Vec<FloatTensor<Self>>, limit: f64) -> FloatTensor<Self> {
        let body = move |inputs: Vec<FloatTensor<B>>| vec![B::clip_factor(inputs, limit)];
        let found = register::<B>("briquette_clip_factor", gradients, &[None], body);
        found.into_iter().next().expect("one output")
    }
}
