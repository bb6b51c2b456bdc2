//! Reading an artefact.

use super::decode::{check_record, expected, low_rank, packed, wrong};
use super::digest::sha256_hex;
use super::error::ArtefactError;
use super::expand::expanded;
use super::manifest::{FORMAT_VERSION, LayerRecord, Manifest};
use super::narrow::{narrowed, narrowed_view};
use super::sparse_decode;
use super::sparse_record::SparseRecord;
use super::{CONFIG, MANIFEST, TENSORS};
use crate::session::{run_sparse, set_packed};
use briquette_checkpoint::{Dtype, Naming, TensorFiles, load_module};
use briquette_core::{InputQuantization, InputRange, LowRank, ModelView};
use briquette_kernels::PackedMatrix;
use briquette_nn::{Compressible, LayerMut, visit_layers};
use burn::prelude::*;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// An artefact whose files were found whole and consistent.
#[derive(Debug)]
pub struct Artefact {
    folder: PathBuf,
    manifest: Manifest,
    config: Value,
    files: TensorFiles,
}

impl Artefact {
    /// Whether `folder` is an artefact of ours (rather than an ordinary checkpoint).
    pub fn is_at(folder: &Path) -> bool {
        folder.join(MANIFEST).exists()
    }

    /// Opens the artefact in `folder`: digests, and every packed tensor's type and shape, are
    /// checked before any weight is decoded.
    ///
    /// # Errors
    /// When a file is missing, malformed, changed, or contradicts the manifest.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, ArtefactError> {
        let folder = folder.as_ref().to_path_buf();
        let manifest = read_manifest(&folder.join(MANIFEST))?;
        let config = check_file(&folder, &manifest, CONFIG)?;
        check_file(&folder, &manifest, TENSORS)?;
        let config = parse(&folder.join(CONFIG), &config)?;
        let files = TensorFiles::open(folder.join(TENSORS))?;
        let artefact = Self { folder, manifest, config, files };
        artefact.manifest.layers.iter().try_for_each(|record| artefact.check(record))?;
        artefact.manifest.sparse.iter().try_for_each(|record| artefact.check_sparse(record))?;
        Ok(artefact)
    }

    /// What was written.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The model's configuration.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The tensors.
    pub fn files(&self) -> &TensorFiles {
        &self.files
    }

    /// The view of a model built from this artefact's configuration as narrow as it is here, where the configuration
    /// could not say so.
    ///
    /// # Errors
    /// When the manifest contradicts the view.
    pub fn view(&self, view: &ModelView) -> Result<ModelView, ArtefactError> {
        match &self.manifest.removed {
            Some(removed) => narrowed_view(view, removed, &self.folder.join(MANIFEST)),
            None => Ok(view.clone()),
        }
    }

    fn check(&self, record: &LayerRecord) -> Result<(), ArtefactError> {
        check_record(record).map_err(|reason| self.layer_error(&record.name, reason))?;
        let unsaid = format!("{}.low_rank_left", record.name);
        if record.low_rank.is_none() && self.files.contains(&unsaid) {
            let reason = "is there, the manifest says nothing of a correction".into();
            return Err(wrong(self.files.get(&unsaid)?.file(), &unsaid, reason));
        }
        self.check_tensors(expected(record))
    }

    /// A weight is there in one form only, and as the manifest says.
    fn check_sparse(&self, record: &SparseRecord) -> Result<(), ArtefactError> {
        sparse_decode::check_record(record).map_err(|reason| self.layer_error(&record.name, reason))?;
        let weight = format!("{}.weight", record.name);
        if record.format.is_sparse() && self.files.contains(&weight) {
            let reason = "is there, the manifest says that it is stored without its zeros".into();
            return Err(wrong(self.files.get(&weight)?.file(), &weight, reason));
        }
        self.check_tensors(record.expected())
    }

    fn check_tensors(&self, expected: Vec<(String, Dtype, Vec<usize>)>) -> Result<(), ArtefactError> {
        for (name, dtype, shape) in expected {
            let tensor = self.files.get(&name)?;
            if tensor.dtype() != dtype || tensor.shape() != shape {
                let reason = format!(
                    "is {} {:?}, the manifest asks for {dtype} {shape:?}",
                    tensor.dtype(),
                    tensor.shape()
                );
                return Err(wrong(tensor.file(), &name, reason));
            }
        }
        Ok(())
    }

    fn layer_error(&self, layer: &str, reason: String) -> ArtefactError {
        ArtefactError::Layer { path: self.folder.join(MANIFEST), layer: layer.into(), reason }
    }

    /// `model`, built from this artefact's configuration, with its weights: packed ones in their
    /// drop-in layers, inputs quantized as the manifest says, and as narrow as it says where the configuration could
    /// not say so. Drop-in linear layers that were pruned leave out their zeros where that is faster on this backend
    /// ([`Linear::run_sparse`](briquette_nn::Linear::run_sparse)).
    ///
    /// # Errors
    /// When a tensor is missing or contradicts the model.
    pub fn load<B: Backend, M: Module<B> + Compressible<B>>(
        &self,
        model: M,
        naming: &Naming,
        device: &B::Device,
    ) -> Result<M, ArtefactError> {
        let mut model = self.load_floats(model, naming, device)?;
        run_sparse(&mut model, self.manifest.sparse.iter().map(|record| record.name.as_str()));
        Ok(model)
    }

    /// [`load`](Self::load) with the zeros of pruned weights, so that the model can be trained and compressed again as
    /// far as it is not packed.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_floats<B: Backend, M: Module<B> + Compressible<B>>(
        &self,
        model: M,
        naming: &Naming,
        device: &B::Device,
    ) -> Result<M, ArtefactError> {
        let mut weights = HashMap::new();
        for record in &self.manifest.layers {
            let weight = (packed::<B>(record, &self.files, device)?, low_rank(record, &self.files)?);
            weights.insert(record.name.as_str(), weight);
        }
        let mut model = match &self.manifest.removed {
            Some(removed) => narrowed(model, removed, naming, &self.folder.join(MANIFEST))?,
            None => model,
        };
        let mut placing = Placing { artefact: self, weights, placed: HashSet::new(), problem: None };
        visit_layers(&mut model, |at, layer| placing.visit(at.name(), layer));
        placing.finish()?;
        let sparse = self.manifest.sparse.iter().filter(|record| record.format.is_sparse());
        let names = self.manifest.layers.iter().map(|l| l.name.clone());
        let names = names.chain(sparse.map(|record| record.name.clone())).collect();
        let model = load_module(model, naming, &self.files, &names)?;
        expanded(model, &self.manifest.sparse, naming, &self.files, &self.folder.join(MANIFEST))
    }
}

