//! Training through the view.

use super::reduced::reduced;
use super::resume::identities;
use super::{Chain, Layers, Session, ShrinkError, joint, layers_of};
use crate::plan::Plan;
use briquette_core::{Clock, SessionState, materialize, stop, to_canonical};
use briquette_nn::{Compressible, Cuts};
use burn::module::{AutodiffModule, ModuleDisplay, ModuleVisitor, Param, ParamId};
use burn::optim::adaptor::OptimizerAdaptor;
use burn::optim::{GradientsParams, Optimizer, SimpleOptimizer};
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
    /// The user's model stays as it is, running statistics of batch normalizations included. Where the plan reduces
    /// layers, the session's copy has those that stay.
    pub fn attach_training<M: Trainable<B> + Compressible<B>>(&self, model: &M, seed: u64) -> Session<B, M> {
        materialize(model);
        let layers: Layers<B, M> = layers_of::<B, M>;
        Session::new(self, reduced(self, &unshared(model)), Some(layers), Clock::Step(0), seed)
            .unsharing(unshared)
    }

    /// [`attach_training`](Self::attach_training) for a model without `Compressible`: weights only.
    pub fn attach_training_weights<M: Trainable<B>>(&self, model: &M, seed: u64) -> Session<B, M> {
        materialize(model);
        Session::new(self, unshared(model), None, Clock::Step(0), seed).unsharing(unshared)
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
        mut gradients: B::Gradients,
        optimizer: &mut O,
        lr: f64,
    ) {
        let gradients = self.gradients(&mut gradients);
        self.apply(gradients, optimizer, lr);
    }

    /// Takes the gradients of the session's parameters out of those of a loss, to be accumulated or clipped
    /// before [`apply`](Self::apply).
    pub fn gradients(&self, gradients: &mut B::Gradients) -> GradientsParams {
        GradientsParams::from_module(gradients, self.parts())
    }

    /// One optimizer step with gradients taken by [`gradients`](Self::gradients). Schedules advance here.
    pub fn apply<O: Optimizer<Trained<B, M>, B>>(
        &mut self,
        gradients: GradientsParams,
        optimizer: &mut O,
        lr: f64,
    ) {
        self.before_step(&gradients);
        let trained = self.trained.take().expect("taken out only within this call");
        self.trained = Some(optimizer.step(lr, trained, gradients));
        self.after_step();
    }

    /// What [`apply`](Self::apply) does before the optimizer's step, for a loop that steps the parameters itself:
    /// schedules advance, and methods see the gradients. Then come [`set_parts`](Self::set_parts) with the stepped
    /// parameters and [`after_step`](Self::after_step).
    pub fn before_step(&mut self, gradients: &GradientsParams) {
        let mut trained = self.trained.take().expect("taken out only within `apply`");
        self.clock = self.clock.next();
        let mut after = AfterBackward {
            seen: HashSet::new(),
            state: &mut trained.state,
            chains: &self.chains,
            gradients,
            clock: self.clock,
        };
        trained.model.visit(&mut after);
        self.trained = Some(trained);
    }

    /// What [`apply`](Self::apply) does after the optimizer's step.
    pub fn after_step(&mut self) {
        let mut trained = self.trained.take().expect("taken out only within `apply`");
        for chain in self.chains.values() {
            let sensitivity = self.sensitivity(&chain.site.name);
            for link in &chain.links {
                link.stage.after_step(&mut trained.state, self.clock, sensitivity);
            }
        }
        joint::update(&self.joints, &mut trained.state, &trained.model, self.clock);
        self.trained = Some(trained);
    }

    /// Removes masked units in the midst of training, where [`can_shrink`](Self::can_shrink) says that it can be done;
    /// whether it did. Parameters keep their identities; what the optimizer remembers of those that lost entries loses
    /// the same. Checkpoints of before are no longer of this model.
    ///
    /// # Errors
    /// As [`remove_masked`](Self::remove_masked); the optimizer is then as before.
    pub fn shrink<O: FollowsRemoval>(&mut self, optimizer: &mut O) -> Result<bool, ShrinkError> {
        if !self.can_shrink() {
            return Ok(false);
        }
        let before = identities(&self.parts().state);
        let cuts = self.keep_units(&self.kept_units()?)?;
        let after = identities(&self.parts().state);
        let replaced = before.into_iter().zip(after).filter(|(b, a)| b != a).map(|(b, _)| b.0).collect();
        optimizer.follow(&Removals { cuts, replaced });
        Ok(true)
    }

    /// Puts the schedules where they are given, parameters as they are.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// The session with every schedule run out: training that begins with the model as it will be.
    #[must_use]
    pub fn with_schedules_finished(mut self) -> Self {
        self.clock = Clock::Finished;
        self.update_joints();
        self
    }

    /// Whether the coming step will lower the precision of a layer, which is when
    /// [`set_sensitivity`](Self::set_sensitivity) has an effect.
    pub fn switches_next(&self) -> bool {
        let (state, next) = (&self.parts().state, self.clock.next());
        self.chains.values().any(|c| c.links.iter().any(|l| l.stage.switches_at(state, next)))
    }

    /// States how sensitive the layers are whose names begin with `block` and a dot: the largest eigenvalue of
    /// the loss's second derivative in the block, relative to that of the most sensitive block.
    pub fn set_sensitivity(&mut self, block: &str, sensitivity: f64) {
        self.sensitivities.insert(format!("{block}."), sensitivity);
    }

    fn sensitivity(&self, layer: &str) -> Option<f64> {
        self.sensitivities.iter().find(|(block, _)| layer.starts_with(block.as_str())).map(|(_, s)| *s)
    }

    /// The model as compressed so far, off the graph: for measuring it between steps. Input ranges that follow the
    /// training data do not follow those that it is measured on.
    pub fn valid(&self) -> M::InnerModule {
        self.view_that(false, "").valid()
    }

    /// Replaces the session's parameters, schedules as they are: for going back to the best ones.
    pub fn set_parts(&mut self, parts: Trained<B, M>) {
        self.trained = Some(parts);
        self.cache.borrow_mut().clear();
    }

    /// A copy of the session's parameters that later steps do not change.
    pub fn copy_parts(&self) -> Trained<B, M> {
        let parts = self.parts();
        Trained { model: unshared(&parts.model), state: parts.state.clone() }
    }
}

/// What an optimizer has to follow.
#[derive(Debug, Clone)]
pub struct Removals {
    /// What is left of the model's parameters that lost entries.
    pub cuts: Cuts,
    /// Learned entries of methods that were replaced by others of another shape.
    pub replaced: HashSet<ParamId>,
}

/// An optimizer that can go on when parameters have lost entries.
pub trait FollowsRemoval {
    /// Drops or narrows what is remembered of these parameters.
    fn follow(&mut self, removals: &Removals);
}

/// burn's optimizers forget what they knew of a parameter that lost entries.
impl<O, M, B> FollowsRemoval for OptimizerAdaptor<O, M, B>
where
    O: SimpleOptimizer<B::InnerBackend>,
    M: AutodiffModule<B>,
    B: AutodiffBackend,
{
    fn follow(&mut self, removals: &Removals) {
        let mut record = self.to_record();
        record.retain(|id, _| !removals.cuts.contains_key(id) && !removals.replaced.contains(id));
        *self = self.clone().load_record(record);
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
