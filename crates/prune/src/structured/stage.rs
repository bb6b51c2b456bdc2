//! The mask of a group at work on one of its consumers.

use crate::axis::{Along, UnitAxis};
use crate::importance::activation::Norms;
pub(super) use crate::importance::movement::Learned;
use crate::importance::{gradient, movement};
use crate::sparsity_schedule::SparsitySchedule;
use briquette_core::{Clock, InputObserver, KeptPart, Left, Outcome, Problem, SessionState, Stage};
use burn::prelude::*;
use serde_json::Value;
use std::sync::Arc;

/// Multiplies the columns of one weight by the mask of their units.
pub(super) struct UnitStage {
    pub(super) axis: UnitAxis,
    /// The buffer of what stays now, `[1, units]`.
    pub(super) mask: usize,
    pub(super) learned: Option<Learned>,
    /// The buffer of scores that all consumers add to.
    pub(super) taylor: Option<usize>,
    pub(super) norms: Option<Norms>,
    pub(super) schedule: SparsitySchedule,
}

impl UnitStage {
    /// The learned entry, while it is trained.
    fn training(&self, clock: Clock) -> Option<usize> {
        self.learned.as_ref()?.trained(&self.schedule, clock)
    }
}

impl<B: Backend> Stage<B> for UnitStage {
    fn apply(&self, state: &SessionState<B>, clock: Clock, weight: Tensor<B, 2>) -> Tensor<B, 2> {
        let mask = state.buffer(self.mask);
        let mask = match self.training(clock) {
            Some(scores) => movement::with_gradient(mask, state.learned(scores)),
            None => mask,
        };
        weight * self.axis.spread(mask)
    }

    fn after_backward(
        &self,
        state: &mut SessionState<B>,
        clock: Clock,
        weight: Tensor<B, 2>,
        gradient: Option<Tensor<B, 2>>,
    ) {
        let over = match clock {
            Clock::Step(n) => self.schedule.settled(Clock::Step(n.saturating_sub(1))),
            Clock::Finished => true,
        };
        let (Some(taylor), Some(gradient), false) = (self.taylor, gradient, over) else { return };
        let change = gradient::change(weight, gradient);
        let scores = gradient::taylor_of_units(&self.axis, state.buffer(taylor), change);
        state.set_buffer(taylor, scores);
    }

    fn watches(&self) -> bool {
        self.taylor.is_some()
    }

    fn observer(&self, state: &SessionState<B>) -> Option<Arc<dyn InputObserver>> {
        self.norms.as_ref()?.observer(state)
    }

    fn observed(&self, state: &mut SessionState<B>, seen: &Value) {
        self.norms.iter().for_each(|norms| norms.observed(state, seen));
    }

    fn constant(&self, clock: Clock) -> bool {
        self.schedule.settled(clock)
    }

    fn shrink(&mut self, state: &mut SessionState<B>, left: &KeptPart<'_, B>) -> Result<(), Problem> {
        self.norms.iter().for_each(|norms| norms.cut(state, left.columns));
        let kept = match self.axis.along {
            Along::Rows => left.rows,
            Along::Columns => left.columns,
        };
        self.axis = self.axis.cut(kept);
        Ok(())
    }

    fn finish(self: Box<Self>, state: &SessionState<B>, weight: Tensor<B, 2>) -> Outcome<B> {
        Outcome { weight: weight * self.axis.spread(state.buffer(self.mask)), left: Left::Baked }
    }
}
