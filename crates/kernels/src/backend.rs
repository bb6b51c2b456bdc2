//! The backends a build has, under the names the command line uses.

/// The CPU; always there, needs nothing.
pub type Cpu = burn::backend::Flex;

/// Any GPU with a Vulkan driver.
#[cfg(feature = "wgpu")]
pub type Wgpu = burn_wgpu::Vulkan;

/// An NVIDIA GPU through CUDA.
#[cfg(feature = "cuda")]
pub type Cuda = burn_cuda::Cuda;

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
