//! `briquette compress --train`: compression while training, with or without a teacher.

use crate::backend::On;
use crate::commands::compress::{Job, digest_of, file_name};
use crate::commands::{plan, scan};
use crate::error::CliError;
use crate::model::{Opened, short_name};
use crate::progress::Progress;
use crate::reduction;
use briquette_checkpoint::TensorFiles;
use briquette_composer::artefact::sha256_hex;
use briquette_composer::report::Training;
use briquette_composer::{Plan, Session, TrainingSettings};
use briquette_distill::{Distillation, Preset};
use briquette_models::{Examples, Inputs, Pretrained, Task, TrainingJob, evaluate};
use briquette_nn::Tapped;
use briquette_train::{
    Checkpoints, Guide, Measured, Outcome, Purpose, Settings, Trainer, TrainingData, Watch,
};
use burn::backend::Autodiff;
use burn::module::AutodiffModule;
use burn::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Examples at most that methods see before the first step where importance depends on inputs; the paper of Wanda takes 128
/// sequences of 2048 tokens.
const SEEN: usize = 1024;

/// Trains by `job` on the examples in `file`, then writes and reports as without training.
pub(super) fn run<B: Backend>(job: Job<'_, B>, file: &Path) -> Result<(), CliError> {
    let teacher = job.args.teacher.as_deref().map(Opened::new).transpose()?;
    if let Some(teacher) = &teacher {
        same_vocabulary(job.opened, teacher)?;
    }
    let settings = settings(&job, teacher.is_some())?;
    let mut examples = job.opened.examples(file, job.on)?;
    if let Some(most) = settings.max_tokens {
        examples = examples.cut_to(most);
    }
    let plan = plan::make(&job.args.recipe, &job.opened.config)?;
    let config = &job.opened.config;
    config.run_training(Train { job, file, plan, teacher, settings, examples })
}

/// What the recipe says, what the flags say instead, and what is usual for the rest.
fn settings<B: Backend>(job: &Job<'_, B>, teacher: bool) -> Result<Settings, CliError> {
    let (said, args) = (job.plan.training(), job.args);
    let said = TrainingSettings {
        epochs: args.epochs.or(said.epochs),
        lr: args.lr.or(said.lr),
        batch: args.batch.or(said.batch),
        ..said.clone()
    };
    let (purpose, _) = purpose(&job.opened.config.task());
    Ok(Settings::resolve(&said, purpose, teacher, args.seed)?)
}

fn purpose(task: &Task) -> (Purpose, Preset) {
    match task {
        Task::Classification { .. } => (Purpose::Classification, Preset::Classification),
        Task::LanguageModel { .. } => (Purpose::LanguageModel, Preset::LanguageModel),
        Task::Vision { .. } => (Purpose::Vision, Preset::Vision),
    }
}

/// Student and teacher read the same token ids.
pub(super) fn same_vocabulary(student: &Opened, teacher: &Opened) -> Result<(), CliError> {
    let size = |opened: &Opened| match opened.config.task() {
        Task::Classification { vocabulary, .. } | Task::LanguageModel { vocabulary, .. } => Some(vocabulary),
        Task::Vision { .. } => None,
    };
    if size(student) == size(teacher) {
        return Ok(());
    }
    let text = format!("--teacher {}: reads another vocabulary than the student", teacher.folder.display());
    Err(CliError::Usage(text))
}

struct Train<'a, B: Backend> {
    job: Job<'a, B>,
    file: &'a Path,
    plan: Plan<Autodiff<B>>,
    teacher: Option<Opened>,
    settings: Settings,
    examples: Examples,
}

