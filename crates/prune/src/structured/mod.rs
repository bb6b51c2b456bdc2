//! What all methods share that remove units of a group of dimensions: rows, heads, channels, hidden width.

mod afford;
mod choose;
mod plan;
pub mod rank;
mod related;
mod settings;
mod stage;

use crate::axis::UnitAxis;
use crate::budget::Competing;
use crate::importance::Importance;
use crate::importance::activation::Norms;
use crate::seed;
use crate::sparsity_schedule::Events;
use briquette_core::{
    Attached, CompressionMethod, Diagnostics, DimensionGroup, GroupCut, Joint, LayerKind, ModelView,
    PlanBuilder, Problem, Role, SharedKeys, Site, StageKind, StateBuilder, Step,
};
use burn::prelude::*;
use choose::{Choose, Group};
use serde_json::Value;
use settings::Settings;
use stage::{Learned, UnitStage};
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

/// What tells the methods apart.
pub trait Technique: fmt::Debug + Send + Sync + 'static {
    /// The JSON key.
    const NAME: &'static str;
    /// What a unit is called, of many.
    const UNITS: &'static str;
    /// How the layers that a recipe names can stand in their group, the first choice first.
    const ROLES: &'static [Role];
    /// Whether units are heads, whose number a recipe can state.
    const HEADS: bool = false;
    /// Whether `related` can say what goes with a layer of a model that was not traced.
    const DECLARABLE: bool = true;
    /// Whether named layers that have no such units are passed over, as long as any has.
    const PASSES_OVER: bool = false;

    /// Whether a recipe can name layers of this kind.
    fn takes(kind: LayerKind) -> bool;

    /// Whether units of a group in which the named layer has `each` entries of a unit are what this method removes.
    ///
    /// # Errors
    /// Which method does.
    fn removes(group: &DimensionGroup, each: usize) -> Result<(), Problem>;
}

/// A method that removes units of groups.
///
/// The recipe names layers; [`ModelView::dependencies`] says which group each of them belongs to and what else goes
/// with a unit. One mask for each group multiplies the columns of all weights that consume its values.
///
/// | key | default | why |
/// |---|---|---|
/// | `keep` | required | share of the units that stays, `ceil(keep n)` of them; or `keep_number`, how many of each group |
/// | `budget` | none | in place of `keep`: the share of the whole model that stays, `{"flops": 0.5}` or `{"parameters": 0.5}`; how much each group loses follows from it: [`crate::budget`] |
/// | `allocate` | `"importance"` | with `budget`, `"sensitivity"`: a scan measures how much of each group goes, importance decides which units |
/// | `importance` | `"l1"` | needs no data; or `"l2"`, `"activation"`, `"movement"`, `"taylor"`, `"random"`: [`crate::importance`] |
/// | `scope` | `"layer"` | the same share of each group; `"global"`: groups compete, each score relative to its group's mean |
/// | `max_sparsity`, `min_sparsity` | 0.98, 0 | with `"global"`, limits of one group's share; with `budget` `max_sparsity` alone, 0.8, of any layer's share |
/// | `schedule` | at once | [`SparsitySchedule::read`](crate::sparsity_schedule::SparsitySchedule::read) |
/// | `multiple_of` | 1 | what stays is rounded up until the consumers' columns (a convolution's channels) are a multiple; 8, 16 and 64 suit kernels |
/// | `related` | none | layers that are expected to change with the named ones: checked, or used where the model was not traced |
/// | `remove` | `true` | `false`: units stay as zeros |
/// | `arithmetic` | `"paper"` | `"deepspeed"`: magnitudes are those at the beginning of the session; learned scores are drawn and learn from `start` on only |
///
/// Magnitudes are those of the named layers: of their rows where they make the values, of their columns where they
/// consume them; several named layers of one group count together. Scores of `activation`, `taylor` and `movement`
/// belong to the values, that is to the columns of all their consumers. Of equal scores the lower index wins.
/// `activation` needs calibration data and linear drop-in layers as consumers; until they have seen any, nothing is
/// removed.
///
/// Units follow learned scores at every step (`every` 1), ranked on the device; across groups at every 32nd, because
/// that choice is made on the host.
///
/// An entry of `related` is a pattern or `{"of": pattern, "are": [patterns]}`: the first named layer (among those that
/// `of` means) goes with the first that each of the patterns means, the second with the second. For a model that was
/// not traced they say which layers read the rows or channels, or make the heads. DeepSpeed's `related_modules`.
#[derive(Debug)]
pub struct GroupPruning<T> {
    settings: Settings,
    technique: PhantomData<T>,
}

impl<T: Technique> GroupPruning<T> {
    /// The JSON key.
    pub const NAME: &'static str = T::NAME;

    /// Reads the entry's settings; every mistake goes to `out`.
    pub fn read(value: &Value, place: &str, out: &mut Diagnostics) -> Option<Self> {
        let settings = Settings::read(value, place, T::HEADS, out)?;
        Some(Self { settings, technique: PhantomData })
    }
}

