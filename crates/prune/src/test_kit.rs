//! What tests of methods share: layers, and the life of a few weights without a session.

use briquette_core::{
    Attached, Clock, CompressionMethod, Dependencies, Diagnostics, DimensionGroup, Joint, LayerKind, Left,
    Member, ModelView, Parameter, PlanBuilder, Role, SessionState, SharedKeys, Site, Stage, StateBuilder,
    Step, UnitMask, host_floats, stop,
};
use burn::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A layer with its canonical shape `[out, in]`.
pub(crate) fn site(name: &str, kind: LayerKind, shape: [usize; 2]) -> Site {
    let native = match kind {
        LayerKind::Linear => vec![shape[1], shape[0]],
        LayerKind::Conv2d => vec![shape[0], shape[1], 1, 1],
        _ => shape.to_vec(),
    };
    convolution_or_other(name, kind, shape, native)
}

/// A convolution `[out, in, kh, kw]`.
pub(crate) fn convolution(name: &str, native: [usize; 4]) -> Site {
    let shape = [native[0], native[1..].iter().product()];
    convolution_or_other(name, LayerKind::Conv2d, shape, native.to_vec())
}

fn convolution_or_other(name: &str, kind: LayerKind, shape: [usize; 2], native: Vec<usize>) -> Site {
    let path = name.into();
    Site { name: name.into(), path, kind, shape, native, trainable: true, tied: vec![], drop_in: true }
}

/// A model with these layers; each has a bias but embeddings.
pub(crate) fn view(sites: Vec<Site>) -> ModelView {
    let parameter =
        |name: String, shape: Vec<usize>| Parameter { path: name.clone(), name, shape, trainable: true };
    let mut parameters = Vec::new();
    for site in &sites {
        parameters.push(parameter(format!("{}.weight", site.name), site.native.clone()));
        if site.kind != LayerKind::Embedding {
            parameters.push(parameter(format!("{}.bias", site.name), vec![site.shape[0]]));
        }
    }
    ModelView { sites, parameters, ..ModelView::default() }
}

/// The member for an axis of a parameter, in `units` runs of `each` from `from` on.
pub(crate) fn member(name: &str, axis: usize, role: Role, [from, units, each]: [usize; 3]) -> Member {
    let units = (0..units).map(|u| (from + u * each..from + (u + 1) * each).collect()).collect();
    Member { name: name.into(), path: name.into(), axis, role, units }
}

/// A group whose first member names it.
pub(crate) fn group(members: Vec<Member>) -> DimensionGroup {
    let first = members.first().expect("a member");
    let name = first.name.rsplit_once('.').expect("a layer and its parameter").0.to_string();
    DimensionGroup { name, units: first.units.len(), members, averaged_by: Vec::new() }
}

pub(crate) fn dependencies(groups: Vec<DimensionGroup>) -> Dependencies {
    Dependencies { groups, ..Dependencies::default() }
}

/// What a method's plan says of the layers of these names.
pub(crate) fn plan<B: Backend>(
    method: &dyn CompressionMethod<B>,
    view: &ModelView,
    names: &[&str],
) -> Result<Vec<Step>, Vec<String>> {
    let aliases = BTreeMap::new();
    let mut out = PlanBuilder::new("p", &aliases, 0, method.name(), method.kind());
    let selected: Vec<Site> =
        view.sites.iter().filter(|s| names.contains(&s.name.as_str())).cloned().collect();
    method.plan(view, &selected, &mut out);
    let (steps, problems) = out.into_parts();
    if problems.is_empty() { Ok(steps) } else { Err(lines(&problems)) }
}

pub(crate) fn lines(problems: &Diagnostics) -> Vec<String> {
    problems.iter().map(|d| d.to_string()).collect()
}

/// Weights by name, on the host.
pub(crate) type Weights = BTreeMap<String, Vec<f32>>;

/// A method at work on some weights, as a session runs it.
pub(crate) struct Run<B: Backend> {
    stages: Vec<(Site, Box<dyn Stage<B>>)>,
    joint: Box<dyn Joint<B>>,
    pub(crate) state: SessionState<B>,
    pub(crate) clock: Clock,
    pub(crate) weights: BTreeMap<String, Tensor<B, 2>>,
}

impl<B: Backend> Run<B> {
    /// `weights` are those of all layers of `view`.
    pub(crate) fn new(
        method: &dyn CompressionMethod<B>,
        view: &ModelView,
        names: &[&str],
        weights: &Weights,
        clock: Clock,
    ) -> Self {
        let steps = plan(method, view, names).unwrap_or_else(|e| panic!("{e:?}"));
        let tensor = |site: &Site| {
            let data = TensorData::new(weights[&site.name].clone(), site.shape);
            (site.path.clone(), Tensor::from_data(data, &Default::default()))
        };
        let weights: BTreeMap<String, Tensor<B, 2>> = view.sites.iter().map(tensor).collect();
        let mut state = SessionState::default();
        let (mut keys, mut stages) = (SharedKeys::default(), Vec::new());
        for step in &steps {
            let weight = weights[&step.site.path].clone();
            let mut builder = StateBuilder::new(&mut state, weight, clock, 3).with_keys(keys);
            let Attached::Weight(stage) = method.attach(step, &mut builder) else {
                panic!("pruning acts on weights");
            };
            keys = builder.into_keys();
            stages.push((step.site.clone(), stage));
        }
        let all: Vec<&Step> = steps.iter().collect();
        let joint = method.joint(&all, &keys).expect("pruning has a joint part");
        let mut run = Self { stages, joint, state, clock, weights };
        run.update();
        run
    }

