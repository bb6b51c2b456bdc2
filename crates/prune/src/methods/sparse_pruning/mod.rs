//! Sparse pruning: single weights, or small blocks of them, become zero.

mod choose;
mod settings;
mod stage;

use crate::axis::UnitAxis;
use crate::importance::Importance;
use crate::importance::activation::{Norms, inputs_unseen};
use crate::pattern::{Grid, Pattern};
use crate::scope::Scope;
use crate::seed;
use crate::sparsity_schedule::{Events, SparsitySchedule};
use briquette_core::{
    Attached, CompressionMethod, Joint, LayerKind, Member, ModelView, PlanBuilder, Problem, SharedKeys, Site,
    StageKind, StateBuilder, Step,
};
use burn::prelude::*;
use choose::{Choose, Weight};
use serde_json::{Map, Value, json};
use stage::{Learned, SparseStage, Untouched, Watched};

/// Makes single weights zero, while training or at once.
///
/// | key | default | why |
/// |---|---|---|
/// | `sparsity` | required, but for runs | share of the weights that is removed; runs (`2:4`) remove all they can |
/// | `pattern` | `"unstructured"` | keeps most accuracy; [`Pattern`] lists the others, which take fewer bytes and run faster |
/// | `importance` | `"magnitude"` | needs no data; or `"activation"`, `"movement"`, `"snip_momentum"`, `"taylor"`, `"random"`: [`crate::importance`] |
/// | `scope` | `"layer"`, for `activation` `"row"` | the same share of every layer; `"row"`: of every row, as Wanda does; `"global"`: layers compete |
/// | `max_sparsity`, `min_sparsity` | 0.98, 0 | with `"global"`, limits of one layer's share, as in neural_compressor |
/// | `schedule` | at once | [`SparsitySchedule::read`] |
/// | `arithmetic` | `"paper"` | `"deepspeed"` reproduces what is listed below |
///
/// As many weights stay as `ceil((1 - sparsity) n)`, in whole blocks; of equal scores the first of a row and the first
/// row win. With `N:M`, N of each M consecutive weights of a row stay; while the share grows, or where it is
/// smaller, some runs are pruned and the others whole, those first that lose least.
///
/// The mask multiplies the weight, so removed weights get no gradient, while the session's own weight keeps its value:
/// what was removed can come back as long as the share grows. Learned scores are chosen from every 32 steps,
/// because choosing sorts on the host. Scores made of gradients fall back on magnitudes where no gradient was seen, as
/// in a session without training.
///
/// `activation` needs calibration data, linear layers and, to see their inputs, drop-in ones; until they have seen any,
/// nothing is removed.
///
/// With DeepSpeed's arithmetic: magnitudes are those at the beginning of the session, whatever `start` is; learned
/// scores are drawn, uniformly within `1 / sqrt(in)`, and learn from `start` on only; layers that the pattern does not
/// divide are passed over, which the plan says; with `snip_momentum` so is the last linear layer, the classifier.
#[derive(Debug, Clone)]
pub struct SparsePruning {
    sparsity: f64,
    pattern: Pattern,
    importance: Importance,
    scope: Scope,
    schedule: SparsitySchedule,
    deepspeed: bool,
}

impl SparsePruning {
    /// The JSON key.
    pub const NAME: &'static str = "sparse_pruning";

    /// Whether what stays is chosen at the beginning of the session, whenever it comes into effect.
    fn chosen_first(&self) -> bool {
        self.deepspeed && self.importance == Importance::L1 && self.schedule.is_one_shot()
    }

    /// Why the layer's inputs cannot be seen, where they have to be.
    fn unseen(&self, site: &Site) -> Option<Problem> {
        if self.importance == Importance::Activation { inputs_unseen(site) } else { None }
    }

    fn details(&self, grid: &Grid) -> Map<String, Value> {
        let mut details = Map::new();
        details.insert("pattern".into(), json!(self.pattern.to_string()));
        details.insert("sparsity".into(), json!(self.sparsity));
        if let Some(kept) = choose::kept_in(&self.scope, grid, self.sparsity) {
            details.insert("kept".into(), json!(kept));
        }
        details.insert("importance".into(), json!(settings::word(self.importance)));
        self.scope.details(&mut details);
        self.schedule.details(&mut details);
        details
    }

    /// Whether neural_compressor leaves the layer out: it takes the last linear layer for the classifier.
    fn left_out(&self, model: &ModelView, site: &Site) -> bool {
        let last = model.sites.iter().rfind(|s| s.kind == LayerKind::Linear);
        self.deepspeed
            && self.importance == Importance::SnipMomentum
            && last.is_some_and(|last| last.name == site.name)
    }
}

