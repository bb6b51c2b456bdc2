//! The backends a build has, under the names the command line uses.

/// The CPU; always there, needs nothing.
pub type Cpu = burn::backend::Flex;

/// Any GPU with a Vulkan driver; operations are launched as they are called, as on [`Cuda`].
#[cfg(feature = "wgpu")]
pub type Wgpu = burn_cubecl::CubeBackend<burn_wgpu::WgpuRuntime, f32, i32, u8>;

/// Any GPU with a Vulkan driver; operations are fused as on [`FusedCuda`].
#[cfg(feature = "wgpu")]
pub type FusedWgpu = burn_wgpu::Vulkan;

/// An NVIDIA GPU through CUDA; operations are launched as they are called.
///
/// A forward pass of a compressed model consists of kernels that are fused by hand. Holding its operations back to fuse
/// them finds nothing, and costs the host more than the kernels cost the GPU: BERT-base with W8A8 and one sentence took an
/// H200 3.1 ms on [`FusedCuda`] and takes 1.3 to 1.5 ms here (`docs/results/speed_h200`).
#[cfg(feature = "cuda")]
pub type Cuda<F = f32, I = i32> = burn_cubecl::CubeBackend<cubecl_cuda::CudaRuntime, F, I, u8>;

/// An NVIDIA GPU through CUDA; operations wait until their neighbours are known and become one kernel with them, which
/// spares training memory and passes over it.
#[cfg(feature = "cuda")]
pub type FusedCuda<F = f32, I = i32> = burn_cuda::Cuda<F, I>;

/// Sets how GPU backends keep compiled kernels and memory, once and before a GPU is first used. A `cubecl.toml` or
/// `burn.toml` in the current folder or above it is followed in what it says.
///
/// Compiled kernels are kept on disk, where the results of tuning are kept anyway: a second run starts at once. A
/// program that `trains` repeats the same allocations in every step: memory is then kept by size instead of being
/// cut up and joined anew, which costs more time on the host than the kernels take, and more memory where shapes vary.
#[cfg(feature = "cube")]
pub fn configure_gpu(trains: bool) {
    use cubecl::config::memory::PersistentMemory;
    use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig, cache::CacheConfig};
    use std::sync::Once;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
        config.compilation.cache.get_or_insert(CacheConfig::default());
        if trains && matches!(config.memory.persistent_memory, PersistentMemory::Enabled) {
            config.memory.persistent_memory = PersistentMemory::Enforced;
        }
        CubeClRuntimeConfig::set(config);
    });
}
