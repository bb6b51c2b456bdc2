//! Choosing which weights stay, in one layer or across all.

use super::SparsePruning;
use crate::importance::activation::Norms;
use crate::importance::{Importance, magnitude, movement};
use crate::pattern::Grid;
use crate::scope::Scope;
use crate::selection::{Candidates, counts, highest, kept_count};
use crate::sparsity_schedule::Events;
use briquette_core::{Clock, Joint, SessionState, host_floats};
use burn::prelude::*;
use std::borrow::Cow;

/// Where the state of one weight is.
pub(super) struct Weight {
    /// Field path of the layer.
    pub(super) path: String,
    /// Buffer of what stays now.
    pub(super) mask: usize,
    /// Buffer of what was chosen at the beginning.
    pub(super) first: Option<usize>,
    /// Scores that are not made from the weight of now; norms of inputs, which are made of both.
    pub(super) scores: Option<usize>,
    /// Counter that says whether norms of inputs are known.
    pub(super) known: Option<usize>,
}

/// Chooses at the events of the schedule.
pub(super) struct Choose {
    pub(super) method: SparsePruning,
    pub(super) weights: Vec<Weight>,
    pub(super) events: Events,
}

/// Gives the weight of now of a layer.
type Weights<'a, B> = &'a dyn Fn(&str) -> Option<Tensor<B, 2>>;

impl<B: Backend> Joint<B> for Choose {
    fn update(&self, state: &mut SessionState<B>, clock: Clock, weights: Weights<'_, B>) {
        if self.events.begins(state) {
            self.begin(state, weights);
        }
        if !self.ready(state) {
            return;
        }
        let Some(event) = self.events.due(state, clock) else { return };
        if self.method.chosen_first() {
            for weight in &self.weights {
                if let Some(first) = weight.first {
                    state.set_buffer(weight.mask, state.buffer(first));
                }
            }
            return;
        }
        let share = self.events.schedule.share(self.method.sparsity, event);
        self.choose(state, weights, share, |weight| weight.mask);
    }

    fn settled(&self, clock: Clock) -> bool {
        self.events.schedule.settled(clock)
    }
}

impl Weight {
    /// Norms of the layer's inputs, where they count.
    fn norms(&self) -> Option<Norms> {
        Some(Norms { buffer: self.scores?, known: self.known? })
    }
}

impl Choose {
    /// Whether all is known that a choice depends on.
    fn ready<B: Backend>(&self, state: &SessionState<B>) -> bool {
        self.weights.iter().filter_map(Weight::norms).all(|norms| norms.known(state))
    }

    /// What is made from the weights at the beginning.
    fn begin<B: Backend>(&self, state: &mut SessionState<B>, weights: Weights<'_, B>) {
        if self.method.chosen_first() {
            self.choose(state, weights, self.method.sparsity, |weight| weight.first.unwrap_or(weight.mask));
        }
        if self.method.importance == Importance::Movement && !self.method.deepspeed {
            for weight in &self.weights {
                let (Some(scores), Some(values)) = (weight.scores, weights(&weight.path)) else { continue };
                let Some(grid) = self.grid(state, weight) else { continue };
                let initial = movement::from_magnitudes(magnitude::of_blocks(&grid, values));
                state.set_learned(scores, initial);
            }
        }
    }

    /// The pattern on the weight as it is now: it may have lost rows and columns.
    fn grid<B: Backend>(&self, state: &SessionState<B>, weight: &Weight) -> Option<Grid> {
        self.method.pattern.on(state.buffer(weight.mask).dims()).ok()
    }

    /// Writes what stays, where `share` of all is removed, to the buffers that `to` names.
    fn choose<B: Backend>(
        &self,
        state: &mut SessionState<B>,
        weights: Weights<'_, B>,
        share: f64,
        to: impl Fn(&Weight) -> usize,
    ) {
        let Some(grids) = self.weights.iter().map(|w| self.grid(state, w)).collect::<Option<Vec<_>>>() else {
            return;
        };
        let Some(scores) = self.scores(state, weights, &grids) else { return };
        let layers: Vec<(Grid, Vec<f32>)> = grids.into_iter().zip(scores).collect();
        let masks = masks(&self.method.scope, &layers, share);
        for ((weight, mask), (grid, _)) in self.weights.iter().zip(masks).zip(&layers) {
            let old = state.buffer(to(weight));
            let data = TensorData::new(mask, grid.scores());
            let mask = Tensor::from_data(data, (&old.device(), old.dtype()));
            state.set_buffer(to(weight), grid.spread(mask));
        }
    }

