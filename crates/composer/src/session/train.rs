//! Training through the view.

use super::{Chain, Session, layers_of};
use crate::plan::Plan;
use briquette_core::{Clock, SessionState, materialize, stop, to_canonical};
use briquette_nn::Compressible;
use burn::module::{AutodiffModule, ModuleDisplay, ModuleVisitor, Param, ParamId};
use burn::optim::{GradientsParams, Optimizer};
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use std::collections::{HashMap, HashSet};

/// What training asks of a model; every module that derives `Module` has it.
pub trait Trainable<B: AutodiffBackend>:
    AutodiffModule<B, InnerModule: ModuleDisplay> + ModuleDisplay
{
}

impl<B: AutodiffBackend, M: AutodiffModule<B, InnerModule: ModuleDisplay> + ModuleDisplay> Trainable<B>
    for M
{
}

/// What the optimizer steps: the model and the learned entries of the methods, as one module.
#[derive(Module, Debug)]
pub struct Trained<B: Backend, M: Module<B>> {
    /// The model, with its weights not transformed.
    pub model: M,
    /// The tensors of the methods.
    pub state: SessionState<B>,
}

impl<B: AutodiffBackend> Plan<B> {
    /// Attaches the plan for training, schedules at their start.
    ///
    /// The user's model stays as it is, running statistics of batch normalizations included.
    pub fn attach_training<M: Trainable<B> + Compressible<B>>(&self, model: &M, seed: u64) -> Session<B, M> {
        materialize(model);
        Session::new(self, unshared(model), Some(layers_of::<B, M>), Clock::Step(0), seed)
    }

    /// [`attach_training`](Self::attach_training) for a model without `Compressible`: weights only.
    pub fn attach_training_weights<M: Trainable<B>>(&self, model: &M, seed: u64) -> Session<B, M> {
        materialize(model);
        Session::new(self, unshared(model), None, Clock::Step(0), seed)
    }
}

/// A copy that shares no running statistics: burn's clones share them, and mappers would write them.
fn unshared<B: AutodiffBackend, M: AutodiffModule<B>>(model: &M) -> M {
    M::from_inner(model.valid())
}

impl<B: AutodiffBackend, M: Trainable<B>> Session<B, M> {
    /// One optimizer step with the gradients of a loss computed through [`view`](Self::view), at
    /// learning rate `lr`. Schedules advance here.
    pub fn step<O: Optimizer<Trained<B, M>, B>>(
        &mut self,
        gradients: B::Gradients,
        optimizer: &mut O,
        lr: f64,
    ) {
        let mut trained = self.trained.take().expect("taken out only within this call");
        let gradients = GradientsParams::from_grads(gradients, &trained);
        self.clock = self.clock.next();
        let mut after = AfterBackward {
            seen: HashSet::new(),
            state: &mut trained.state,
            chains: &self.chains,
            gradients: &gradients,
            clock: self.clock,
        };
        trained.model.visit(&mut after);
        self.trained = Some(optimizer.step(lr, trained, gradients));
    }
}

struct AfterBackward<'a, B: Backend> {
    // A weight that several layers share is visited for each of them.
    seen: HashSet<ParamId>,
    state: &'a mut SessionState<B>,
    chains: &'a HashMap<ParamId, Chain<B>>,
    gradients: &'a GradientsParams,
    clock: Clock,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for AfterBackward<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some(chain) = self.chains.get(&param.id).filter(|_| self.seen.insert(param.id)) else { return };
        let kind = chain.site.kind;
        let Some(last) = chain.links.iter().rposition(|l| l.stage.watches()) else { return };
        let mut weight = stop(to_canonical(kind, param.val()));
        // Gradients live on the inner backend; lifted, they are untracked.
        let gradient = self
            .gradients
            .get::<B::InnerBackend, D>(param.id)
            .map(|g| to_canonical(kind, Tensor::<B, D>::from_inner(g)));
        for (i, link) in chain.links.iter().enumerate().take(last + 1) {
            link.stage.after_backward(self.state, self.clock, weight.clone(), gradient.clone());
            if i < last {
                weight = stop(link.stage.apply(self.state, self.clock, weight));
            }
        }
    }
}
