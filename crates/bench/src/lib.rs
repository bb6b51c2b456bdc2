//! What `cargo xtask bench-a100` times: kernels and models of random weights at real sizes.
//!
//! - [`run`] does the [`Section`]s asked for, on the backend asked for, and writes a [`Row`] to a file of JSON lines as
//!   soon as it is measured, so that a run that is cut off leaves what it had.
//! - Checks come first: every kernel against plain loops on the CPU. One that is wrong ends the run.
//! - Times of operations are those of the device ([`clock`]), of models those a caller waits.
//!
//! It reads no files: weights are random, sizes are those of BERT, GPT-2 and a 7B model, or tiny ones for a trial.

mod backend;
mod checks;
pub mod clock;
mod forms;
mod job;
mod models;
mod numbers;
mod operations;
mod parts;
mod rows;
mod sizes;
mod training;

pub use backend::run;
pub use rows::{Row, Rows};

use std::path::PathBuf;

/// What to measure, and on what.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// What computes.
    #[arg(long, default_value = "cpu")]
    pub backend: BackendChoice,
    /// The floats that it computes with. 16 bits are there with CUDA; a process has one kind, because burn keeps the default
    /// type of a device's tensors for as long as it runs.
    #[arg(long, default_value = "f32")]
    pub floats: FloatsChoice,
    /// The file of JSON lines that rows are added to.
    #[arg(long, value_name = "FILE")]
    pub rows: PathBuf,
    /// What to do; everything where nothing is said.
    #[arg(long, value_name = "SECTION")]
    pub only: Vec<Section>,
    /// Tiny sizes: whether everything runs, not how fast.
    #[arg(long)]
    pub smoke: bool,
    /// Seconds after which nothing further is begun; what is left out is written down.
    #[arg(long, value_name = "N", default_value_t = 3600)]
    pub seconds: u64,
}

impl Options {
    /// Whether a section is asked for.
    pub fn wants(&self, section: Section) -> bool {
        self.only.is_empty() || self.only.contains(&section)
    }
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Section {
    /// Every kernel against plain loops.
    Checks,
    /// What the device can do, and linear layers.
    Operations,
    /// Forward passes.
    Models,
    /// What a forward pass of BERT is made of, piece by piece.
    Parts,
    /// Steps of training, plain and with simulated quantization.
    Training,
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BackendChoice {
    /// The processor: for trials.
    Cpu,
    /// Any GPU with a Vulkan driver.
    Wgpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// Floats to compute with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FloatsChoice {
    /// 32 bits.
    F32,
    /// Brain floats of 16 bits, in which compressed layers are timed.
    Bf16,
}

/// Why nothing, or not everything, was measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// Kernels differ from their oracle.
    #[error("{} of {total} checks failed:\n{}", .wrong.len(), .wrong.join("\n"))]
    Wrong {
        /// What differs, and by how much.
        wrong: Vec<String>,
        /// Checks in all.
        total: usize,
    },
    /// The backend is not there.
    #[error("{0}")]
    Backend(String),
    /// The file of rows cannot be written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A model cannot be built from its sizes.
    #[error("{0}")]
    Model(String),
}
