//! An operation of ours in the stream of a fusing backend, with float and integer tensors.

use burn::prelude::*;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, TensorPrimitive};
use burn_fusion::stream::{Operation, OperationStreams};
use burn_fusion::{Fusion, FusionBackend, FusionRuntime};
use burn_ir::{CustomOpIr, HandleContainer, OperationIr, TensorIr};
use std::fmt;

type Handles<B> = HandleContainer<<<B as FusionBackend>::FusionRuntime as FusionRuntime>::FusionHandle>;

/// What an operation computes, from its inputs to its outputs, on the backend below.
type Body<B> = dyn Fn(Operands<B>) -> Vec<Any<B>> + Send + Sync;

/// What a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Float,
    Int,
}

/// An input of an operation: above the backend, the tensor does not say what it holds.
pub(super) struct Input<B: FusionBackend> {
    tensor: FloatTensor<Fusion<B>>,
    kind: Kind,
}

impl<B: FusionBackend> Input<B> {
    pub(super) fn of<const D: usize>(x: Tensor<Fusion<B>, D>) -> Self {
        Self::float(x.into_primitive().tensor())
    }

    pub(super) fn of_int<const D: usize>(x: Tensor<Fusion<B>, D, Int>) -> Self {
        Self { tensor: x.into_primitive(), kind: Kind::Int }
    }

    pub(super) fn float(tensor: FloatTensor<Fusion<B>>) -> Self {
        Self { tensor, kind: Kind::Float }
    }
}

/// A tensor of the backend below.
#[derive(Clone)]
pub(super) enum Any<B: Backend> {
    Float(FloatTensor<B>),
    Int(IntTensor<B>),
}

impl<B: Backend> Any<B> {
    pub(super) fn of<const D: usize>(x: Tensor<B, D>) -> Self {
        Self::Float(x.into_primitive().tensor())
    }

    pub(super) fn of_int<const D: usize>(x: Tensor<B, D, Int>) -> Self {
        Self::Int(x.into_primitive())
    }
}

/// The inputs of an operation, taken one after the other.
pub(super) struct Operands<B: Backend>(std::vec::IntoIter<Any<B>>);

impl<B: Backend> Operands<B> {
    /// The next input, a float tensor.
    pub(super) fn float<const D: usize>(&mut self) -> Tensor<B, D> {
        match self.0.next() {
            Some(Any::Float(x)) => Tensor::from_primitive(TensorPrimitive::Float(x)),
            _ => unreachable!("inputs come as they were registered"),
        }
    }

    /// The next input, an integer tensor.
    pub(super) fn int<const D: usize>(&mut self) -> Tensor<B, D, Int> {
        match self.0.next() {
            Some(Any::Int(x)) => Tensor::from_primitive(x),
            _ => unreachable!("inputs come as they were registered"),
        }
    }

    /// All that are left, float tensors of any rank.
    pub(super) fn floats(self) -> Vec<FloatTensor<B>> {
        let float = |x| match x {
            Any::Float(x) => x,
            Any::Int(_) => unreachable!("inputs come as they were registered"),
        };
        self.0.map(float).collect()
    }
}

/// What an operation says of an output before it runs.
#[derive(Clone, Debug)]
pub(super) struct Output {
    shape: Shape,
    dtype: DType,
}

impl Output {
    pub(super) fn new<const D: usize>(shape: [usize; D], dtype: DType) -> Self {
        Self { shape: Shape::new(shape), dtype }
    }

    /// Like another tensor.
    pub(super) fn like<B: FusionBackend>(x: &FloatTensor<Fusion<B>>) -> Self {
        Self { shape: x.shape.clone(), dtype: x.dtype }
    }
}

/// An operation with a body of its own.
struct Own<B: FusionBackend> {
    ir: CustomOpIr,
    inputs: Vec<Kind>,
    body: Box<Body<B>>,
}

impl<B: FusionBackend> fmt::Debug for Own<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ir.fmt(f)
    }
}

impl<B: FusionBackend> Operation<B::FusionRuntime> for Own<B> {
    fn execute(&self, handles: &mut Handles<B>) {
        let input = |(ir, kind): (&TensorIr, &Kind)| match kind {
            Kind::Float => Any::Float(handles.get_float_tensor::<B>(ir)),
            Kind::Int => Any::Int(handles.get_int_tensor::<B>(ir)),
        };
        let inputs: Vec<_> = self.ir.inputs.iter().zip(&self.inputs).map(input).collect();
        for (ir, output) in self.ir.outputs.iter().zip((self.body)(Operands(inputs.into_iter()))) {
            match output {
                Any::Float(x) => handles.register_float_tensor::<B>(&ir.id, x),
                Any::Int(x) => handles.register_int_tensor::<B>(&ir.id, x),
            }
        }
    }
}

/// Registers an operation with at least one input; its outputs in their order.
pub(super) fn register<B: FusionBackend>(
    id: &'static str,
    inputs: Vec<Input<B>>,
    outputs: Vec<Output>,
    body: impl Fn(Operands<B>) -> Vec<Any<B>> + Send + Sync + 'static,
) -> Vec<FloatTensor<Fusion<B>>> {
    let client = inputs[0].tensor.client.clone();
    let streams = OperationStreams::with_inputs(inputs.iter().map(|input| &input.tensor));
    let output = |output: Output| TensorIr::uninit(client.create_empty_handle(), output.shape, output.dtype);
    let outputs: Vec<TensorIr> = outputs.into_iter().map(output).collect();
    let (inputs, kinds): (Vec<TensorIr>, Vec<Kind>) =
        inputs.into_iter().map(|input| (input.tensor.into_ir(), input.kind)).unzip();
    let ir = CustomOpIr::new(id, &inputs, &outputs);
    let own = Own::<B> { ir: ir.clone(), inputs: kinds, body: Box::new(body) };
    client.register(streams, OperationIr::Custom(ir), own)
}
