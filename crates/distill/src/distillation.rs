//! Distillation between two given models: what is compared when, and the sum of it.

use crate::losses;
use crate::mapping::{LayerMapping, Layers};
use crate::projection::Projections;
use crate::settings::{DistillationSettings, LogitsLoss, Preset, ProbabilitiesLoss, StageSettings};
use briquette_core::{Diagnostics, Problem};
use briquette_nn::{TapShape, Taps, Wanted};
use burn::prelude::*;
use serde::Serialize;

/// The losses of a batch. Each is a tensor of shape `[1]` on the device.
#[derive(Debug, Clone)]
pub struct LossParts<B: Backend> {
    /// The sum of the parts: what is minimized.
    pub total: Tensor<B, 1>,
    /// Each loss of the stage times its weight, by its key in a recipe.
    pub parts: Vec<(&'static str, Tensor<B, 1>)>,
}

/// A recipe's distillation, resolved for a student and a teacher. Plain data, without tensors.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Distillation {
    stages: Vec<StageSettings>,
    mapping: LayerMapping,
    /// Widths `[d_student, d_teacher]` where those of a compared pair of hidden states differ.
    projections: Vec<Option<[usize; 2]>>,
}

impl DistillationSettings {
    /// The distillation for two models. `preset` is that of their task; `kept` are the blocks of the teacher that
    /// the student was made of, where layer reduction made it.
    ///
    /// # Errors
    /// Everything that does not fit the two models.
    pub fn resolve(
        &self,
        preset: Preset,
        student: &TapShape,
        teacher: &TapShape,
        kept: Option<&[usize]>,
    ) -> Result<Distillation, Diagnostics> {
        let mut out = Diagnostics::new();
        let stages = if self.stages.is_empty() { vec![preset.stage()] } else { self.stages.clone() };
        let compares_layers = stages.iter().any(StageSettings::compares_layers);
        if self.layers.is_some() && !compares_layers {
            let text = "`layers` has an effect with `hidden`, `scores`, `probabilities` and `values` only";
            out.add(format!("{}.layers", Self::KEY), Problem::Conflict(text.into()));
        }
        let mapping = if compares_layers { self.map(student, teacher, kept, &mut out) } else { None };
        let mapping = mapping.unwrap_or_default();
        for stage in &stages {
            check(stage, student, teacher, &mapping, &mut out);
        }
        let widths = |(s, t): &(usize, usize)| [student.hidden[*s], teacher.hidden[*t]];
        let compares_hidden = stages.iter().any(|stage| stage.hidden > 0.0);
        let pairs = mapping.hidden.iter().filter(|_| compares_hidden);
        let projections = pairs.map(widths).map(|[s, t]| (s != t).then_some([s, t])).collect();
        out.into_result(Distillation { stages, mapping, projections })
    }

    fn map(
        &self,
        student: &TapShape,
        teacher: &TapShape,
        kept: Option<&[usize]>,
        out: &mut Diagnostics,
    ) -> Option<LayerMapping> {
        let kept = kept.map(|blocks| Layers::Teacher(blocks.to_vec()));
        let layers = self.layers.clone().or(kept).unwrap_or(Layers::Uniform);
        match layers.map(student.blocks(), teacher.blocks()) {
            Ok(mapping) => Some(mapping),
            Err(wrong) => {
                let place = format!("{}.layers", Self::KEY);
                wrong.iter().for_each(|e| out.add(place.clone(), Problem::Other(e.to_string())));
                None
            }
        }
    }
}

/// What a stage compares must be there on both sides, and of the same size.
fn check(
    stage: &StageSettings,
    student: &TapShape,
    teacher: &TapShape,
    mapping: &LayerMapping,
    out: &mut Diagnostics,
) {
    let mut refuse = |key: &str, text: String| {
        out.add(format!("{}.{key}", stage.place), Problem::Other(text));
    };
    if stage.logits().is_some() && student.classes != teacher.classes {
        let (s, t) = (student.classes, teacher.classes);
        refuse("logits", format!("the student has {s} classes, the teacher {t}"));
    }
    for (s, t) in mapping.hidden.iter().filter(|_| stage.hidden > 0.0) {
        if student.positions[*s] != teacher.positions[*t] {
            let text = format!("hidden state {s} of the student and {t} of the teacher differ in resolution");
            refuse("hidden", text);
        }
    }
    let attention = [
        ("scores", stage.scores > 0.0),
        ("probabilities", stage.probabilities().is_some()),
        ("values", stage.values > 0.0),
    ];
    for (key, _) in attention.iter().filter(|(_, asked)| *asked) {
        if student.heads.is_empty() || teacher.heads.is_empty() {
            refuse(key, "the models show no attention".into());
            continue;
        }
        for (s, t) in &mapping.attention {
            let (n, m) = (student.heads[*s], teacher.heads[*t]);
            if n != m {
                refuse(key, format!("block {s} of the student has {n} heads, block {t} of the teacher {m}"));
            }
        }
    }
}

impl Distillation {
    /// Training on labels alone, without a teacher.
    pub fn labels_only() -> Self {
        let stage = StageSettings { labels: 1.0, ..StageSettings::default() };
        Self { stages: vec![stage], mapping: LayerMapping::default(), projections: Vec::new() }
    }

    /// The stages, one after the other; at least one.
    pub fn stages(&self) -> &[StageSettings] {
        &self.stages
    }

    /// Which layers are compared; empty where none are.
    pub fn mapping(&self) -> &LayerMapping {
        &self.mapping
    }

