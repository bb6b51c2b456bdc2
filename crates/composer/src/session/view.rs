//! The view: a copy of the model that computes with transformed weights and quantized inputs.

use super::{Chain, Input, Session};
use crate::plan::Plan;
use briquette_core::{Clock, GroupCut, InputRange, SessionState, from_canonical, stop, to_canonical};
use briquette_nn::LayerMut;
use burn::module::{ModuleMapper, Param, ParamId};
use burn::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;

impl<B: Backend, M: Module<B>> Session<B, M> {
    /// The model as compressed so far. Gradients of its weights reach the session's model.
    ///
    /// What cannot change from step to step is transformed once and kept.
    pub fn view(&self) -> M {
        self.view_within("")
    }

    /// [`view`](Self::view) in which only the weights of the layers at or below the field path `path` are transformed:
    /// for computing with a part of a model.
    pub fn view_within(&self, path: &str) -> M {
        self.view_that(true, path)
    }

    /// [`view_within`](Self::view_within) whose layers observe their inputs, where that is planned, or do not.
    pub(super) fn view_that(&self, observes: bool, path: &str) -> M {
        let parts = self.parts();
        let mut transform = Transform {
            clock: self.clock,
            state: &parts.state,
            chains: &self.chains,
            cache: &self.cache,
            within: path,
        };
        let mut view = parts.model.clone().map(&mut transform);
        self.set_inputs(&mut view, |input| {
            if !input.schedule.active(self.clock) {
                return Setting { quantize: None, observe: false };
            }
            // While training, a range that follows the data keeps being observed.
            let observe = observes && self.clock != Clock::Finished && input.observer.is_some();
            Setting { quantize: Some(input.range_now()), observe }
        });
        self.set_kept_entries(&mut view);
        view
    }

    /// Tells the layers that average over an axis which of its entries are not masked.
    fn set_kept_entries(&self, model: &mut M) {
        let Some(layers) = self.layers.filter(|_| !self.averaging.is_empty()) else { return };
        let masks = self.joints.iter().flat_map(|link| link.joint.masks(&self.parts().state));
        let masks: HashMap<String, Tensor<B, 2>> = masks.map(|m| (m.group, stop(m.mask))).collect();
        layers(model, &mut |at, layer| {
            let (Some(averaging), LayerMut::LayerNorm(norm)) = (self.averaging.get(at.path()), layer) else {
                return;
            };
            if let Some(mask) = masks.get(&averaging.group) {
                norm.set_kept(Some(averaging.entries(mask.clone())));
            }
        });
    }

    /// Sets the input quantization of every planned layer of `model`.
    pub(super) fn set_inputs(&self, model: &mut M, setting: impl Fn(&Input) -> Setting) {
        let Some(layers) = self.layers else { return };
        layers(model, &mut |at, layer| {
            let Some(input) = self.inputs.get(at.path()) else { return };
            let Setting { quantize, observe } = setting(input);
            let quantization =
                quantize.map(|range| briquette_core::InputQuantization { range, ..input.quantization });
            let observer = input.observer.clone().filter(|_| observe);
            match layer {
                LayerMut::Linear(l) => {
                    l.set_input_quantization(quantization);
                    l.observe_input(observer);
                }
                LayerMut::Conv2d(l) => {
                    l.set_input_quantization(quantization);
                    l.observe_input(observer);
                }
                _ => {}
            }
        });
    }
}

/// What a layer is to do with its input.
pub(super) struct Setting {
    pub(super) quantize: Option<InputRange>,
    pub(super) observe: bool,
}

impl Input {
    /// The range to use now: as planned, or what has been observed.
    pub(super) fn range_now(&self) -> InputRange {
        match (&self.observer, self.quantization.range) {
            (Some(observer), InputRange::Pending) => match observer.range() {
                Some((min, max)) => InputRange::Static { min, max },
                None => InputRange::Pending,
            },
            (_, range) => range,
        }
    }
}

/// A layer that averages over the axis of a group that is masked.
#[derive(Debug, Clone)]
pub(super) struct Averaging {
    group: String,
    // The unit of each entry of the axis; the number of units for an entry that is in none.
    units: Vec<i32>,
}

impl Averaging {
    /// The layers that average over the plan's groups, by field path.
    pub(super) fn of<B: Backend>(plan: &Plan<B>) -> HashMap<String, Self> {
        let lengths: HashMap<&str, usize> =
            plan.model().parameters.iter().map(|p| (p.path.as_str(), p.shape.iter().product())).collect();
        let mut found = HashMap::new();
        for GroupCut { group, .. } in plan.cuts().values() {
            for path in &group.averaged_by {
                let scale = format!("{path}.gamma");
                let member = group.members.iter().find(|m| m.path == scale);
                let (Some(member), Some(length)) = (member, lengths.get(scale.as_str())) else { continue };
                let mut units = vec![group.units as i32; *length];
                for (unit, entries) in member.units.iter().enumerate() {
                    entries.iter().filter(|e| **e < *length).for_each(|e| units[*e] = unit as i32);
                }
                found.insert(path.clone(), Self { group: group.name.clone(), units });
            }
        }
        found
    }

    /// The mask of entries for a mask `[1, units]`.
    fn entries<B: Backend>(&self, mask: Tensor<B, 2>) -> Tensor<B, 1> {
        let (device, count) = (mask.device(), mask.dims()[1]);
        let mask = mask.reshape([count]);
        if self.units.iter().enumerate().all(|(entry, unit)| entry as i32 == *unit)
            && self.units.len() == count
        {
            return mask;
        }
        let always = Tensor::ones([1], (&device, mask.dtype()));
        let units = Tensor::from_data(TensorData::new(self.units.clone(), [self.units.len()]), &device);
        Tensor::cat(vec![mask, always], 0).select(0, units)
    }
}

struct Transform<'a, B: Backend> {
    clock: Clock,
    state: &'a SessionState<B>,
    chains: &'a HashMap<ParamId, Chain<B>>,
    cache: &'a RefCell<HashMap<ParamId, Tensor<B, 2>>>,
    within: &'a str,
}

/// Whether a layer is at or below a field path; everything is below the empty one.
fn within(layer: &str, path: &str) -> bool {
    let below = layer.strip_prefix(path);
    path.is_empty() || below.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl<B: Backend> ModuleMapper<B> for Transform<'_, B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let chain = self.chains.get(&param.id).filter(|c| within(&c.site.path, self.within));
        let Some(chain) = chain else { return param };
        let (id, kind, native) = (param.id, chain.site.kind, param.dims());
        if let Some(weight) = self.cache.borrow().get(&id) {
            return param.map(|_| from_canonical(kind, weight.clone(), native));
        }
        // No graph runs through it and nothing it depends on can change before the next step.
        let frozen = !B::ad_enabled(&param.device()) || !param.is_require_grad();
        let keep = frozen && chain.links.iter().all(|l| l.stage.constant(self.clock));
        param.map(|weight| {
            let weight = to_canonical(kind, weight);
            let weight = chain.apply(self.state, self.clock, weight);
            if keep {
                self.cache.borrow_mut().insert(id, weight.clone());
            }
            from_canonical(kind, weight, native)
        })
    }
}
