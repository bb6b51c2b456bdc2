//! The end of a session: a plain or packed model and what the artefact says of it.

use super::view::Setting;
use super::{CalibrationError, Chain, Layers, Link, Removed, Session, ShrinkError, layers_of};
use crate::plan::Plan;
use briquette_core::{
    CodeKind, CodedWeight, Compensation, InputQuantization, LayerKind, Left, LowRank, SessionState, Site,
    SparseWeight, from_canonical, host_floats, stop, to_canonical,
};
use briquette_kernels::{Code, PackedMatrix, pack_rows};
use briquette_nn::{Compressible, LayerMut};
use burn::module::{AutodiffModule, ModuleMapper, Param, ParamId};
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Why a session cannot be finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FinishError {
    /// Static ranges were never calibrated.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// What the masks leave out cannot be removed.
    #[error(transparent)]
    Shrink(#[from] ShrinkError),
    /// A budget is allocated by sensitivities that were never measured.
    #[error(
        "the sensitivity of {} was not measured: scan it and give the plan what was found",
        .groups.join(", ")
    )]
    Sensitivity {
        /// The groups of units.
        groups: Vec<String>,
    },
    /// Weights that hold no numbers: no code stands for them.
    #[error("weights of {} are infinite or not numbers", .layers.join(", "))]
    NotFinite {
        /// Names of the layers.
        layers: Vec<String>,
    },
}

/// What was done to one weight.
#[derive(Debug, Clone)]
pub struct FinishedLayer {
    /// The layer.
    pub site: Site,
    /// What each method leaves, in order.
    pub left: Vec<(String, Left)>,
    /// Frobenius norm of the change, relative to that of the weight.
    pub relative_error: f64,
}

impl FinishedLayer {
    /// The weight as codes, where a method left it so.
    pub fn coded(&self) -> Option<&CodedWeight> {
        self.left.iter().rev().find_map(|(_, left)| match left {
            Left::Coded(coded) => Some(coded),
            _ => None,
        })
    }

    /// Which entries of the weight are left, where a method removed single ones.
    pub fn sparse(&self) -> Option<&SparseWeight> {
        self.left.iter().rev().find_map(|(_, left)| match left {
            Left::Sparse(sparse) => Some(sparse),
            _ => None,
        })
    }

    /// What is added to the coded weight, where a method left such a correction.
    pub fn low_rank(&self) -> Option<&LowRank> {
        self.left.iter().rev().find_map(|(_, left)| match left {
            Left::LowRank(low_rank) => Some(low_rank),
            _ => None,
        })
    }
}

/// The outcome of a session.
pub struct Finished<B: Backend, M: Module<B>> {
    /// The model with its weights changed for good and its inputs quantized as planned; nothing of
    /// the session is left in it.
    pub model: M,
    /// What was done to which weight, in model order.
    pub layers: Vec<FinishedLayer>,
    /// Input quantization by layer name.
    pub inputs: BTreeMap<String, InputQuantization>,
    /// What was removed for good, where anything was.
    pub removed: Option<Removed>,
    /// The plan it came from.
    pub plan: Plan<B>,
    walk: Option<Layers<B, M>>,
}

impl<B: Backend, M: Module<B>> Session<B, M> {
    /// Ends the session: what is masked is removed, then weights are quantized.
    ///
    /// # Errors
    /// When static input ranges or sensitivities are unknown, masked units cannot be removed, or a weight is infinite or
    /// not a number.
    pub fn finish(self) -> Result<Finished<B, M>, FinishError> {
        self.finish_with(&mut |_, _| {})
    }

