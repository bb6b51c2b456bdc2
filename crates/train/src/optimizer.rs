//! AdamW and SGD with decay groups.

use crate::clipping::common_factor;
use crate::removal::narrowed;
use briquette_composer::{FollowsRemoval, OptimizerKind, Removals, Trainable, Trained};
use briquette_core::SessionState;
use briquette_kernels::{self as kernels, AdamWState, AdamWStep};
use burn::module::{ModuleMapper, Param};
use burn::optim::adaptor::OptimizerAdaptor;
use burn::optim::record::AdaptorRecord;
use burn::optim::{GradientsParams, MultiGradientsParams, Optimizer, SimpleOptimizer};
use burn::prelude::*;
use burn::record::Record;
use burn::tensor::backend::AutodiffBackend;

/// The rule of a step for one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101, algorithm 2), as PyTorch computes it: `epsilon` is
    /// added after the bias correction.
    AdamW {
        /// Weight of the past in the mean of gradients.
        beta_1: f64,
        /// Weight of the past in the mean of squared gradients.
        beta_2: f64,
        /// Added to the root of the mean square.
        epsilon: f64,
        /// Share of a weight taken away per unit of learning rate.
        weight_decay: f64,
    },
    /// Gradient descent with Nesterov's momentum; decay is added to the gradient, as PyTorch does.
    Sgd {
        /// Weight of the past.
        momentum: f64,
        /// Factor of the weight that is added to its gradient.
        weight_decay: f64,
    },
}

/// What a [`Rule`] remembers of one tensor.
#[derive(Record, Clone)]
pub struct Moments<B: Backend, const D: usize> {
    /// Mean of gradients.
    pub first: Tensor<B, D>,
    /// Mean of squared gradients; AdamW only.
    pub second: Option<Tensor<B, D>>,
    /// Steps taken.
    pub time: usize,
}

impl Rule {
    /// Gradient descent as it is.
    pub const PLAIN: Self = Self::Sgd { momentum: 0.0, weight_decay: 0.0 };

    /// The rule of `kind` with these settings.
    pub fn new(kind: OptimizerKind, betas: (f64, f64), momentum: f64, weight_decay: f64) -> Self {
        match kind {
            OptimizerKind::Adamw => {
                Self::AdamW { beta_1: betas.0, beta_2: betas.1, epsilon: 1e-8, weight_decay }
            }
            OptimizerKind::Sgd => Self::Sgd { momentum, weight_decay },
        }
    }

    /// A step with the gradient times `factor`, `[1]`.
    fn scaled_step<B: Backend, const D: usize>(
        &self,
        lr: f64,
        weight: Tensor<B, D>,
        gradient: Tensor<B, D>,
        factor: Option<Tensor<B, 1>>,
        past: Option<Moments<B, D>>,
    ) -> (Tensor<B, D>, Moments<B, D>) {
        match *self {
            Rule::AdamW { beta_1, beta_2, epsilon, weight_decay } => {
                adamw([beta_1, beta_2, epsilon, weight_decay], lr, weight, gradient, factor, past)
            }
            Rule::Sgd { momentum, weight_decay } => {
                let gradient = match factor {
                    Some(factor) => gradient * factor.reshape([1; D]),
                    None => gradient,
                };
                sgd(momentum, weight_decay, lr, weight, gradient, past)
            }
        }
    }

    /// What steps whatever methods learn: AdamW without decay, however weights are stepped. The gradient of a score or of a
    /// scale is a sum over all that it multiplies, whose size does not say how far to go.
    fn for_learned(self) -> Self {
        match self.plain() {
            Self::Sgd { .. } => Self::AdamW { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.0 },
            adamw => adamw,
        }
    }

    /// The same without decay.
    fn plain(self) -> Self {
        match self {
            Self::AdamW { beta_1, beta_2, epsilon, .. } => {
                Self::AdamW { beta_1, beta_2, epsilon, weight_decay: 0.0 }
            }
            Self::Sgd { momentum, .. } => Self::Sgd { momentum, weight_decay: 0.0 },
        }
    }
}

impl<B: Backend> SimpleOptimizer<B> for Rule {
    type State<const D: usize> = Moments<B, D>;

    fn step<const D: usize>(
        &self,
        lr: f64,
        weight: Tensor<B, D>,
        gradient: Tensor<B, D>,
        past: Option<Moments<B, D>>,
    ) -> (Tensor<B, D>, Option<Moments<B, D>>) {
        let (weight, moments) = self.scaled_step(lr, weight, gradient, None, past);
        (weight, Some(moments))
    }

    fn to_device<const D: usize>(moments: Moments<B, D>, device: &B::Device) -> Moments<B, D> {
        Moments {
            first: moments.first.to_device(device),
            second: moments.second.map(|t| t.to_device(device)),
            time: moments.time,
        }
    }
}

