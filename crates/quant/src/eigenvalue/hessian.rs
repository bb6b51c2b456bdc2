//! Products of the loss's second derivative with a vector.

use super::Vectors;
use super::vectors::{Visit, flat, gradients, values, walk};
use burn::module::{AutodiffModule, HasAutodiffModule, ModuleMapper, Param, ParamId};
use burn::optim::GradientsParams;
use burn::prelude::*;
use burn::tensor::TensorPrimitive;
use burn::tensor::backend::AutodiffBackend;
use std::collections::HashMap;

/// How far parameters are moved, as a share of their norm. The error of central differences grows with its square,
/// that of gradients with its inverse; eigenvectors that gather in few parameters want it small, products in 19-bit
/// floats, as GPUs use, want it large.
const STEP: f64 = 1e-3;

/// `H v` for the parameters of `module` under the field path `block` (all of them where it is empty), exactly: the
/// gradient of `g v` with `g` the gradient of `loss`. `loss` computes on a backend that differentiates what is
/// differentiated already, and must be the same function at every call: no dropout, one fixed batch.
///
/// burn differentiates products, convolutions, activations and arithmetic twice, but not its own `nn::Linear`,
/// embeddings and pooling, nor the operations of layers made of them; for models with such layers there is
/// [`central_differences`].
///
/// # Panics
/// When an operation of `loss` cannot be differentiated twice.
pub fn exact<A2, M>(
    module: &M,
    block: &str,
    v: &Vectors<<A2::InnerBackend as AutodiffBackend>::InnerBackend>,
    loss: impl Fn(&M::TrainModule) -> Tensor<A2, 1>,
) -> Vectors<<A2::InnerBackend as AutodiffBackend>::InnerBackend>
where
    A2: AutodiffBackend<InnerBackend: AutodiffBackend>,
    M: HasAutodiffModule<A2> + AutodiffModule<A2::InnerBackend>,
{
    let twice = module.clone().train::<A2>();
    let first = GradientsParams::from_grads(loss(&twice).backward(), &twice);
    let mut product = Product::<A2::InnerBackend> { gradients: &first, v: v.parts().iter(), sum: None };
    walk(module, block, &mut product);
    let second = match product.sum {
        Some(sum) => GradientsParams::from_grads(sum.backward(), module),
        None => GradientsParams::new(),
    };
    gradients(module, block, &second)
}

/// `g v`, with the gradients `g` still on the graph of the backend below.
struct Product<'a, A: AutodiffBackend> {
    gradients: &'a GradientsParams,
    v: std::slice::Iter<'a, Tensor<A::InnerBackend, 1>>,
    sum: Option<Tensor<A, 1>>,
}

impl<A: AutodiffBackend> Visit<A> for Product<'_, A> {
    fn parameter<const D: usize>(&mut self, param: &Param<Tensor<A, D>>) {
        let v = self.v.next().expect("a part for each parameter");
        let Some(gradient) = self.gradients.get::<A, D>(param.id) else { return };
        let term = (flat(gradient) * Tensor::from_inner(v.clone())).sum();
        self.sum = Some(match self.sum.take() {
            Some(sum) => sum + term,
            None => term,
        });
    }
}

/// `H v` for the parameters of `module` under the field path `block` (all of them where it is empty), from gradients
/// on either side: `(g(w + e v) - g(w - e v)) / 2e`. `gradients_of` gives the gradients of the loss of a module like
/// `module`, keyed as by `GradientsParams::from_grads`, and must be the same function at every call: no dropout, one
/// fixed batch, no running statistics that change.
pub fn central_differences<B: AutodiffBackend, M: AutodiffModule<B>>(
    module: &M,
    block: &str,
    v: &Vectors<B::InnerBackend>,
    mut gradients_of: impl FnMut(&M) -> GradientsParams,
) -> Vectors<B::InnerBackend> {
    let (size, length) = (values(module, block).norm(), v.norm());
    if length == 0.0 || !length.is_finite() {
        return v.scaled(0.0).finite();
    }
    let step = STEP * if size > 0.0 { size } else { 1.0 } / length;
    let mut side = |step: f64| {
        let moved = moved(module, block, v, step);
        gradients(module, block, &gradients_of(&moved))
    };
    let (above, below) = (side(step), side(-step));
    above.minus(&below).scaled(0.5 / step)
}

/// `module` with `step v` added to a block's parameters.
fn moved<B: AutodiffBackend, M: AutodiffModule<B>>(
    module: &M,
    block: &str,
    v: &Vectors<B::InnerBackend>,
    step: f64,
) -> M {
    let mut parts = Parts::<B> { v: v.parts().iter(), by_id: HashMap::new() };
    walk(module, block, &mut parts);
    // Without running statistics that the copy would share with the module.
    let copy = M::from_inner(module.valid());
    copy.map(&mut Move::<B> { step, parts: parts.by_id, moved: HashMap::new() })
}

/// The part of a vector that belongs to each parameter.
struct Parts<'a, B: AutodiffBackend> {
    v: std::slice::Iter<'a, Tensor<B::InnerBackend, 1>>,
    by_id: HashMap<ParamId, Tensor<B::InnerBackend, 1>>,
}

impl<B: AutodiffBackend> Visit<B> for Parts<'_, B> {
    fn parameter<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.by_id.insert(param.id, self.v.next().expect("a part for each parameter").clone());
    }
}

struct Move<B: AutodiffBackend> {
    step: f64,
    parts: HashMap<ParamId, Tensor<B::InnerBackend, 1>>,
    // Layers that share a parameter go on sharing it, so that its gradient is that of all of them.
    moved: HashMap<ParamId, TensorPrimitive<B>>,
}

impl<B: AutodiffBackend> ModuleMapper<B> for Move<B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, step) = (param.id, self.step);
        let Some(part) = self.parts.get(&id) else { return param };
        let moved = &mut self.moved;
        param.map(|w| {
            let first = || {
                let w = w.inner();
                let change = (part.clone() * step).reshape(w.dims()).cast(w.dtype());
                Tensor::<B, D>::from_inner(w + change).require_grad().into_primitive()
            };
            Tensor::from_primitive(moved.entry(id).or_insert_with(first).clone())
        })
    }
}
