//! The product of up to four rows with a packed weight, in whole numbers.

use super::{Element, number};
use crate::activation::Activation;
use crate::cuda::source::Kernel;
use crate::quantize::TokenQuant;

/// The product of up to four rows of half floats with a packed weight, in whole numbers: `one_row.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cuda) struct OneRow {
    /// Of x and y, of 16 bits.
    pub(in crate::cuda) element: Element,
    /// Of a code: 1, 2, 4 or 8.
    pub(in crate::cuda) bits: u32,
    /// Of the scales and zeros.
    pub(in crate::cuda) scale: Element,
    pub(in crate::cuda) binary: bool,
    pub(in crate::cuda) zero: bool,
    /// Steps that share a scale, or 0 where a row has one.
    pub(in crate::cuda) span: u32,
    /// Whether a block may compute several tiles.
    pub(in crate::cuda) many: bool,
    pub(in crate::cuda) activation: Activation,
    pub(in crate::cuda) bias: Option<Element>,
    /// How inputs become codes, where they are quantized.
    pub(in crate::cuda) input: Option<InputCodes>,
    pub(in crate::cuda) tiling: Tiling,
    /// Bytes of shared memory.
    pub(in crate::cuda) shared: u32,
}

/// What of a [`TokenQuant`] a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cuda) struct InputCodes {
    symmetric: bool,
    widened: bool,
    fixed: bool,
}

impl From<TokenQuant> for InputCodes {
    fn from(q: TokenQuant) -> Self {
        Self { symmetric: q.symmetric, widened: !q.full_range, fixed: q.range.is_some() }
    }
}

/// How a product is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cuda) struct Tiling {
    /// Steps that a warp has on their way at once.
    depth: u32,
    warps: u32,
    /// Blocks that share a multiprocessor's registers.
    resident: u32,
    /// Outputs of a tile by 16.
    outputs: u32,
}

impl Tiling {
    /// The fastest on an H200 of those that were tried.
    pub(in crate::cuda) fn of(bits: u32, [outputs, columns]: [usize; 2], multiprocessors: usize) -> Self {
        let steps = columns / OneRow::step(bits);
        let tiles = outputs.div_ceil(32);
        // From half as many tiles of 32 outputs on as there are multiprocessors, they keep the memory busy.
        let (wide, many) = (2 * tiles >= multiprocessors, tiles > multiprocessors);
        let (depth, warps, resident, outputs) = match bits {
            1 => (1, 8, 2, 2),
            2 if wide => (1, 16, 1, 2),
            2 => (1, 16, 2, 1),
            4 if wide && steps <= 8 => (1, 8, 2, 2),
            4 if many || !wide => (2, 16, 2, 1),
            4 if steps > 32 => (3, 16, 1, 2),
            4 => (1, 16, 1, 2),
            _ if many => (2, 16, 2, 1),
            _ if wide => (3, 16, 1, 2),
            _ => (3, 16, 2, 1),
        };
        Self { depth, warps, resident, outputs }
    }

    /// Outputs of a tile.
    pub(in crate::cuda) fn tile(self) -> usize {
        16 * self.outputs as usize
    }

    /// Blocks that run at the same time.
    pub(in crate::cuda) fn at_once(self, multiprocessors: usize) -> usize {
        self.resident as usize * multiprocessors
    }
}

/// Where things lie in a block's shared memory, in bytes: `Inputs` in `one_row_inputs.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cuda) struct Room {
    /// Inputs as they come.
    pub(in crate::cuda) raw: usize,
    /// Sums of a tile.
    pub(in crate::cuda) parts: usize,
    /// From them to those of the next tile.
    pub(in crate::cuda) part_bytes: usize,
}

impl Room {
    pub(in crate::cuda) fn of(rows: usize, columns: usize, bits: u32, tiling: Tiling) -> Self {
        let warps = tiling.warps as usize;
        let steps = rows * (columns / OneRow::step(bits));
        let stride = columns.next_multiple_of(128) + 64;
        let raw = 2 * rows * stride + 8 * steps.next_multiple_of(2) + 16 * rows;
        // A warp takes two steps at a time, 32 bytes of floats to a thread's byte of codes.
        let parts = raw + steps.div_ceil(2 * warps) * warps * 32 * (64 / bits as usize);
        Self { raw, parts, part_bytes: 4 * warps * rows * tiling.tile() }
    }

    /// Bytes in all. Sizes are compiled for: products of similar ones have the same.
    pub(in crate::cuda) fn bytes(self) -> usize {
        (self.parts + 2 * self.part_bytes).next_multiple_of(16 * 1024)
    }
}

impl OneRow {
    /// Most rows: four times two bytes are the columns that tensor cores multiply.
    pub(in crate::cuda) const MOST: usize = 4;

    /// Most inputs: both of their bytes and they themselves take a block's shared memory.
    pub(in crate::cuda) const MOST_INPUTS: usize = 32 * 1024;

    /// Inputs that four threads read at once: 64 bytes of codes.
    pub(in crate::cuda) fn step(bits: u32) -> usize {
        512 / bits as usize
    }
}

impl Kernel for OneRow {
    const ENTRY: &'static str = "one_row";
    const TEXT: &'static str = include_str!("../one_row.cu");
    const SHARED: &'static str = concat!(include_str!("../halves.cu"), include_str!("../one_row_inputs.cu"));

    fn definitions(self) -> String {
        let flag = u8::from;
        let Tiling { depth, warps, resident, outputs } = self.tiling;
        let codes = self.input.unwrap_or(InputCodes { symmetric: true, widened: false, fixed: false });
        format!(
            "#define T {}\n#define SCALE {}\n#define BIAS {}\n#define BITS {}\n#define DEPTH {depth}\n\
             #define WARPS {warps}\n#define RESIDENT {resident}\n#define OUTPUTS {outputs}\n#define SPAN {}\n\
             #define MANY {}\n#define BINARY {}\n#define HAS_ZERO {}\n#define HAS_BIAS {}\n#define ACTIVATION {}\n\
             #define QUANTIZED {}\n#define SYMMETRIC {}\n#define WIDENED {}\n#define FIXED {}",
            self.element.name(),
            self.scale.name(),
            self.bias.map_or("", Element::name),
            self.bits,
            self.span,
            flag(self.many),
            flag(self.binary),
            flag(self.zero),
            flag(self.bias.is_some()),
            number(self.activation),
            flag(self.input.is_some()),
            flag(codes.symmetric),
            flag(codes.widened),
            flag(codes.fixed),
        )
    }

    fn threads(self) -> u32 {
        32 * self.tiling.warps
    }

    fn shared_bytes(self) -> usize {
        self.shared as usize
    }
}
