//! Checkpoints: written beside their place and renamed, the older ones removed.

use crate::error::TrainError;
use crate::trainer::Measured;
use briquette_composer::Position;
use burn::prelude::*;
use burn::record::{BinFileRecorder, FullPrecisionSettings, Record, Recorder};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Where a run's checkpoints lie.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    folder: PathBuf,
    fingerprint: String,
}

/// What a checkpoint says beside its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// What the run was made from.
    pub fingerprint: String,
    /// The session's position.
    pub position: Position,
    /// What was measured so far.
    pub measured: Vec<Measured>,
    /// Seconds of training so far.
    pub seconds: f64,
    /// The best value so far, where the best parameters are saved too.
    pub best: Option<f64>,
}

const STATE: &str = "state.json";

/// A checkpoint that is being written.
pub(crate) struct Draft {
    at: PathBuf,
    to: PathBuf,
}

impl Checkpoints {
    /// In `folder`, for a run that `fingerprint` stands for: model, recipe, data and settings.
    pub fn new(folder: impl Into<PathBuf>, fingerprint: impl Into<String>) -> Self {
        Self { folder: folder.into(), fingerprint: fingerprint.into() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Begins the checkpoint of `step`.
    pub(crate) fn draft(&self, step: usize) -> Result<Draft, TrainError> {
        let at = self.folder.join("unfinished");
        let to = self.folder.join(name(step));
        for old in [&at, &to] {
            if old.exists() {
                fs::remove_dir_all(old).map_err(|e| problem(old, &e))?;
            }
        }
        fs::create_dir_all(&at).map_err(|e| problem(&at, &e))?;
        Ok(Draft { at, to })
    }

    /// The newest finished checkpoint.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or it is of another run.
    pub fn newest(&self) -> Result<(PathBuf, Saved), TrainError> {
        let newest = self.steps().into_iter().max();
        let Some(step) = newest else {
            return Err(TrainError::NothingToResume { path: self.folder.clone() });
        };
        let path = self.folder.join(name(step));
        let file = path.join(STATE);
        let text = fs::read(&file).map_err(|e| problem(&file, &e))?;
        let saved: Saved = serde_json::from_slice(&text)
            .map_err(|e| TrainError::Checkpoint { path: file, reason: e.to_string() })?;
        if saved.fingerprint == self.fingerprint {
            Ok((path, saved))
        } else {
            Err(TrainError::OtherRun { path })
        }
    }

    /// Removes all checkpoints, when the run is done.
    ///
    /// # Errors
    /// When the folder cannot be removed.
    pub fn remove(&self) -> Result<(), TrainError> {
        match fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(problem(&self.folder, &e)),
            _ => Ok(()),
        }
    }

    fn steps(&self) -> Vec<usize> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().to_str()?.strip_prefix("step-")?.parse().ok()).collect()
    }

    fn prune(&self, newest: usize) -> Result<(), TrainError> {
        for step in self.steps().into_iter().filter(|s| *s != newest) {
            let path = self.folder.join(name(step));
            fs::remove_dir_all(&path).map_err(|e| problem(&path, &e))?;
        }
        Ok(())
    }
}

impl Draft {
    /// Adds tensors.
    pub(crate) fn tensors<B: Backend, R: Record<B>>(&self, file: &str, record: R) -> Result<(), TrainError> {
        let path = self.at.join(file);
        recorder()
            .record(record, path.clone())
            .map_err(|e| TrainError::Checkpoint { path: path.clone(), reason: e.to_string() })?;
        flush(&path.with_extension("bin"))
    }

    /// Puts the checkpoint into its place and removes the older ones.
    pub(crate) fn commit(self, saved: &Saved, checkpoints: &Checkpoints) -> Result<(), TrainError> {
        let file = self.at.join(STATE);
        let text = serde_json::to_vec_pretty(saved).expect("plain data");
        fs::write(&file, text).map_err(|e| problem(&file, &e))?;
        flush(&file)?;
        fs::rename(&self.at, &self.to).map_err(|e| problem(&self.to, &e))?;
        flush(&checkpoints.folder)?;
        checkpoints.prune(saved.position.step)
    }
}

/// Reads tensors of a checkpoint.
pub(crate) fn tensors<B: Backend, R: Record<B>>(
    checkpoint: &Path,
    file: &str,
    device: &B::Device,
) -> Result<R, TrainError> {
    let path = checkpoint.join(file);
    recorder().load(path.clone(), device).map_err(|e| TrainError::Checkpoint { path, reason: e.to_string() })
}

fn recorder() -> BinFileRecorder<FullPrecisionSettings> {
    BinFileRecorder::new()
}

fn name(step: usize) -> String {
    format!("step-{step}")
}

/// To the disk, so that a renamed folder is whole even after a power cut.
fn flush(path: &Path) -> Result<(), TrainError> {
    File::open(path).and_then(|f| f.sync_all()).map_err(|e| problem(path, &e))
}

fn problem(path: &Path, error: &io::Error) -> TrainError {
    TrainError::Checkpoint { path: path.into(), reason: error.to_string() }
}
