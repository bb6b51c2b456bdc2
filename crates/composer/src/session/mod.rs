//! A plan attached to a model: the view to compute with, the training step, calibration, the end.

mod calibrate;
mod finish;
mod reduced;
mod resume;
mod train;
mod view;
mod walk;

pub use calibrate::CalibrationError;
pub use finish::{FinishError, Finished, FinishedLayer};
pub(crate) use finish::{code_of, set_packed};
pub use resume::{Position, ResumeError};
pub use train::{Trainable, Trained};

use crate::plan::Plan;
use briquette_core::{
    Attached, Clock, Compensation, InputObserver, InputQuantization, LayerKind, Schedule, SessionState, Site,
    Stage, StateBuilder, Step, materialize, stop, to_canonical,
};
use briquette_nn::{Compressible, LayerMut, LayerPath, visit_layers};
use burn::module::{ModuleVisitor, Param, ParamId};
use burn::prelude::*;
use reduced::reduced;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use walk::FieldPath;

/// A stage with its method's name.
struct Link<B: Backend> {
    method: String,
    stage: Box<dyn Stage<B>>,
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
    inputs: HashMap<String, Input>,
    layers: Option<Layers<B, M>>,
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
        Session::new(self, reduced(self, model), Some(layers_of::<B, M>), Clock::Finished, seed)
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

impl<B: Backend, M: Module<B>> Session<B, M> {
    fn new(plan: &Plan<B>, model: M, layers: Option<Layers<B, M>>, clock: Clock, seed: u64) -> Self {
        let mut state = SessionState::default();
        let mut attach = Attach {
            at: FieldPath::default(),
            plan,
            state: &mut state,
            clock,
            seed,
            chains: HashMap::new(),
            inputs: HashMap::new(),
        };
        model.visit(&mut attach);
        let (chains, inputs) = (attach.chains, attach.inputs);
        let trained = Some(Trained { model, state });
        Self {
            trained,
            chains,
            inputs,
            layers,
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
    at: FieldPath,
    plan: &'a Plan<B>,
    state: &'a mut SessionState<B>,
    clock: Clock,
    seed: u64,
    chains: HashMap<ParamId, Chain<B>>,
    inputs: HashMap<String, Input>,
}

impl<B: Backend> Attach<'_, B> {
    fn step(&mut self, step: &Step, id: ParamId, weight: &mut Tensor<B, 2>) {
        let mut builder = StateBuilder::new(self.state, weight.clone(), self.clock, self.seed);
        match self.plan.method(step).attach(step, &mut builder) {
            Attached::Weight(stage) => {
                *weight = stop(stage.apply(self.state, self.clock, weight.clone()));
                let chain = self.chains.entry(id).or_insert_with(|| Chain::new(&step.site));
                chain.links.push(Link { method: step.method.clone(), stage });
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

impl<B: Backend> ModuleVisitor<B> for Attach<'_, B> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.at.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.leave();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Some((path, kind)) = self.at.weight() else { return };
        let plan = self.plan;
        let steps: Vec<&Step> = plan.steps().iter().filter(|s| s.site.path == path).collect();
        if steps.is_empty() {
            return;
        }
        let mut weight = stop(to_canonical(kind, param.val()));
        steps.into_iter().for_each(|step| self.step(step, param.id, &mut weight));
    }
}

/// Kinds whose weight has a canonical view.
fn weighted(kind: LayerKind) -> bool {
    kind != LayerKind::BatchNorm
}