/// Puts packed weights and input quantizations where they belong, and notices what has no place.
struct Placing<'a, B: Backend> {
    artefact: &'a Artefact,
    weights: HashMap<&'a str, (PackedMatrix<B>, Option<LowRank>)>,
    placed: HashSet<String>,
    problem: Option<ArtefactError>,
}

impl<B: Backend> Placing<'_, B> {
    fn visit(&mut self, name: &str, mut layer: LayerMut<'_, B>) {
        let shape = match &layer {
            LayerMut::Linear(l) => l.shape(),
            LayerMut::Embedding(l) => l.shape(),
            LayerMut::Conv2d(l) => l.shape(),
            _ => return,
        };
        if let Some(q) = self.artefact.manifest.inputs.get(name) {
            self.placed.insert(format!("input of {name}"));
            match &mut layer {
                LayerMut::Linear(l) => l.set_input_quantization(Some(*q)),
                LayerMut::Conv2d(l) => l.set_input_quantization(Some(*q)),
                _ => self.refuse(name, "has no input to quantize".into()),
            }
        }
        let Some((weight, low_rank)) = self.weights.remove(name) else { return };
        if weight.shape != shape {
            return self.refuse(name, format!("is {:?} here and {shape:?} in the model", weight.shape));
        }
        set_packed(layer, weight, low_rank.as_ref());
    }

    fn refuse(&mut self, layer: &str, reason: String) {
        self.problem.get_or_insert_with(|| self.artefact.layer_error(layer, reason));
    }

    fn finish(mut self) -> Result<(), ArtefactError> {
        if let Some(name) = self.weights.keys().min().map(|n| n.to_string()) {
            self.refuse(&name, "the model has no such layer".into());
        }
        let inputs = self.artefact.manifest.inputs.keys();
        let lost: Vec<String> =
            inputs.filter(|n| !self.placed.contains(&format!("input of {n}"))).cloned().collect();
        if let Some(name) = lost.first() {
            self.refuse(name, "the model has no such layer".into());
        }
        self.problem.map_or(Ok(()), Err)
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Value, ArtefactError> {
    serde_json::from_slice(bytes)
        .map_err(|e| ArtefactError::Json { path: path.into(), reason: e.to_string() })
}

fn read_manifest(path: &Path) -> Result<Manifest, ArtefactError> {
    let bytes = std::fs::read(path).map_err(|source| ArtefactError::Io { path: path.into(), source })?;
    let value = parse(path, &bytes)?;
    let found = value.get("format_version").and_then(Value::as_u64);
    if let Some(found) = found.filter(|v| *v != FORMAT_VERSION) {
        return Err(ArtefactError::Version { path: path.into(), found, known: FORMAT_VERSION });
    }
    let manifest: Manifest = serde_json::from_value(value)
        .map_err(|e| ArtefactError::Json { path: path.into(), reason: e.to_string() })?;
    let (found, expected) = (manifest.own_digest(), manifest.digest.clone());
    if found != expected {
        return Err(ArtefactError::Digest { path: path.into(), found, expected });
    }
    manifest.inputs.iter().try_for_each(|(layer, q)| check_input(path, layer, q))?;
    Ok(manifest)
}

fn check_input(path: &Path, layer: &str, q: &InputQuantization) -> Result<(), ArtefactError> {
    let finite = match q.range {
        InputRange::Static { min, max } => min.is_finite() && max.is_finite() && min <= max,
        InputRange::Dynamic => true,
        InputRange::Pending => false,
    };
    if finite && (3..=8).contains(&q.bits) {
        return Ok(());
    }
    let reason = format!("{q:?} is no input quantization that can run");
    Err(ArtefactError::Layer { path: path.into(), layer: layer.into(), reason })
}

/// The file's bytes, when they are those that were written.
fn check_file(folder: &Path, manifest: &Manifest, name: &str) -> Result<Vec<u8>, ArtefactError> {
    let path = folder.join(name);
    let Some(expected) = manifest.files.get(name) else {
        let reason = format!("`files` lacks `{name}`");
        return Err(ArtefactError::Json { path: folder.join(MANIFEST), reason });
    };
    let bytes = std::fs::read(&path).map_err(|source| ArtefactError::Io { path: path.clone(), source })?;
    let found = sha256_hex(&bytes);
    if found != *expected {
        return Err(ArtefactError::Digest { path, found, expected: expected.clone() });
    }
    Ok(bytes)
}
