//! A plan attached to a model: the view to compute with, the training step, calibration, the end.

mod calibrate;
mod finish;
mod joint;
mod reduced;
mod resume;
mod shrink;
mod train;
mod view;
mod walk;

pub use calibrate::CalibrationError;
pub use finish::{FinishError, Finished, FinishedLayer};
pub(crate) use finish::{code_of, run_sparse, set_packed};
pub use resume::{Position, ResumeError};
pub use shrink::{Misfit, Removed, RemovedUnits, ShorterAxis, ShrinkError};
pub use train::{FollowsRemoval, Removals, Trainable, Trained};

use crate::plan::Plan;
use briquette_core::{
    Attached, Clock, Compensation, InputObserver, InputQuantization, Joint, KeptUnits, LayerKind, Schedule,
    SessionState, SharedKeys, Site, Stage, StageKind, StateBuilder, Step, materialize, stop, to_canonical,
};
use briquette_nn::{Compressible, LayerMut, LayerPath, unshare, visit_layers};
use burn::module::{ModuleVisitor, Param, ParamId};
use burn::prelude::*;
use reduced::reduced;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use view::Averaging;
use walk::FieldPath;

/// A stage with its method's name and the recipe entry it comes from.
struct Link<B: Backend> {
    method: String,
    entry: usize,
    // The group whose units it masks until they are removed.
    removes: Option<String>,
    stage: Box<dyn Stage<B>>,
}

/// What looks at all layers of one recipe entry.
struct JointLink<B: Backend> {
    entry: usize,
    joint: Box<dyn Joint<B>>,
}

/// All stages on one weight, in order.
struct Chain<B: Backend> {
    site: Site,
    links: Vec<Link<B>>,
    compensation: Option<(String, Box<dyn Compensation<B>>)>,
}

impl<B: Backend> Chain<B> {
    fn new(site: &Site) -> Self {
        Self { site: site.clone(), links: Vec::new(), compensation: None }
    }

    /// The weight `[out, in]` as the methods make it at `clock`.
    fn apply(&self, state: &SessionState<B>, clock: Clock, weight: Tensor<B, 2>) -> Tensor<B, 2> {
        let step = |w, link: &Link<B>| link.stage.apply(state, clock, w);
        match (&self.compensation, self.links.split_last()) {
            (Some((_, compensation)), Some((quantizer, before))) if clock == Clock::Finished => {
                let original = before.iter().fold(weight, step);
                let quantized = quantizer.stage.apply(state, clock, original.clone());
                let [left, right] = compensation.factors(stop(original), stop(quantized.clone()));
                quantized + left.matmul(right)
            }
            _ => self.links.iter().fold(weight, step),
        }
    }
}

/// Input quantization of one layer.
#[derive(Debug, Clone)]
struct Input {
    site: Site,
    quantization: InputQuantization,
    observer: Option<Arc<dyn InputObserver>>,
    schedule: Schedule,
}