    /// The stage of step `step`, which counts from 0, of a training of `total` steps. Each stage starts at its share
    /// of `total`, rounded to whole steps.
    pub fn stage_at(&self, step: usize, total: usize) -> usize {
        let mut start = 0.0;
        let starts = self.stages[..self.stages.len() - 1].iter().map(|stage| {
            start += stage.share.unwrap_or(0.0);
            (start * total as f64).round()
        });
        starts.filter(|start| *start <= step as f64).count()
    }

    /// What both models have to show in a stage.
    ///
    /// # Panics
    /// When there is no such stage.
    pub fn wanted(&self, stage: usize) -> Wanted {
        let stage = &self.stages[stage];
        Wanted {
            hidden: stage.hidden > 0.0,
            scores: stage.scores > 0.0 || stage.probabilities().is_some(),
            values: stage.values > 0.0,
        }
    }

    /// Whether a stage compares anything with the teacher; where not, its forward pass can be left out.
    ///
    /// # Panics
    /// When there is no such stage.
    pub fn needs_teacher(&self, stage: usize) -> bool {
        self.stages[stage].needs_teacher()
    }

    /// Whether a stage needs labels.
    ///
    /// # Panics
    /// When there is no such stage.
    pub fn needs_labels(&self, stage: usize) -> bool {
        self.stages[stage].labels > 0.0
    }

    /// Fresh projections for the hidden states that differ in width, to be trained with the student. They are the
    /// same for the same `seed`.
    pub fn projections<B: Backend>(&self, seed: u64, device: &B::Device) -> Projections<B> {
        Projections::init(&self.projections, seed, device)
    }

    /// The losses of a batch in a stage. The student's part comes from the model that is trained, the teacher's is
    /// constant ([`Taps::from_inner`]) and may be left out where the stage does not [need](Self::needs_teacher) it,
    /// as may `targets`, the right class of each row, `[rows]`. Nothing is read back from the device.
    ///
    /// # Panics
    /// When there is no such stage, or something that it needs was left out, was not [wanted](Self::wanted) of the
    /// models, or is of models other than those that this was resolved for.
    pub fn loss<B: Backend>(
        &self,
        stage: usize,
        student: &Taps<B>,
        teacher: Option<&Taps<B>>,
        targets: Option<Tensor<B, 1, Int>>,
        projections: &Projections<B>,
    ) -> LossParts<B> {
        let stage = &self.stages[stage];
        let mut parts = Vec::new();
        if stage.labels > 0.0 {
            let targets = targets.expect("a stage with labels is given targets");
            parts.push(("labels", losses::cross_entropy(student.logits.clone(), targets) * stage.labels));
        }
        if stage.needs_teacher() {
            let teacher = teacher.expect("a stage that compares with a teacher is given one");
            self.compare(stage, student, teacher, projections, &mut parts);
        }
        let sum = parts.iter().map(|(_, part)| part.clone()).reduce(|sum, part| sum + part);
        LossParts { total: sum.expect("every stage has a loss"), parts }
    }

    fn compare<B: Backend>(
        &self,
        stage: &StageSettings,
        student: &Taps<B>,
        teacher: &Taps<B>,
        projections: &Projections<B>,
        parts: &mut Vec<(&'static str, Tensor<B, 1>)>,
    ) {
        if let Some(term) = stage.logits() {
            let loss = compare_logits(term.loss, student.logits.clone(), teacher.logits.clone());
            parts.push(("logits", loss * term.weight));
        }
        let LayerMapping { hidden, attention } = &self.mapping;
        if stage.hidden > 0.0 {
            let loss = |(n, (s, t)): (usize, &(usize, usize))| {
                let projected = projections.project(n, student.hidden[*s].clone());
                losses::hidden_mse(projected, teacher.hidden[*t].clone())
            };
            push(parts, "hidden", hidden.iter().enumerate().map(loss), stage.hidden);
        }
        let scores = |(s, t): &(usize, usize)| (student.scores[*s].clone(), teacher.scores[*t].clone());
        if stage.scores > 0.0 {
            let loss = attention.iter().map(scores).map(|(s, t)| losses::scores_mse(s, t));
            push(parts, "scores", loss, stage.scores);
        }
        if let Some(term) = stage.probabilities() {
            let loss = attention.iter().map(scores).map(|(s, t)| match term.loss {
                ProbabilitiesLoss::Kl => losses::probabilities_kl(s, t),
                ProbabilitiesLoss::Mse => losses::probabilities_mse(s, t),
            });
            push(parts, "probabilities", loss, term.weight);
        }
        if stage.values > 0.0 {
            let values = |(s, t): &(usize, usize)| (student.values[*s].clone(), teacher.values[*t].clone());
            let loss = attention.iter().map(values).map(|(s, t)| losses::value_relation_kl(s, t));
            push(parts, "values", loss, stage.values);
        }
    }
}

fn compare_logits<B: Backend>(loss: LogitsLoss, s: Tensor<B, 2>, t: Tensor<B, 2>) -> Tensor<B, 1> {
    match loss {
        LogitsLoss::SoftCrossEntropy { reduction } => losses::soft_cross_entropy(s, t, reduction),
        LogitsLoss::Kl { temperature } => losses::logits_kl(s, t, temperature),
        LogitsLoss::Mse => losses::logits_mse(s, t),
    }
}

/// Adds the sum over the pairs of layers times a weight; nothing where there is no pair.
fn push<B: Backend>(
    parts: &mut Vec<(&'static str, Tensor<B, 1>)>,
    key: &'static str,
    losses: impl Iterator<Item = Tensor<B, 1>>,
    weight: f64,
) {
    if let Some(sum) = losses.reduce(|sum, loss| sum + loss) {
        parts.push((key, sum * weight));
    }
}
