//! GPUs through Vulkan.

use super::{On, Work, start};
use crate::error::CliError;
use briquette_kernels::backend::{Wgpu, configure_gpu};
use briquette_kernels::register;
use burn::backend::Autodiff;
use burn::prelude::Backend;

pub(super) fn run(work: impl Work) -> Result<(), CliError> {
    configure_gpu(work.trains());
    let device = Default::default();
    let name = Wgpu::name(&device);
    register::<Wgpu>();
    register::<Autodiff<Wgpu>>();
    start::<Wgpu>(work, On { device, backend: "wgpu", name })
}