impl<T: Technique, B: Backend> CompressionMethod<B> for GroupPruning<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn kind(&self) -> StageKind {
        StageKind::Prune
    }

    fn fits(&self, site: &Site) -> bool {
        T::takes(site.kind)
    }

    fn plan(&self, model: &ModelView, selected: &[Site], out: &mut PlanBuilder<'_>) {
        plan::plan::<T>(&self.settings, model, selected, out);
    }

    fn attach(&self, step: &Step, state: &mut StateBuilder<'_, B>) -> Attached<B> {
        let cut = step.cut.as_ref().expect("the plan gives every step its group");
        let settings = &self.settings;
        let (name, units) = (&cut.group.name, cut.group.units);
        let tensor = |values: Vec<f32>, state: &StateBuilder<'_, B>| {
            let data = TensorData::new(values, [1, units]);
            Tensor::from_data(data, (&state.weight.device(), state.weight.dtype()))
        };
        let ones = tensor(vec![1.0; units], state);
        let mask = state.shared_buffer(&key("mask", name), ones.clone());
        if settings.chosen_first() {
            state.shared_buffer(&key("chosen", name), ones);
        }
        state.shared_counter(EVENTS, Events::NEW);
        let (mut learned, mut taylor, mut norms) = (None, None, None);
        match settings.importance {
            Importance::Movement => {
                let drawn = || {
                    // A bound of one over the root of the fan-in: scores of rows and channels are a column, which
                    // has a fan-in of 1, those of heads are a row.
                    let bound = if T::HEADS { 1.0 / (units as f32).sqrt() } else { 1.0 };
                    seed::uniform(state.seed, name, units).into_iter().map(|v| v * bound).collect()
                };
                let initial = tensor(if settings.deepspeed { drawn() } else { vec![0.0; units] }, state);
                let scores = state.shared_learned(&key("scores", name), initial);
                learned = Some(Learned { scores, early: !settings.deepspeed });
            }
            Importance::Taylor => {
                let zeros = tensor(vec![0.0; units], state);
                taylor = Some(state.shared_buffer(&key("scores", name), zeros));
            }
            Importance::Activation => {
                let [buffer, known] = norm_keys(name, &step.site);
                norms = Some(Norms::attach(&buffer, &known, state));
            }
            Importance::Random => {
                let drawn = tensor(seed::uniform(state.seed, name, units), state);
                state.shared_buffer(&key("scores", name), drawn);
            }
            Importance::L1 | Importance::L2 | Importance::SnipMomentum => {}
        }
        let axis = consumer_axis(&cut.group, &step.site).expect("the plan has checked it");
        Attached::Weight(Box::new(UnitStage {
            axis,
            mask,
            learned,
            taylor,
            norms,
            schedule: settings.schedule,
        }))
    }

    fn joint(&self, steps: &[&Step], keys: &SharedKeys) -> Option<Box<dyn Joint<B>>> {
        let mut seen = BTreeSet::new();
        let cuts = steps.iter().filter_map(|step| step.cut.as_ref());
        let first = cuts.filter(|cut| seen.insert(cut.group.name.clone()));
        let groups = first.filter_map(|cut| self.group(cut, steps, keys)).collect();
        let events = Events { schedule: self.settings.schedule, counter: keys.counter(EVENTS)? };
        Some(Box::new(Choose { settings: self.settings.clone(), groups, events }))
    }
}

impl<T: Technique> GroupPruning<T> {
    fn group(&self, cut: &GroupCut, steps: &[&Step], keys: &SharedKeys) -> Option<Group> {
        let name = &cut.group.name;
        let named = cut.named.iter();
        let by = named.filter_map(|site| Some((site.path.clone(), plan::named_axis::<T>(&cut.group, site)?)));
        let sites = steps.iter().filter(|s| s.cut.as_ref().is_some_and(|c| c.group.name == *name));
        let consumers = sites.filter_map(|step| {
            let [buffer, known] = norm_keys(name, &step.site);
            let norms = Norms { buffer: keys.buffer(&buffer)?, known: keys.counter(&known)? };
            Some((step.site.path.clone(), consumer_axis(&cut.group, &step.site).ok()?, norms))
        });
        Some(Group {
            name: name.clone(),
            units: cut.group.units,
            each: entries_of_a_unit(&cut.group),
            by: by.collect(),
            consumers: consumers.collect(),
            place: cut.within.as_ref().and_then(|w| w.cost.place_of(name, cut.group.units)).unwrap_or(0),
            readers: cut.group.with_role(Role::Consumes).count(),
            within: cut.within.clone(),
            floors: Competing::floors(&cut.group, self.settings.max_sparsity()),
            mask: keys.buffer(&key("mask", name))?,
            first: keys.buffer(&key("chosen", name)),
            scores: match self.settings.importance {
                Importance::Movement => keys.learned(&key("scores", name)),
                _ => keys.buffer(&key("scores", name)),
            },
            removed: cut.removed,
        })
    }
}

/// Key of the counter of events.
const EVENTS: &str = "events";

fn key(what: &str, group: &str) -> String {
    format!("{what} {group}")
}

/// Keys of the norms of a consumer's inputs, and of whether they are known.
fn norm_keys(group: &str, site: &Site) -> [String; 2] {
    ["norms", "known"].map(|what| format!("{what} {group} {}", site.name))
}

/// Where the units lie in a weight that consumes the group's values.
fn consumer_axis(group: &DimensionGroup, site: &Site) -> Result<UnitAxis, String> {
    let member = group.member(&format!("{}.weight", site.path), Role::Consumes);
    member.map_or_else(|| Err("it is no consumer".into()), |member| UnitAxis::of(site, member))
}

/// How many entries of its consumers' axes go with a unit: 1 for rows and channels, the size of a head.
fn entries_of_a_unit(group: &DimensionGroup) -> usize {
    group.with_role(Role::Consumes).flat_map(|m| m.units.iter().map(Vec::len)).max().unwrap_or(1)
}

#[cfg(test)]
mod tests;
