//! The product of a few rows with a packed weight.

use super::{Element, number};
use crate::activation::Activation;
use crate::cuda::source::Kernel;

/// The product of a few rows of half floats with a packed weight: `few_rows.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cuda) struct FewRows {
    /// Of x and y, of 16 bits.
    pub(in crate::cuda) element: Element,
    /// Of a code: 1, 2, 4 or 8.
    pub(in crate::cuda) bits: u32,
    /// Of the scales and zeros.
    pub(in crate::cuda) scale: Element,
    pub(in crate::cuda) binary: bool,
    pub(in crate::cuda) zero: bool,
    /// Whether a row has several scales.
    pub(in crate::cuda) grouped: bool,
    pub(in crate::cuda) activation: Activation,
    pub(in crate::cuda) bias: Option<Element>,
    /// How the work is shared out.
    pub(in crate::cuda) shares: Shares,
}

/// How a product of a few rows is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shares {
    /// Steps that a warp has on their way at once.
    chunks: u32,
    /// Tiles of eight rows that a block computes.
    tiles: u32,
    warps: u32,
    /// Blocks that share a multiprocessor's registers.
    resident: u32,
    /// Outputs of a block by 16.
    outputs: u32,
    /// Whether codes are multiplied as they are lifted.
    lifted: bool,
}

impl Shares {
    /// The fastest on an H200 of those that were tried, for each width of codes; `None` where none is known.
    pub(in crate::cuda) fn of(rows: usize, outputs: usize, bits: u32) -> Option<Self> {
        // From so many outputs on, blocks of 32 are enough for all multiprocessors, and for all of them several times.
        let (wide, many) = (outputs >= 2048, outputs >= 8192);
        let (chunks, tiles, warps, resident, outputs, lifted) = match (bits, rows <= 8) {
            (1, true) => (1, 1, 8, 2, 1, true),
            (2, true) => (1, 1, 16, 1, if wide { 2 } else { 1 }, true),
            (4, true) if many => (2, 1, 8, 2, 2, true),
            (4, true) if wide => (2, 1, 16, 1, 2, true),
            (4, true) => (1, 1, 16, 2, 1, false),
            (8, true) => (4, 1, 8, 2, 1, false),
            (2, false) => (1, 2, 8, 2, 2, false),
            (4, false) => (2, 2, 8, 2, 2, false),
            (8, false) => (4, 2, 8, 2, 1, false),
            _ => return None,
        };
        Some(Self { chunks, tiles, warps, resident, outputs, lifted })
    }

    /// Blocks for a product of some rows with a weight of some outputs.
    pub(in crate::cuda) fn blocks(self, rows: usize, outputs: usize) -> usize {
        rows.div_ceil(8 * self.tiles as usize) * outputs.div_ceil(16 * self.outputs as usize)
    }
}

impl FewRows {
    /// Inputs that four threads read at once: 64 bytes of codes.
    pub(in crate::cuda) fn step(bits: u32) -> usize {
        512 / bits as usize
    }

    /// Most rows: for more, values that are unpacked once are faster.
    pub(in crate::cuda) const MOST: usize = 48;
}

impl Kernel for FewRows {
    const ENTRY: &'static str = "few_rows";
    const TEXT: &'static str = include_str!("../few_rows.cu");
    const SHARED: &'static str = include_str!("../halves.cu");

    fn definitions(self) -> String {
        let flag = u8::from;
        // A half float has room for eight bits below its 1024, a bfloat16 for seven below its 128.
        let paired = self.bits < 8 || self.element == Element::F16;
        let Shares { chunks, tiles, warps, resident, outputs, lifted } = self.shares;
        format!(
            "#define T {}\n#define T_NAME \"{}\"\n#define SCALE {}\n#define BIAS {}\n#define BITS {}\n\
             #define PAIRED {}\n#define LIFTED {}\n#define CHUNKS {chunks}\n#define TILES {tiles}\n\
             #define WARPS {warps}\n#define RESIDENT {resident}\n#define OUTPUTS {outputs}\n#define GROUPED {}\n#define BINARY {}\n\
             #define HAS_ZERO {}\n#define HAS_BIAS {}\n#define ACTIVATION {}",
            self.element.name(),
            self.element.short(),
            self.scale.name(),
            self.bias.map_or("", Element::name),
            self.bits,
            flag(paired),
            flag(lifted && paired),
            flag(self.grouped),
            flag(self.binary),
            flag(self.zero),
            flag(self.bias.is_some()),
            number(self.activation),
        )
    }

    fn threads(self) -> u32 {
        32 * self.shares.warps
    }
}
