//! Choosing which units stay within a budget of the whole model.

use super::choose::{Choose, Group, Located, Weights};
use crate::budget::{Budget, Competing, Worth, within};
use crate::importance::{Importance, magnitude};
use briquette_core::{Curve, SessionState, host_floats};
use burn::prelude::*;

impl Choose {
    /// What stays of each group from `event` on; `None` where a weight is not what it was.
    pub(super) fn within<B: Backend>(
        &self,
        state: &SessionState<B>,
        weights: Weights<'_, B>,
        budget: Budget,
        event: usize,
    ) -> Option<Vec<Vec<bool>>> {
        let cost = &self.groups.first()?.within.as_ref()?.cost;
        let worth = self.worth(state, weights)?;
        let groups = self.groups.iter().zip(worth);
        let competing = groups.map(|(group, worth)| self.competing(state, group, weights, worth));
        let competing: Vec<Competing> = competing.collect::<Option<_>>()?;
        let share = 1.0 - self.events.schedule.share(1.0 - budget.share, event);
        Some(within(cost, budget.measure, &competing, share * cost.whole(budget.measure)))
    }

    fn competing<B: Backend>(
        &self,
        state: &SessionState<B>,
        group: &Group,
        weights: Weights<'_, B>,
        worth: Worth,
    ) -> Option<Competing> {
        let (mut worth, mut losses) = (worth, None);
        if let Some(Curve::Measured(curve)) = group.within.as_ref().map(|within| &within.curve) {
            // Measured with units going by these.
            worth = Worth::Loss(self.scores(state, group, weights)?.into_iter().map(f64::from).collect());
            losses = Some(curve.errors().windows(2).map(|e| e[1] - e[0]).collect());
        }
        let (step, floors) = (self.settings.step(group.each), group.floors.clone());
        Some(Competing { group: group.place, worth, losses, step, floors })
    }

    /// What the units of each group are worth.
    fn worth<B: Backend>(&self, state: &SessionState<B>, weights: Weights<'_, B>) -> Option<Vec<Worth>> {
        if self.settings.importance == Importance::Taylor {
            // Changes of one loss: they compare as they are, once there are any.
            let scores = |group: &Group| Some(wide(state.buffer(group.scores?)));
            let scores: Vec<Vec<f64>> = self.groups.iter().map(scores).collect::<Option<_>>()?;
            if scores.iter().flatten().any(|score| *score > 0.0) {
                return Some(scores.into_iter().map(Worth::Loss).collect());
            }
        }
        let layers = |group: &Group| {
            let layers = self.layers(state, group, weights)?;
            Some(Worth::Layers { layers, readers: group.readers })
        };
        self.groups.iter().map(layers).collect()
    }

    /// The importance of a group's units in each layer that ranks it.
    fn layers<B: Backend>(
        &self,
        state: &SessionState<B>,
        group: &Group,
        weights: Weights<'_, B>,
    ) -> Option<Vec<Vec<f64>>> {
        let layers: Vec<Located<B>> = match self.settings.importance {
            Importance::Random => {
                // Drawn in -1 to 1.
                return Some(vec![wide(state.buffer(group.scores?)).iter().map(|s| s + 1.0).collect()]);
            }
            Importance::Activation => self.weighed(state, group, weights)?,
            _ => self.named(group, weights)?,
        };
        layers.into_iter().map(|layer| Some(wide(magnitude::of_units(self.norm(), [layer])?))).collect()
    }
}

fn wide<B: Backend>(scores: Tensor<B, 2>) -> Vec<f64> {
    host_floats(scores).into_iter().map(f64::from).collect()
}
