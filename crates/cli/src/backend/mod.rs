//! Backends: generic code is instantiated here and nowhere else, each backend behind its feature.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "wgpu")]
mod wgpu;

use crate::args::BackendChoice;
use crate::error::CliError;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use briquette_kernels::{CompressOps, backend::configure_gpu, register};
use burn::backend::Autodiff;
use burn::prelude::*;
use std::panic::AssertUnwindSafe;

/// A command that computes, written once for every backend.
pub(crate) trait Work {
    /// Whether some of its runs train.
    #[cfg_attr(
        not(any(feature = "wgpu", feature = "cuda")),
        allow(dead_code, reason = "GPUs have a backend for it")
    )]
    const MAY_TRAIN: bool = false;

    fn run<B: Backend>(self, on: &On<B>) -> Result<(), CliError>;

    /// Whether it takes many steps of the same kind.
    #[cfg_attr(not(any(feature = "wgpu", feature = "cuda")), allow(dead_code, reason = "GPUs ask"))]
    fn trains(&self) -> bool {
        false
    }
}

/// A backend's device and how to call it.
pub(crate) struct On<B: Backend> {
    pub(crate) device: B::Device,
    /// `cpu`, `wgpu` or `cuda`.
    pub(crate) backend: &'static str,
    /// The device in words.
    pub(crate) name: String,
}

impl<B: Backend> On<B> {
    /// The same device with gradients.
    pub(crate) fn differentiable(&self) -> On<Autodiff<B>> {
        On { device: self.device.clone(), backend: self.backend, name: self.name.clone() }
    }

    /// To multiples of how many tokens batches of texts are padded: GPUs compile kernels for each shape anew.
    pub(crate) fn multiple(&self) -> usize {
        if self.backend == "cpu" { 1 } else { 16 }
    }
}

/// Runs `work` on a device that answers.
fn start<B: Backend>(work: impl Work, on: On<B>) -> Result<(), CliError> {
    // Drivers that are missing panic deep inside the backend; here that is the machine's matter.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let first = AssertUnwindSafe(|| Tensor::<B, 1>::zeros([1], &on.device).into_data());
    let answer = std::panic::catch_unwind(first);
    std::panic::set_hook(hook);
    match answer {
        Ok(_) => work.run(&on),
        Err(_) => Err(CliError::Backend(format!("`{}`: no device of this kind answers here", on.backend))),
    }
}

/// Runs `work` on a GPU: launching operations as they are called, or on the backend for training where it may train.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn on_gpu<Forward, Training, W>(work: W, backend: &'static str, name: fn() -> String) -> Result<(), CliError>
where
    Forward: CompressOps,
    Training: CompressOps,
    Autodiff<Training>: CompressOps,
    W: Work,
{
    configure_gpu(work.trains());
    if W::MAY_TRAIN {
        register::<Training>();
        register::<Autodiff<Training>>();
        start::<Training>(work, On { device: Default::default(), backend, name: name() })
    } else {
        register::<Forward>();
        start::<Forward>(work, On { device: Default::default(), backend, name: name() })
    }
}

/// Runs `work` on the backend asked for.
pub(crate) fn run(choice: BackendChoice, work: impl Work) -> Result<(), CliError> {
    match choice {
        BackendChoice::Cpu => cpu::run(work),
        #[cfg(feature = "wgpu")]
        BackendChoice::Wgpu => wgpu::run(work),
        #[cfg(feature = "cuda")]
        BackendChoice::Cuda => cuda::run(work),
        #[cfg(not(all(feature = "wgpu", feature = "cuda")))]
        #[allow(unreachable_patterns, reason = "reached by the choices whose feature is off")]
        other => {
            let name = format!("{other:?}").to_lowercase();
            Err(CliError::Backend(format!("`{name}` is not built in: build with `--features {name}`")))
        }
    }
}