    /// Scores on the host; `None` where a weight is not there.
    fn scores<B: Backend>(
        &self,
        state: &SessionState<B>,
        weights: Weights<'_, B>,
        grids: &[Grid],
    ) -> Option<Vec<Vec<f32>>> {
        let all = || self.weights.iter().zip(grids);
        let sizes = |(weight, grid): (&Weight, &Grid)| {
            let values = weights(&weight.path)?;
            let values = weight.norms().map_or(values.clone(), |norms| norms.weighted(state, values));
            Some(host_floats(magnitude::of_blocks(grid, values)))
        };
        let held = |weight: &Weight| match self.method.importance {
            Importance::Movement => weight.scores.map(|index| host_floats(state.learned(index))),
            _ => weight.scores.map(|index| host_floats(state.buffer(index))),
        };
        let importance = self.method.importance;
        if matches!(importance, Importance::L1 | Importance::L2 | Importance::Activation) {
            return all().map(sizes).collect();
        }
        let scores: Vec<Vec<f32>> = self.weights.iter().map(held).collect::<Option<_>>()?;
        let unseen = |scores: &Vec<f32>| importance.needs_gradients() && scores.iter().all(|s| *s == 0.0);
        // Layers that compete are ranked by one measure.
        let nowhere = scores.iter().all(unseen);
        let replaced = |(scores, at): (Vec<f32>, (&Weight, &Grid))| match self.method.scope {
            _ if !unseen(&scores) => Some(scores),
            Scope::Global { .. } if !nowhere => Some(scores),
            _ => sizes(at),
        };
        scores.into_iter().zip(all()).map(replaced).collect()
    }
}

/// How many weights of one layer stay where `share` of them are removed; none where that depends on other layers.
pub(super) fn kept_in(scope: &Scope, grid: &Grid, share: f64) -> Option<usize> {
    let rows = match scope {
        Scope::Layer => 1,
        Scope::Row => grid.scores()[0],
        Scope::Global { .. } => return None,
    };
    let of_each = grid.units_in(rows, kept_count(1.0 - share, grid.len() / rows));
    Some(grid.fixed() + rows * of_each * grid.unit())
}

/// 1 for what stays and 0 for what goes, for each layer at the resolution of its scores.
fn masks(scope: &Scope, layers: &[(Grid, Vec<f32>)], share: f64) -> Vec<Vec<f32>> {
    let units: Vec<Cow<'_, [f32]>> = layers.iter().map(|(grid, scores)| grid.unit_scores(scores)).collect();
    let kept: Vec<usize> = match scope {
        Scope::Layer => {
            let kept = |(grid, _): &(Grid, _)| grid.units_in(1, kept_count(1.0 - share, grid.len()));
            layers.iter().map(kept).collect()
        }
        Scope::Row => {
            let mask = |((grid, scores), units): (&(Grid, Vec<f32>), &Cow<'_, [f32]>)| {
                grid.mask(scores, &highest_of_rows(grid, units, share))
            };
            return layers.iter().zip(&units).map(mask).collect();
        }
        Scope::Global { .. } => {
            let pairs = layers.iter().zip(&units);
            let all: Vec<Candidates<'_>> =
                pairs.map(|((grid, _), scores)| candidates(scope, grid, share, scores)).collect();
            let total = |of: fn(&Grid) -> usize| layers.iter().map(|(grid, _)| of(grid)).sum::<usize>();
            let wanted = kept_count(1.0 - share, total(Grid::len)).saturating_sub(total(Grid::fixed));
            counts(&all, wanted)
        }
    };
    let whole = units.iter().zip(kept).map(|(scores, kept)| highest(scores, kept));
    layers.iter().zip(whole).map(|((grid, scores), whole)| grid.mask(scores, &whole)).collect()
}

/// Which units stay where those of one row, or row of blocks, compete.
fn highest_of_rows(grid: &Grid, units: &[f32], share: f64) -> Vec<bool> {
    let rows = grid.scores()[0];
    let kept = grid.units_in(rows, kept_count(1.0 - share, grid.len() / rows.max(1)));
    units.chunks((units.len() / rows.max(1)).max(1)).flat_map(|row| highest(row, kept)).collect()
}

fn candidates<'a>(scope: &Scope, grid: &Grid, share: f64, scores: &'a [f32]) -> Candidates<'a> {
    let [least, most] = scope.limits(grid.len(), share);
    let most = most.saturating_sub(grid.fixed()) / grid.unit().max(1);
    Candidates { scores, size: grid.unit(), least: grid.units_in(1, least), most: most.min(grid.units()) }
}
