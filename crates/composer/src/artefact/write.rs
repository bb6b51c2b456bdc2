//! Writing an artefact.

use super::digest::sha256_hex;
use super::error::ArtefactError;
use super::indices::Indices;
use super::manifest::{
    AxisRecord, FORMAT_VERSION, LayerRecord, Manifest, ReductionRecord, RemovalRecord, RemovedGroup,
};
use super::sparse_record::SparseRecord;
use super::{CONFIG, MANIFEST, TENSORS, compressed_tensors, encode, sparse_encode};
use crate::session::{Finished, Removed};
use briquette_checkpoint::{Dtype, NamedTensor, Naming, module_tensors};
use briquette_layer_reduce::ReducedLayers;
use burn::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// What an artefact takes over from the model it was made from.
pub struct Source<'a> {
    /// Names and layouts of the model's tensors.
    pub naming: &'a Naming,
    /// The model's `config.json`.
    pub config: Value,
    /// Element types of the source's tensors by name; tensors that are not packed keep theirs, F32
    /// where none is given.
    pub dtypes: HashMap<String, Dtype>,
    /// Files to copy, such as the tokenizer's.
    pub copy: Vec<PathBuf>,
    /// SHA-256 of what went in, by file name.
    pub made_from: BTreeMap<String, String>,
    /// The session's seed.
    pub seed: u64,
}

/// An artefact that is complete but for its report, in a temporary folder beside its destination.
/// Dropped, it is gone.
pub struct Staged {
    folder: tempfile::TempDir,
    destination: PathBuf,
}

/// Writes everything but the report into a temporary folder beside `destination`.
///
/// # Errors
/// When something cannot be read or written, or `destination` holds something else.
pub fn stage<B: Backend, M: Module<B>>(
    finished: &Finished<B, M>,
    source: &Source<'_>,
    destination: &Path,
) -> Result<Staged, ArtefactError> {
    let reduction = finished.plan.layer_reduction().map(reduction_record).transpose()?;
    let staged = Staged::new(destination)?;
    let (records, mut tensors) = tensors(finished, source)?;
    let sparse = without_zeros(finished, source, &mut tensors)?;
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    briquette_checkpoint::write(staged.path().join(TENSORS), &tensors, &metadata)?;
    drop(tensors);
    let mut config = source.config.clone();
    let quantization =
        compressed_tensors::quantization_config(&records, &finished.inputs, source.naming.input_major);
    if let (Some(quantization), Some(map)) = (quantization, config.as_object_mut()) {
        map.insert("quantization_config".into(), quantization);
    }
    let mut text = serde_json::to_string_pretty(&config).expect("JSON has string keys only");
    text.push('\n');
    staged.write(CONFIG, &text)?;
    for file in &source.copy {
        staged.copy(file)?;
    }
    let manifest = manifest(finished, source, reduction, (records, sparse), &staged)?;
    staged.write(MANIFEST, &manifest.to_text())?;
    Ok(staged)
}

fn tensors<B: Backend, M: Module<B>>(
    finished: &Finished<B, M>,
    source: &Source<'_>,
) -> Result<(Vec<LayerRecord>, Vec<NamedTensor>), ArtefactError> {
    let mut packed = HashMap::new();
    let mut values = HashSet::new();
    let mut records = Vec::new();
    for layer in &finished.layers {
        let Some(coded) = layer.coded() else { continue };
        if !layer.site.drop_in {
            // Nothing could hold the packed weight when it is loaded; its values are kept as they are.
            values.insert(format!("{}.weight", layer.site.name));
            continue;
        }
        let record = encode::record(layer, coded, finished.inputs.contains_key(&layer.site.name));
        let mut parts = encode::tensors(&record, coded)?;
        if let Some(low_rank) = layer.low_rank() {
            parts.extend(encode::low_rank_tensors(&record, low_rank)?);
        }
        packed.insert(format!("{}.weight", record.name), parts);
        records.push(record);
    }
    let dtype = |name: &str| source.dtypes.get(name).copied().unwrap_or(Dtype::F32);
    let mut tensors = Vec::new();
    // A coded weight's values would not survive half precision.
    let coded = |name: &str| packed.contains_key(name) || values.contains(name);
    let plain = |name: &str| if coded(name) { Dtype::F32 } else { dtype(name) };
    let all = module_tensors(&finished.model, source.naming, &plain)?;
    for tensor in all {
        match packed.remove(tensor.name()) {
            Some(parts) => tensors.extend(parts),
            None => tensors.push(tensor),
        }
    }
    // For readers of compressed-tensors, who know quantized inputs of packed layers only.
    for record in &records {
        if let Some(q) = finished.inputs.get(&record.name) {
            tensors.extend(encode::input_tensors(&record.name, q)?);
        }
    }
    Ok((records, tensors))
}

