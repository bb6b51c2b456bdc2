//! Sparse pruning at work on one weight.

use crate::importance::activation::Norms;
pub(super) use crate::importance::movement::Learned;
use crate::importance::{gradient, movement};
use crate::pattern::Grid;
use crate::sparsity_schedule::SparsitySchedule;
use briquette_core::{
    Clock, InputObserver, KeptPart, Left, Outcome, Problem, SessionState, SparsePattern, SparseWeight, Stage,
    host_floats,
};
use burn::prelude::*;
use serde_json::Value;
use std::sync::Arc;

/// Multiplies one weight by its mask.
pub(super) struct SparseStage {
    pub(super) grid: Grid,
    /// The buffer of what stays now, `[out, in]`.
    pub(super) mask: usize,
    /// The buffer of what will stay, where that was chosen at the beginning.
    pub(super) first: Option<usize>,
    pub(super) learned: Option<Learned>,
    pub(super) watched: Option<Watched>,
    pub(super) norms: Option<Norms>,
    pub(super) schedule: SparsitySchedule,
}

/// Scores made of gradients.
pub(super) struct Watched {
    /// The buffer.
    pub(super) scores: usize,
    /// `snip_momentum`; otherwise `taylor`.
    pub(super) momentum: bool,
}

impl SparseStage {
    /// The learned entry, while it is trained.
    fn training(&self, clock: Clock) -> Option<usize> {
        self.learned.as_ref()?.trained(&self.schedule, clock)
    }

    /// What stays, row-major, and its pattern: runs of which some are whole have none.
    fn left(&self, kept: Vec<bool>) -> SparseWeight {
        let pattern = match self.grid.pattern {
            SparsePattern::RunOf { kept: n, of }
                if !kept.chunks(of).all(|run| run.iter().filter(|k| **k).count() == n) =>
            {
                SparsePattern::Unstructured
            }
            other => other,
        };
        SparseWeight { shape: self.grid.shape, pattern, kept }
    }
}

impl<B: Backend> Stage<B> for SparseStage {
    fn apply(&self, state: &SessionState<B>, clock: Clock, weight: Tensor<B, 2>) -> Tensor<B, 2> {
        let mask = state.buffer(self.mask);
        match self.training(clock) {
            Some(scores) => weight * movement::with_gradient(mask, self.grid.spread(state.learned(scores))),
            None => weight * mask,
        }
    }

    fn after_backward(
        &self,
        state: &mut SessionState<B>,
        clock: Clock,
        weight: Tensor<B, 2>,
        gradient: Option<Tensor<B, 2>>,
    ) {
        // At the last event scores count that know of the step before it; after it none do.
        let over = |n: usize| self.schedule.settled(Clock::Step(n.saturating_sub(1)));
        let over = matches!(clock, Clock::Step(n) if over(n)) || clock == Clock::Finished;
        let (Some(watched), Some(gradient), false) = (&self.watched, gradient, over) else { return };
        let past = state.buffer(watched.scores);
        let change = gradient::change(weight, gradient);
        let scores = match watched.momentum {
            true => gradient::snip_momentum(&self.grid, past, change),
            false => gradient::taylor(&self.grid, past, change),
        };
        state.set_buffer(watched.scores, scores);
    }

    fn watches(&self) -> bool {
        self.watched.is_some()
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
        let grid = self.grid.cut(left.rows, left.columns)?;
        let whole = |buffer: usize, state: &mut SessionState<B>| {
            let kept = part(state.buffer(buffer), left.rows, left.columns);
            state.set_buffer(buffer, kept);
        };
        whole(self.mask, state);
        self.first.into_iter().for_each(|first| whole(first, state));
        self.norms.iter().for_each(|norms| norms.cut(state, left.columns));
        let [rows, columns] = [0, 1].map(|axis| {
            let kept = [left.rows, left.columns][axis];
            first_of_each(kept, self.grid.shape[axis] / self.grid.scores()[axis], grid.scores()[axis])
        });
        if let Some(watched) = &self.watched {
            let kept = part(state.buffer(watched.scores), &rows, &columns);
            state.set_buffer(watched.scores, kept);
        }
        if let Some(learned) = &self.learned {
            let kept = part(state.learned(learned.scores), &rows, &columns);
            state.set_learned(learned.scores, kept);
        }
        self.grid = grid;
        Ok(())
    }

    fn finish(self: Box<Self>, state: &SessionState<B>, weight: Tensor<B, 2>) -> Outcome<B> {
        let mask = state.buffer(self.mask);
        let kept = host_floats(mask.clone()).into_iter().map(|m| m != 0.0).collect();
        Outcome { weight: weight * mask, left: Left::Sparse(self.left(kept)) }
    }
}

/// Blocks of `length` entries that `count` kept entries lie in.
fn first_of_each(kept: &[usize], length: usize, count: usize) -> Vec<usize> {
    let step = kept.len() / count.max(1);
    kept.iter().step_by(step.max(1)).map(|entry| entry / length).collect()
}

fn part<B: Backend>(values: Tensor<B, 2>, rows: &[usize], columns: &[usize]) -> Tensor<B, 2> {
    let device = values.device();
    let index = |kept: &[usize]| {
        let kept: Vec<i32> = kept.iter().map(|i| i32::try_from(*i).unwrap_or(i32::MAX)).collect();
        let count = kept.len();
        Tensor::<B, 1, Int>::from_data(TensorData::new(kept, [count]), &device)
    };
    values.select(0, index(rows)).select(1, index(columns))
}

/// A layer that the recipe names and the pattern does not divide.
pub(super) struct Untouched;

impl<B: Backend> Stage<B> for Untouched {
    fn apply(&self, _: &SessionState<B>, _: Clock, weight: Tensor<B, 2>) -> Tensor<B, 2> {
        weight
    }

    fn constant(&self, _: Clock) -> bool {
        true
    }

    fn finish(self: Box<Self>, _: &SessionState<B>, weight: Tensor<B, 2>) -> Outcome<B> {
        Outcome { weight, left: Left::Baked }
    }
}
