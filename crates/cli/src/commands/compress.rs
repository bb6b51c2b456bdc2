//! `briquette compress`: a model and a recipe to an artefact and a report.

use crate::args::{CompressArgs, DEFAULT_BATCH};
use crate::backend::{On, Work};
use crate::commands::bench::{median, time};
use crate::commands::{layer_by_layer, plan, scan, training};
use crate::error::{CliError, write_file};
use crate::model::{Opened, short_name};
use crate::output::say;
use crate::progress::Progress;
use crate::reduction;
use briquette_checkpoint::TensorFiles;
use briquette_composer::artefact::{Source, Staged, sha256_hex, stage};
use briquette_composer::report::{
    Bytes, Latency, LayerReport, Operations, Quality, RemovedReport, Report, SparseReport, Training, methods,
    product_kernels,
};
use briquette_composer::{FinishError, Finished, Plan, SensitivityRow, Session};
use briquette_core::{KeptUnits, Measure};
use briquette_models::{
    CONFIG_FILE, Evaluation, Examples, Inputs, ModelJob, Pretrained, PretrainedConfig, Task, evaluate,
};
use burn::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Files that belong to a model and are copied as they are.
const COMPANIONS: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "generation_config.json",
    "preprocessor_config.json",
];
/// Tokens of the example on which the report times the model.
const REPORT_SEQ: usize = 16;
/// Time the report spends on timing each of the two models.
const REPORT_BUDGET: Duration = Duration::from_millis(150);

pub(crate) struct Compress<'a>(pub(crate) &'a CompressArgs);

impl Work for Compress<'_> {
    const MAY_TRAIN: bool = true;

    fn trains(&self) -> bool {
        self.0.train.is_some()
    }

    fn run<B: Backend>(self, on: &On<B>) -> Result<(), CliError> {
        let args = self.0;
        let opened = Opened::new(&args.model)?;
        if opened.is_packed() {
            let text = format!("{}: is compressed already; compress the original", opened.folder.display());
            return Err(CliError::Usage(text));
        }
        let plan: Plan<B> = plan::make(&args.recipe, &opened.config)?;
        let read = |file: &PathBuf| opened.examples(file, on);
        let calib = args.calib.as_ref().map(read).transpose()?;
        let eval = args.eval.as_ref().map(read).transpose()?;
        let job = Job {
            args,
            opened: &opened,
            plan,
            calib,
            eval,
            on,
            training: None,
            chosen: false,
            sensitivity: Vec::new(),
            seconds: BTreeMap::new(),
        };
        match (&args.train, job.plan.layer_by_layer()) {
            (_, Some(settings)) => layer_by_layer::run(settings.clone(), job),
            (Some(file), None) => training::run(job, file),
            (None, None) => {
                refuse_training_flags(args)?;
                opened.config.run(job)
            }
        }
    }
}

/// Without training data the flags of training would do nothing.
fn refuse_training_flags(args: &CompressArgs) -> Result<(), CliError> {
    let given = [
        ("--teacher", args.teacher.is_some()),
        ("--epochs", args.epochs.is_some()),
        ("--lr", args.lr.is_some()),
        ("--resume", args.resume),
    ];
    match given.iter().find(|(_, there)| *there) {
        Some((flag, _)) => Err(CliError::Usage(format!("{flag}: has an effect with --train FILE only"))),
        None => Ok(()),
    }
}

/// One compression: what it was asked for and where it has come to.
pub(super) struct Job<'a, B: Backend> {
    pub(super) args: &'a CompressArgs,
    pub(super) opened: &'a Opened,
    pub(super) plan: Plan<B>,
    pub(super) calib: Option<Examples>,
    pub(super) eval: Option<Examples>,
    pub(super) on: &'a On<B>,
    pub(super) training: Option<Training>,
    /// Whether the layers that stay were chosen on the calibration data.
    pub(super) chosen: bool,
    /// What a scan has measured, where the recipe asks for one.
    pub(super) sensitivity: Vec<SensitivityRow>,
    pub(super) seconds: BTreeMap<String, f64>,
}

impl<B: Backend> ModelJob<B> for Job<'_, B> {
    type Output = Result<(), CliError>;

    fn run<M: Pretrained<B>>(mut self, config: &M::Config) -> Self::Output {
        let model: M = self.timed("load", |job| job.opened.load_floats(config, job.on))?;
        self.choose_layers(&model)?;
        let whole = reduction::reduced(model.clone(), None, &self.plan)?;
        let calib = self.calib.take();
        self.scan(&whole, calib.as_ref())?;
        self.calib = calib;
        let finished = self.timed("compress", |job| job.compress(whole))?;
        self.conclude(config, &model, finished)
    }
}

