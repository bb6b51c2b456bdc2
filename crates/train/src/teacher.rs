//! What the student is told: labels, a teacher's answers, or both.

use crate::checkpoint::{Draft, tensors};
use crate::error::TrainError;
use crate::optimizer::Rule;
use briquette_distill::{Distillation, Projections};
use briquette_nn::{TapShape, Tapped, Taps, Wanted};
use burn::module::Module;
use burn::optim::adaptor::OptimizerAdaptor;
use burn::optim::{GradientsAccumulator, GradientsParams, Optimizer};
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use std::path::Path;

/// What the student is told at each step. Projections to a teacher of another width are trained along.
pub struct Guide<B: AutodiffBackend, T> {
    teacher: Option<T>,
    distillation: Distillation,
    projections: Projections<B>,
    optimizer: OptimizerAdaptor<Rule, Projections<B>, B>,
    gradients: GradientsAccumulator<Projections<B>>,
}

impl<B: AutodiffBackend, T: Tapped<B::InnerBackend>> Guide<B, T> {
    /// Labels alone.
    pub fn labels() -> Self {
        Self::new(None, Distillation::labels_only(), Projections::none(), Rule::PLAIN)
    }

    /// A teacher, on the backend without gradients, as `distillation` says. `rule` is how projections are trained and
    /// `seed` what they start from.
    pub fn teacher(
        teacher: T,
        distillation: Distillation,
        rule: Rule,
        seed: u64,
        device: &B::Device,
    ) -> Self {
        let projections = distillation.projections(seed, device);
        Self::new(Some(teacher), distillation, projections, rule)
    }

    fn new(teacher: Option<T>, distillation: Distillation, projections: Projections<B>, rule: Rule) -> Self {
        let gradients = GradientsAccumulator::new();
        Self { teacher, distillation, projections, optimizer: rule.into(), gradients }
    }

    pub(crate) fn stage_at(&self, step: usize, total: usize) -> usize {
        self.distillation.stage_at(step, total)
    }

    /// What the student has to show.
    pub(crate) fn wanted(&self, stage: usize) -> Wanted {
        self.distillation.wanted(stage)
    }

    /// Whether a student of shape `other` can be compared in place of one of shape `student`, in every stage: the
    /// projections are made for its widths, and attention maps are compared head by head.
    pub(crate) fn fits(&self, student: &TapShape, other: &TapShape) -> bool {
        let wanted: Vec<Wanted> = (0..self.distillation.stages().len()).map(|s| self.wanted(s)).collect();
        let hidden = student.hidden == other.hidden || wanted.iter().all(|w| !w.hidden);
        hidden && (student.heads == other.heads || wanted.iter().all(|w| !w.scores && !w.values))
    }

    /// The loss of a batch. `input` makes the teacher's input, once, where the stage needs it.
    pub(crate) fn loss(
        &self,
        stage: usize,
        student: &Taps<B>,
        input: impl FnOnce() -> T::Input,
        targets: Tensor<B, 1, Int>,
    ) -> Tensor<B, 1> {
        let asked = self.teacher.as_ref().filter(|_| self.distillation.needs_teacher(stage));
        let answers = asked.map(|teacher| Taps::from_inner(teacher.tapped(input(), self.wanted(stage))));
        let targets = Some(targets).filter(|_| self.distillation.needs_labels(stage));
        self.distillation.loss(stage, student, answers.as_ref(), targets, &self.projections).total
    }

    /// Takes the projections' part out of a loss's gradients.
    pub(crate) fn collect(&mut self, gradients: &mut B::Gradients) {
        if !self.projections.is_empty() {
            let own = GradientsParams::from_module(gradients, &self.projections);
            self.gradients.accumulate(&self.projections, own);
        }
    }

    /// Steps the projections.
    pub(crate) fn apply(&mut self, lr: f64) {
        if !self.projections.is_empty() {
            let gradients = self.gradients.grads();
            self.projections = self.optimizer.step(lr, self.projections.clone(), gradients);
        }
    }

    pub(crate) fn save(&self, draft: &Draft) -> Result<(), TrainError> {
        if self.projections.is_empty() {
            return Ok(());
        }
        draft.tensors::<B, _>("projections", self.projections.clone().into_record())?;
        draft.tensors::<B, _>("projections-optimizer", self.optimizer.to_record())
    }

    pub(crate) fn resume(&mut self, checkpoint: &Path, device: &B::Device) -> Result<(), TrainError> {
        if self.projections.is_empty() {
            return Ok(());
        }
        let record = tensors::<B, _>(checkpoint, "projections", device)?;
        self.projections = self.projections.clone().load_record(record);
        let record = tensors::<B, _>(checkpoint, "projections-optimizer", device)?;
        self.optimizer = self.optimizer.clone().load_record(record);
        Ok(())
    }
}
