//! What can be wrong with an artefact.

use briquette_checkpoint::CheckpointError;
use std::path::PathBuf;

/// An artefact that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtefactError {
    /// A file cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// A JSON file that is none, or lacks or misstates something.
    #[error("{}: {reason}", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column or key.
        reason: String,
    },
    /// Written by a later version.
    #[error("{}: format version {found}, this program reads up to {known}", .path.display())]
    Version {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The latest version known here.
        known: u64,
    },
    /// A file that was changed after it was written.
    #[error("{}: content was changed or damaged: SHA-256 is {found}, the manifest says {expected}", .path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// Of its content.
        found: String,
        /// As written.
        expected: String,
    },
    /// A tensor whose type, shape or values contradict the manifest.
    #[error("{}: tensor `{tensor}`: {reason}", .path.display())]
    Tensor {
        /// The tensors' file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// A layer of the manifest that the model lacks or has in another shape.
    #[error("{}: layer `{layer}`: {reason}", .path.display())]
    Layer {
        /// The manifest.
        path: PathBuf,
        /// The layer.
        layer: String,
        /// What is wrong.
        reason: String,
    },
    /// The destination holds something that is no artefact.
    #[error("{}: exists and is no artefact of this program; it is left alone", .path.display())]
    Occupied {
        /// The destination.
        path: PathBuf,
    },
    /// A plan whose layers were never chosen.
    #[error("which {count} of the {of} layers of `{list}` stay was never decided (`Plan::with_kept`)")]
    Undecided {
        /// Name of the list.
        list: String,
        /// How many stay.
        count: usize,
        /// Of how many.
        of: usize,
    },
    /// A tensor file.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}
