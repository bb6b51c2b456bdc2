//! AdamW and SGD with decay groups.

use briquette_composer::{OptimizerKind, Trainable, Trained};
use briquette_core::SessionState;
use burn::module::{ModuleVisitor, Param};
use burn::optim::adaptor::OptimizerAdaptor;
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
        let (weight, moments) = match *self {
            Rule::AdamW { beta_1, beta_2, epsilon, weight_decay } => {
                adamw([beta_1, beta_2, epsilon, weight_decay], lr, weight, gradient, past)
            }
            Rule::Sgd { momentum, weight_decay } => sgd(momentum, weight_decay, lr, weight, gradient, past),
        };
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
    past: Option<Moments<B, D>>,
) -> (Tensor<B, D>, Moments<B, D>) {
    let time = past.as_ref().map_or(0, |p| p.time) + 1;
    let (first, second) = past.map_or((None, None), |p| (Some(p.first), p.second));
    let new_first = gradient.clone() * (1.0 - beta_1);
    let first = first.map_or(new_first.clone(), |m| m * beta_1 + new_first);
    let new_second = gradient.square() * (1.0 - beta_2);
    let second = second.map_or(new_second.clone(), |v| v * beta_2 + new_second);
    let corrected = |beta: f64| 1.0 - beta.powi(i32::try_from(time).unwrap_or(i32::MAX));
    let size = second.clone().sqrt() / corrected(beta_2).sqrt() + epsilon;
    let kept = if weight_decay == 0.0 { weight } else { weight * (1.0 - lr * weight_decay) };
    let weight = kept - first.clone() * (lr / corrected(beta_1)) / size;
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

type Group<B, M> = OptimizerAdaptor<Rule, M, B>;
type GroupRecord<B, M> = <Group<B, M> as Optimizer<M, B>>::Record;

/// Steps a session's parameters in three groups: weights (rank 2 and more) with decay, vectors (biases,
/// normalizations) without, what methods learn without and at its own learning rate.
#[derive(Clone)]
pub struct Grouped<B: AutodiffBackend, M: Trainable<B>> {
    weights: Group<B, M>,
    vectors: Group<B, M>,
    learned: Group<B, SessionState<B>>,
    learned_lr: f64,
}

impl<B: AutodiffBackend, M: Trainable<B>> Grouped<B, M> {
    /// `learned_lr` is the factor of the learning rate for what methods learn.
    pub fn new(rule: Rule, learned_lr: f64) -> Self {
        let (weights, vectors) = (rule.into(), rule.plain().into());
        Self { weights, vectors, learned: rule.plain().into(), learned_lr }
    }
}

impl<B: AutodiffBackend, M: Trainable<B>> Optimizer<Trained<B, M>, B> for Grouped<B, M> {
    type Record = (GroupRecord<B, M>, GroupRecord<B, M>, GroupRecord<B, SessionState<B>>);

    fn step(&mut self, lr: f64, trained: Trained<B, M>, mut gradients: GradientsParams) -> Trained<B, M> {
        let Trained { model, state } = trained;
        let mut vectors = Vectors { from: &mut gradients, to: GradientsParams::new() };
        model.visit(&mut vectors);
        let vectors = vectors.to;
        let mut learned = All { from: &mut gradients, to: GradientsParams::new() };
        state.visit(&mut learned);
        let learned = learned.to;
        let model = self.weights.step(lr, model, gradients);
        let model = self.vectors.step(lr, model, vectors);
        let state = self.learned.step(lr * self.learned_lr, state, learned);
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
        (self.weights.to_record(), self.vectors.to_record(), self.learned.to_record())
    }

    fn load_record(self, (weights, vectors, learned): Self::Record) -> Self {
        Self {
            weights: self.weights.load_record(weights),
            vectors: self.vectors.load_record(vectors),
            learned: self.learned.load_record(learned),
            learned_lr: self.learned_lr,
        }
    }
}

/// Moves the gradients of a module's vectors.
struct Vectors<'a> {
    from: &'a mut GradientsParams,
    to: GradientsParams,
}

/// Moves the gradients of all of a module's parameters.
struct All<'a> {
    from: &'a mut GradientsParams,
    to: GradientsParams,
}

fn take<B: AutodiffBackend, const D: usize>(
    from: &mut GradientsParams,
    to: &mut GradientsParams,
    param: &Param<Tensor<B, D>>,
) {
    if let Some(gradient) = from.remove::<B::InnerBackend, D>(param.id) {
        to.register(param.id, gradient);
    }
}

impl<B: AutodiffBackend> ModuleVisitor<B> for Vectors<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if D < 2 {
            take(self.from, &mut self.to, param);
        }
    }
}

impl<B: AutodiffBackend> ModuleVisitor<B> for All<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        take(self.from, &mut self.to, param);
    }
}