/// Calls a function for every drop-in layer of a model.
type Layers<B, M> = fn(&mut M, &mut dyn FnMut(&LayerPath, LayerMut<'_, B>));

/// A plan attached to a model.
///
/// The user's own model is never changed: computing goes through [`view`](Self::view), a copy whose
/// weights are transformed and whose layers quantize their inputs; gradients of the view reach the
/// session's model.
pub struct Session<B: Backend, M: Module<B>> {
    // Taken out only within one call, while burn's optimizer owns it.
    trained: Option<Trained<B, M>>,
    // By parameter, not by path: layers that share a weight share what is done to it.
    chains: HashMap<ParamId, Chain<B>>,
    joints: Vec<JointLink<B>>,
    inputs: HashMap<String, Input>,
    layers: Option<Layers<B, M>>,
    // By field path; none once the masked units are gone.
    averaging: HashMap<String, Averaging>,
    // Makes a copy that shares no running statistics.
    unshare: Option<fn(&M) -> M>,
    // What was removed, as the masks said and as the artefact says.
    kept: Vec<KeptUnits>,
    removed: Option<Removed>,
    plan: Plan<B>,
    clock: Clock,
    // By the beginning of the layers' names.
    sensitivities: BTreeMap<String, f64>,
    cache: RefCell<HashMap<ParamId, Tensor<B, 2>>>,
}

impl<B: Backend> Plan<B> {
    /// Attaches the plan without training: every schedule counts as finished.
    ///
    /// `seed` is the only source of randomness. The model is not changed: where the plan reduces layers, the session's
    /// copy has those that stay.
    pub fn attach<M: Module<B> + Compressible<B>>(&self, model: &M, seed: u64) -> Session<B, M> {
        materialize(model);
        let layers: Layers<B, M> = layers_of::<B, M>;
        Session::new(self, reduced(self, model), Some(layers), Clock::Finished, seed)
            .unsharing(own_statistics)
    }

    /// [`attach`](Self::attach) for a model that does not implement `Compressible`: weights only.
    /// Such a model's plan quantizes no inputs, since none of its layers is a drop-in one.
    pub fn attach_weights<M: Module<B>>(&self, model: &M, seed: u64) -> Session<B, M> {
        materialize(model);
        Session::new(self, model.clone(), None, Clock::Finished, seed)
    }
}

fn layers_of<B: Backend, M: Compressible<B>>(
    model: &mut M,
    visit: &mut dyn FnMut(&LayerPath, LayerMut<'_, B>),
) {
    visit_layers(model, visit);
}

/// A copy of the model that shares no running statistics.
fn own_statistics<B: Backend, M: Module<B> + Compressible<B>>(model: &M) -> M {
    let mut copy = model.clone();
    unshare(&mut copy);
    copy
}

impl<B: Backend, M: Module<B>> Session<B, M> {
    fn unsharing(self, unshare: fn(&M) -> M) -> Self {
        Self { unshare: Some(unshare), ..self }
    }

    fn new(plan: &Plan<B>, model: M, layers: Option<Layers<B, M>>, clock: Clock, seed: u64) -> Self {
        let mut attach = Attach::new(plan, clock, seed);
        attach.steps(&model, |kind| kind == StageKind::Prune);
        let joints = attach.joints();
        joint::update(&joints, &mut attach.state, &model, clock);
        // What follows is made from the weights that pruning leaves.
        attach.steps(&model, |kind| kind != StageKind::Prune);
        let Attach { state, chains, inputs, .. } = attach;
        Self {
            trained: Some(Trained { model, state }),
            chains,
            joints,
            inputs,
            layers,
            averaging: Averaging::of(plan),
            unshare: None,
            kept: Vec::new(),
            removed: None,
            plan: plan.clone(),
            clock,
            sensitivities: BTreeMap::new(),
            cache: RefCell::default(),
        }
    }

    /// The session's model, with its weights as they are, and the state of the methods.
    pub fn parts(&self) -> &Trained<B, M> {
        self.trained.as_ref().expect("taken out only within `step`")
    }

    /// The plan.
    pub fn plan(&self) -> &Plan<B> {
        &self.plan
    }

    /// How far the schedules have come.
    pub fn clock(&self) -> Clock {
        self.clock
    }
}

/// Makes the stages, layer by layer, each from the weight that the ones before it leave.
struct Attach<'a, B: Backend> {
    plan: &'a Plan<B>,
    state: SessionState<B>,
    clock: Clock,
    seed: u64,
    // By recipe entry.
    keys: BTreeMap<usize, SharedKeys>,
    chains: HashMap<ParamId, Chain<B>>,
    inputs: HashMap<String, Input>,
}

impl<'a, B: Backend> Attach<'a, B> {
    fn new(plan: &'a Plan<B>, clock: Clock, seed: u64) -> Self {
        let (state, keys) = (SessionState::default(), BTreeMap::new());
        Self { plan, state, clock, seed, keys, chains: HashMap::new(), inputs: HashMap::new() }
    }

    /// Attaches the steps of these kinds.
    fn steps<M: Module<B>>(&mut self, model: &M, kinds: fn(StageKind) -> bool) {
        model.visit(&mut AttachKinds { at: FieldPath::default(), attach: self, kinds });
    }

    /// What looks at all layers of an entry that is attached to all of them.
    fn joints(&self) -> Vec<JointLink<B>> {
        let none = SharedKeys::default();
        let joint = |entry: usize| {
            let steps: Vec<&Step> = self.plan.steps().iter().filter(|s| s.entry == entry).collect();
            let keys = self.keys.get(&entry).unwrap_or(&none);
            let joint = self.plan.method(steps.first()?).joint(&steps, keys)?;
            Some(JointLink { entry, joint })
        };
        let entries: BTreeSet<usize> = self.plan.steps().iter().map(|s| s.entry).collect();
        entries.into_iter().filter_map(joint).collect()
    }

    fn step(&mut self, step: &Step, id: ParamId, weight: &mut Tensor<B, 2>) {
        let keys = self.keys.remove(&step.entry).unwrap_or_default();
        let builder = StateBuilder::new(&mut self.state, weight.clone(), self.clock, self.seed);
        let mut builder = builder.with_keys(keys);
        let attached = self.plan.method(step).attach(step, &mut builder);
        self.keys.insert(step.entry, builder.into_keys());
        match attached {
            Attached::Weight(stage) => {
                *weight = stop(stage.apply(&self.state, self.clock, weight.clone()));
                let chain = self.chains.entry(id).or_insert_with(|| Chain::new(&step.site));
                let removes = step.cut.as_ref().filter(|cut| cut.removed).map(|cut| cut.group.name.clone());
                let (method, entry) = (step.method.clone(), step.entry);
                chain.links.push(Link { method, entry, removes, stage });
            }
            Attached::Compensation(compensation) => {
                let chain = self.chains.entry(id).or_insert_with(|| Chain::new(&step.site));
                chain.compensation = Some((step.method.clone(), compensation));
            }
            Attached::Input { quantization, observer, schedule } => {
                let input = Input { site: step.site.clone(), quantization, observer, schedule };
                self.inputs.insert(step.site.path.clone(), input);
            }
        }
    }
}

/// Attaches the steps of some kinds.
struct AttachKinds<'a, 'p, B: Backend> {
    at: FieldPath,
    attach: &'a mut Attach<'p, B>,
    kinds: fn(StageKind) -> bool,
}

impl<B: Backend> ModuleVisitor<B> for AttachKinds<'_, '_, B> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.at.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.leave();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some((path, kind)) = self.at.weight() else { return };
        let plan = self.attach.plan;
        let wanted = |s: &&Step| s.site.path == path && (self.kinds)(s.kind);
        let steps: Vec<&Step> = plan.steps().iter().filter(wanted).collect();
        if steps.is_empty() {
            return;
        }
        let mut weight = stop(to_canonical(kind, param.val()));
        if let Some(chain) = self.attach.chains.get(&param.id) {
            weight = stop(chain.apply(&self.attach.state, self.attach.clock, weight));
        }
        steps.into_iter().for_each(|step| self.attach.step(step, param.id, &mut weight));
    }
}

/// Kinds whose weight has a canonical view.
fn weighted(kind: LayerKind) -> bool {
    kind != LayerKind::BatchNorm
}
