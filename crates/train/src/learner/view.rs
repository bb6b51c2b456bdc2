//! What validation sees, and what is left when training ends.

use super::{Objective, SessionModel};
use briquette_composer::{Session, Trainable};
use burn::tensor::backend::AutodiffBackend;
use burn_train::InferenceStep;

/// The model as compressed so far, off the graph, and the way back to its session.
///
/// As a module it is [`model`](Self::model): what is visited and recorded are the compressed weights. What a mapper
/// changes in them does not reach the session.
pub struct SessionView<B: AutodiffBackend, M: Trainable<B>, O> {
    pub(super) model: M::InnerModule,
    pub(super) of: SessionModel<B, M, O>,
}

impl<B: AutodiffBackend, M: Trainable<B>, O> SessionView<B, M, O> {
    /// The compressed model.
    pub fn model(&self) -> &M::InnerModule {
        &self.model
    }

    /// The session that this is a view of, to be finished: see [`SessionModel::into_session`].
    pub fn into_session(self) -> Option<Session<B, M>> {
        self.of.into_session()
    }
}

impl<B: AutodiffBackend, M: Trainable<B>, O: Objective<B, M>> InferenceStep for SessionView<B, M, O> {
    type Input = O::ValidBatch;
    type Output = O::ValidOutput;

    fn step(&self, batch: O::ValidBatch) -> O::ValidOutput {
        self.of.objective.valid(&self.model, batch)
    }
}
