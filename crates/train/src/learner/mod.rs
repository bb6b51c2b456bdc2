//! A session in burn-train's `Learner`: its metrics, checkpoints, early stopping and dashboard.
//!
//! ```text
//! let session = plan.attach_training(&model, seed);
//! let learner = Learner::new(SessionModel::new(session, objective), AdamWConfig::new().init(), lr);
//! let result = SupervisedTraining::new(folder, train, valid)
//!     .metrics((LossMetric::new(), AccuracyMetric::new()))
//!     .with_file_checkpointer(BinFileRecorder::<FullPrecisionSettings>::new())
//!     .launch(learner);
//! let finished = result.model.into_session().expect("asked for once").finish()?;
//! ```
//!
//! Validation, and with it the choice of checkpoints and early stopping, sees the model as compressed so far. Every step
//! of the optimizer is a step of the schedules.
//!
//! A checkpoint holds the session's tensors and its [`Position`](briquette_composer::Position), so that
//! `SupervisedTraining::checkpoint` goes on in the middle of a schedule. A recorder of full precision is needed for that
//! to be exact; burn's `CompactRecorder` halves every number.
//!
//! This is the feature `learner`. burn-train's dashboard is a feature of burn, to be asked for beside it: `tui`, and
//! `metrics` for the load of processor and memory.

mod module;
mod optimizer;
mod record;
mod view;

pub use optimizer::SessionOptimizer;
pub use view::SessionView;

use briquette_composer::{Session, Trainable, Trained};
use briquette_core::Clock;
use burn::module::{AutodiffModule, Module, ModuleVisitor, Param};
use burn::optim::{GradientsParams, MultiGradientsParams, Optimizer};
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use burn_train::{ItemLazy, TrainOutput, TrainStep};
use std::sync::{Arc, Mutex, PoisonError};

/// What is computed of a batch, in training and in validation.
///
/// burn's own `TrainStep` takes gradients of the model that computes; here they belong to the session, so that the loss
/// itself is asked for.
pub trait Objective<B: AutodiffBackend, M: Trainable<B>>: Clone + Send + 'static {
    /// A batch to train on.
    type Batch: Send + 'static;
    /// What the metrics of training see, `ClassificationOutput` for instance.
    type Output: ItemLazy + 'static;
    /// A batch to validate on.
    type ValidBatch: Send + 'static;
    /// What the metrics of validation see.
    type ValidOutput: ItemLazy + 'static;

    /// The loss `[1]` of `model`, the session's view, and what metrics see.
    fn train(&self, model: &M, batch: Self::Batch) -> (Tensor<B, 1>, Self::Output);

    /// What metrics see of `model`, compressed as far as the schedules have come.
    fn valid(&self, model: &M::InnerModule, batch: Self::ValidBatch) -> Self::ValidOutput;
}

/// A [`Session`] as a module that burn-train's `Learner` trains.
///
/// Copies hold parameters and schedules of their own, as burn expects of a module, and share what the plan does to
/// weights and the observers of input ranges.
#[derive(Clone)]
pub struct SessionModel<B: AutodiffBackend, M: Trainable<B>, O> {
    parts: Trained<B, M>,
    clock: Clock,
    // `None` once it was given back.
    session: Arc<Mutex<Option<Session<B, M>>>>,
    objective: O,
}

impl<B: AutodiffBackend, M: Trainable<B>, O: Objective<B, M>> SessionModel<B, M, O> {
    /// Trains `session` for `objective`.
    pub fn new(session: Session<B, M>, objective: O) -> Self {
        let (parts, clock) = (session.parts().clone(), session.clock());
        Self { parts, clock, session: Arc::new(Mutex::new(Some(session))), objective }
    }
}

impl<B: AutodiffBackend, M: Trainable<B>, O> SessionModel<B, M, O> {
    /// How far the schedules have come.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The session's parameters.
    pub fn parts(&self) -> &Trained<B, M> {
        &self.parts
    }

    /// The session with this copy's parameters and schedules. `None` when another copy gave it back already; no copy
    /// computes anything after that.
    pub fn into_session(self) -> Option<Session<B, M>> {
        let taken = self.session.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut session = taken?;
        session.set_parts(self.parts);
        session.set_clock(self.clock);
        Some(session)
    }

    /// Something of the session with this copy's parameters and schedules.
    fn with<R>(&self, work: impl FnOnce(&mut Session<B, M>) -> R) -> R {
        let mut shared = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let session = shared.as_mut().expect("a copy of this model gave the session back by `into_session`");
        session.set_parts(self.parts.clone());
        session.set_clock(self.clock);
        work(session)
    }

    /// Changes parameters and schedules as the session does.
    fn change<R>(&mut self, work: impl FnOnce(&mut Session<B, M>) -> R) -> R {
        let (result, parts, clock) = self.with(|session| {
            let result = work(session);
            (result, session.parts().clone(), session.clock())
        });
        (self.parts, self.clock) = (parts, clock);
        result
    }
}

impl<B: AutodiffBackend, M: Trainable<B>, O: Objective<B, M>> TrainStep for SessionModel<B, M, O> {
    type Input = O::Batch;
    type Output = O::Output;

    fn step(&self, batch: O::Batch) -> TrainOutput<O::Output> {
        let view = self.with(|session| session.view());
        let (loss, item) = self.objective.train(&view, batch);
        TrainOutput { grads: GradientsParams::from_grads(loss.backward(), &self.parts), item }
    }

    fn optimize<A, P>(mut self, optimizer: &mut P, lr: f64, gradients: GradientsParams) -> Self
    where
        A: AutodiffBackend,
        P: Optimizer<Self, A>,
        Self: AutodiffModule<A>,
    {
        self.change(|session| session.before_step(&gradients));
        let mut stepped = optimizer.step(lr, self, gradients);
        stepped.change(Session::after_step);
        stepped
    }

    /// The gradients of all devices are added up where the parameters are.
    fn optimize_multi<A, P>(self, optimizer: &mut P, lr: f64, gradients: MultiGradientsParams) -> Self
    where
        A: AutodiffBackend,
        P: Optimizer<Self, A>,
        Self: AutodiffModule<A>,
    {
        let mut merge = Merge { from: gradients, to: GradientsParams::new() };
        Module::<B>::visit(&self.parts, &mut merge);
        self.optimize(optimizer, lr, merge.to)
    }
}

struct Merge {
    from: MultiGradientsParams,
    to: GradientsParams,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Merge {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some((gradient, _)) = self.from.remove::<B::InnerBackend, D>(param.id) {
            self.to.register(param.id, gradient.to_device(&param.val().inner().device()));
        }
    }
}
