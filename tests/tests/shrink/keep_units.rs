//! A method that keeps the units it is told, for tests of removal alone.

use briquette_composer::{Composer, Plan, Recipe, Registry};
use briquette_core::{
    Attached, Clock, CompressionMethod, Diagnostics, DimensionGroup, GroupCut, Joint, KeptPart, LayerKind,
    Left, ModelView, Outcome, PlanBuilder, Problem, Role, SessionState, SharedKeys, Site, Stage, StageKind,
    StateBuilder, Step, UnitMask,
};
use burn::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Masks all units but these, from the optimizer step `start` on.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeepUnits {
    keep: BTreeMap<String, Vec<usize>>,
    #[serde(default)]
    start: usize,
}

/// A plan for a model's view that knows its groups.
pub(crate) fn plan<B: Backend>(view: &ModelView, steps: &Value) -> Result<Plan<B>, Diagnostics> {
    let mut registry = Registry::builtin();
    registry.register::<KeepUnits>("keep_units").unwrap();
    let recipe = json!({"version": 1, "steps": steps});
    Composer::new(registry).plan(&Recipe::from_value(&recipe), view)
}

/// The step of a recipe that keeps these units.
pub(crate) fn keep(units: &BTreeMap<String, Vec<usize>>, start: usize) -> Value {
    json!({"keep_units": {"on": ["**"], "keep": units, "start": start}})
}

impl<B: Backend> CompressionMethod<B> for KeepUnits {
    fn name(&self) -> &'static str {
        "keep_units"
    }

    fn kind(&self) -> StageKind {
        StageKind::Prune
    }

    fn plan(&self, model: &ModelView, selected: &[Site], out: &mut PlanBuilder<'_>) {
        let groups = model.dependencies.iter().flat_map(|d| &d.groups);
        for group in groups.filter(|g| self.keep.contains_key(&g.name)) {
            let kept = Some(self.keep[&group.name].len());
            for consumer in group.with_role(Role::Consumes) {
                let path = consumer.path.strip_suffix(".weight").unwrap();
                let Some(site) = selected.iter().find(|s| s.path == path) else {
                    out.problem("on", Problem::Other(format!("{path} is not there")));
                    continue;
                };
                out.step_in(site, Map::new(), cut(group, kept));
            }
        }
    }

    fn attach(&self, step: &Step, state: &mut StateBuilder<'_, B>) -> Attached<B> {
        let cut = step.cut.as_ref().unwrap();
        let all = Tensor::ones([1, cut.group.units], &state.weight.device());
        let mask = state.shared_buffer(&cut.group.name, all);
        let member = format!("{}.weight", step.site.path);
        let member = cut.group.member(&member, Role::Consumes).unwrap();
        let window = match step.site.kind {
            LayerKind::Conv2d => step.site.native[2..].iter().product(),
            _ => 1,
        };
        let mut units = vec![cut.group.units as i32; step.site.shape[1]];
        for (unit, entries) in member.units.iter().enumerate() {
            for entry in entries {
                units[entry * window..(entry + 1) * window].fill(unit as i32);
            }
        }
        Attached::Weight(Box::new(Masked { mask, units }))
    }

    fn joint(&self, steps: &[&Step], keys: &SharedKeys) -> Option<Box<dyn Joint<B>>> {
        let mut groups: Vec<&str> =
            steps.iter().map(|s| s.cut.as_ref().unwrap().group.name.as_str()).collect();
        groups.sort_unstable();
        groups.dedup();
        let masks = groups.into_iter().map(|name| {
            let of = steps.iter().find_map(|s| s.cut.as_ref().filter(|c| c.group.name == name)).unwrap();
            (name.to_string(), keys.buffer(name).unwrap(), of.group.units)
        });
        Some(Box::new(Masks { masks: masks.collect(), method: self.clone() }))
    }
}

fn cut(group: &DimensionGroup, kept: Option<usize>) -> GroupCut {
    GroupCut { group: Arc::new(group.clone()), kept, named: Arc::new([]), removed: true, within: None }
}

/// Multiplies columns by the mask of their units.
struct Masked {
    mask: usize,
    units: Vec<i32>,
}

impl<B: Backend> Stage<B> for Masked {
    fn apply(&self, state: &SessionState<B>, _: Clock, weight: Tensor<B, 2>) -> Tensor<B, 2> {
        let device = weight.device();
        let always = Tensor::ones([1, 1], &device);
        let mask = Tensor::cat(vec![state.buffer(self.mask), always], 1);
        let units = TensorData::new(self.units.clone(), [self.units.len()]);
        weight * mask.select(1, Tensor::from_data(units, &device))
    }

    fn shrink(&mut self, _: &mut SessionState<B>, _: &KeptPart<'_, B>) -> Result<(), Problem> {
        panic!("gone with the units")
    }

    fn finish(self: Box<Self>, state: &SessionState<B>, weight: Tensor<B, 2>) -> Outcome<B> {
        Outcome { weight: self.apply(state, Clock::Finished, weight), left: Left::Baked }
    }
}

/// The masks of all groups: name, buffer, number of units.
struct Masks {
    masks: Vec<(String, usize, usize)>,
    method: KeepUnits,
}

impl<B: Backend> Joint<B> for Masks {
    fn update(
        &self,
        state: &mut SessionState<B>,
        clock: Clock,
        weights: &dyn Fn(&str) -> Option<Tensor<B, 2>>,
    ) {
        assert!(weights("no.such.layer").is_none());
        if !clock.reached(self.method.start) {
            return;
        }
        for (name, index, units) in &self.masks {
            let kept = &self.method.keep[name];
            let mask: Vec<f32> = (0..*units).map(|u| f32::from(u8::from(kept.contains(&u)))).collect();
            let device = state.buffer(*index).device();
            state.set_buffer(*index, Tensor::from_data(TensorData::new(mask, [1, *units]), &device));
        }
    }

    fn masks(&self, state: &SessionState<B>) -> Vec<UnitMask<B>> {
        let mask = |(group, index, _): &(String, usize, usize)| UnitMask {
            group: group.clone(),
            mask: state.buffer(*index),
        };
        self.masks.iter().map(mask).collect()
    }

    fn settled(&self, clock: Clock) -> bool {
        clock.reached(self.method.start)
    }
}