    /// [`finish`](Self::finish) that reports its progress: weights done, weights in all.
    ///
    /// # Errors
    /// When static input ranges or sensitivities are unknown, masked units cannot be removed, or a weight is infinite or
    /// not a number.
    pub fn finish_with(
        mut self,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Finished<B, M>, FinishError> {
        self.calibrated()?;
        self.measured()?;
        self.settle()?;
        let trained = self.trained.take().expect("taken out only within `step`");
        let total = self.chains.len();
        let mut bake = Bake {
            state: &trained.state,
            chains: std::mem::take(&mut self.chains),
            shared: HashMap::new(),
            layers: Vec::with_capacity(total),
            progress,
            total,
        };
        let mut model = trained.model.map(&mut bake);
        let layers = bake.layers;
        finite(&layers)?;
        self.set_inputs(&mut model, |input| Setting { quantize: Some(input.range_now()), observe: false });
        let inputs = self
            .inputs
            .values()
            .map(|i| (i.site.name.clone(), InputQuantization { range: i.range_now(), ..i.quantization }))
            .collect();
        Ok(Finished { model, layers, inputs, removed: self.removed, plan: self.plan, walk: self.layers })
    }
}

impl<B: Backend, M: Module<B>> Session<B, M> {
    /// Whether all sensitivities are known that numbers of units follow from.
    fn measured(&self) -> Result<(), FinishError> {
        let mut groups: Vec<String> = self.plan.open().map(|cut| cut.group.name.clone()).collect();
        groups.dedup();
        if groups.is_empty() { Ok(()) } else { Err(FinishError::Sensitivity { groups }) }
    }
}

struct Bake<'a, B: Backend> {
    state: &'a SessionState<B>,
    chains: HashMap<ParamId, Chain<B>>,
    // Final weights that further layers share.
    shared: HashMap<ParamId, (LayerKind, Tensor<B, 2>)>,
    layers: Vec<FinishedLayer>,
    progress: &'a mut dyn FnMut(usize, usize),
    total: usize,
}

impl<B: Backend> ModuleMapper<B> for Bake<'_, B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, native, trainable) = (param.id, param.dims(), param.is_require_grad());
        if let Some((kind, weight)) = self.shared.get(&id) {
            return param.map(|_| from_canonical(*kind, weight.clone(), native).set_require_grad(trainable));
        }
        let Some(chain) = self.chains.remove(&id) else { return param };
        let kind = chain.site.kind;
        param.map(|weight| {
            let original = stop(to_canonical(kind, weight));
            let (weight, left) = baked(chain.links, chain.compensation, self.state, original.clone());
            let relative_error = relative_error(original, weight.clone());
            if !chain.site.tied.is_empty() {
                self.shared.insert(id, (kind, weight.clone()));
            }
            self.layers.push(FinishedLayer { site: chain.site, left, relative_error });
            (self.progress)(self.layers.len(), self.total);
            // A leaf again, so that the model can be trained on.
            from_canonical(kind, weight, native).set_require_grad(trainable)
        })
    }
}

type Compensated<B> = Option<(String, Box<dyn Compensation<B>>)>;

/// The final weight and what each method leaves, in order.
fn baked<B: Backend>(
    links: Vec<Link<B>>,
    compensation: Compensated<B>,
    state: &SessionState<B>,
    weight: Tensor<B, 2>,
) -> (Tensor<B, 2>, Vec<(String, Left)>) {
    let (mut before, mut weight, mut left) = (weight.clone(), weight, Vec::new());
    for link in links {
        before = weight.clone();
        let outcome = link.stage.finish(state, weight);
        left.push((link.method, outcome.left));
        weight = stop(outcome.weight);
    }
    if let Some((method, compensation)) = compensation {
        let [l, r] = compensation.factors(before, weight.clone());
        let rank = l.dims()[1];
        weight = weight + l.clone().matmul(r.clone());
        left.push((method, Left::LowRank(LowRank { rank, left: host_floats(l), right: host_floats(r) })));
    }
    (weight, left)
}

/// Refuses weights whose error cannot be told.
fn finite(layers: &[FinishedLayer]) -> Result<(), FinishError> {
    let bad = layers.iter().filter(|l| !l.relative_error.is_finite());
    let layers: Vec<String> = bad.map(|l| l.site.name.clone()).collect();
    if layers.is_empty() { Ok(()) } else { Err(FinishError::NotFinite { layers }) }
}

/// `|a - b| / |a|` in the Frobenius norm; 0 where both are zero, not a number where `a` is none.
fn relative_error<B: Backend>(original: Tensor<B, 2>, changed: Tensor<B, 2>) -> f64 {
    let square = |t: Tensor<B, 2>| f64::from(host_floats(t.square().sum())[0]);
    let norm = square(original.clone());
    let error = square(original - changed);
    if norm == 0.0 { 0.0 } else { (error / norm).sqrt() }
}

