//! GPUs through Vulkan.

use super::{Work, on_gpu};
use crate::error::CliError;
use briquette_kernels::backend::{FusedWgpu, Wgpu};
use burn::prelude::Backend;

pub(super) fn run<W: Work>(work: W) -> Result<(), CliError> {
    on_gpu::<Wgpu, FusedWgpu, W>(work, "wgpu", || Wgpu::name(&Default::default()))
}
