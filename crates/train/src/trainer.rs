//! The loop.

use crate::checkpoint::{Checkpoints, Saved, tensors};
use crate::data::TrainingData;
use crate::error::TrainError;
use crate::learning_rate::LearningRate;
use crate::optimizer::Grouped;
use crate::sensitivity;
use crate::settings::Settings;
use crate::teacher::Guide;
use briquette_composer::{Augmentation, Keep, Session, Trainable, Trained};
use briquette_core::host_floats;
use briquette_nn::Tapped;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::prelude::*;
use burn::tensor::backend::AutodiffBackend;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Time between two looks at the loss: reading it waits for the device.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Time between two checkpoints where no number of steps was said.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);

/// What was measured after an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Epochs done.
    pub epoch: usize,
    /// The metric.
    pub value: f64,
}

/// Told how training goes.
pub trait Watch {
    /// `done` of `total` steps are done; `loss` is that of the last one and `lr` its learning rate.
    fn looked(&mut self, _done: usize, _total: usize, _loss: f32, _lr: f64) {}

    /// An epoch was measured.
    fn measured(&mut self, _measured: Measured) {}
}

impl Watch for () {}

type Measure<'a, M> = Box<dyn FnMut(&M) -> Result<f64, String> + 'a>;

/// Trains a session over some data.
///
/// ```text
/// Trainer::new(session, settings, &data, &device)
///     .with_teacher(teacher, distillation)?
///     .measured_by(|model| .., true)
///     .checkpointed(checkpoints)
///     .run(resume, &mut watch)?
/// ```
pub struct Trainer<'a, B, M, D, T>
where
    B: AutodiffBackend,
    M: Trainable<B> + Tapped<B, Input = D::Input<B>>,
    D: TrainingData,
    T: Tapped<B::InnerBackend, Input = D::Input<B::InnerBackend>>,
{
    session: Session<B, M>,
    optimizer: Grouped<B>,
    guide: Guide<B, T>,
    settings: Settings,
    data: &'a D,
    device: B::Device,
    measure: Option<(Measure<'a, M::InnerModule>, bool)>,
    checkpoints: Option<Checkpoints>,
    best: Option<(f64, Trained<B, M>)>,
    /// Masked units stay to the end: what the teacher shows fits only the whole student.
    keeps_shapes: bool,
    measured: Vec<Measured>,
    rate: LearningRate,
    before: f64,
    begun: Instant,
}

/// A finished training.
pub struct Outcome<B: AutodiffBackend, M: Trainable<B>> {
    /// The session, to be finished.
    pub session: Session<B, M>,
    /// What was measured after the epochs.
    pub measured: Vec<Measured>,
    /// Optimizer steps.
    pub steps: usize,
    /// Time it took, interruptions not counted.
    pub seconds: f64,
}

impl<'a, B, M, D, T> Trainer<'a, B, M, D, T>
where
    B: AutodiffBackend,
    M: Trainable<B> + Tapped<B, Input = D::Input<B>>,
    D: TrainingData,
    T: Tapped<B::InnerBackend, Input = D::Input<B::InnerBackend>>,
{
    /// Trains `session` on the labels of `data` on `device`, guided by a teacher or not.
    ///
    /// # Errors
    /// When the data give no batch.
    pub fn new(
        session: Session<B, M>,
        guide: Guide<B, T>,
        settings: Settings,
        data: &'a D,
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        let batches = data.epoch(settings.batch, settings.seed).len();
        if batches == 0 {
            return Err(TrainError::NoData { batch: settings.batch });
        }
        let total = settings.epochs * batches.div_ceil(settings.accumulate);
        let warmup = (settings.warmup * total as f64).round() as usize;
        Ok(Self {
            optimizer: Grouped::new(settings.rule(), settings.learned_lr).with_clipping(settings.clip),
            rate: LearningRate { peak: settings.lr, warmup, total, decay: settings.decay },
            session,
            guide,
            settings,
            data,
            device: device.clone(),
            measure: None,
            checkpoints: None,
            best: None,
            keeps_shapes: false,
            measured: Vec::new(),
            before: 0.0,
            begun: Instant::now(),
        })
    }

    /// Measures the model after each epoch; whether a higher value is better decides which one is the best.
    pub fn measured_by(
        mut self,
        measure: impl FnMut(&M::InnerModule) -> Result<f64, String> + 'a,
        higher_is_better: bool,
    ) -> Self {
        self.measure = Some((Box::new(measure), higher_is_better));
        self
    }

    /// Writes checkpoints.
    pub fn checkpointed(mut self, checkpoints: Checkpoints) -> Self {
        self.checkpoints = Some(checkpoints);
        self
    }

    /// Optimizer steps in all.
    pub fn steps(&self) -> usize {
        self.rate.total
    }

    /// Trains to the end; with `resume` from the newest checkpoint on.
    ///
    /// # Errors
    /// When the loss is no number, a checkpoint cannot be written or read, or measuring fails.
    pub fn run(mut self, resume: bool, watch: &mut dyn Watch) -> Result<Outcome<B, M>, TrainError> {
        if self.settings.keep == Keep::Best && self.measure.is_none() {
            return Err(TrainError::NothingMeasures);
        }
        let mut step = if resume { self.resume()? } else { 0 };
        self.begun = Instant::now();
        let (mut looked, mut saved) = (Instant::now(), Instant::now());
        for epoch in 0..self.settings.epochs {
            let batches = self.data.epoch(self.settings.batch, mixed(self.settings.seed, epoch as u64));
            let steps: Vec<&[Vec<usize>]> = batches.chunks(self.settings.accumulate).collect();
            let first = epoch * steps.len();
            for (n, batches) in steps.iter().enumerate().filter(|(n, _)| first + n >= step) {
                self.shrink()?;
                let (loss, lr) = (self.step(first + n, batches), self.rate.at(first + n));
                let last = n + 1 == steps.len();
                if looked.elapsed() >= LOOK_EVERY || last {
                    self.look(first + n + 1, loss, lr, watch)?;
                    looked = Instant::now();
                }
                if last {
                    self.measure(epoch + 1, watch)?;
                }
                if self.checkpoint_due(first + n + 1, saved) {
                    self.checkpoint()?;
                    saved = Instant::now();
                }
            }
            step = step.max(first + steps.len());
        }
        let (steps, seconds) = (self.rate.total, self.seconds());
        if let Some((_, parts)) = self.best {
            self.session.set_parts(parts);
        }
        Ok(Outcome { session: self.session, measured: self.measured, steps, seconds })
    }

    fn seconds(&self) -> f64 {
        self.before + self.begun.elapsed().as_secs_f64()
    }

    /// Removes what is masked for good, so that the steps to come cost less. What was measured before then was of
    /// models of which more is lost by now: it is no longer the best. Where a teacher's hidden states or attention
    /// maps would no longer fit, the shapes stay, and the session's end removes.
    fn shrink(&mut self) -> Result<(), TrainError> {
        if self.keeps_shapes {
            return Ok(());
        }
        let Some(smaller) = self.session.without_masked()? else { return Ok(()) };
        self.keeps_shapes = !self.guide.fits(&self.session.parts().model.tap_shape(), &smaller.tap_shape());
        drop(smaller);
        if !self.keeps_shapes && self.session.shrink(&mut self.optimizer)? {
            tracing::info!(step = self.session.position().step, "masked units are removed");
            self.best = None;
        }
        Ok(())
    }

    /// One optimizer step on some batches; the loss of the last one.
    fn step(&mut self, step: usize, batches: &[Vec<usize>]) -> Tensor<B, 1> {
        let stage = self.guide.stage_at(step, self.rate.total);
        self.tell_sensitivity(step, stage, &batches[0]);
        let mut sums = GradientsAccumulator::<Trained<B, M>>::new();
        let mut single = None;
        let mut last = None;
        for (n, batch) in batches.iter().enumerate() {
            // Dropout draws what it draws at this step, whatever happened before.
            let seed = mixed(self.settings.seed, (step * self.settings.accumulate + n) as u64);
            B::seed(&self.device, seed);
            let (input, targets) = self.batch::<B>(batch, seed, &self.device);
            let student = self.session.view().tapped(input, self.guide.wanted(stage));
            let teacher = || self.batch::<B::InnerBackend>(batch, seed, &self.device).0;
            let loss = self.guide.loss(stage, &student, teacher, targets) / batches.len() as f64;
            let mut gradients = loss.backward();
            self.guide.collect(&mut gradients);
            let own = self.session.gradients(&mut gradients);
            if batches.len() == 1 {
                single = Some(own);
            } else {
                sums.accumulate(self.session.parts(), own);
            }
            last = Some(loss.detach() * batches.len() as f64);
        }
        let gradients = single.unwrap_or_else(|| sums.grads());
        let lr = self.rate.at(step);
        self.session.apply(gradients, &mut self.optimizer, lr);
        self.guide.apply(lr);
        last.expect("a step has at least one batch")
    }

    /// A batch as this training sees it at a step with this seed.
    fn batch<C: Backend>(
        &self,
        examples: &[usize],
        seed: u64,
        device: &C::Device,
    ) -> (D::Input<C>, Tensor<C, 1, Int>) {
        match self.settings.augmentation {
            Augmentation::None => self.data.batch::<C>(examples, device),
            Augmentation::CropFlip | Augmentation::Shift => self.data.augmented::<C>(examples, seed, device),
        }
    }

    /// Eigenvalues of the blocks, where the plan wants them and they matter at this step.
    fn tell_sensitivity(&mut self, step: usize, stage: usize, batch: &[usize]) {
        let (data, guide, device, seed) = (self.data, &self.guide, &self.device, self.settings.seed);
        let gradients = |model: &M| {
            B::seed(device, mixed(seed, step as u64));
            let (input, targets) = data.batch::<B>(batch, device);
            let student = model.tapped(input, guide.wanted(stage));
            let teacher = || data.batch::<B::InnerBackend>(batch, device).0;
            let loss = guide.loss(stage, &student, teacher, targets);
            GradientsParams::from_grads(loss.backward(), model)
        };
        if let Some(found) = sensitivity::tell(&mut self.session, step + 1, seed, gradients) {
            tracing::info!(step, eigenvalues = ?found, "precision falls");
        }
    }

    fn look(
        &self,
        done: usize,
        loss: Tensor<B, 1>,
        lr: f64,
        watch: &mut dyn Watch,
    ) -> Result<(), TrainError> {
        let loss = host_floats(loss)[0];
        let total = self.rate.total;
        if !loss.is_finite() {
            return Err(TrainError::Diverged { step: done, total, loss });
        }
        watch.looked(done, total, loss, lr);
        Ok(())
    }

    fn measure(&mut self, epoch: usize, watch: &mut dyn Watch) -> Result<(), TrainError> {
        let Some((measure, higher)) = &mut self.measure else { return Ok(()) };
        let value = measure(&self.session.valid()).map_err(TrainError::Measure)?;
        let measured = Measured { epoch, value };
        self.measured.push(measured);
        watch.measured(measured);
        let better =
            self.best.as_ref().is_none_or(|(best, _)| if *higher { value > *best } else { value < *best });
        if self.settings.keep == Keep::Best && better {
            self.best = Some((value, self.session.copy_parts()));
        }
        Ok(())
    }

    fn checkpoint_due(&self, done: usize, saved: Instant) -> bool {
        match self.settings.checkpoint_every {
            Some(every) => done.is_multiple_of(every) || done == self.rate.total,
            None => saved.elapsed() >= CHECKPOINT_EVERY,
        }
    }

    fn checkpoint(&self) -> Result<(), TrainError> {
        use burn::module::Module;
        use burn::optim::Optimizer;
        let Some(checkpoints) = &self.checkpoints else { return Ok(()) };
        let position = self.session.position();
        let draft = checkpoints.draft(position.step)?;
        draft.tensors::<B, _>("parameters", self.session.parts().clone().into_record())?;
        let optimizer = Optimizer::<Trained<B, M>, B>::to_record(&self.optimizer);
        draft.tensors::<B, _>("optimizer", optimizer)?;
        self.guide.save(&draft)?;
        if let Some((_, best)) = &self.best {
            draft.tensors::<B, _>("best", best.clone().into_record())?;
        }
        let saved = Saved {
            fingerprint: checkpoints.fingerprint().into(),
            position,
            measured: self.measured.clone(),
            seconds: self.seconds(),
            best: self.best.as_ref().map(|(value, _)| *value),
        };
        draft.commit(&saved, checkpoints)
    }

    /// Goes back to the newest checkpoint; the steps done by then.
    fn resume(&mut self) -> Result<usize, TrainError> {
        use burn::module::Module;
        use burn::optim::Optimizer;
        let Some(checkpoints) = &self.checkpoints else { return Ok(0) };
        let (path, saved) = checkpoints.newest()?;
        let device = self.device.clone();
        self.session.resume(tensors::<B, _>(&path, "parameters", &device)?, &saved.position)?;
        let record = tensors::<B, _>(&path, "optimizer", &device)?;
        self.optimizer = Optimizer::<Trained<B, M>, B>::load_record(self.optimizer.clone(), record);
        self.guide.resume(&path, &device)?;
        if let Some(value) = saved.best {
            let record = tensors::<B, _>(&path, "best", &device)?;
            self.best = Some((value, self.session.copy_parts().load_record(record)));
        }
        self.measured = saved.measured;
        self.before = saved.seconds;
        Ok(saved.position.step)
    }
}

/// A number that follows from the run's seed and a position in it (the finalizer of SplitMix64, Steele et al. 2014).
pub(crate) fn mixed(seed: u64, position: u64) -> u64 {
    let z = seed ^ position.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
