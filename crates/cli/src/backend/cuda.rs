//! NVIDIA GPUs.

use super::{On, Work, start};
use crate::error::CliError;
use briquette_kernels::backend::{Cuda, FusedCuda, configure_gpu};
use briquette_kernels::register;
use burn::backend::Autodiff;
use burn::prelude::Backend;
use std::process::Command;

pub(super) fn run<W: Work>(work: W) -> Result<(), CliError> {
    configure_gpu(work.trains());
    if W::MAY_TRAIN {
        register::<FusedCuda>();
        register::<Autodiff<FusedCuda>>();
        start::<FusedCuda>(work, on())
    } else {
        register::<Cuda>();
        start::<Cuda>(work, on())
    }
}

fn on<B: Backend>() -> On<B> {
    On { device: Default::default(), backend: "cuda", name: gpu() }
}

/// The GPU's name as the driver's own tool says it.
fn gpu() -> String {
    let query = Command::new("nvidia-smi").args(["--query-gpu=name", "--format=csv,noheader"]).output();
    let names = query.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    names.lines().next().map_or("an NVIDIA GPU", str::trim).to_string()
}
