//! Training while compressing.
//!
//! - [`Trainer`] runs a [`Session`](briquette_composer::Session) over [`TrainingData`], with or without a teacher,
//!   and goes on where an interrupted run stopped.
//! - [`Grouped`], [`LearningRate`] and [`clip_by_norm`] serve a loop of one's own just as well.
//! - The feature `learner` adds a module that lets burn-train's `Learner` train a session.
//!
//! The same seed, data and settings give the same parameters on the CPU bit for bit, interrupted or not: what is
//! random (order of examples, dropout) follows from the seed and the step's number alone.

mod checkpoint;
mod clipping;
mod data;
mod error;
mod layer_by_layer;
#[cfg(feature = "learner")]
pub mod learner;
mod learning_rate;
mod optimizer;
mod removal;
mod sensitivity;
mod settings;
mod teacher;
mod trainer;

pub use checkpoint::{Checkpoints, Saved};
pub use clipping::clip_by_norm;
pub use data::TrainingData;
pub use error::TrainError;
pub use layer_by_layer::{BlockReport, layer_by_layer};
pub use learning_rate::LearningRate;
pub use optimizer::{Grouped, Moments, Rule};
pub use settings::{Purpose, Settings};
pub use teacher::Guide;
pub use trainer::{Measured, Outcome, Trainer, Watch};
