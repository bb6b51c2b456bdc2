//! The header of one safetensors file, checked entry by entry.
//!
//! The `safetensors` crate checks the same things but does not say which tensor is at fault, and wants the
//! whole file in memory.

use crate::error::CheckpointError;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

/// The format's own limit on the header, in bytes.
const MAX_HEADER: u64 = 100_000_000;

/// Length of the field that holds the header's length, in bytes.
const LENGTH: u64 = 8;

/// One tensor of a file.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// Where its bytes start, from the beginning of the file.
    pub(crate) start: u64,
    /// Number of bytes.
    pub(crate) bytes: usize,
}

/// What a file says about itself.
#[derive(Debug)]
pub(crate) struct Header {
    /// In the order of their bytes, which tile the file without gap or overlap.
    pub(crate) entries: Vec<Entry>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Reads and checks the header of `file`; `path` is for messages.
pub(crate) fn read(file: &File, path: &Path) -> Result<Header, CheckpointError> {
    let io = |source| CheckpointError::Io { file: path.into(), source };
    let refuse = |reason: String| CheckpointError::Header { file: path.into(), reason };
    let total = file.metadata().map_err(io)?.len();
    if total < LENGTH {
        return Err(refuse(format!("it has {total} bytes, not even a header's length")));
    }
    let mut reader = BufReader::new(file);
    let mut length = [0; LENGTH as usize];
    reader.read_exact(&mut length).map_err(io)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length > total - LENGTH {
        return Err(refuse(format!("it claims a header of {length} bytes and has {total} bytes in all")));
    }
    let mut json = Vec::new();
    reader.take(length).read_to_end(&mut json).map_err(io)?;
    let json =
        serde_json::from_slice(&json).map_err(|e| refuse(format!("its header is no JSON object: {e}")))?;
    check(json, LENGTH + length, total, path)
}

/// Checks the entries of a header against each other and against the file's length.
fn check(json: Map<String, Value>, data: u64, total: u64, path: &Path) -> Result<Header, CheckpointError> {
    let refuse = |reason: String| CheckpointError::Header { file: path.into(), reason };
    let mut metadata = BTreeMap::new();
    let mut infos = Vec::new();
    for (name, value) in json {
        if name == "__metadata__" {
            metadata = serde_json::from_value(value)
                .map_err(|e| refuse(format!("`__metadata__` is no table of strings: {e}")))?;
        } else {
            infos.push(entry(name, value, path)?);
        }
    }
    infos.sort_by_key(|(_, info)| info.data_offsets);
    let mut next = 0;
    let mut entries = Vec::with_capacity(infos.len());
    for (name, info) in infos {
        let bytes = extent(&info, next, total - data).map_err(|reason| CheckpointError::Entry {
            file: path.into(),
            tensor: name.clone(),
            reason,
        })?;
        entries.push(Entry { name, dtype: info.dtype, shape: info.shape, start: data + next, bytes });
        next += bytes as u64;
    }
    if next != total - data {
        return Err(refuse(format!("its tensors take {next} bytes, {} follow the header", total - data)));
    }
    Ok(Header { entries, metadata })
}

fn entry(name: String, value: Value, path: &Path) -> Result<(String, TensorInfo), CheckpointError> {
    match serde_json::from_value(value) {
        Ok(info) => Ok((name, info)),
        Err(e) => Err(CheckpointError::Entry { file: path.into(), tensor: name, reason: e.to_string() }),
    }
}

/// Number of bytes of a tensor that has to start at `next` and end within `available`.
fn extent(info: &TensorInfo, next: u64, available: u64) -> Result<usize, String> {
    let (start, end) = info.data_offsets;
    if start as u64 != next {
        return Err(format!("its bytes start at {start}, the previous tensor's end at {next}"));
    }
    if end < start || end as u64 > available {
        return Err(format!("its bytes {start}..{end} lie outside the {available} bytes of the file's data"));
    }
    let elements = info.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let bits = elements.and_then(|n| n.checked_mul(info.dtype.bitsize()));
    match bits {
        Some(bits) if bits % 8 == 0 && bits / 8 == end - start => Ok(end - start),
        _ => Err(format!("{} of shape {:?} does not take {} bytes", info.dtype, info.shape, end - start)),
    }
}
