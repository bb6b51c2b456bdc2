//! What can be wrong with a model folder or a data file.

use briquette_checkpoint::CheckpointError;
use briquette_core::Diagnostics;
use std::io;
use std::path::PathBuf;

/// A model or data that cannot be used as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The operating system refused.
    #[error("{}: {source}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A data file.
    #[error(transparent)]
    Data(#[from] crate::DataError),
    /// A configuration that is no JSON object.
    #[error("{}: {reason}", .file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A configuration that this library cannot honour, or that contradicts itself.
    #[error("{}:{}", .file.display(), lines(.problems))]
    Config {
        /// The file.
        file: PathBuf,
        /// Everything that is wrong, by key.
        problems: Diagnostics,
    },
    /// A folder that is not there, and whose name is no hub id either.
    #[error("{}: no such folder", .path.display())]
    NoFolder {
        /// The path as given.
        path: PathBuf,
    },
    /// A file where a folder is wanted.
    #[error("{}: a model is a folder, this is a file", .path.display())]
    NotAFolder {
        /// The path as given.
        path: PathBuf,
    },
    /// A hub id that could not be downloaded.
    #[error("`{model}`: there is no such folder, and as a model of the hub it could not be had: {reason}")]
    Hub {
        /// The model as given.
        model: String,
        /// Why.
        reason: String,
    },
    /// A tokenizer that is missing, malformed or does not fit the model.
    #[error("{}: {reason}", .file.display())]
    Tokenizer {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A batch that the model cannot take.
    #[error("{0}")]
    Batch(String),
    /// A model that computes something else than numbers.
    #[error("the model's output for {what} is not finite")]
    NotFinite {
        /// Which examples.
        what: String,
    },
}

fn lines(problems: &Diagnostics) -> String {
    problems.iter().map(|p| format!("\n  {p}")).collect()
}
