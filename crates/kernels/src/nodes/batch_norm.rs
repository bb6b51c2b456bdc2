//! Batch normalization as one operation.

use super::{tensor, values};
use crate::activation::Activation;
use crate::batch_norm::{BatchNormPass, BatchNormalized};
use crate::ops::CompressOps;
use burn::backend::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::prelude::*;
use burn::tensor::ops::FloatTensor;

/// See [`crate::batch_norm_train`]. An activation other than `max(x, 0)` is an operation behind it.
pub(crate) fn batch_norm_train<B: CompressOps, C: CheckpointStrategy>(
    x: Tensor<Autodiff<B, C>, 4>,
    gamma: Tensor<Autodiff<B, C>, 1>,
    beta: Tensor<Autodiff<B, C>, 1>,
    epsilon: f64,
    residual: Option<Tensor<Autodiff<B, C>, 4>>,
    activation: Activation,
) -> BatchNormalized<Autodiff<B, C>> {
    let rectifies = activation == Activation::Relu;
    let (x, gamma, beta) = (values(x), values(gamma), values(beta));
    let result = match residual.map(values) {
        Some(residual) => train::<B, C, 4>([x, gamma, beta, residual], epsilon, rectifies),
        None => train::<B, C, 3>([x, gamma, beta], epsilon, rectifies),
    };
    if rectifies { result } else { BatchNormalized { y: activation.forward(result.y), ..result } }
}

/// Of an input, factors, offsets and perhaps a residual.
fn train<B: CompressOps, C: CheckpointStrategy, const N: usize>(
    inputs: [FloatTensor<Autodiff<B, C>>; N],
    epsilon: f64,
    rectifies: bool,
) -> BatchNormalized<Autodiff<B, C>> {
    let inner = inputs.each_ref().map(|input| input.primitive.clone());
    let residual = inner.get(3).cloned().map(tensor);
    let activation = if rectifies { Activation::Relu } else { Activation::Identity };
    let [x, gamma, beta] = [0, 1, 2].map(|i| inner[i].clone());
    let result = B::batch_norm_train(tensor(x), tensor(gamma), tensor(beta), epsilon, residual, activation);
    let y = values(result.y);
    let nodes = inputs.each_ref().map(|input| input.node.clone());
    let y = match Normalization.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let state = State {
                x: prep.checkpoint(&inputs[0]),
                gamma: prep.checkpoint(&inputs[1]),
                rectified: rectifies.then(|| y.clone()),
                statistics: [result.mean.clone(), result.variance.clone()].map(values),
                epsilon,
            };
            prep.finish(state, y)
        }
        OpsKind::UnTracked(prep) => prep.finish(y),
    };
    let [mean, variance] = [result.mean, result.variance].map(Tensor::from_inner);
    BatchNormalized { y: tensor(y), mean, variance }
}

#[derive(Debug)]
struct Normalization;

/// What the gradients are computed from.
#[derive(Clone, Debug)]
struct State<F> {
    x: NodeId,
    gamma: NodeId,
    /// The output, where it was.
    rectified: Option<F>,
    /// Mean and variance.
    statistics: [F; 2],
    epsilon: f64,
}

impl<B: CompressOps, const N: usize> Backward<B, N> for Normalization {
    type State = State<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let State { x, gamma, rectified, statistics: [mean, variance], epsilon } = ops.state;
        let dy = grads.consume::<B>(&ops.node);
        let pass = BatchNormPass {
            x: tensor(checkpointer.retrieve_node_output(x)),
            rectified: rectified.map(tensor),
            gamma: tensor(checkpointer.retrieve_node_output(gamma)),
            mean: tensor(mean),
            variance: tensor(variance),
            epsilon,
        };
        let residual = ops.parents.get(3).is_some_and(Option::is_some);
        let by = B::batch_norm_gradients(pass, tensor(dy), residual);
        let gradients =
            [Some(values(by.x)), Some(values(by.gamma)), Some(values(by.beta)), by.residual.map(values)];
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}