impl<B: Backend> TrainingJob<Autodiff<B>> for Train<'_, B> {
    type Output = Result<(), CliError>;

    fn run<M>(mut self, config: &M::Config) -> Self::Output
    where
        M: Pretrained<Autodiff<B>> + AutodiffModule<Autodiff<B>>,
        M::InnerModule: Pretrained<B, Config = M::Config>,
    {
        let on = self.job.on.differentiable();
        let student: M = self.job.timed("load", |job| job.opened.load(config, &on))?;
        let teacher =
            self.teacher.as_ref().map(|t| t.load_as::<B, M::InnerModule>(self.job.on)).transpose()?;
        if let Some(count) = reduction::open_choice(&self.plan) {
            let (calib, batch) = (self.job.calib.as_ref().unwrap_or(&self.examples), self.job.batch());
            let judged = teacher.clone().unwrap_or_else(|| student.valid());
            let kept = reduction::most_influential(&judged, count, Some(calib), batch, self.job.on)?;
            self.job.plan = reduction::with_kept(self.job.plan, kept.clone())?;
            self.plan = reduction::with_kept(self.plan, kept)?;
        }
        let student = self.reduced(student, teacher.as_ref())?;
        let student = if self.settings.dropout { student } else { student.without_dropout() };
        let calib = self.job.calib.take();
        self.job.scan(&student.valid(), Some(calib.as_ref().unwrap_or(&self.examples)))?;
        self.job.calib = calib;
        self.plan = scan::with_sensitivities(self.plan, &self.job.sensitivity)?;
        let distillation = self.distillation(&student, teacher.as_ref())?;
        let mut session = self.plan.attach_training(&student, self.settings.seed);
        let seen = self.job.calib.as_ref().unwrap_or(&self.examples);
        session.observe_inputs(|model| {
            let every = seen.len().div_ceil(SEEN).max(1);
            let picked: Vec<usize> = (0..seen.len()).step_by(every).collect();
            for part in picked.chunks(self.job.batch().max(1)) {
                let _ = model.logits(seen.batch(part, &on.device).inputs).into_data();
            }
            Ok::<(), CliError>(())
        })?;
        let (outcome, digest) = self.train(session, teacher, distillation.clone(), &on)?;
        self.job.seconds.insert("train".into(), outcome.seconds);
        self.job.training = Some(self.record(&outcome, distillation));
        let mut progress = Progress::new("compressing");
        let shown = &mut |done, total| progress.at(done, total);
        let finished = outcome.session.finish_with(shown)?.valid(self.job.plan.clone());
        drop(progress);
        let before: M::InnerModule = self.job.opened.load(config, self.job.on)?;
        self.job.conclude(config, &before, finished)?;
        Ok(digest.remove()?)
    }
}

