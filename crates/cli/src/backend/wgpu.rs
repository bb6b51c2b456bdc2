//! GPUs through Vulkan.

use super::{On, Work, start};
use crate::error::CliError;
use briquette_kernels::backend::{FusedWgpu, Wgpu, configure_gpu};
use briquette_kernels::register;
use burn::backend::Autodiff;
use burn::prelude::Backend;

pub(super) fn run<W: Work>(work: W) -> Result<(), CliError> {
    configure_gpu(work.trains());
    if W::MAY_TRAIN {
        register::<FusedWgpu>();
        register::<Autodiff<FusedWgpu>>();
        start::<FusedWgpu>(work, on())
    } else {
        register::<Wgpu>();
        start::<Wgpu>(work, on())
    }
}

fn on<B: Backend>() -> On<B> {
    let device = B::Device::default();
    On { name: B::name(&device), device, backend: "wgpu" }
}
