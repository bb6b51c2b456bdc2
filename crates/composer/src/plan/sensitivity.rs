//! Sensitivities in a plan: whether they are measured, and what follows from them.

use super::Plan;
use crate::recipe::SensitivitySettings;
use briquette_core::{Curve, Diagnostics, GroupCut, Problem, SensitivityCurve, StageKind, Step};
use burn::prelude::*;
use std::sync::Arc;

impl<B: Backend> Plan<B> {
    /// The scan of sensitivities that the recipe asks for, or that a budget needs which is allocated by them.
    pub fn sensitivity(&self) -> Option<SensitivitySettings> {
        self.sensitivity.clone().or_else(|| self.needs_sensitivity().then(SensitivitySettings::default))
    }

    /// Whether a budget is allocated by sensitivities that are not [known](Self::with_sensitivity) yet. Such a plan can be
    /// attached, but nothing is removed.
    pub fn needs_sensitivity(&self) -> bool {
        self.open().next().is_some()
    }

    /// Groups whose sensitivities are needed and not known.
    pub(crate) fn open(&self) -> impl Iterator<Item = &GroupCut> {
        let cuts = self.steps.iter().filter_map(|step| step.cut.as_ref());
        cuts.filter(|cut| cut.within.as_ref().is_some_and(|within| within.curve == Curve::Open))
    }

    /// The plan with what a scan has measured: how many units each group loses follows from it.
    ///
    /// # Errors
    /// When nothing was measured of a group.
    pub fn with_sensitivity(mut self, curves: &[SensitivityCurve]) -> Result<Self, Problem> {
        for cut in self.steps.iter_mut().filter_map(|step| step.cut.as_mut()) {
            let (name, units) = (&cut.group.name, cut.group.units);
            let Some(within) = cut.within.as_mut().filter(|within| within.curve != Curve::Unused) else {
                continue;
            };
            let known = curves.iter().find(|c| c.group == *name && c.units == units && !c.points.is_empty());
            let Some(curve) = known else {
                return Err(Problem::Conflict(format!("the sensitivity of `{name}` was not measured")));
            };
            within.curve = Curve::Measured(Arc::new(curve.clone()));
        }
        Ok(self)
    }

    /// The plan with these steps alone.
    pub(crate) fn alone(&self, stays: impl Fn(&Step) -> bool) -> Self {
        let mut plan = self.clone();
        plan.steps.retain(stays);
        plan.reduction = None;
        plan
    }
}

/// Whether there is anything to scan.
pub(super) fn check<B: Backend>(plan: &Plan<B>, problems: &mut Diagnostics) {
    let Some(settings) = plan.sensitivity() else { return };
    if plan.layer_by_layer.is_some() {
        let text = "layer-by-layer distillation comes without a scan of sensitivities".into();
        problems.add(SensitivitySettings::KEY, Problem::Conflict(text));
    }
    let groups = plan.model.dependencies.as_ref().map_or(0, |found| found.groups.len());
    let weights = |step: &Step| matches!(step.kind, StageKind::Prune | StageKind::Quantize);
    let scanned = match settings.everything(&plan.steps) {
        true => groups > 0,
        false => plan.steps.iter().any(weights),
    };
    if !scanned && problems.is_empty() {
        let text = "there is nothing to scan: no step removes units, makes weights sparse or quantizes them, and no \
                    trace found units";
        problems.add(SensitivitySettings::KEY, Problem::Conflict(text.into()));
    }
}
