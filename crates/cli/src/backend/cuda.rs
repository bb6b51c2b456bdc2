//! NVIDIA GPUs.

use super::{On, Work, start};
use crate::error::CliError;
use briquette_kernels::backend::{Cuda, configure_gpu};
use briquette_kernels::register;
use burn::backend::Autodiff;
use std::process::Command;

pub(super) fn run(work: impl Work) -> Result<(), CliError> {
    configure_gpu(work.trains());
    register::<Cuda>();
    register::<Autodiff<Cuda>>();
    start::<Cuda>(work, On { device: Default::default(), backend: "cuda", name: gpu() })
}

/// The GPU's name as the driver's own tool says it.
fn gpu() -> String {
    let query = Command::new("nvidia-smi").args(["--query-gpu=name", "--format=csv,noheader"]).output();
    let names = query.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    names.lines().next().map_or("an NVIDIA GPU", str::trim).to_string()
}