impl<B: AutodiffBackend, M: AutodiffModule<B>> Finished<B, M> {
    /// The outcome of a training session on the backend without gradients. `plan` is the same plan, made for that
    /// backend.
    pub fn valid(self, plan: Plan<B::InnerBackend>) -> Finished<B::InnerBackend, M::InnerModule>
    where
        M::InnerModule: Compressible<B::InnerBackend>,
    {
        let Self { model, layers, inputs, removed, .. } = self;
        let walk: Layers<B::InnerBackend, M::InnerModule> = layers_of::<B::InnerBackend, M::InnerModule>;
        Finished { model: model.valid(), layers, inputs, removed, plan, walk: Some(walk) }
    }
}

impl<B: Backend, M: Module<B>> Finished<B, M> {
    /// The model with every coded weight packed into its drop-in layer, whose float weight is freed.
    /// Linear layers that were pruned without being coded leave out their zeros where that is faster on this backend.
    /// Weights of other layers stay as they are.
    pub fn pack(self) -> M {
        let Self { mut model, layers, walk, .. } = self;
        let Some(walk) = walk else { return model };
        let coded: HashMap<&str, (&CodedWeight, Option<&LowRank>)> =
            layers.iter().filter_map(|l| Some((l.site.path.as_str(), (l.coded()?, l.low_rank())))).collect();
        let device = model.devices().into_iter().next().unwrap_or_default();
        walk(&mut model, &mut |at, layer| {
            let Some((coded, low_rank)) = coded.get(at.path()) else { return };
            set_packed(layer, packed_matrix(coded, &device), *low_rank);
        });
        let pruned: HashSet<&str> =
            layers.iter().filter(|l| l.sparse().is_some()).map(|l| l.site.path.as_str()).collect();
        walk(&mut model, &mut |at, layer| leave_zeros_out(pruned.contains(at.path()), layer));
        model
    }
}

/// Makes the drop-in linear layers of these names leave out their zeros where that is faster on this backend.
pub(crate) fn run_sparse<'a, B: Backend, M: Compressible<B>>(
    model: &mut M,
    names: impl Iterator<Item = &'a str>,
) {
    let names: HashSet<&str> = names.collect();
    briquette_nn::visit_layers(model, |at, layer| leave_zeros_out(names.contains(at.name()), layer));
}

fn leave_zeros_out<B: Backend>(pruned: bool, layer: LayerMut<'_, B>) {
    if let (true, LayerMut::Linear(linear)) = (pruned, layer) {
        linear.run_sparse();
    }
}

/// A coded weight on a device.
pub(crate) fn packed_matrix<B: Backend>(coded: &CodedWeight, device: &B::Device) -> PackedMatrix<B> {
    let [rows, columns] = coded.shape;
    let words = pack_rows(&coded.codes, rows, columns, coded.bits);
    let (scales, zeros) = (coded.scales.clone(), coded.zeros.clone());
    PackedMatrix::new(words, scales, zeros, coded.bits, code_of(coded.kind), coded.shape, coded.group, device)
}

/// The kernels' word for a kind of code.
pub(crate) fn code_of(kind: CodeKind) -> Code {
    match kind {
        CodeKind::Symmetric => Code::Symmetric,
        CodeKind::Asymmetric => Code::Asymmetric,
        CodeKind::Binary => Code::Binary,
    }
}

/// Puts a packed weight into whatever drop-in layer it is for, with a correction where a linear layer has one.
pub(crate) fn set_packed<B: Backend>(
    layer: LayerMut<'_, B>,
    packed: PackedMatrix<B>,
    low_rank: Option<&LowRank>,
) {
    match layer {
        LayerMut::Linear(l) => {
            let ([rows, columns], device) = (packed.shape, packed.words.device());
            l.set_packed(packed);
            if let Some(LowRank { rank, left, right }) = low_rank {
                let factor = |values: &[f32], shape: [usize; 2]| {
                    Tensor::from_data(TensorData::new(values.to_vec(), shape), &device)
                };
                l.set_low_rank(factor(left, [rows, *rank]), factor(right, [*rank, columns]));
            }
        }
        LayerMut::Embedding(l) => l.set_packed(packed),
        LayerMut::Conv2d(l) => l.set_packed(packed),
        _ => {}
    }
}
