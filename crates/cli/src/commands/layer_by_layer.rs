//! `briquette compress` with a recipe that asks for layer-by-layer distillation.

use crate::commands::compress::{Job, file_name};
use crate::commands::plan;
use crate::commands::training::{Data, same_vocabulary};
use crate::error::CliError;
use crate::model::{Opened, short_name};
use crate::progress::Progress;
use briquette_composer::report::Training;
use briquette_composer::{LayerByLayerSettings, Plan};
use briquette_models::{BlocksJob, Examples, Inputs, Pretrained};
use briquette_nn::Blocks;
use briquette_train::{BlockReport, Watch, layer_by_layer};
use burn::backend::Autodiff;
use burn::module::AutodiffModule;
use burn::prelude::*;
use serde_json::json;
use std::time::Instant;

/// Each block learns from the teacher's, which is the model itself where no other is given, on the training data or
/// on random tokens; then writes and reports as without.
pub(super) fn run<B: Backend>(settings: LayerByLayerSettings, job: Job<'_, B>) -> Result<(), CliError> {
    let args = job.args;
    for (flag, there) in
        [("--epochs", args.epochs.is_some()), ("--lr", args.lr.is_some()), ("--resume", args.resume)]
    {
        if there {
            let text =
                format!("{flag}: has no effect with a recipe's `layer_by_layer`, which says it itself");
            return Err(CliError::Usage(text));
        }
    }
    let teacher = args.teacher.as_deref().map(Opened::new).transpose()?;
    if let Some(teacher) = &teacher {
        same_vocabulary(job.opened, teacher)?;
    }
    let settings = LayerByLayerSettings { batch: args.batch.unwrap_or(settings.batch), ..settings };
    let examples = match &args.train {
        Some(file) => job.opened.examples(file, job.on)?,
        None => {
            let count = settings.steps * settings.batch;
            Examples::random(&job.opened.config.task(), count, settings.length, args.seed)?
        }
    };
    let plan = plan::make(&args.recipe, &job.opened.config)?;
    let config = &job.opened.config;
    let folder = &job.opened.folder;
    let done = config.run_blocks(Learn { job, plan, teacher, settings, examples });
    done.unwrap_or_else(|_| {
        let text =
            format!("{}: layer_by_layer needs a stack of blocks, which this model has not", folder.display());
        Err(CliError::Usage(text))
    })
}

struct Learn<'a, B: Backend> {
    job: Job<'a, B>,
    plan: Plan<Autodiff<B>>,
    teacher: Option<Opened>,
    settings: LayerByLayerSettings,
    examples: Examples,
}

impl<B: Backend> BlocksJob<Autodiff<B>> for Learn<'_, B> {
    type Output = Result<(), CliError>;

    fn run<M>(mut self, config: &M::Config) -> Self::Output
    where
        M: Pretrained<Autodiff<B>>
            + Blocks<Autodiff<B>, Input = Inputs<Autodiff<B>>>
            + AutodiffModule<Autodiff<B>>,
        M::InnerModule: Pretrained<B, Config = M::Config> + Blocks<B, Input = Inputs<B>>,
    {
        let on = self.job.on.differentiable();
        let seed = self.job.args.seed;
        let student: M = self.job.timed("load", |job| job.opened.load(config, &on))?;
        let before: M::InnerModule = self.job.opened.load(config, self.job.on)?;
        let teacher: Option<M::InnerModule> =
            self.teacher.as_ref().map(|t| t.load_as(self.job.on)).transpose()?;
        let mut session =
            self.plan.attach_training(&student.without_dropout(), seed).with_schedules_finished();
        if let (true, Some(examples)) = (session.needs_calibration(), &self.job.calib) {
            session.calibrate(|model| {
                for part in examples.by_length(self.job.batch()) {
                    let _ = model.logits(examples.batch(&part, &on.device).inputs).into_data();
                }
                Ok::<(), CliError>(())
            })?;
        }
        let begun = Instant::now();
        let (data, mut shown) = (Data(&self.examples), Shown(Progress::new("learning layers")));
        let teaching = teacher.as_ref().unwrap_or(&before);
        let blocks =
            layer_by_layer(&mut session, teaching, &self.settings, &data, seed, &on.device, &mut shown)?;
        drop(shown);
        let seconds = begun.elapsed().as_secs_f64();
        self.job.seconds.insert("train".into(), seconds);
        self.job.training = Some(self.record(&blocks, seconds));
        let finished = session.finish()?.valid(self.job.plan.clone());
        self.job.conclude(config, &before, finished)
    }
}

impl<B: Backend> Learn<'_, B> {
    fn record(&self, blocks: &[BlockReport], seconds: f64) -> Training {
        let args = self.job.args;
        let own = short_name(&args.model);
        let each = blocks
            .iter()
            .map(|b| json!({"block": b.block, "before": b.before, "after": b.after, "seconds": b.seconds}));
        Training {
            data: args.train.as_deref().map_or("random tokens".into(), file_name),
            teacher: Some(args.teacher.as_deref().map_or(own, short_name)),
            settings: json!({"layer_by_layer": self.settings}),
            distillation: Some(each.collect()),
            steps: self.settings.steps * blocks.len(),
            seconds,
            measured: Vec::new(),
        }
    }
}

struct Shown(Progress);

impl Watch for Shown {
    fn looked(&mut self, done: usize, total: usize, loss: f32, _lr: f64) {
        self.0.note(&format!("difference {loss:.6}"));
        self.0.at(done, total);
    }
}