fn adamw<B: Backend, const D: usize>(
    [beta_1, beta_2, epsilon, weight_decay]: [f64; 4],
    lr: f64,
    weight: Tensor<B, D>,
    gradient: Tensor<B, D>,
    factor: Option<Tensor<B, 1>>,
    past: Option<Moments<B, D>>,
) -> (Tensor<B, D>, Moments<B, D>) {
    let time = past.as_ref().map_or(0, |p| p.time) + 1;
    let corrected = |beta: f64| 1.0 - beta.powi(i32::try_from(time).unwrap_or(i32::MAX));
    let (first, second) = match past {
        Some(Moments { first, second: Some(second), .. }) => (first, second),
        _ => (gradient.zeros_like(), gradient.zeros_like()),
    };
    let step = AdamWStep {
        beta_1,
        beta_2,
        epsilon,
        kept: 1.0 - lr * weight_decay,
        rate: lr / corrected(beta_1),
        root: corrected(beta_2).sqrt(),
    };
    let AdamWState { weight, first, second } =
        kernels::adamw(AdamWState { weight, first, second }, gradient, factor, step);
    (weight, Moments { first, second: Some(second), time })
}

fn sgd<B: Backend, const D: usize>(
    momentum: f64,
    weight_decay: f64,
    lr: f64,
    weight: Tensor<B, D>,
    gradient: Tensor<B, D>,
    past: Option<Moments<B, D>>,
) -> (Tensor<B, D>, Moments<B, D>) {
    let time = past.as_ref().map_or(0, |p| p.time) + 1;
    let gradient = if weight_decay == 0.0 { gradient } else { gradient + weight.clone() * weight_decay };
    let first = past.map_or(gradient.clone(), |p| p.first * momentum + gradient.clone());
    let weight = weight - (gradient + first.clone() * momentum) * lr;
    (weight, Moments { first, second: None, time })
}

pub(crate) type Records<B> =
    <OptimizerAdaptor<Rule, SessionState<B>, B> as Optimizer<SessionState<B>, B>>::Record;

/// Steps a session's parameters in three groups: weights (rank 2 and more) with decay, vectors (biases,
/// normalizations) without, what methods learn without, at its own learning rate and always by AdamW.
#[derive(Clone)]
pub struct Grouped<B: AutodiffBackend> {
    rule: Rule,
    records: Records<B>,
    learned_lr: f64,
    limit: Option<f64>,
}

impl<B: AutodiffBackend> Grouped<B> {
    /// `learned_lr` is the factor of the learning rate for what methods learn.
    pub fn new(rule: Rule, learned_lr: f64) -> Self {
        Self { rule, records: Records::<B>::default(), learned_lr, limit: None }
    }

    /// Limits the common norm of all gradients of a step, as [`clip_by_norm`](crate::clip_by_norm) does, but without
    /// a pass over them of its own; with gradient descent only that of the model's, which those of what methods learn would
    /// drown. `None`, the default, for no limit.
    #[must_use]
    pub fn with_clipping(self, limit: Option<f64>) -> Self {
        Self { limit, ..self }
    }
}

impl<B: AutodiffBackend, M: Trainable<B>> Optimizer<Trained<B, M>, B> for Grouped<B> {
    type Record = Records<B>;

    fn step(&mut self, lr: f64, trained: Trained<B, M>, gradients: GradientsParams) -> Trained<B, M> {
        let apart = matches!(self.rule, Rule::Sgd { .. });
        let factor = self.limit.and_then(|limit| match apart {
            true => common_factor(&trained.model, &gradients, limit),
            false => common_factor(&trained, &gradients, limit),
        });
        let Trained { model, state } = trained;
        let rules = [self.rule.plain(), self.rule];
        let mut step = Step { rules, lr, factor, records: &mut self.records, gradients };
        let model = model.map(&mut step);
        step.rules = [self.rule.for_learned(); 2];
        step.lr = lr * self.learned_lr;
        step.factor = step.factor.filter(|_| !apart);
        let state = state.map(&mut step);
        Trained { model, state }
    }

    fn step_multi(
        &mut self,
        lr: f64,
        trained: Trained<B, M>,
        gradients: MultiGradientsParams,
    ) -> Trained<B, M> {
        gradients.grads.into_iter().fold(trained, |trained, (gradients, _)| self.step(lr, trained, gradients))
    }

    fn to_record(&self) -> Self::Record {
        self.records.clone()
    }

    fn load_record(self, records: Self::Record) -> Self {
        Self { records, ..self }
    }
}

impl<B: AutodiffBackend> FollowsRemoval for Grouped<B> {
    fn follow(&mut self, removals: &Removals) {
        self.records = narrowed(std::mem::take(&mut self.records), removals);
    }
}

/// One step of every parameter that has a gradient.
struct Step<'a, B: AutodiffBackend> {
    /// For vectors and for everything of higher rank.
    rules: [Rule; 2],
    lr: f64,
    factor: Option<Tensor<B::InnerBackend, 1>>,
    records: &'a mut Records<B>,
    gradients: GradientsParams,
}

impl<B: AutodiffBackend> ModuleMapper<B> for Step<'_, B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (id, tensor, mapper) = param.consume();
        let Some(gradient) = self.gradients.remove::<B::InnerBackend, D>(id) else {
            return Param::from_mapped_value(id, tensor, mapper);
        };
        let trainable = tensor.is_require_grad();
        let past = self.records.remove(&id).map(|record| record.into_state::<D>());
        let rule = self.rules[usize::from(D >= 2)];
        let (weight, moments) =
            rule.scaled_step(self.lr, tensor.inner(), gradient, self.factor.clone(), past);
        self.records.insert(id, AdaptorRecord::from_state(moments));
        let weight = Tensor::from_inner(weight);
        let weight = if trainable { weight.require_grad() } else { weight };
        Param::from_mapped_value(id, weight, mapper)
    }
}
