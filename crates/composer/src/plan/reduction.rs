//! The layer reduction of a plan.

use super::Plan;
use crate::recipe::ReductionEntry;
use briquette_core::{Diagnostics, ModelView, Problem};
use briquette_layer_reduce::{Kept, ReducedLayers};
use burn::prelude::*;

/// A resolved layer reduction and the model that it is of.
#[derive(Debug, Clone)]
pub(super) struct Reduction {
    pub(super) layers: ReducedLayers,
    full: ModelView,
}

/// The view that all entries of the recipe speak of, and the reduction that leads to it. Where the reduction is
/// faulty it is the model's own, so that mistakes elsewhere are found as well.
pub(super) fn resolve(
    entry: Option<&ReductionEntry>,
    model: &ModelView,
    problems: &mut Diagnostics,
) -> (ModelView, Option<Reduction>) {
    let resolved = entry.and_then(|entry| {
        let layers = entry.settings.resolve(model, &|key| entry.place_of(key), problems)?;
        match layers.view(model) {
            Ok(view) => Some((view, Reduction { layers, full: model.clone() })),
            Err(problem) => {
                problems.add(&entry.place, problem);
                None
            }
        }
    });
    match resolved {
        Some((view, reduction)) => (view, Some(reduction)),
        None => (model.clone(), None),
    }
}

impl<B: Backend> Plan<B> {
    /// Which layers stay, where the recipe asks for layer reduction. [`model`](Self::model) and all steps are those
    /// of the reduced model, whose layers are numbered from 0.
    pub fn layer_reduction(&self) -> Option<&ReducedLayers> {
        self.reduction.as_ref().map(|reduction| &reduction.layers)
    }

    /// The plan with the layers that were chosen by their influence on data: numbers of the unreduced model, strictly
    /// increasing, as many as the plan keeps.
    ///
    /// # Errors
    /// When the plan leaves no choice open, or these layers are not a choice it leaves.
    pub fn with_kept(mut self, kept: Vec<usize>) -> Result<Self, Problem> {
        let open = self.reduction.as_mut().filter(|r| matches!(r.layers.kept, Kept::ByInfluence(_)));
        let Some(Reduction { layers, full }) = open else {
            return Err(Problem::Conflict("the plan leaves no choice of layers open".into()));
        };
        if kept.len() != layers.count() {
            let text = format!("{} layers are given, the plan keeps {}", kept.len(), layers.count());
            return Err(Problem::Conflict(text));
        }
        let mut view = full.keep_layers(&layers.list, &kept)?;
        // Found for as many layers, which are all alike and called the same.
        view.dependencies = self.model.dependencies.take();
        for step in &mut self.steps {
            // All layers of the list are alike, so each name is there, and only the properties of the very layer
            // that stays can differ.
            if let Some(site) = view.site(&step.site.name) {
                step.site = site.clone();
            }
        }
        layers.kept = Kept::Indices(kept);
        self.model = view;
        Ok(self)
    }
}
