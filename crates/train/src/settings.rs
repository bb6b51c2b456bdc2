//! Training settings with nothing left open.

use crate::error::TrainError;
use crate::optimizer::Rule;
use briquette_composer::{Augmentation, Decay, Keep, OptimizerKind, TrainingSettings};
use serde::Serialize;

/// What kind of model is trained: decides the defaults of [`TrainingSettings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Texts with labels.
    Classification,
    /// Windows of a text.
    LanguageModel,
    /// Images with labels.
    Vision,
}

/// Training settings with nothing left open.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// Passes over the data.
    pub epochs: usize,
    /// Examples of a batch.
    pub batch: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// AdamW or SGD.
    pub optimizer: OptimizerKind,
    /// Share of a weight taken away per unit of learning rate.
    pub weight_decay: f64,
    /// AdamW's weights of the past.
    pub betas: (f64, f64),
    /// SGD's weight of the past.
    pub momentum: f64,
    /// Course of the learning rate after warm-up.
    pub decay: Decay,
    /// Share of the steps in which it rises.
    pub warmup: f64,
    /// Batches of a step.
    pub accumulate: usize,
    /// Largest norm of the gradients.
    pub clip: Option<f64>,
    /// Factor of the learning rate for what methods learn.
    pub learned_lr: f64,
    /// Whether dropout acts.
    pub dropout: bool,
    /// Longest text, in tokens.
    pub max_tokens: Option<usize>,
    /// How data are changed at random.
    pub augmentation: Augmentation,
    /// Which parameters are kept.
    pub keep: Keep,
    /// Steps between checkpoints; `None` for a checkpoint every minute.
    pub checkpoint_every: Option<usize>,
    /// The only source of randomness.
    pub seed: u64,
}

impl Settings {
    /// Fills in what was not said, for a model of this `purpose`, with or without a teacher.
    ///
    /// # Errors
    /// When the number of epochs was not said, or something was said that this kind of model has not.
    pub fn resolve(
        said: &TrainingSettings,
        purpose: Purpose,
        teacher: bool,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let image = purpose == Purpose::Vision;
        let augmentation = augmentation(said.augmentation, purpose)?;
        let (batch, lr) = match purpose {
            Purpose::Classification => (64, 5e-5),
            Purpose::LanguageModel => (16, 3e-4),
            Purpose::Vision => (128, 0.05),
        };
        let usual = if image { OptimizerKind::Sgd } else { OptimizerKind::Adamw };
        let optimizer = said.optimizer.unwrap_or(usual);
        Ok(Self {
            epochs: said.epochs.ok_or(TrainError::NoEpochs)?,
            batch: said.batch.unwrap_or(batch),
            lr: said.lr.unwrap_or(lr),
            optimizer,
            weight_decay: said.weight_decay.unwrap_or(if image { 5e-4 } else { 0.01 }),
            betas: (said.beta_1.unwrap_or(0.9), said.beta_2.unwrap_or(0.999)),
            momentum: said.momentum.unwrap_or(0.9),
            decay: said.decay.unwrap_or(if image { Decay::Cosine } else { Decay::Linear }),
            warmup: said.warmup.unwrap_or(0.06),
            accumulate: said.accumulate.unwrap_or(1),
            clip: Some(said.clip.unwrap_or(1.0)).filter(|c| *c > 0.0),
            learned_lr: said.learned_lr.unwrap_or(match optimizer {
                OptimizerKind::Adamw => 1.0,
                OptimizerKind::Sgd => 0.002,
            }),
            dropout: said.dropout.unwrap_or(!teacher || purpose == Purpose::LanguageModel),
            max_tokens: said.max_tokens,
            augmentation,
            keep: said.keep.unwrap_or(Keep::Last),
            checkpoint_every: said.checkpoint_every,
            seed,
        })
    }

    /// The optimizer's rule.
    pub fn rule(&self) -> Rule {
        Rule::new(self.optimizer, self.betas, self.momentum, self.weight_decay)
    }
}

/// What was said, where it suits the data of such a model, or the usual.
fn augmentation(said: Option<Augmentation>, purpose: Purpose) -> Result<Augmentation, TrainError> {
    let own = match purpose {
        Purpose::Classification => None,
        Purpose::LanguageModel => Some(Augmentation::Shift),
        Purpose::Vision => Some(Augmentation::CropFlip),
    };
    match said {
        Some(said) if own.is_none() || said != Augmentation::None && own != Some(said) => {
            Err(TrainError::Augmentation { said, purpose })
        }
        Some(said) => Ok(said),
        None if purpose == Purpose::Vision => Ok(Augmentation::CropFlip),
        None => Ok(Augmentation::None),
    }
}
