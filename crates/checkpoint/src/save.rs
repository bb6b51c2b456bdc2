//! A module's values as checkpoint tensors, and tensors into a file.

use crate::convert::{encode, is_float, transpose};
use crate::error::CheckpointError;
use crate::naming::{Naming, Place};
use briquette_core::host_floats;
use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;
use safetensors::Dtype;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::io::{BufWriter, Write};
use std::path::Path;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl NamedTensor {
    /// A tensor of any type from its bytes, row-major and little-endian.
    ///
    /// # Errors
    /// When the number of bytes is not that of the shape.
    pub fn new(
        name: impl Into<String>,
        dtype: Dtype,
        shape: Vec<usize>,
        bytes: Vec<u8>,
    ) -> Result<Self, CheckpointError> {
        let name = name.into();
        let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let bits = elements.and_then(|n| n.checked_mul(dtype.bitsize()));
        if bits != bytes.len().checked_mul(8) {
            let reason = format!("{dtype} of shape {shape:?} does not take {} bytes", bytes.len());
            return Err(CheckpointError::Unwritable { tensor: name, reason });
        }
        Ok(Self { name, dtype, shape, bytes })
    }

    /// A tensor of F16, BF16, F32 or F64 from values, row-major.
    ///
    /// # Errors
    /// When the type is another, the number of values is not that of the shape, or a finite value would be
    /// infinite.
    pub fn floats(
        name: impl Into<String>,
        dtype: Dtype,
        shape: Vec<usize>,
        values: &[f32],
    ) -> Result<Self, CheckpointError> {
        let name = name.into();
        if !is_float(dtype) {
            let reason = format!("{dtype} does not hold floating-point numbers");
            return Err(CheckpointError::Unwritable { tensor: name, reason });
        }
        match encode(dtype, values) {
            Ok(bytes) => Self::new(name, dtype, shape, bytes),
            Err(value) => Err(CheckpointError::Overflow { tensor: name, value, dtype }),
        }
    }

    /// A tensor of I32 from words, bit for bit: the type that packed weights have in the compressed-tensors
    /// format.
    ///
    /// # Errors
    /// When the number of words is not that of the shape.
    pub fn words(name: impl Into<String>, shape: Vec<usize>, words: &[u32]) -> Result<Self, CheckpointError> {
        let bytes = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        Self::new(name, Dtype::I32, shape, bytes)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type of its elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The floating-point parameters of a module under their checkpoint names, in model order; `dtype` says of
/// which type a tensor's elements shall be.
///
/// Parameters without elements are left out: those of layers whose weight is packed.
///
/// # Errors
/// When `dtype` asks for a type that is no float or that a value does not fit in.
pub fn module_tensors<B: Backend, M: Module<B>>(
    model: &M,
    naming: &Naming,
    dtype: &dyn Fn(&str) -> Dtype,
) -> Result<Vec<NamedTensor>, CheckpointError> {
    let mut collect = Collect { at: Place::default(), naming, dtype, tensors: Ok(Vec::new()) };
    model.visit(&mut collect);
    collect.tensors
}

struct Collect<'a> {
    at: Place,
    naming: &'a Naming,
    dtype: &'a dyn Fn(&str) -> Dtype,
    tensors: Result<Vec<NamedTensor>, CheckpointError>,
}

impl<B: Backend> ModuleVisitor<B> for Collect<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.at.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.leave();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let Ok(tensors) = &mut self.tensors else { return };
        let slot = self.at.slot(self.naming, D);
        let native = param.lazy_shape().as_slice().to_vec();
        if native.contains(&0) {
            return;
        }
        let values = host_floats(param.transform_for_save().val());
        let values = match (slot.transposed, native.as_slice()) {
            (true, [rows, columns]) => transpose(&values, *rows, *columns),
            _ => values,
        };
        let shape = slot.shape(&native);
        match NamedTensor::floats(&slot.tensor, (self.dtype)(&slot.tensor), shape, &values) {
            Ok(tensor) => tensors.push(tensor),
            Err(error) => self.tensors = Err(error),
        }
    }
}

/// Writes a safetensors file: to a temporary file beside `path` first, which then takes its place.
///
/// Tensors stand in the order given, those of wider elements first, as the format's readers expect for
/// alignment.
///
/// # Errors
/// When two tensors have one name, or the file cannot be written; an existing file is then untouched.
pub fn write(
    path: impl AsRef<Path>,
    tensors: &[NamedTensor],
    metadata: &BTreeMap<String, String>,
) -> Result<(), CheckpointError> {
    let path = path.as_ref();
    let mut order: Vec<&NamedTensor> = tensors.iter().collect();
    order.sort_by_key(|t| std::cmp::Reverse(t.dtype));
    let header = header(&order, metadata)?;
    write_file(path, &header, &order).map_err(|source| CheckpointError::Io { file: path.into(), source })
}

fn header(tensors: &[&NamedTensor], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>, CheckpointError> {
    let mut map = Map::new();
    if !metadata.is_empty() {
        map.insert("__metadata__".into(), json!(metadata));
    }
    let mut seen = HashSet::new();
    let mut start = 0;
    for t in tensors {
        if !seen.insert(t.name.as_str()) || t.name == "__metadata__" {
            let reason = "its name is taken".to_string();
            return Err(CheckpointError::Unwritable { tensor: t.name.clone(), reason });
        }
        let end = start + t.bytes.len();
        let entry = json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [start, end]});
        map.insert(t.name.clone(), entry);
        start = end;
    }
    let mut text = Value::Object(map).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok(text)
}

fn write_file(path: &Path, header: &[u8], tensors: &[&NamedTensor]) -> std::io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = temporary_in(folder)?;
    let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file());
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header)?;
    tensors.iter().try_for_each(|t| out.write_all(&t.bytes))?;
    out.flush()?;
    drop(out);
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    Ok(())
}

/// A temporary file that others may read once it has its name; left alone, `tempfile` lets only its owner.
fn temporary_in(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".briquette-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}
