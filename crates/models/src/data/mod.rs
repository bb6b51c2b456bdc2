//! Data files: reading and checking. What a file holds is decided by its extension.

mod cifar;
mod text;
mod tsv;

use crate::task::Task;
use std::io;
use std::path::{Path, PathBuf};

pub use cifar::RECORD_BYTES;

/// A data file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused.
    #[error("{}: {source}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file for another kind of model, or of no known kind.
    #[error("{}: this model wants {wanted}", .file.display())]
    Kind {
        /// The file.
        file: PathBuf,
        /// The kind wanted, in words.
        wanted: &'static str,
    },
    /// A file without examples.
    #[error("{}: holds no examples", .file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// A line that cannot be read.
    #[error("{}:{line}: {reason}", .file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A binary file that is cut off, or of another format.
    #[error("{}: {bytes} bytes are no whole number of records of {RECORD_BYTES}", .file.display())]
    Length {
        /// The file.
        file: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// A binary record with an impossible label.
    #[error("{}: record {record}: label {label} is not below {classes}", .file.display())]
    Label {
        /// The file.
        file: PathBuf,
        /// The record, from 0.
        record: usize,
        /// Its label.
        label: u8,
        /// Number of classes.
        classes: usize,
    },
    /// A text that is shorter than what the model sees at once.
    #[error("{}: {tokens} tokens; one window takes {window} and the one after", .file.display())]
    Short {
        /// The file.
        file: PathBuf,
        /// Its tokens.
        tokens: usize,
        /// The model's window.
        window: usize,
    },
}

/// The contents of a data file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Data {
    /// Texts with labels.
    Sentences(Vec<(String, usize)>),
    /// One running text.
    Text(String),
    /// CIFAR-10 records: a label, then red, green and blue planes of 32 x 32 pixels.
    Records(Vec<u8>),
}

/// Reads a data file for a model that does `task`.
pub(crate) fn read(file: &Path, task: &Task) -> Result<Data, DataError> {
    let extension = file.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let bytes = || std::fs::read(file).map_err(|source| DataError::Io { file: file.into(), source });
    match (task, extension.as_str()) {
        (Task::Classification { labels, .. }, "tsv") => {
            tsv::parse(&utf8(bytes()?, file)?, *labels, file).map(Data::Sentences)
        }
        (Task::LanguageModel { .. }, "txt") => text::check(utf8(bytes()?, file)?, file).map(Data::Text),
        (Task::Vision { classes, .. }, "bin") => cifar::check(bytes()?, *classes, file).map(Data::Records),
        _ => Err(DataError::Kind { file: file.into(), wanted: task.data_kind() }),
    }
}

fn utf8(bytes: Vec<u8>, file: &Path) -> Result<String, DataError> {
    String::from_utf8(bytes).map_err(|e| {
        let upto = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..upto].iter().filter(|b| **b == b'\n').count();
        DataError::Line { file: file.into(), line, reason: "not UTF-8".into() }
    })
}
