//! GPUs through Vulkan.

use super::{On, Work};
use crate::error::CliError;
use briquette_kernels::backend::Wgpu;
use burn::prelude::Backend;

pub(super) fn run(work: impl Work) -> Result<(), CliError> {
    let device = Default::default();
    let name = Wgpu::name(&device);
    work.run::<Wgpu>(&On { device, backend: "wgpu", name })
}
