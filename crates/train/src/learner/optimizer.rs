//! Optimizers of sessions for models of the learner.

use super::{Objective, SessionModel};
use briquette_composer::{Trainable, Trained};
use burn::optim::{GradientsParams, MultiGradientsParams, Optimizer};
use burn::tensor::backend::AutodiffBackend;

/// An optimizer of a session's parameters, such as [`Grouped`](crate::Grouped), for the `Learner`. burn's own optimizers
/// step a [`SessionModel`] as they are.
#[derive(Debug, Clone)]
pub struct SessionOptimizer<P>(pub P);

impl<B, M, O, P> Optimizer<SessionModel<B, M, O>, B> for SessionOptimizer<P>
where
    B: AutodiffBackend,
    M: Trainable<B>,
    O: Objective<B, M>,
    P: Optimizer<Trained<B, M>, B>,
{
    type Record = P::Record;

    fn step(
        &mut self,
        lr: f64,
        model: SessionModel<B, M, O>,
        gradients: GradientsParams,
    ) -> SessionModel<B, M, O> {
        SessionModel { parts: self.0.step(lr, model.parts, gradients), ..model }
    }

    fn step_multi(
        &mut self,
        lr: f64,
        model: SessionModel<B, M, O>,
        gradients: MultiGradientsParams,
    ) -> SessionModel<B, M, O> {
        SessionModel { parts: self.0.step_multi(lr, model.parts, gradients), ..model }
    }

    fn to_record(&self) -> Self::Record {
        self.0.to_record()
    }

    fn load_record(self, record: Self::Record) -> Self {
        Self(self.0.load_record(record))
    }
}
