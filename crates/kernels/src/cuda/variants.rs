//! The kernels of this folder and their variants.

use super::source::Kernel;
use crate::activation::Activation;
use crate::quantize::TokenQuant;
use burn::tensor::DType;
use std::fmt::Write;

/// An element type of inputs and outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Element {
    F32,
    F16,
    Bf16,
}

impl Element {
    /// `None` for types that the kernels do not know.
    pub(super) fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 | DType::Flex32 => Some(Self::F32),
            DType::F16 => Some(Self::F16),
            DType::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "float",
            Self::F16 => "__half",
            Self::Bf16 => "__nv_bfloat16",
        }
    }
}

/// Rows of floats to codes: `quantize_rows.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct QuantizeRows {
    pub(super) element: Element,
    /// Threads that share a row.
    pub(super) team: u32,
    /// Pieces of eight columns that each of them holds.
    pub(super) chunks: u32,
    pub(super) symmetric: bool,
    pub(super) widened: bool,
    pub(super) fixed: bool,
}

impl QuantizeRows {
    /// Columns that the widest team holds in registers.
    pub(super) const WIDEST: usize = 512 * 8 * 4;

    /// `columns` at most [`WIDEST`](Self::WIDEST).
    pub(super) fn new(element: Element, columns: usize, q: TokenQuant) -> Self {
        let pieces = columns.next_multiple_of(128) / 8;
        let team = [32, 64, 128, 256].into_iter().find(|team| pieces <= team * 4).unwrap_or(512);
        Self {
            element,
            team: team as u32,
            chunks: pieces.div_ceil(team) as u32,
            symmetric: q.symmetric,
            widened: !q.full_range,
            fixed: q.range.is_some(),
        }
    }

    /// Rows that a block takes.
    pub(super) fn rows(self) -> u32 {
        self.threads() / self.team
    }
}

impl Kernel for QuantizeRows {
    const ENTRY: &'static str = "quantize_rows";
    const TEXT: &'static str = include_str!("quantize_rows.cu");

    fn definitions(self) -> String {
        let flag = u8::from;
        format!(
            "#define IN {}\n#define TEAM {}\n#define CHUNKS {}\n#define SYMMETRIC {}\n#define WIDENED {}\n#define FIXED {}",
            self.element.name(),
            self.team,
            self.chunks,
            flag(self.symmetric),
            flag(self.widened),
            flag(self.fixed)
        )
    }

    fn threads(self) -> u32 {
        self.team.max(256)
    }
}

/// A packed weight to codes: `weight_codes.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct WeightCodes {
    /// Of the scales.
    pub(super) element: Element,
    pub(super) bits: u32,
    pub(super) binary: bool,
}

impl WeightCodes {
    /// Rows that a block takes.
    pub(super) const ROWS: u32 = 4;
}

impl Kernel for WeightCodes {
    const ENTRY: &'static str = "weight_codes";
    const TEXT: &'static str = include_str!("weight_codes.cu");

    fn definitions(self) -> String {
        format!(
            "#define SCALE {}\n#define BITS {}\n#define BINARY {}",
            self.element.name(),
            self.bits,
            u8::from(self.binary)
        )
    }

    fn threads(self) -> u32 {
        32 * Self::ROWS
    }
}

/// The product of codes: `int8_product.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Int8Product {
    /// Columns of a tile: 64, 128, 192 or 256.
    pub(super) columns: u32,
    pub(super) element: Element,
    pub(super) activation: Activation,
    pub(super) bias: Option<Element>,
    pub(super) shift: bool,
}

impl Int8Product {
    /// Rows of a tile.
    pub(super) const ROWS: u32 = 128;

    /// Bytes of a tile of both inputs.
    fn stage(self) -> u32 {
        (Self::ROWS + self.columns) * 128
    }

    /// Bytes in which eight warps rearrange their results, and barriers.
    const REST: u32 = 8 * 16 * (128 + 16) + 256;

    /// As many as fit into the 227 KiB of shared memory that a block may have, up to eight.
    fn stages(self) -> u32 {
        ((227 * 1024 - Self::REST) / self.stage()).min(8)
    }

    /// The instruction for one step of a tile: sums of 64 rows, a half of them in each thread's registers.
    fn instruction(self) -> String {
        let (columns, registers) = (self.columns, self.columns / 2);
        let list = |item: &dyn Fn(u32) -> String| (0..registers).map(item).collect::<Vec<_>>().join(", ");
        let mut text = String::new();
        let _ = write!(
            text,
            "DEVICE void WGMMA(int (&d)[{registers}], u64 a, u64 b, bool add) {{\n\
             asm volatile(\"{{\\n.reg .pred add;\\nsetp.ne.b32 add, %{}, 0;\\n\"\n\
             \"wgmma.mma_async.sync.aligned.m64n{columns}k32.s32.s8.s8 {{{}}}, %{registers}, %{}, add;\\n}}\"\n\
             : {} : \"l\"(a), \"l\"(b), \"r\"(static_cast<int>(add)));\n}}\n",
            registers + 2,
            list(&|i| format!("%{i}")),
            registers + 1,
            list(&|i| format!("\"+r\"(d[{i}])")),
        );
        text
    }
}

impl Kernel for Int8Product {
    const ENTRY: &'static str = "int8_product";
    const TEXT: &'static str = include_str!("int8_product.cu");

    fn definitions(self) -> String {
        let activation = match self.activation {
            Activation::Identity => 0,
            Activation::Gelu => 1,
            Activation::GeluTanh => 2,
            Activation::Relu => 3,
        };
        format!(
            "#define BN {}\n#define STAGES {}\n#define OUT {}\n\
             #define ACTIVATION {activation}\n#define HAS_BIAS {}\n#define BIAS {}\n#define HAS_SHIFT {}",
            self.columns,
            self.stages(),
            self.element.name(),
            u8::from(self.bias.is_some()),
            self.bias.map_or("", Element::name),
            u8::from(self.shift),
        )
    }

    fn helpers(self) -> String {
        self.instruction()
    }

    fn threads(self) -> u32 {
        384
    }

    fn shared_bytes(self) -> usize {
        (self.stages() * self.stage() + Self::REST) as usize
    }
}

/// Attention of one head by 64 queries: `attention.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Attention {
    pub(super) element: Element,
    /// Width of a head.
    pub(super) width: u32,
    pub(super) causal: bool,
    pub(super) mask: bool,
}

impl Attention {
    /// Queries that a block takes.
    pub(super) const QUERIES: usize = 64;
}

impl Kernel for Attention {
    const ENTRY: &'static str = "attention";
    const TEXT: &'static str = include_str!("attention.cu");

    fn definitions(self) -> String {
        let (name, lowest) = match self.element {
            Element::F16 => ("f16", "-3.0e4f"),
            _ => ("bf16", "-1.0e30f"),
        };
        format!(
            "#define T {}\n#define T_NAME \"{name}\"\n#define D {}\n#define CAUSAL {}\n#define HAS_MASK {}\n\
             #define LOWEST {lowest}",
            self.element.name(),
            self.width,
            u8::from(self.causal),
            u8::from(self.mask)
        )
    }

    fn threads(self) -> u32 {
        128
    }
}
