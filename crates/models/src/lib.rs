//! BERT, GPT-2 and CIFAR ResNet with their Hugging Face names: configurations, modules, weights, data and
//! measurement.
//!
//! - [`resolve`] finds a model's folder, [`ModelConfig::from_dir`] reads what is in it, [`ModelConfig::view`] shows
//!   its layers before any weight is read, [`load`] reads the weights and [`save`] writes them back.
//! - [`ModelConfig::run`] does a [`ModelJob`], which is written once for all [`Pretrained`] models;
//!   [`TrainingJob`] and [`BlocksJob`] are those that need gradients, and blocks to train one by one.
//! - [`Examples`] are a data file's contents, [`evaluate()`] measures a model on them.
//!
//! Axes: `batch` examples, `seq` tokens of each, `hidden` or `width` numbers per token; images are
//! `[batch, channel, height, width]`.

mod activation;
mod attention;
pub mod bert;
mod config;
mod data;
mod error;
mod evaluate;
mod examples;
mod folder;
pub mod gpt2;
#[cfg(feature = "hub")]
mod hub;
mod pretrained;
pub mod resnet;
mod task;
mod tokens;

pub use activation::Activation;
pub use config::{CONFIG_FILE, ModelConfig, PretrainedConfig};
pub use data::{DataError, RECORD_BYTES};
pub use error::ModelError;
pub use evaluate::{Evaluation, evaluate};
pub use examples::Examples;
pub use folder::resolve;
pub use pretrained::{BlocksJob, ModelJob, Pretrained, TrainingJob, WEIGHTS_FILE, load, save};
pub use task::{Batch, IMAGE_SIDE, Inputs, Task};
pub use tokens::{TOKENIZER_FILE, Tokens};
