//! `briquette.json`.

use super::digest::sha256_hex;
use super::indices::Indices;
use super::sparse_record::SparseRecord;
use briquette_core::{CodeKind, InputQuantization, LayerKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Version of the manifest and of the layouts it describes.
pub const FORMAT_VERSION: u64 = 1;

/// How a layer's weight lies in `model.safetensors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// `weight`: one signed byte for each code, in the layer's own shape.
    #[serde(rename = "int-quantized")]
    IntQuantized,
    /// `weight_packed`: unsigned codes as a dense little-endian bit stream for each row, in 32-bit
    /// words; `weight_shape`: the shape.
    #[serde(rename = "pack-quantized")]
    PackQuantized,
}

/// How zero points lie in `model.safetensors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZeroLayout {
    /// As the format does for codes: bytes, or packed along the rows.
    Compressed,
    /// 32-bit integers, for zero points that lie outside the range of the codes.
    Plain,
}

/// One layer whose weight is packed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRecord {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: LayerKind,
    /// Canonical shape `[out, in]`.
    pub shape: [usize; 2],
    /// Shape of the unpacked weight in a checkpoint of canonical orientation: `[out, in]`, or
    /// `[out, in/groups, kh, kw]` for a convolution.
    pub stored_shape: Vec<usize>,
    /// Bits of a code.
    pub bits: u32,
    /// What a code stands for.
    pub code: CodeKind,
    /// Columns that share a scale.
    pub group: usize,
    /// Layout of the codes.
    pub format: Format,
    /// Layout of the zero points; asymmetric codes only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub zeros: Option<ZeroLayout>,
    /// Rank of the correction that is added to the codes' values, where there is one: 16-bit factors
    /// `low_rank_left` `[out, rank]` and `low_rank_right` `[rank, in]` beside the weight.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub low_rank: Option<usize>,
    /// Frobenius norm of the change, relative to that of the weight.
    pub relative_error: f64,
}

/// The layers of the source that are left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReductionRecord {
    /// Name of the list of layers.
    pub list: String,
    /// Which layers of the source they were, counted from 0; here they are numbered from 0 again.
    pub kept: Vec<usize>,
    /// How many layers the source had.
    pub of: usize,
}

/// What was removed of the source's parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemovalRecord {
    /// The groups of parts that lost some.
    pub groups: Vec<RemovedGroup>,
    /// Numbers of the model that are no longer those of the source, by name: heads of attentions, groups of
    /// convolutions, offsets of shortcuts.
    pub numbers: BTreeMap<String, usize>,
}

/// What was removed of parts that can only go together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemovedGroup {
    /// Name of the group: that of the first layer that makes its values.
    pub group: String,
    /// How many units the source had.
    pub of: usize,
    /// Which of them stay, counted from 0, as `0-4,6`.
    pub kept: Indices,
    /// The axes that are shorter than in the source.
    pub axes: Vec<AxisRecord>,
}

/// An axis that is shorter than in the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AxisRecord {
    /// Name of the tensor.
    pub tensor: String,
    /// The axis; weights of linear layers are counted as `[in, out]`, whatever the file's orientation.
    pub axis: usize,
    /// Its length in the source.
    pub of: usize,
    /// Its length here.
    pub kept: usize,
}

/// `briquette.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u64,
    /// The writer: name and version.
    pub written_by: String,
    /// The only source of randomness.
    pub seed: u64,
    /// The recipe as given.
    pub recipe: Value,
    /// The plan as carried out.
    pub plan: Value,
    /// Which layers are left, where the recipe reduced them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub layer_reduction: Option<ReductionRecord>,
    /// Which parts of layers are left, where the recipe removed some.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub removed: Option<RemovalRecord>,
    /// Packed layers, in model order.
    pub layers: Vec<LayerRecord>,
    /// Weights that lost single entries or small blocks, in model order.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub sparse: Vec<SparseRecord>,
    /// Input quantization by layer name.
    pub inputs: BTreeMap<String, InputQuantization>,
    /// SHA-256 of what the artefact was made from, by file name.
    pub made_from: BTreeMap<String, String>,
    /// SHA-256 of the artefact's other files that matter, by file name.
    pub files: BTreeMap<String, String>,
    /// SHA-256 of this manifest as compact JSON with this field empty.
    pub digest: String,
}

impl Manifest {
    /// What [`digest`](Self::digest) should be.
    pub(super) fn own_digest(&self) -> String {
        let blank = Self { digest: String::new(), ..self.clone() };
        sha256_hex(serde_json::to_string(&blank).expect("a manifest has string keys only").as_bytes())
    }

    /// The file's text.
    pub(super) fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a manifest has string keys only");
        text.push('\n');
        text
    }
}
