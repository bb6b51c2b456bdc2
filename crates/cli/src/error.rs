//! What can go wrong, and whose fault it is.

use briquette_checkpoint::CheckpointError;
use briquette_composer::artefact::ArtefactError;
use briquette_composer::{CalibrationError, FinishError, RecipeError, ScanError};
use briquette_core::Diagnostics;
use briquette_models::ModelError;
use briquette_train::TrainError;
use std::path::{Path, PathBuf};

/// Anything that ends the program early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error("{}: {problems}", .recipe.display())]
    Plan { recipe: PathBuf, problems: Diagnostics },
    #[error(transparent)]
    Artefact(#[from] ArtefactError),
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    #[error(transparent)]
    Finish(#[from] FinishError),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A flag that cannot be honoured.
    #[error("{0}")]
    Usage(String),
    /// A backend that was not built in, or whose device cannot be had.
    #[error("{0}")]
    Backend(String),
    /// Never the user's fault.
    #[error("{0}")]
    Internal(String),
}

impl CliError {
    /// Whether the user could not have avoided it.
    pub(crate) fn is_internal(&self) -> bool {
        matches!(self, Self::Internal(_))
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}

/// Writes a result file. Its folder must exist.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), CliError> {
    std::fs::write(path, text).map_err(|e| CliError::io(path, e))
}
