//! A convolution whose gradients are the backend's own.

use super::{tensor, values};
use crate::convolution::ConvolutionTail;
use crate::ops::CompressOps;
use burn::backend::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, binary};
use burn::prelude::*;
use burn::tensor::ops::PaddedConvOptions;

/// See [`crate::conv2d`]. The bias is an operation behind it.
pub(crate) fn conv2d<B: CompressOps, C: CheckpointStrategy>(
    x: Tensor<Autodiff<B, C>, 4>,
    weight: Tensor<Autodiff<B, C>, 4>,
    bias: Option<Tensor<Autodiff<B, C>, 1>>,
    options: PaddedConvOptions<2>,
) -> Tensor<Autodiff<B, C>, 4> {
    let (shapes, channels) = ([x.dims(), weight.dims()], weight.dims()[0]);
    let (x, weight) = (values(x), values(weight));
    let forward = |x, weight, options| {
        values(<B as CompressOps>::conv2d(
            tensor(x),
            tensor(weight),
            None,
            options,
            ConvolutionTail::default(),
        ))
    };
    let nodes = [x.node.clone(), weight.node.clone()];
    let y = match Convolution.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            // Each is needed for the gradient by the other.
            let seen = weight.is_tracked().then(|| prep.checkpoint(&x));
            let multiplied = x.is_tracked().then(|| prep.checkpoint(&weight));
            let state = State { x: seen, weight: multiplied, shapes, options: options.clone() };
            prep.finish(state, forward(x.primitive, weight.primitive, options))
        }
        OpsKind::UnTracked(prep) => prep.finish(forward(x.primitive, weight.primitive, options)),
    };
    match bias {
        Some(bias) => tensor(y) + bias.reshape([1, channels, 1, 1]),
        None => tensor(y),
    }
}

#[derive(Debug)]
struct Convolution;

/// What the gradients are computed from.
#[derive(Clone, Debug)]
struct State {
    x: Option<NodeId>,
    weight: Option<NodeId>,
    /// Of both.
    shapes: [[usize; 4]; 2],
    options: PaddedConvOptions<2>,
}

impl<B: CompressOps> Backward<B, 2> for Convolution {
    type State = State;

    fn backward(self, ops: Ops<State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let State { x, weight, shapes: [x_shape, weight_shape], options } = ops.state;
        let [x, weight] = [x, weight].map(|id| id.map(|id| checkpointer.retrieve_node_output(id)));
        let by_input = |dy| match weight {
            Some(weight) => values(B::conv2d_input_gradient(x_shape, tensor(weight), tensor(dy), &options)),
            None => unreachable!("an input that is tracked keeps the weight"),
        };
        let by_weight = |dy| match x {
            Some(x) => values(B::conv2d_weight_gradient(tensor(x), weight_shape, tensor(dy), &options)),
            None => unreachable!("a weight that is tracked keeps the input"),
        };
        binary::<B, _, _>(ops.parents, ops.node, grads, by_input, by_weight);
    }
}