impl<B: Backend> Job<'_, B> {
    pub(super) fn timed<T>(
        &mut self,
        phase: &str,
        work: impl FnOnce(&Self) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        let begin = Instant::now();
        let result = work(self);
        self.seconds.insert(phase.into(), begin.elapsed().as_secs_f64());
        result
    }

    /// Settles which layers stay, where the recipe leaves that to what they do on the calibration data.
    pub(super) fn choose_layers<M: Pretrained<B>>(&mut self, model: &M) -> Result<(), CliError> {
        if let Some(count) = reduction::open_choice(&self.plan) {
            let kept = reduction::most_influential(model, count, self.calib.as_ref(), self.batch(), self.on)?;
            self.plan = reduction::with_kept(self.plan.clone(), kept)?;
            self.chosen = true;
        }
        Ok(())
    }

    /// Measures sensitivities on `data`, where the recipe asks for them, and lets the plan follow from them. `model` has
    /// the layers that the plan keeps.
    pub(super) fn scan<M: Pretrained<B>>(
        &mut self,
        model: &M,
        data: Option<&Examples>,
    ) -> Result<(), CliError> {
        if self.plan.sensitivity().is_none() {
            return Ok(());
        }
        let seed = self.args.seed;
        let rows = self.timed("scan", |job| scan::sensitivities(&job.plan, model, data, job.on, seed))?;
        self.sensitivity = rows.unwrap_or_default();
        self.plan = scan::with_sensitivities(self.plan.clone(), &self.sensitivity)?;
        Ok(())
    }

    /// Writes the artefact, loads it again, measures it and reports.
    pub(super) fn conclude<M: Pretrained<B>>(
        mut self,
        config: &M::Config,
        model: &M,
        finished: Finished<B, M>,
    ) -> Result<(), CliError> {
        let staged = self.timed("write", |job| job.stage(config, &finished))?;
        let operations = operations(&finished);
        drop(finished);
        let compressed = Opened::at(staged.path().to_path_buf())?;
        let reloaded: M = self.timed("reload", |job| compressed.load_as(job.on))?;
        let latency = self.timed("time", |job| job.latency(model, &reloaded))?;
        let quality = self.timed("evaluate", |job| job.quality(model, &reloaded))?;
        let report = Report { operations, ..self.report(&compressed, &reloaded, quality, latency)? };
        staged.write("report.json", &report.to_json())?;
        staged.write("report.md", &report.to_markdown())?;
        let out = staged.commit()?;
        if let Some(path) = &self.args.json {
            write_file(path, &report.to_json())?;
        }
        crate::output::write(format_args!("{}", report.summary()));
        say!("written to {}", out.display());
        Ok(())
    }

    fn compress<M: Pretrained<B>>(&self, model: M) -> Result<Finished<B, M>, CliError> {
        let mut session = self.plan.attach(&model, self.args.seed);
        self.calibrate(&mut session)?;
        let mut progress = Progress::new("compressing");
        Ok(session.finish_with(&mut |done, total| progress.at(done, total))?)
    }

    fn calibrate<M: Pretrained<B>>(&self, session: &mut Session<B, M>) -> Result<(), CliError> {
        match (&self.calib, session.needs_calibration()) {
            (None, false) => Ok(()),
            (None, true) => {
                let text = "the recipe asks for static input ranges or importance by inputs: give data for them with --calib FILE";
                Err(CliError::Usage(text.into()))
            }
            (Some(_), false) if self.chosen || !self.sensitivity.is_empty() => Ok(()),
            (Some(_), false) => Err(CliError::Usage(
                "--calib: the recipe asks for nothing that is found by calibration".into(),
            )),
            (Some(examples), true) => {
                session.observe_inputs(|model| self.show(model, examples, "observing"))?;
                // Ranges of inputs are those of the model that is left.
                session.remove_masked().map_err(FinishError::from)?;
                session.calibrate(|model| self.show(model, examples, "calibrating"))
            }
        }
    }

    /// Runs the examples through a model.
    fn show<M: Pretrained<B>>(&self, model: &M, examples: &Examples, what: &str) -> Result<(), CliError> {
        let mut progress = Progress::new(what);
        let mut done = 0;
        for part in examples.by_length(self.batch()) {
            let batch = examples.batch(&part, &self.on.device);
            let _ = model.logits(batch.inputs).into_data();
            done += part.len();
            progress.at(done, examples.len());
        }
        Ok(())
    }

    fn stage<M: Pretrained<B>>(
        &self,
        config: &M::Config,
        finished: &Finished<B, M>,
    ) -> Result<Staged, CliError> {
        let naming = finished.model.naming();
        let folder = &self.opened.folder;
        let files = TensorFiles::open(folder)?;
        let mut made_from = BTreeMap::new();
        for path in files.paths().chain([folder.join(CONFIG_FILE).as_path(), &self.args.recipe]) {
            made_from.insert(file_name(path), digest_of(path)?);
        }
        let source = Source {
            config: finished.model.config_now(config).to_json(),
            dtypes: naming.dtypes(&files),
            naming: &naming,
            copy: COMPANIONS.iter().map(|n| folder.join(n)).filter(|p| p.is_file()).collect(),
            made_from,
            seed: self.args.seed,
        };
        Ok(stage(finished, &source, &self.args.out)?)
    }

    /// Examples at once where nothing is trained.
    pub(super) fn batch(&self) -> usize {
        self.args.batch.unwrap_or(DEFAULT_BATCH)
    }

    fn latency<M: Pretrained<B>>(&self, before: &M, after: &M) -> Result<Option<Latency>, CliError> {
        let task = self.opened.config.task();
        let seq = match &task {
            Task::Vision { .. } => 0,
            Task::Classification { max_tokens: most, .. } | Task::LanguageModel { window: most, .. } => {
                REPORT_SEQ.min(*most)
            }
        };
        let inputs = Inputs::dummy(&task, 1, seq, &self.on.device)?;
        let ms = |model: &M| median(&time(model, &inputs, REPORT_BUDGET));
        let kernels = product_kernels(after, seq.max(1), &self.on.device);
        Ok(Some(Latency { batch: 1, seq, before_ms: ms(before), after_ms: ms(after), kernels }))
    }

    fn quality<M: Pretrained<B>>(&self, before: &M, after: &M) -> Result<Option<Quality>, CliError> {
        let (Some(examples), Some(data)) = (&self.eval, &self.args.eval) else { return Ok(None) };
        let task = self.opened.config.task();
        let measure = |what: &str, model: &M| -> Result<Evaluation, CliError> {
            let mut progress = Progress::new(what);
            let shown = &mut |done, total| progress.at(done, total);
            Ok(evaluate(model, &task, examples, self.batch(), &self.on.device, shown)?)
        };
        let (a, b) = (measure("evaluating original", before)?, measure("evaluating artefact", after)?);
        let (metric, data) = (a.metric.to_string(), file_name(data));
        Ok(Some(Quality { metric, before: a.value, after: b.value, n: b.n, data }))
    }

    fn report<M: Pretrained<B>>(
        &self,
        compressed: &Opened,
        reloaded: &M,
        quality: Option<Quality>,
        latency: Option<Latency>,
    ) -> Result<Report, CliError> {
        let Some(artefact) = &compressed.artefact else {
            return Err(CliError::Internal("the artefact just written is not recognised as one".into()));
        };
        let manifest = artefact.manifest();
        let input = |name: &String| manifest.inputs.get(name).copied();
        let layer = |l| LayerReport::new(l, artefact.files(), input(&l.name));
        Ok(Report {
            model: short_name(&self.args.model),
            backend: self.on.backend.into(),
            device: self.on.name.clone(),
            seed: self.args.seed,
            bytes_before: Bytes::of(&TensorFiles::open(&self.opened.folder)?),
            bytes_after: Bytes::of(artefact.files()),
            methods: methods(manifest),
            layers: manifest.layers.iter().map(layer).collect(),
            sparse: SparseReport::all(manifest, reloaded),
            removed: RemovedReport::all(manifest),
            quality,
            latency,
            operations: None,
            training: self.training.clone(),
            sensitivity: self.sensitivity.clone(),
            seconds: self.seconds.clone(),
        })
    }
}

/// What the model cost and costs now, where it was traced.
fn operations<B: Backend, M: Module<B>>(finished: &Finished<B, M>) -> Option<Operations> {
    let cost = finished.plan.cost()?;
    let kept: Vec<KeptUnits> =
        finished.removed.iter().flat_map(|removed| &removed.groups).map(|g| g.kept.clone()).collect();
    Some(Operations { before: cost.whole(Measure::Flops), after: cost.left(Measure::Flops, &kept) })
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

pub(super) fn digest_of(path: &Path) -> Result<String, CliError> {
    Ok(sha256_hex(&std::fs::read(path).map_err(|e| CliError::io(path, e))?))
}
