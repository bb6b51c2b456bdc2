//! What is done to an input or a weight before a product.

use super::Element;
use crate::cuda::source::Kernel;
use crate::quantize::TokenQuant;

/// Rows of floats to codes: `quantize_rows.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cuda) struct QuantizeRows {
    pub(in crate::cuda) element: Element,
    /// Threads that share a row.
    pub(in crate::cuda) team: u32,
    /// Pieces of eight columns that each of them holds.
    pub(in crate::cuda) chunks: u32,
    pub(in crate::cuda) symmetric: bool,
    pub(in crate::cuda) widened: bool,
    pub(in crate::cuda) fixed: bool,
}

impl QuantizeRows {
    /// Columns that the widest team holds in registers.
    pub(in crate::cuda) const WIDEST: usize = 512 * 8 * 4;

    /// `columns` at most [`WIDEST`](Self::WIDEST).
    pub(in crate::cuda) fn new(element: Element, columns: usize, q: TokenQuant) -> Self {
        let pieces = columns.next_multiple_of(128) / 8;
        // Of the teams that were tried, the fastest on an H200: registers for a longer part of a row cost less than teams
        // that have to meet.
        let team = [(32, 3), (64, 8), (128, 8), (256, 4)];
        let team = team.into_iter().find(|(team, most)| pieces <= team * most).map_or(512, |(team, _)| team);
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
    pub(in crate::cuda) fn rows(self) -> u32 {
        self.threads() / self.team
    }
}

impl Kernel for QuantizeRows {
    const ENTRY: &'static str = "quantize_rows";
    const TEXT: &'static str = include_str!("../quantize_rows.cu");

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
        self.team.max(128)
    }
}

/// A packed weight to codes: `weight_codes.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cuda) struct WeightCodes {
    /// Of the scales.
    pub(in crate::cuda) element: Element,
    pub(in crate::cuda) bits: u32,
    pub(in crate::cuda) binary: bool,
}

impl WeightCodes {
    /// Rows that a block takes.
    pub(in crate::cuda) const ROWS: u32 = 4;
}

impl Kernel for WeightCodes {
    const ENTRY: &'static str = "weight_codes";
    const TEXT: &'static str = include_str!("../weight_codes.cu");

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

/// Rows of half floats to the blocks that a product reads: `lay_out_rows.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cuda) struct LayOutRows {
    pub(in crate::cuda) element: Element,
}

impl LayOutRows {
    /// Pieces of eight elements that a block moves.
    pub(in crate::cuda) const PIECES: usize = 256;
}

impl Kernel for LayOutRows {
    const ENTRY: &'static str = "lay_out_rows";
    const TEXT: &'static str = include_str!("../lay_out_rows.cu");

    fn definitions(self) -> String {
        format!("#define T {}", self.element.name())
    }

    fn threads(self) -> u32 {
        Self::PIECES as u32
    }
}

/// A packed weight to half floats: `weight_values.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::cuda) struct WeightValues {
    /// Of the values, of 16 bits.
    pub(in crate::cuda) element: Element,
    /// Of the scales and zeros.
    pub(in crate::cuda) scale: Element,
    pub(in crate::cuda) bits: u32,
    pub(in crate::cuda) binary: bool,
    pub(in crate::cuda) zero: bool,
    /// Whether eight neighbours always share a scale.
    pub(in crate::cuda) even: bool,
}

impl WeightValues {
    /// Pieces of eight values that a block unpacks.
    pub(in crate::cuda) const PIECES: usize = 256;
}

impl Kernel for WeightValues {
    const ENTRY: &'static str = "weight_values";
    const TEXT: &'static str = include_str!("../weight_values.cu");

    fn definitions(self) -> String {
        let flag = u8::from;
        format!(
            "#define T {}\n#define SCALE {}\n#define BITS {}\n#define BINARY {}\n#define HAS_ZERO {}\n#define EVEN {}",
            self.element.name(),
            self.scale.name(),
            self.bits,
            flag(self.binary),
            flag(self.zero),
            flag(self.even),
        )
    }

    fn threads(self) -> u32 {
        Self::PIECES as u32
    }
}
