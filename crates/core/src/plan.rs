//! One method on one layer, as the plan states it.

use crate::dependencies::DimensionGroup;
use crate::diagnostics::{Diagnostics, Problem};
use crate::fields::join;
use crate::method::StageKind;
use crate::model_view::Site;
use crate::sensitivity::Within;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One method on one layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// The layer.
    pub site: Site,
    /// Index of the recipe's entry that asks for it.
    pub entry: usize,
    /// Place of that entry in the recipe's JSON.
    pub place: String,
    /// The method's name.
    pub method: String,
    /// The method's kind.
    pub kind: StageKind,
    /// The settings resolved for this layer, for people and for the manifest.
    pub details: Map<String, Value>,
    /// The group whose units the step removes, for a method that removes more than single weights.
    #[serde(skip)]
    pub cut: Option<GroupCut>,
}

/// A group that loses units.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupCut {
    /// The group.
    pub group: Arc<DimensionGroup>,
    /// How many units stay, where that is known before anything is computed.
    pub kept: Option<usize>,
    /// The layers of the group that the recipe names, in model order: units are ranked by their weights.
    pub named: Arc<[Site]>,
    /// Whether units that do not stay are removed in the end; otherwise they stay as zeros.
    pub removed: bool,
    /// Where units go until the whole model costs no more than a budget: what it costs.
    pub within: Option<Within>,
}

/// Collects the steps and the problems of one recipe entry.
#[derive(Debug)]
pub struct PlanBuilder<'a> {
    place: String,
    aliases: &'a BTreeMap<String, String>,
    entry: usize,
    method: String,
    kind: StageKind,
    steps: Vec<Step>,
    problems: Diagnostics,
}

impl<'a> PlanBuilder<'a> {
    /// For the composer's own use. `aliases` maps a method's key to the place where the recipe
    /// says it, for recipes written in another schema.
    pub fn new(
        place: impl Into<String>,
        aliases: &'a BTreeMap<String, String>,
        entry: usize,
        method: &str,
        kind: StageKind,
    ) -> Self {
        Self {
            place: place.into(),
            aliases,
            entry,
            method: method.to_string(),
            kind,
            steps: Vec::new(),
            problems: Diagnostics::new(),
        }
    }

    /// Acts on `site`, with `details` as the settings resolved for it.
    pub fn step(&mut self, site: &Site, details: Map<String, Value>) {
        self.push(site, details, None);
    }

    /// Acts on `site`, a layer that consumes the values of `cut`'s group, as a part of removing units of it. Every
    /// consumer of the group needs such a step, with the same `cut`.
    pub fn step_in(&mut self, site: &Site, details: Map<String, Value>, cut: GroupCut) {
        self.push(site, details, Some(cut));
    }

    fn push(&mut self, site: &Site, details: Map<String, Value>, cut: Option<GroupCut>) {
        self.steps.push(Step {
            site: site.clone(),
            entry: self.entry,
            place: self.place.clone(),
            method: self.method.clone(),
            kind: self.kind,
            details,
            cut,
        });
    }

    /// Reports a problem of the entry's key `key`.
    pub fn problem(&mut self, key: &str, problem: Problem) {
        let place = self.place_of(key);
        self.problems.add(place, problem);
    }

    /// Reports a problem of the entry's key `key` on one layer.
    pub fn problem_at(&mut self, key: &str, site: &Site, problem: Problem) {
        let place = self.place_of(key);
        self.problems.add_at(place, &site.name, problem);
    }

    fn place_of(&self, key: &str) -> String {
        self.aliases.get(key).cloned().unwrap_or_else(|| join(&self.place, key))
    }

    /// What was collected.
    pub fn into_parts(self) -> (Vec<Step>, Diagnostics) {
        (self.steps, self.problems)
    }
}
