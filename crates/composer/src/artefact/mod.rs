//! The artefact: a folder that holds a compressed model and everything needed to rebuild it.
//!
//! | file | what |
//! |---|---|
//! | `config.json` | the model's own configuration, with `quantization_config` where the compressed-tensors format can express what was done |
//! | `model.safetensors` | packed weights in the layout of compressed-tensors, all other tensors in the types of the source |
//! | `briquette.json` | the [`Manifest`]: format version, recipe, plan, how each layer is packed, digests |
//! | `report.json`, `report.md` | the report |
//! | `tokenizer.json` and the like | copied |
//!
//! A pruned weight is stored without its zeros where that takes fewer bytes, as a bit for each entry or block and the
//! entries that are kept, in the layout of compressed-tensors' former sparse formats. That package reads them up to
//! version 0.14; the manifest alone describes them, and `config.json` claims nothing of them.
//!
//! A folder is written beside its destination and renamed, so that it is whole or absent. Reading
//! compares digests and checks every tensor's type and shape before anything is allocated.

mod compressed_tensors;
mod decode;
mod digest;
mod encode;
mod error;
mod expand;
mod indices;
mod manifest;
mod narrow;
mod read;
mod sparse_decode;
mod sparse_encode;
mod sparse_record;
mod write;

pub use briquette_checkpoint::Naming;
pub use digest::sha256_hex;
pub use error::ArtefactError;
pub use indices::Indices;
pub use manifest::{
    AxisRecord, FORMAT_VERSION, Format, LayerRecord, Manifest, ReductionRecord, RemovalRecord, RemovedGroup,
    ZeroLayout,
};
pub use read::Artefact;
pub use sparse_record::{SparseFormat, SparseRecord};
pub use write::{Source, Staged, stage};

/// Name of the manifest's file, by which an artefact is recognised.
pub const MANIFEST: &str = "briquette.json";
/// Name of the model's configuration.
pub const CONFIG: &str = "config.json";
/// Name of the tensors' file.
pub const TENSORS: &str = "model.safetensors";
