//! One safetensors file or several shards, read tensor by tensor.

use crate::convert::{decode, is_float};
use crate::error::CheckpointError;
use crate::header::{self, Entry};
use rayon::prelude::*;
use safetensors::Dtype;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Component, Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Values converted at a time; large enough for a read of the operating system to pay.
const BLOCK: usize = 1 << 16;

/// The tensors of a checkpoint: names, types and shapes in memory, values on disk.
///
/// Values are read where they stand in the file rather than through a memory map: a file that shrinks while
/// it is mapped kills the process, a file that shrinks while it is read is an error.
#[derive(Debug)]
pub struct TensorFiles {
    /// The file, or the index of several.
    source: PathBuf,
    shards: Vec<Shard>,
    tensors: Vec<(usize, Entry)>,
    by_name: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl TensorFiles {
    /// Opens the weights of a checkpoint folder, or one `.safetensors` or `.index.json` file.
    ///
    /// # Errors
    /// When there are no weights, a shard is missing, or a header or the index is malformed or contradicts
    /// the files' contents.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        if !path.is_dir() {
            let is_index = path.extension().is_some_and(|e| e == "json");
            return if is_index { Self::open_index(path) } else { Self::open_single(path) };
        }
        let (single, index) = (path.join(SINGLE), path.join(INDEX));
        match (single.exists(), index.exists()) {
            (true, _) => Self::open_single(&single),
            (false, true) => Self::open_index(&index),
            (false, false) => Err(CheckpointError::NoWeights { folder: path.into() }),
        }
    }

    fn open_single(path: &Path) -> Result<Self, CheckpointError> {
        let mut files = Self::empty(path);
        files.add_shard(path)?;
        Ok(files)
    }

    fn open_index(path: &Path) -> Result<Self, CheckpointError> {
        let refuse = |reason: String| CheckpointError::Index { file: path.into(), reason };
        let text = std::fs::read(path).map_err(|source| CheckpointError::Io { file: path.into(), source })?;
        let index: Index = serde_json::from_slice(&text).map_err(|e| refuse(e.to_string()))?;
        let mut names: Vec<&String> = index.weight_map.values().collect();
        names.sort();
        names.dedup();
        let mut files = Self::empty(path);
        for name in names {
            if !is_plain_name(name) {
                return Err(refuse(format!("shard `{name}` is not the name of a file in the same folder")));
            }
            let shard = path.with_file_name(name);
            if !shard.is_file() {
                return Err(refuse(format!("shard `{name}` does not exist")));
            }
            files.add_shard(&shard)?;
        }
        files.check_index(&index).map_err(refuse)?;
        Ok(files)
    }

    /// Whether every tensor stands in the shard that the index names, and no other tensor in any.
    fn check_index(&self, index: &Index) -> Result<(), String> {
        for (tensor, shard) in &index.weight_map {
            let found = self.by_name.get(tensor).map(|at| self.shard_name(*at));
            if found.as_deref() != Some(shard) {
                return Err(format!("tensor `{tensor}` is not in `{shard}`"));
            }
        }
        match self.by_name.iter().find(|(name, _)| !index.weight_map.contains_key(*name)) {
            Some((name, at)) => Err(format!("tensor `{name}` of `{}` is not listed", self.shard_name(*at))),
            None => Ok(()),
        }
    }

    fn shard_name(&self, tensor: usize) -> String {
        let path = &self.shards[self.tensors[tensor].0].path;
        path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn empty(source: &Path) -> Self {
        Self {
            source: source.into(),
            shards: Vec::new(),
            tensors: Vec::new(),
            by_name: HashMap::new(),
            metadata: BTreeMap::new(),
        }
    }

    fn add_shard(&mut self, path: &Path) -> Result<(), CheckpointError> {
        let file = File::open(path).map_err(|source| CheckpointError::Io { file: path.into(), source })?;
        let header = header::read(&file, path)?;
        for entry in header.entries {
            let at = self.tensors.len();
            if let Some(first) = self.by_name.insert(entry.name.clone(), at) {
                let reason = format!("it is in `{}` too", self.shard_name(first));
                return Err(CheckpointError::Entry { file: path.into(), tensor: entry.name, reason });
            }
            self.tensors.push((self.shards.len(), entry));
        }
        self.metadata.extend(header.metadata);
        self.shards.push(Shard { path: path.into(), file });
        Ok(())
    }

    /// The file, or the index of several.
    pub fn source(&self) -> &Path {
        &self.source
    }

    /// The files that hold the tensors.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|s| s.path.as_path())
    }

    /// The strings of `__metadata__`, of all shards together.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The names of all tensors, in the order of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(_, entry)| entry.name.as_str())
    }

    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> impl Iterator<Item = TensorRef<'_>> {
        self.tensors.iter().map(|(shard, entry)| TensorRef { shard: &self.shards[*shard], entry })
    }

    /// Bytes of all tensors together, without headers.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.iter().map(|(_, entry)| entry.bytes as u64).sum()
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, name: &str) -> Result<TensorRef<'_>, CheckpointError> {
        let missing = || CheckpointError::Missing { file: self.source.clone(), tensor: name.into() };
        let (shard, entry) = &self.tensors[*self.by_name.get(name).ok_or_else(missing)?];
        Ok(TensorRef { shard: &self.shards[*shard], entry })
    }
}

