//! Choosing which units stay, in one group or across all.

use super::rank;
use super::settings::{Keep, Settings};
use crate::axis::UnitAxis;
use crate::importance::activation::Norms;
use crate::importance::{Importance, magnitude, movement};
use crate::scope::Scope;
use crate::selection::{Candidates, counts, highest, kept_count};
use crate::sparsity_schedule::Events;
use briquette_core::{Clock, Curve, Joint, SessionState, UnitMask, Within, host_floats};
use burn::prelude::*;

/// Where the state of one group is.
pub(super) struct Group {
    pub(super) name: String,
    pub(super) units: usize,
    /// Entries of the consumers that go with a unit.
    pub(super) each: usize,
    /// Field paths of the named layers, and where the units lie in their weights.
    pub(super) by: Vec<(String, UnitAxis)>,
    /// The same of the layers whose inputs are weighed, and where the norms of their inputs are.
    pub(super) consumers: Vec<(String, UnitAxis, Norms)>,
    /// Its place in what the model costs, where there is a budget.
    pub(super) place: usize,
    /// Number of weights that consume its values.
    pub(super) readers: usize,
    /// What the model costs, where there is a budget.
    pub(super) within: Option<Within>,
    /// What has to stay of it within a budget.
    pub(super) floors: Vec<(Vec<bool>, usize)>,
    /// Buffer of what stays now, `[1, units]`.
    pub(super) mask: usize,
    /// Buffer of what was chosen at the beginning.
    pub(super) first: Option<usize>,
    /// Scores that are not made from the weights of now.
    pub(super) scores: Option<usize>,
    /// Whether what does not stay is removed in the end.
    pub(super) removed: bool,
}

/// Chooses at the events of the schedule.
pub(super) struct Choose {
    pub(super) settings: Settings,
    pub(super) groups: Vec<Group>,
    pub(super) events: Events,
}

/// A weight, and where a group's units lie in it.
pub(super) type Located<B> = (UnitAxis, Tensor<B, 2>);

/// Gives the weight of now of a layer.
pub(super) type Weights<'a, B> = &'a dyn Fn(&str) -> Option<Tensor<B, 2>>;

impl<B: Backend> Joint<B> for Choose {
    fn update(&self, state: &mut SessionState<B>, clock: Clock, weights: Weights<'_, B>) {
        if self.events.begins(state) {
            self.begin(state, weights);
        }
        if !self.ready(state) {
            return;
        }
        let Some(event) = self.events.due(state, clock) else { return };
        if !self.settings.chosen_first() {
            return self.choose(state, weights, event, |group| group.mask);
        }
        for group in &self.groups {
            if let Some(first) = group.first {
                state.set_buffer(group.mask, state.buffer(first));
            }
        }
    }

    fn masks(&self, state: &SessionState<B>) -> Vec<UnitMask<B>> {
        // Before anything can be chosen there is nothing to remove either.
        let removed = self.groups.iter().filter(|group| group.removed && self.ready(state));
        removed.map(|g| UnitMask { group: g.name.clone(), mask: state.buffer(g.mask) }).collect()
    }

    fn settled(&self, clock: Clock) -> bool {
        self.events.schedule.settled(clock)
    }
}

impl Choose {
    /// Whether all is known that a choice depends on.
    fn ready<B: Backend>(&self, state: &SessionState<B>) -> bool {
        let open = |group: &Group| group.within.as_ref().is_some_and(|w| w.curve == Curve::Open);
        let mut consumers = self.groups.iter().flat_map(|group| &group.consumers);
        consumers.all(|(_, _, norms)| norms.known(state)) && !self.groups.iter().any(open)
    }

    /// What is made from the weights at the beginning.
    fn begin<B: Backend>(&self, state: &mut SessionState<B>, weights: Weights<'_, B>) {
        if self.settings.chosen_first() {
            self.choose(state, weights, usize::MAX, |group| group.first.unwrap_or(group.mask));
        }
        if self.settings.importance == Importance::Movement && !self.settings.deepspeed {
            for group in &self.groups {
                if let (Some(scores), Some(norms)) = (group.scores, self.norms(group, weights)) {
                    state.set_learned(scores, movement::from_magnitudes(norms));
                }
            }
        }
    }

    /// The weights of the named layers; `None` where one is not what it was.
    pub(super) fn named<B: Backend>(
        &self,
        group: &Group,
        weights: Weights<'_, B>,
    ) -> Option<Vec<Located<B>>> {
        let weight = |(path, axis): &(String, UnitAxis)| {
            let weight = weights(path)?;
            axis.fits(weight.dims()).then(|| (axis.clone(), weight))
        };
        group.by.iter().map(weight).collect()
    }

    /// The consumers' weights times the norms of their inputs; `None` where one is not what it was.
    pub(super) fn weighed<B: Backend>(
        &self,
        state: &SessionState<B>,
        group: &Group,
        weights: Weights<'_, B>,
    ) -> Option<Vec<Located<B>>> {
        let weight = |(path, axis, norms): &(String, UnitAxis, Norms)| {
            let weight = weights(path)?;
            axis.fits(weight.dims()).then(|| (axis.clone(), norms.weighted(state, weight)))
        };
        group.consumers.iter().map(weight).collect()
    }

    /// How magnitudes are added up.
    pub(super) fn norm(&self) -> Importance {
        if self.settings.importance == Importance::L2 { Importance::L2 } else { Importance::L1 }
    }

