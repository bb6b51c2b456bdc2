//! The backends a build has, under the names the command line uses.

/// The CPU; always there, needs nothing.
pub type Cpu = burn::backend::Flex;

/// Any GPU with a Vulkan driver.
#[cfg(feature = "wgpu")]
pub type Wgpu = burn_wgpu::Vulkan;

/// An NVIDIA GPU through CUDA.
#[cfg(feature = "cuda")]
pub type Cuda = burn_cuda::Cuda;