impl<B: Backend> CompressionMethod<B> for SparsePruning {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn kind(&self) -> StageKind {
        StageKind::Prune
    }

    fn fits(&self, site: &Site) -> bool {
        matches!(site.kind, LayerKind::Linear | LayerKind::Conv2d)
    }

    fn plan(&self, model: &ModelView, selected: &[Site], out: &mut PlanBuilder<'_>) {
        for site in selected.iter().filter(|site| !self.left_out(model, site)) {
            if site.kind == LayerKind::BatchNorm {
                let problem = Problem::WrongKind { method: Self::NAME.into(), kind: site.kind.to_string() };
                out.problem_at("on", site, problem);
                continue;
            }
            if let Some(problem) = self.unseen(site) {
                out.problem_at("importance", site, problem);
                continue;
            }
            match self.pattern.on(site.shape) {
                Ok(grid) => out.step(site, self.details(&grid)),
                Err(problem) if self.deepspeed => {
                    out.step(site, Map::from_iter([(PASSED_OVER.into(), json!(problem.to_string()))]));
                }
                Err(problem) => out.problem_at("pattern", site, problem),
            }
        }
    }

    fn removal_problem(&self, site: &Site, member: &Member) -> Option<Problem> {
        let (axis, grid) = (UnitAxis::of(site, member).ok()?, self.pattern.on(site.shape).ok()?);
        grid.removes(axis.along, &axis.entries()).err()
    }

    fn attach(&self, step: &Step, state: &mut StateBuilder<'_, B>) -> Attached<B> {
        if step.details.contains_key(PASSED_OVER) {
            return Attached::Weight(Box::new(Untouched));
        }
        let name = &step.site.name;
        let grid = self.pattern.on(step.site.shape).expect("the plan has checked it");
        let ones = state.weight.ones_like();
        let mask = state.shared_buffer(&format!("mask {name}"), ones.clone());
        let chosen = format!("chosen {name}");
        let first = self.chosen_first().then(|| state.shared_buffer(&chosen, ones.clone()));
        let scores = |values: Vec<f32>, state: &StateBuilder<'_, B>| {
            let data = TensorData::new(values, grid.scores());
            Tensor::from_data(data, (&state.weight.device(), state.weight.dtype()))
        };
        let [high, wide] = grid.scores();
        let zeros = vec![0.0; high * wide];
        let key = format!("scores {name}");
        state.shared_counter(EVENTS, Events::NEW);
        let schedule = self.schedule;
        let (mut learned, mut watched, mut norms) = (None, None, None);
        match self.importance {
            Importance::L1 | Importance::L2 => {}
            Importance::Movement => {
                let drawn = || {
                    let bound = 1.0 / (step.site.shape[1] as f32).sqrt();
                    seed::uniform(state.seed, name, high * wide).into_iter().map(|v| v * bound).collect()
                };
                let initial = scores(if self.deepspeed { drawn() } else { zeros }, state);
                let index = state.shared_learned(&key, initial);
                learned = Some(Learned { scores: index, early: !self.deepspeed });
            }
            Importance::SnipMomentum | Importance::Taylor => {
                let index = state.shared_buffer(&key, scores(zeros, state));
                watched =
                    Some(Watched { scores: index, momentum: self.importance == Importance::SnipMomentum });
            }
            Importance::Activation => {
                norms = Some(Norms::attach(&key, &format!("known {name}"), state));
            }
            Importance::Random => {
                let drawn = seed::uniform(state.seed, name, high * wide);
                state.shared_buffer(&key, scores(drawn, state));
            }
        }
        Attached::Weight(Box::new(SparseStage { grid, mask, first, learned, watched, norms, schedule }))
    }

    fn joint(&self, steps: &[&Step], keys: &SharedKeys) -> Option<Box<dyn Joint<B>>> {
        let weight = |step: &&&Step| {
            let name = &step.site.name;
            Some(Weight {
                path: step.site.path.clone(),
                mask: keys.buffer(&format!("mask {name}"))?,
                first: keys.buffer(&format!("chosen {name}")),
                known: keys.counter(&format!("known {name}")),
                scores: match self.importance {
                    Importance::Movement => keys.learned(&format!("scores {name}")),
                    _ => keys.buffer(&format!("scores {name}")),
                },
            })
        };
        let weights: Vec<Weight> = steps.iter().filter_map(|s| weight(&s)).collect();
        let events = Events { schedule: self.schedule, counter: keys.counter(EVENTS)? };
        Some(Box::new(Choose { method: self.clone(), weights, events }))
    }
}

/// Key of a step's details that says why the layer stays as it is.
const PASSED_OVER: &str = "passed_over";
/// Key of the counter of events.
const EVENTS: &str = "events";

#[cfg(test)]
mod tests;