impl<B: Backend> Train<'_, B> {
    /// What is asked of the student, for these two models.
    fn distillation<S: Tapped<Autodiff<B>>, T: Tapped<B>>(
        &self,
        student: &S,
        teacher: Option<&T>,
    ) -> Result<Option<Distillation>, CliError> {
        let said = self.job.plan.distillation();
        let Some(teacher) = teacher else {
            return match said {
                Some(_) => Err(CliError::Usage("the recipe's distillation needs --teacher DIR".into())),
                None => Ok(None),
            };
        };
        let (_, preset) = purpose(&self.job.opened.config.task());
        let shape = teacher.tap_shape();
        let kept = self.job.plan.layer_reduction().filter(|r| r.of == shape.blocks());
        let kept = kept.and_then(|r| r.indices());
        let resolved = said.cloned().unwrap_or_default().resolve(preset, &student.tap_shape(), &shape, kept);
        let problems = |problems| CliError::Plan { recipe: self.job.args.recipe.clone(), problems };
        resolved.map(Some).map_err(problems)
    }

    /// The student with the layers that the recipe keeps, taken from the teacher where there is one.
    fn reduced<M>(&self, student: M, teacher: Option<&M::InnerModule>) -> Result<M, CliError>
    where
        M: Pretrained<Autodiff<B>> + AutodiffModule<Autodiff<B>>,
        M::InnerModule: Pretrained<B>,
    {
        reduction::reduced(student, teacher.map(|t| M::from_inner(t.clone())), &self.plan)
    }

    fn train<M>(
        &self,
        session: Session<Autodiff<B>, M>,
        teacher: Option<M::InnerModule>,
        distillation: Option<Distillation>,
        on: &On<Autodiff<B>>,
    ) -> Result<(Outcome<Autodiff<B>, M>, Checkpoints), CliError>
    where
        M: Pretrained<Autodiff<B>> + AutodiffModule<Autodiff<B>>,
        M::InnerModule: Pretrained<B>,
    {
        let (settings, device) = (&self.settings, &on.device);
        let fingerprint = self.fingerprint(distillation.as_ref())?;
        let guide = match (teacher, distillation) {
            (Some(teacher), Some(distillation)) => {
                Guide::teacher(teacher, distillation, settings.rule(), settings.seed, device)
            }
            _ => Guide::labels(),
        };
        let data = Data(&self.examples);
        let checkpoints = Checkpoints::new(beside(&self.job.args.out), fingerprint);
        if !self.job.args.resume {
            checkpoints.remove()?;
        }
        let mut trainer =
            Trainer::new(session, guide, settings.clone(), &data, device)?.checkpointed(checkpoints.clone());
        let task = self.job.opened.config.task();
        if let Some(examples) = &self.job.eval {
            let measure = |model: &M::InnerModule| {
                let batch = self.job.batch();
                let found = evaluate(model, &task, examples, batch, &self.job.on.device, &mut |_, _| {});
                found.map(|e| e.value).map_err(|e| e.to_string())
            };
            trainer = trainer.measured_by(measure, task.metric() == "accuracy");
        }
        let mut shown = Shown(Progress::new("training"), task.metric(), None);
        Ok((trainer.run(self.job.args.resume, &mut shown)?, checkpoints))
    }

    /// Stands for everything that a run's parameters follow from.
    fn fingerprint(&self, distillation: Option<&Distillation>) -> Result<String, CliError> {
        let mut digests = vec![digest_of(self.file)?];
        for opened in [Some(self.job.opened), self.teacher.as_ref()].into_iter().flatten() {
            for path in TensorFiles::open(&opened.folder)?.paths() {
                digests.push(digest_of(path)?);
            }
        }
        let run = json!({
            "plan": self.job.plan.to_json(),
            "recipe": self.job.plan.recipe(),
            "settings": self.settings,
            "distillation": distillation,
            "files": digests,
            "backend": self.job.on.backend,
        });
        Ok(sha256_hex(run.to_string().as_bytes()))
    }

    fn record<M>(&self, outcome: &Outcome<Autodiff<B>, M>, distillation: Option<Distillation>) -> Training
    where
        M: Pretrained<Autodiff<B>> + AutodiffModule<Autodiff<B>>,
        M::InnerModule: Pretrained<B>,
    {
        let value = |v: serde_json::Result<Value>| v.expect("plain data");
        Training {
            data: file_name(self.file),
            teacher: self.job.args.teacher.as_deref().map(short_name),
            settings: value(serde_json::to_value(&self.settings)),
            distillation: distillation.map(|d| value(serde_json::to_value(d))),
            steps: outcome.steps,
            seconds: outcome.seconds,
            measured: outcome.measured.iter().map(|m| m.value).collect(),
        }
    }
}

/// Checkpoints lie beside the artefact: `out` becomes `out.training`.
fn beside(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".training");
    out.with_file_name(name)
}

/// Examples as training takes them.
pub(super) struct Data<'a>(pub(super) &'a Examples);

impl TrainingData for Data<'_> {
    type Input<B: Backend> = Inputs<B>;

    fn epoch(&self, batch: usize, seed: u64) -> Vec<Vec<usize>> {
        let mut batches = self.0.shuffled(batch, seed);
        // A batch of another size would be another shape to compile, and its gradient noisier than the others'.
        if batches.len() > 1 {
            batches.retain(|b| b.len() == batch);
        }
        batches
    }

    fn batch<B: Backend>(&self, examples: &[usize], device: &B::Device) -> (Inputs<B>, Tensor<B, 1, Int>) {
        let batch = self.0.batch(examples, device);
        (batch.inputs, batch.targets)
    }

    fn augmented<B: Backend>(
        &self,
        examples: &[usize],
        seed: u64,
        device: &B::Device,
    ) -> (Inputs<B>, Tensor<B, 1, Int>) {
        let batch = self.0.augmented(examples, seed, device);
        (batch.inputs, batch.targets)
    }
}

/// The progress bar, the metric's name and its newest value.
struct Shown(Progress, &'static str, Option<f64>);

impl Watch for Shown {
    fn looked(&mut self, done: usize, total: usize, loss: f32, _lr: f64) {
        let metric = self.2.map_or(String::new(), |value| format!(", {} {value:.4}", self.1));
        self.0.note(&format!("loss {loss:.4}{metric}"));
        self.0.at(done, total);
    }

    fn measured(&mut self, measured: Measured) {
        self.2 = Some(measured.value);
        eprintln!("epoch {}: {} {:.4}", measured.epoch, self.1, measured.value);
    }
}
