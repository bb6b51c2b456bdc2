//! NVIDIA GPUs.

use super::{Work, on_gpu};
use crate::error::CliError;
use briquette_kernels::backend::{Cuda, FusedCuda};
use std::process::Command;

pub(super) fn run<W: Work>(work: W) -> Result<(), CliError> {
    on_gpu::<Cuda, FusedCuda, W>(work, "cuda", gpu)
}

/// The GPU's name as the driver's own tool says it.
fn gpu() -> String {
    let query = Command::new("nvidia-smi").args(["--query-gpu=name", "--format=csv,noheader"]).output();
    let names = query.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    names.lines().next().map_or("an NVIDIA GPU", str::trim).to_string()
}