/// Whether joining `name` to a folder stays in that folder.
fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !name.contains('\\')
}

/// One tensor of a checkpoint; its values are read when asked for.
#[derive(Debug, Clone, Copy)]
pub struct TensorRef<'a> {
    shard: &'a Shard,
    entry: &'a Entry,
}

impl<'a> TensorRef<'a> {
    /// Its name in the file.
    pub fn name(&self) -> &'a str {
        &self.entry.name
    }

    /// The file that holds it.
    pub fn file(&self) -> &'a Path {
        &self.shard.path
    }

    /// The type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.entry.dtype
    }

    /// Its shape.
    pub fn shape(&self) -> &'a [usize] {
        &self.entry.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.entry.shape.iter().product()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its size in the file, in bytes.
    pub fn byte_len(&self) -> usize {
        self.entry.bytes
    }

    /// Its bytes as they stand in the file: row-major, little-endian.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn bytes(&self) -> Result<Vec<u8>, CheckpointError> {
        self.read(0, self.entry.bytes)
    }

    /// Its values, row-major, from F16, BF16, F32 or F64.
    ///
    /// # Errors
    /// When the elements are of another type or the file cannot be read.
    pub fn to_f32(&self) -> Result<Vec<f32>, CheckpointError> {
        let dtype = self.entry.dtype;
        if !is_float(dtype) {
            return Err(self.wrong_type("one of F16, BF16, F32, F64"));
        }
        let size = dtype.bitsize() / 8;
        let mut out = vec![0.0; self.len()];
        out.par_chunks_mut(BLOCK).enumerate().try_for_each(|(block, out)| {
            let bytes = self.read(block * BLOCK * size, out.len() * size)?;
            decode(dtype, &bytes, out);
            Ok(())
        })?;
        Ok(out)
    }

    /// Its 32-bit words, from I32 or U32, bit for bit.
    ///
    /// # Errors
    /// When the elements are of another type or the file cannot be read.
    pub fn to_words(&self) -> Result<Vec<u32>, CheckpointError> {
        if !matches!(self.entry.dtype, Dtype::I32 | Dtype::U32) {
            return Err(self.wrong_type("I32 or U32"));
        }
        let bytes = self.bytes()?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w)).collect())
    }

    /// Its values from any integer type but U64.
    ///
    /// # Errors
    /// When the elements are of another type or the file cannot be read.
    pub fn to_i64(&self) -> Result<Vec<i64>, CheckpointError> {
        let bytes = match self.entry.dtype {
            Dtype::I8 | Dtype::U8 | Dtype::I16 | Dtype::U16 | Dtype::I32 | Dtype::U32 | Dtype::I64 => {
                self.bytes()?
            }
            _ => return Err(self.wrong_type("an integer type")),
        };
        Ok(match self.entry.dtype {
            Dtype::I8 => bytes.iter().map(|b| i64::from(b.cast_signed())).collect(),
            Dtype::U8 => bytes.iter().map(|b| i64::from(*b)).collect(),
            Dtype::I16 => integers(&bytes, |b| i16::from_le_bytes(b).into()),
            Dtype::U16 => integers(&bytes, |b| u16::from_le_bytes(b).into()),
            Dtype::I32 => integers(&bytes, |b| i32::from_le_bytes(b).into()),
            Dtype::U32 => integers(&bytes, |b| u32::from_le_bytes(b).into()),
            _ => integers(&bytes, i64::from_le_bytes),
        })
    }

    /// The error of a tensor whose elements are of a type that does not do; `wanted` says in words what would.
    pub fn wrong_type(&self, wanted: &'static str) -> CheckpointError {
        CheckpointError::Type {
            file: self.shard.path.clone(),
            tensor: self.entry.name.clone(),
            found: self.entry.dtype,
            wanted,
        }
    }

    fn read(&self, from: usize, bytes: usize) -> Result<Vec<u8>, CheckpointError> {
        let mut out = vec![0; bytes];
        read_at(&self.shard.file, &mut out, self.entry.start + from as u64)
            .map_err(|source| CheckpointError::Io { file: self.shard.path.clone(), source })?;
        Ok(out)
    }
}

fn integers<const N: usize>(bytes: &[u8], read: fn([u8; N]) -> i64) -> Vec<i64> {
    bytes.as_chunks::<N>().0.iter().map(|b| read(*b)).collect()
}

/// Fills `out` from `offset` on without moving a cursor, so that threads can read one file at once.
#[cfg(unix)]
fn read_at(file: &File, out: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

/// Fills `out` from `offset` on; each call names its offset, so that threads can read one file at once.
#[cfg(windows)]
fn read_at(file: &File, mut out: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => {
                out = &mut out[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}