    pub(crate) fn update(&mut self) {
        let weights = &self.weights;
        self.joint.update(&mut self.state, self.clock, &|path| weights.get(path).cloned().map(stop));
    }

    /// One optimizer step that gives every weight the gradient of this name, if there is one.
    pub(crate) fn step(&mut self, gradients: &Weights) {
        self.clock = self.clock.next();
        for (site, stage) in self.stages.iter().filter(|(_, stage)| stage.watches()) {
            let weight = self.weights[&site.path].clone();
            let gradient = gradients.get(&site.name).map(|values| {
                let data = TensorData::new(values.clone(), site.shape);
                Tensor::from_data(data, &weight.device())
            });
            stage.after_backward(&mut self.state, self.clock, weight, gradient);
        }
        self.update();
    }

    /// Shows the layers' inputs, rows of them by layer, as calibration does.
    pub(crate) fn observe(&mut self, inputs: &Weights) {
        for (site, stage) in &self.stages {
            let Some(observer) = stage.observer(&self.state) else { continue };
            inputs.get(&site.name).into_iter().for_each(|values| observer.observe(values));
            stage.observed(&mut self.state, &observer.save());
        }
        self.update();
    }

    /// Layers whose inputs a method still has to see.
    pub(crate) fn waits_for(&self) -> Vec<&str> {
        let waits = self.stages.iter().filter(|(_, stage)| stage.observer(&self.state).is_some());
        waits.map(|(site, _)| site.name.as_str()).collect()
    }

    /// Steps without gradients up to `clock`.
    pub(crate) fn go_to(&mut self, step: usize) {
        while !self.clock.reached(step) {
            self.step(&Weights::new());
        }
    }

    pub(crate) fn end(&mut self) {
        self.clock = Clock::Finished;
        self.update();
    }

    fn stage(&self, name: &str) -> &(Site, Box<dyn Stage<B>>) {
        self.stages.iter().find(|(site, _)| site.name == name).unwrap_or_else(|| panic!("no stage on {name}"))
    }

    /// The layers that have a stage.
    pub(crate) fn masked(&self) -> BTreeSet<String> {
        self.stages.iter().map(|(site, _)| site.name.clone()).collect()
    }

    /// The weight as the method makes it now, on the graph.
    pub(crate) fn apply(&self, name: &str, weight: Tensor<B, 2>) -> Tensor<B, 2> {
        self.stage(name).1.apply(&self.state, self.clock, weight)
    }

    /// The weight of now as the method makes it.
    pub(crate) fn view(&self, name: &str) -> Vec<f32> {
        host_floats(self.apply(name, self.weights[name].clone()))
    }

    /// What stays of a weight, row-major; a weight that is zero itself counts as gone.
    pub(crate) fn kept(&self, name: &str) -> Vec<bool> {
        self.view(name).into_iter().map(|v| v != 0.0).collect()
    }

    pub(crate) fn masks(&self) -> Vec<UnitMask<B>> {
        self.joint.masks(&self.state)
    }

    pub(crate) fn settled(&self) -> bool {
        self.joint.settled(self.clock)
    }

    pub(crate) fn stage_mut(&mut self, name: &str) -> (&mut SessionState<B>, &mut Box<dyn Stage<B>>) {
        let stage = self.stages.iter_mut().find(|(site, _)| site.name == name).expect("a stage");
        (&mut self.state, &mut stage.1)
    }

    /// The end of one weight.
    pub(crate) fn finish(mut self, name: &str) -> (Vec<f32>, Left) {
        let at = self.stages.iter().position(|(site, _)| site.name == name).expect("a stage");
        let (_, stage) = self.stages.remove(at);
        let outcome = stage.finish(&self.state, self.weights[name].clone());
        (host_floats(outcome.weight), outcome.left)
    }
}

/// Weights of these layers, uneven and of both signs, none of them zero.
pub(crate) fn uneven(view: &ModelView) -> Weights {
    let value = |i: usize| ((i + 1) as f32 * 0.7311).sin() * (0.3 + 0.2 * (i as f32 * 0.1931).cos()) + 1e-4;
    let weight = |(n, site): (usize, &Site)| {
        (site.name.clone(), (0..site.len()).map(|i| value(i + 1000 * n)).collect())
    };
    view.sites.iter().enumerate().map(weight).collect()
}