    /// The norm of each unit in the named layers, `[1, units]`.
    pub(super) fn norms<B: Backend>(&self, group: &Group, weights: Weights<'_, B>) -> Option<Tensor<B, 2>> {
        magnitude::of_units(self.norm(), self.named(group, weights)?)
    }

    /// Writes what stays from `event` on to the buffers that `to` names.
    fn choose<B: Backend>(
        &self,
        state: &mut SessionState<B>,
        weights: Weights<'_, B>,
        event: usize,
        to: impl Fn(&Group) -> usize,
    ) {
        if self.settings.scope == Scope::Layer && self.settings.importance == Importance::Movement {
            return self.rank(state, event, to);
        }
        let marks = match self.settings.budget() {
            Some(budget) => self.within(state, weights, budget, event),
            None => self.ranked(state, weights, event),
        };
        for (group, marks) in self.groups.iter().zip(marks.into_iter().flatten()) {
            let old = state.buffer(to(group));
            let mask: Vec<f32> = marks.into_iter().map(|stays| f32::from(u8::from(stays))).collect();
            let data = TensorData::new(mask, [1, group.units]);
            state.set_buffer(to(group), Tensor::from_data(data, (&old.device(), old.dtype())));
        }
    }

    /// What stays of each group by numbers of units; `None` where a weight is not what it was.
    fn ranked<B: Backend>(
        &self,
        state: &SessionState<B>,
        weights: Weights<'_, B>,
        event: usize,
    ) -> Option<Vec<Vec<bool>>> {
        let scores = self.groups.iter().map(|group| self.scores(state, group, weights));
        let scores: Vec<Vec<f32>> = scores.collect::<Option<_>>()?;
        let kept = self.kept(&scores, event);
        Some(scores.iter().zip(kept).map(|(scores, kept)| highest(scores, kept)).collect())
    }

    /// [`choose`](Self::choose) by learned scores, without reading them back.
    fn rank<B: Backend>(&self, state: &mut SessionState<B>, event: usize, to: impl Fn(&Group) -> usize) {
        for group in &self.groups {
            let Some(scores) = group.scores else { continue };
            let mask = rank::highest(state.learned(scores), self.kept_in(group, event));
            state.set_buffer(to(group), mask);
        }
    }

    /// Scores on the host.
    pub(super) fn scores<B: Backend>(
        &self,
        state: &SessionState<B>,
        group: &Group,
        weights: Weights<'_, B>,
    ) -> Option<Vec<f32>> {
        let norms = || Some(host_floats(self.norms(group, weights)?));
        let importance = self.settings.importance;
        match importance {
            Importance::L1 | Importance::L2 => norms(),
            Importance::Activation => {
                let weighed = self.weighed(state, group, weights)?;
                Some(host_floats(magnitude::of_units(Importance::L1, weighed)?))
            }
            Importance::Movement => Some(host_floats(state.learned(group.scores?))),
            _ => {
                let scores = host_floats(state.buffer(group.scores?));
                let unseen = importance.needs_gradients() && scores.iter().all(|s| *s == 0.0);
                if unseen { norms() } else { Some(scores) }
            }
        }
    }

    /// How many units of each group stay from `event` on.
    fn kept(&self, scores: &[Vec<f32>], event: usize) -> Vec<usize> {
        let Scope::Global { .. } = self.settings.scope else {
            return self.groups.iter().map(|group| self.kept_in(group, event)).collect();
        };
        let Keep::Share(keep) = self.settings.keep else {
            return self.groups.iter().map(|g| g.units).collect();
        };
        let share = self.events.schedule.share(1.0 - keep, event);
        let relative: Vec<Vec<f32>> = scores.iter().map(|s| self.relative(s)).collect();
        let all: Vec<Candidates<'_>> = relative.iter().map(|scores| self.candidates(scores, share)).collect();
        let total: usize = self.groups.iter().map(|g| g.units).sum();
        let counts = counts(&all, kept_count(1.0 - share, total));
        let rounded = |(group, kept): (&Group, usize)| self.settings.rounded(kept, group.units, group.each);
        self.groups.iter().zip(counts).map(rounded).collect()
    }

    fn candidates<'a>(&self, scores: &'a [f32], share: f64) -> Candidates<'a> {
        let [least, most] = self.settings.scope.limits(scores.len(), share);
        // A group of which nothing stays would compute nothing.
        Candidates { scores, size: 1, least: least.max(1), most }
    }

    /// Scores of groups of different size and kind, made comparable: relative to their mean. Learned and drawn scores
    /// have one scale already.
    fn relative(&self, scores: &[f32]) -> Vec<f32> {
        let mean = scores.iter().map(|s| f64::from(*s)).sum::<f64>() / scores.len().max(1) as f64;
        let drawn = matches!(self.settings.importance, Importance::Movement | Importance::Random);
        if drawn || mean <= 0.0 {
            return scores.to_vec();
        }
        scores.iter().map(|s| (f64::from(*s) / mean) as f32).collect()
    }

    /// How many units of one group stay from `event` on where groups do not compete.
    fn kept_in(&self, group: &Group, event: usize) -> usize {
        let last = self.settings.kept(group.units, group.each);
        let share = 1.0 - last as f64 / group.units.max(1) as f64;
        let now = kept_count(1.0 - self.events.schedule.share(share, event), group.units);
        self.settings.rounded(now.max(last), group.units, group.each)
    }
}
