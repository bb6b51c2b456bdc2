//! What the manifest says of weights of which single entries or small blocks were removed.

use briquette_checkpoint::Dtype;
use briquette_core::{LayerKind, SparsePattern};
use serde::{Deserialize, Serialize};

/// How a weight with zeros lies in `model.safetensors`.
///
/// Bits stand eight to a byte, the lowest first, 1 for what stays; each row of bits begins with a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SparseFormat {
    /// As `sparse-bitmask` of compressed-tensors: `weight.compressed`, the kept entries row by row; `weight.bitmask`, a
    /// bit for each entry; `weight.row_offsets`, where each row begins among the entries; `weight.shape`.
    #[serde(rename = "sparse-bitmask")]
    Bitmask,
    /// As `sparse-24-bitmask` of compressed-tensors, for 2:4: `compressed` `[out, in / 2]`, `bitmask`, `shape`.
    #[serde(rename = "sparse-24-bitmask")]
    TwoOfFour,
    /// `weight.compressed` `[blocks kept, rows, columns]`; `weight.bitmask`, a bit for each block; `weight.shape`.
    #[serde(rename = "block-bitmask")]
    Blocks,
    /// With its zeros, because that takes fewer bytes.
    #[serde(rename = "dense")]
    Dense,
    /// As codes of a quantized weight, the zeros among them.
    #[serde(rename = "codes")]
    Codes,
}

impl SparseFormat {
    /// Whether zeros take no place in the file.
    pub fn is_sparse(self) -> bool {
        matches!(self, Self::Bitmask | Self::TwoOfFour | Self::Blocks)
    }
}

/// One weight that lost entries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SparseRecord {
    /// Name of its layer.
    pub name: String,
    /// Kind of its layer.
    pub kind: LayerKind,
    /// Canonical shape `[out, in]`, in which it lies in the file where it is stored without its zeros.
    pub shape: [usize; 2],
    /// Type of its entries.
    pub dtype: Dtype,
    /// What the kept entries have in common.
    pub pattern: SparsePattern,
    /// How many entries are kept.
    pub kept: usize,
    /// Its form in the file: the smaller of the two that the next two numbers speak of.
    pub format: SparseFormat,
    /// Bytes with zeros: of its entries, or of its codes.
    pub dense_bytes: u64,
    /// Bytes without zeros: kept entries or codes, bits, and what else the form needs.
    pub sparse_bytes: u64,
}

impl SparseRecord {
    /// Bytes that the weight takes in the file.
    pub fn stored_bytes(&self) -> u64 {
        if self.format.is_sparse() { self.sparse_bytes } else { self.dense_bytes }
    }

    /// Rows and columns of what one bit stands for.
    pub(super) fn block(&self) -> [usize; 2] {
        match (self.format, self.pattern) {
            (SparseFormat::Blocks, SparsePattern::Block { rows, columns }) => [rows, columns],
            _ => [1, 1],
        }
    }

    /// Rows of bits, and columns of them.
    pub(super) fn bits(&self) -> [usize; 2] {
        let [r, c] = self.block();
        [self.shape[0] / r, self.shape[1] / c]
    }

    /// The name of one of its tensors.
    pub(super) fn tensor(&self, part: &str) -> String {
        match self.format {
            SparseFormat::TwoOfFour => format!("{}.{part}", self.name),
            _ => format!("{}.weight.{part}", self.name),
        }
    }

    /// Names, types and shapes of its tensors where it is stored without its zeros.
    pub(super) fn expected(&self) -> Vec<(String, Dtype, Vec<usize>)> {
        let [rows, columns] = self.shape;
        let [bit_rows, bit_columns] = self.bits();
        let bits = (self.tensor("bitmask"), Dtype::U8, vec![bit_rows, bit_columns.div_ceil(8)]);
        let part = |name: &str, dtype, shape| (self.tensor(name), dtype, shape);
        let [r, c] = self.block();
        match self.format {
            SparseFormat::Bitmask => vec![
                part("compressed", self.dtype, vec![self.kept]),
                bits,
                part("row_offsets", Dtype::I64, vec![rows]),
                part("shape", Dtype::I64, vec![2]),
            ],
            SparseFormat::TwoOfFour => vec![
                part("compressed", self.dtype, vec![rows, columns / 2]),
                bits,
                part("shape", Dtype::I64, vec![2, 1]),
            ],
            SparseFormat::Blocks => vec![
                part("compressed", self.dtype, vec![self.kept / (r * c), r, c]),
                bits,
                part("shape", Dtype::I64, vec![2]),
            ],
            SparseFormat::Dense | SparseFormat::Codes => Vec::new(),
        }
    }
}
