//! What can go wrong while training.

use crate::settings::Purpose;
use briquette_composer::{Augmentation, ResumeError, ShrinkError};
use std::path::PathBuf;

/// What can go wrong while training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// Neither the recipe nor the caller says how long to train.
    #[error("training: the number of epochs is said nowhere: give `--epochs` or `training.epochs`")]
    NoEpochs,
    /// Data are to be changed in a way that does not suit them.
    #[error(
        "training.augmentation: {said:?} is not for data of this kind ({purpose:?}): images take \"none\" or \
         \"crop_flip\", windows of running text \"none\" or \"shift\", sentences nothing"
    )]
    Augmentation {
        /// What was asked for.
        said: Augmentation,
        /// The kind of model.
        purpose: Purpose,
    },
    /// No batch can be made.
    #[error("the training data give no batch of {batch} examples")]
    NoData {
        /// Examples of a batch.
        batch: usize,
    },
    /// The loss is infinite or not a number.
    #[error("the loss is {loss} at step {step} of {total}: try a lower learning rate")]
    Diverged {
        /// The step, counted from 1.
        step: usize,
        /// Steps in all.
        total: usize,
        /// What it is.
        loss: f32,
    },
    /// The best epoch is to be kept and nothing measures them.
    #[error("training.keep: `best` needs evaluation data to choose on")]
    NothingMeasures,
    /// Blocks are compared one by one.
    #[error("layer_by_layer: the student has {student} blocks, the teacher {teacher}; they must be as many")]
    Blocks {
        /// Blocks of the student.
        student: usize,
        /// Blocks of the teacher.
        teacher: usize,
    },
    /// The distillation does not fit student and teacher.
    #[error("distillation: {0}")]
    Distillation(String),
    /// What was pruned cannot be removed.
    #[error("removing what was pruned: {0}")]
    Shrink(#[from] ShrinkError),
    /// The model could not be measured.
    #[error("measuring the model: {0}")]
    Measure(String),
    /// A checkpoint cannot be written or read.
    #[error("{}: {reason}", .path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The checkpoint belongs to a run with other inputs.
    #[error("{}: is of a run with another model, recipe, data or settings; train anew without `--resume`", .path.display())]
    OtherRun {
        /// The checkpoint.
        path: PathBuf,
    },
    /// There is no checkpoint to go on from.
    #[error("{}: holds no checkpoint to resume from", .path.display())]
    NothingToResume {
        /// The folder.
        path: PathBuf,
    },
    /// The checkpoint's contents do not fit.
    #[error(transparent)]
    Resume(#[from] ResumeError),
}