/// Puts the tensors of pruned weights without their zeros in the place of those with them, where they are smaller.
fn without_zeros<B: Backend, M: Module<B>>(
    finished: &Finished<B, M>,
    source: &Source<'_>,
    tensors: &mut Vec<NamedTensor>,
) -> Result<Vec<SparseRecord>, ArtefactError> {
    let mut records = Vec::new();
    let at: HashMap<String, usize> =
        tensors.iter().enumerate().map(|(at, t)| (t.name().to_string(), at)).collect();
    let mut replaced = HashMap::new();
    for layer in &finished.layers {
        let Some(sparse) = layer.sparse() else { continue };
        if let Some(codes) = layer.coded() {
            records.push(sparse_encode::coded(layer, sparse, codes));
            continue;
        }
        let Some(at) = at.get(&format!("{}.weight", layer.site.name)) else { continue };
        let input_major = (source.naming.input_major)(&layer.site.name);
        if let Some((record, parts)) = sparse_encode::stored(layer, sparse, &tensors[*at], input_major)? {
            if record.format.is_sparse() {
                replaced.insert(*at, parts);
            }
            records.push(record);
        }
    }
    let all = std::mem::take(tensors).into_iter().enumerate();
    tensors.extend(all.flat_map(|(at, tensor)| replaced.remove(&at).unwrap_or_else(|| vec![tensor])));
    Ok(records)
}

fn reduction_record(reduced: &ReducedLayers) -> Result<ReductionRecord, ArtefactError> {
    let (list, of) = (reduced.list.clone(), reduced.of);
    match reduced.indices() {
        Some(kept) => Ok(ReductionRecord { list, kept: kept.to_vec(), of }),
        None => Err(ArtefactError::Undecided { list, count: reduced.count(), of }),
    }
}

fn removal_record(removed: &Removed) -> RemovalRecord {
    let groups = removed.groups.iter().map(|group| RemovedGroup {
        group: group.kept.group.clone(),
        of: group.kept.of,
        kept: Indices(group.kept.units.clone()),
        axes: group
            .axes
            .iter()
            .map(|a| AxisRecord { tensor: a.tensor.clone(), axis: a.axis, of: a.of, kept: a.kept })
            .collect(),
    });
    RemovalRecord { groups: groups.collect(), numbers: removed.numbers.clone() }
}

fn manifest<B: Backend, M: Module<B>>(
    finished: &Finished<B, M>,
    source: &Source<'_>,
    layer_reduction: Option<ReductionRecord>,
    (layers, sparse): (Vec<LayerRecord>, Vec<SparseRecord>),
    staged: &Staged,
) -> Result<Manifest, ArtefactError> {
    let mut files = BTreeMap::new();
    for name in [CONFIG, TENSORS] {
        let path = staged.path().join(name);
        let bytes = std::fs::read(&path).map_err(|source| ArtefactError::Io { path, source })?;
        files.insert(name.to_string(), sha256_hex(&bytes));
    }
    let mut manifest = Manifest {
        format_version: FORMAT_VERSION,
        written_by: concat!("briquette ", env!("CARGO_PKG_VERSION")).into(),
        seed: source.seed,
        recipe: finished.plan.recipe().clone(),
        plan: finished.plan.to_json(),
        layer_reduction,
        removed: finished.removed.as_ref().map(removal_record),
        layers,
        sparse,
        inputs: finished.inputs.clone(),
        made_from: source.made_from.clone(),
        files,
        digest: String::new(),
    };
    manifest.digest = manifest.own_digest();
    Ok(manifest)
}

impl Staged {
    fn new(destination: &Path) -> Result<Self, ArtefactError> {
        if destination.exists() && !replaceable(destination) {
            return Err(ArtefactError::Occupied { path: destination.into() });
        }
        let parent = match destination.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let io = |source| ArtefactError::Io { path: parent.into(), source };
        std::fs::create_dir_all(parent).map_err(io)?;
        let folder = tempfile::Builder::new().prefix(".briquette-").tempdir_in(parent).map_err(io)?;
        Ok(Self { folder, destination: destination.into() })
    }

    /// The temporary folder; it can be read as an artefact.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Adds a text file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<(), ArtefactError> {
        let path = self.path().join(name);
        std::fs::write(&path, text).map_err(|source| ArtefactError::Io { path, source })
    }

    fn copy(&self, file: &Path) -> Result<(), ArtefactError> {
        let Some(name) = file.file_name() else { return Ok(()) };
        std::fs::copy(file, self.path().join(name))
            .map(drop)
            .map_err(|source| ArtefactError::Io { path: file.into(), source })
    }

    /// Moves the folder to its destination; an older artefact there is replaced.
    ///
    /// # Errors
    /// When the destination cannot be replaced; it is then as it was.
    pub fn commit(self) -> Result<PathBuf, ArtefactError> {
        let io = |path: &Path, source| ArtefactError::Io { path: path.into(), source };
        let destination = self.destination.clone();
        readable_by_all(self.path()).map_err(|e| io(self.path(), e))?;
        let aside = self.folder.path().with_extension("old");
        let old = destination.exists();
        if old {
            std::fs::rename(&destination, &aside).map_err(|e| io(&destination, e))?;
        }
        if let Err(e) = std::fs::rename(self.folder.path(), &destination) {
            if old {
                // Best effort: the error that matters is the one above.
                let _ = std::fs::rename(&aside, &destination);
            }
            return Err(io(&destination, e));
        }
        // The folder has moved: nothing is left for the guard to remove.
        let _ = self.folder.keep();
        if old {
            std::fs::remove_dir_all(&aside).map_err(|e| io(&aside, e))?;
        }
        Ok(destination)
    }
}

/// An artefact of ours, or an empty folder.
fn replaceable(destination: &Path) -> bool {
    let empty = std::fs::read_dir(destination).is_ok_and(|mut entries| entries.next().is_none());
    destination.is_dir() && (empty || destination.join(MANIFEST).is_file())
}

/// Temporary folders are made for their owner alone; an artefact is an ordinary folder.
fn readable_by_all(folder: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755))?;
    }
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}
