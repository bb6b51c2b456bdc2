//! Kernels written in CUDA C++, for instructions that cubecl has no name for: compiled when first launched, cached and
//! queued by cubecl like its own.

use cubecl::CubeDim;
use cubecl::client::ComputeClient;
use cubecl::ir::{ElemType, Scope, StorageType, UIntKind};
use cubecl::prelude::{CubeCount, KernelId};
use cubecl::server::{Binding, ExecutionMode, KernelArguments, MetadataBindingInfo};
use cubecl_cpp::shared::{Elem, Item, SharedMemory};
use cubecl_cuda::{CudaCompiler, CudaRuntime};
use cubecl_runtime::compiler::{CompilationError, Compiler, CubeTask};
use cubecl_runtime::kernel::{CompiledKernel, KernelDefinition, KernelMetadata, KernelOptions};
use std::fmt::Debug;
use std::hash::Hash;

/// What stands in front of every kernel.
const PRELUDE: &str = include_str!("prelude.cu");

/// One variant of a kernel. Its value tells variants apart.
pub(super) trait Kernel: Copy + Debug + Eq + Hash + Send + Sync + 'static {
    /// The function that is launched: `extern "C"`, with pointers to buffers and then one structure by value.
    const ENTRY: &'static str;

    /// Source code behind the prelude and the definitions.
    const TEXT: &'static str;

    /// What the text shares with other kernels', between [`helpers`](Self::helpers) and it.
    const SHARED: &'static str = "";

    /// `#define`s and whatever else a variant puts in front.
    fn definitions(self) -> String;

    /// Functions of the variant, behind the prelude.
    fn helpers(self) -> String {
        String::new()
    }

    /// Threads of a block.
    fn threads(self) -> u32;

    /// Bytes of dynamic shared memory.
    fn shared_bytes(self) -> usize {
        0
    }
}

/// The whole source code of a variant.
pub(super) fn source<K: Kernel>(kernel: K) -> String {
    format!("{}\n{PRELUDE}\n{}\n{}\n{}", kernel.definitions(), kernel.helpers(), K::SHARED, K::TEXT)
}

/// Queues a kernel: `buffers` in the order of its parameters, `info` the words of the structure that follows them.
pub(super) fn launch<K: Kernel>(
    client: &ComputeClient<CudaRuntime>,
    kernel: K,
    blocks: u32,
    buffers: Vec<Binding>,
    info: Vec<u64>,
) {
    let words = info.len();
    let arguments =
        KernelArguments::new().with_buffers(buffers).with_info(MetadataBindingInfo::new(info, words));
    client.launch(Box::new(Task(kernel)), CubeCount::Static(blocks, 1, 1), arguments);
}

/// Two floats in a word of a structure.
pub(super) fn floats(first: f32, second: f32) -> u64 {
    u64::from(first.to_bits()) | u64::from(second.to_bits()) << 32
}

struct Task<K>(K);

impl<K: Kernel> KernelMetadata for Task<K> {
    fn name(&self) -> &'static str {
        K::ENTRY
    }

    fn id(&self) -> KernelId {
        const { assert!(!K::TEXT.is_empty()) };
        // Compiled kernels are kept on disk: those of another text are others.
        let text =
            const { fingerprint(K::TEXT) ^ fingerprint(PRELUDE) ^ fingerprint(K::SHARED).rotate_left(1) };
        KernelId::new::<K>().info((self.0, text)).cube_dim(CubeDim::new_1d(self.0.threads()))
    }

    fn address_type(&self) -> StorageType {
        ElemType::UInt(UIntKind::U64).into()
    }
}

impl<K: Kernel> CubeTask<CudaCompiler> for Task<K> {
    fn compile(
        &self,
        compiler: &mut CudaCompiler,
        options: &<CudaCompiler as Compiler>::CompilationOptions,
        mode: ExecutionMode,
        address_type: StorageType,
    ) -> Result<CompiledKernel<CudaCompiler>, CompilationError> {
        let cube_dim = CubeDim::new_1d(self.0.threads());
        // The runtime asks a kernel of cubecl's own for the size of its shared memory: an empty one with our size.
        let empty = KernelDefinition {
            buffers: Vec::new(),
            tensor_maps: Vec::new(),
            scalars: Vec::new(),
            cube_dim,
            body: Scope::root(false),
            options: KernelOptions { kernel_name: K::ENTRY.into(), ..KernelOptions::default() },
        };
        let mut stand_in = compiler.compile(empty, options, mode, address_type)?;
        stand_in.body.shared_memories = vec![SharedMemory::Array {
            index: 0,
            item: Item::scalar(Elem::U8, true),
            length: self.0.shared_bytes(),
            align: 1024,
            offset: 0,
        }];
        Ok(CompiledKernel {
            entrypoint_name: K::ENTRY.into(),
            debug_name: Some(K::ENTRY),
            source: source(self.0),
            repr: Some(stand_in),
            cube_dim,
            debug_info: None,
        })
    }
}

/// FNV-1a of a text.
const fn fingerprint(text: &str) -> u64 {
    let (bytes, mut hash, mut at) = (text.as_bytes(), 0xcbf2_9ce4_8422_2325_u64, 0);
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x100_0000_01b3);
        at += 1;
    }
    hash
}
