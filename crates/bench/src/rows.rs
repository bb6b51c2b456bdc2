//! What was measured, one JSON object a line.

use crate::BenchError;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// One line of the file.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Row {
    /// On what the rows that follow were measured.
    Device {
        /// Its name, as its driver says it.
        name: String,
        /// `cpu`, `wgpu` or `cuda`.
        backend: String,
        /// The program and its version.
        program: String,
    },
    /// A kernel beside plain loops.
    Check {
        /// The kernel.
        what: String,
        /// Type of its floats.
        float: String,
        /// Shapes and settings tried.
        cases: usize,
        /// Largest norm of a difference by the norm of what is right.
        worst: f64,
        /// The most that is accepted of it.
        limit: f64,
    },
    /// What the device reaches at best.
    Ceiling {
        /// `copy` in bytes per second, read and written; `bf16` or `f32` in operations per second.
        what: String,
        /// The rate.
        per_second: f64,
    },
    /// A linear layer.
    Linear {
        /// How it computes.
        what: String,
        /// The model it is of.
        model: String,
        /// Inputs of the layer.
        d_input: usize,
        /// Outputs of the layer.
        d_output: usize,
        /// Rows of its input.
        rows: usize,
        /// Microseconds on the device.
        device_us: f64,
        /// Microseconds from call to call, the host's part included.
        call_us: f64,
        /// Bytes of weight, input and output.
        bytes: usize,
    },
    /// A forward pass.
    Model {
        /// How its layers compute.
        what: String,
        /// Which model.
        model: String,
        /// Examples at once.
        batch: usize,
        /// Tokens of each.
        seq: usize,
        /// Milliseconds until the result is there.
        median_ms: f64,
        /// The fastest one.
        min_ms: f64,
        /// How many were timed.
        runs: usize,
    },
    /// One kind of operation of a forward pass.
    Part {
        /// How linear layers compute.
        what: String,
        /// Which model.
        model: String,
        /// Examples at once.
        batch: usize,
        /// Tokens of each.
        seq: usize,
        /// The operation.
        part: String,
        /// How often it stands in a forward pass.
        calls: usize,
        /// Microseconds of one on the device.
        device_us: f64,
    },
    /// A step of training.
    Step {
        /// What is simulated in it.
        what: String,
        /// Which model.
        model: String,
        /// Examples at once.
        batch: usize,
        /// Tokens of each.
        seq: usize,
        /// Milliseconds from step to step.
        median_ms: f64,
        /// Steps that were timed.
        runs: usize,
    },
    /// What could not be measured.
    LeftOut {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
}

/// The file that rows are added to.
#[derive(Debug)]
pub struct Rows {
    path: PathBuf,
    file: File,
}

impl Rows {
    /// Opens the file; what is in it stays.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(path: &Path) -> Result<Self, BenchError> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|source| BenchError::Io { path: path.into(), source })?;
        Ok(Self { path: path.into(), file })
    }

    /// Writes a row at once.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, row: &Row) -> Result<(), BenchError> {
        let text = serde_json::to_string(row).expect("strings and numbers");
        writeln!(self.file, "{text}").map_err(|source| BenchError::Io { path: self.path.clone(), source })
    }
}
