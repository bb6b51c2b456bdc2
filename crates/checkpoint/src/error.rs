//! What can be wrong with a checkpoint.

use safetensors::Dtype;
use std::io;
use std::path::PathBuf;

/// A checkpoint that cannot be read, does not fit its model, or cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("{}: {source}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A folder without weights.
    #[error("{}: holds neither `model.safetensors` nor `model.safetensors.index.json`", .folder.display())]
    NoWeights {
        /// The folder.
        folder: PathBuf,
    },
    /// A safetensors file whose header or length is wrong: truncated, or no such file at all.
    #[error("{}: not a complete safetensors file: {reason}", .file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A header entry that contradicts itself, its neighbours or the file's length.
    #[error("{}: tensor `{tensor}`: {reason}", .file.display())]
    Entry {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// A malformed `model.safetensors.index.json`, or one that its shards contradict.
    #[error("{}: {reason}", .file.display())]
    Index {
        /// The index.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor that was asked for by name.
    #[error("{}: tensor `{tensor}` is missing", .file.display())]
    Missing {
        /// The file, or the index of several.
        file: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor whose elements are of a type that cannot stand for what is wanted.
    #[error("{}: tensor `{tensor}` is of type {found}, {wanted} wanted", .file.display())]
    Type {
        /// The file.
        file: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        found: Dtype,
        /// What would do, in words.
        wanted: &'static str,
    },
    /// A checkpoint that does not fit the model: everything that is wrong with it.
    #[error("{}: does not fit the model: {}", .file.display(), lines(.problems))]
    Tensors {
        /// The file, or the index of several.
        file: PathBuf,
        /// The discrepancies, those of the model's own tensors first and in model order.
        problems: Vec<TensorProblem>,
    },
    /// A value that is finite in memory and would not be in the file.
    #[error("tensor `{tensor}`: {value} does not fit in {dtype}")]
    Overflow {
        /// The tensor.
        tensor: String,
        /// The first such value.
        value: f32,
        /// The type of the file's elements.
        dtype: Dtype,
    },
    /// A tensor to be written whose parts do not fit together.
    #[error("tensor `{tensor}` cannot be written: {reason}")]
    Unwritable {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
}

/// One discrepancy between a checkpoint and a model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorProblem {
    /// The model needs it, the file does not have it.
    #[error("`{tensor}` is missing")]
    Missing {
        /// The tensor.
        tensor: String,
    },
    /// The file has it, the model has no place for it.
    #[error("`{tensor}` is unexpected")]
    Unexpected {
        /// The tensor, as the file calls it.
        tensor: String,
    },
    /// Both have it, in different shapes.
    #[error("`{tensor}` has shape {found:?} in the file and {expected:?} in the model")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape that the file would have to have.
        expected: Vec<usize>,
    },
    /// Its elements are not floating-point numbers.
    #[error("`{tensor}` is of type {found}, one of F16, BF16, F32, F64 wanted")]
    Type {
        /// The tensor.
        tensor: String,
        /// Its type in the file.
        found: Dtype,
    },
    /// The file has it twice, under its current name and an older one.
    #[error("`{tensor}` is there twice, as `{first}` and as `{second}`")]
    Twice {
        /// The tensor.
        tensor: String,
        /// One of its names in the file.
        first: String,
        /// The other.
        second: String,
    },
}

fn lines(problems: &[TensorProblem]) -> String {
    let n = problems.len();
    let mut text = format!("{n} problem{}", if n == 1 { "" } else { "s" });
    problems.iter().for_each(|p| text.push_str(&format!("\n  {p}")));
    text
}
