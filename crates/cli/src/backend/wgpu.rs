//! GPUs through Vulkan.

use super::{On, Work, start};
use crate::error::CliError;
use briquette_kernels::backend::Wgpu;
use burn::prelude::Backend;

pub(super) fn run(work: impl Work) -> Result<(), CliError> {
    let device = Default::default();
    let name = Wgpu::name(&device);
    start::<Wgpu>(work, On { device, backend: "wgpu", name })
}
