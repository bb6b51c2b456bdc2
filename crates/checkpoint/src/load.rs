//! A checkpoint's values into a module.

use crate::convert::{is_float, transpose};
use crate::error::{CheckpointError, TensorProblem};
use crate::files::TensorFiles;
use crate::naming::{Naming, Place, Slot, shape_of};
use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::prelude::*;
use std::collections::{HashMap, HashSet};

/// `model` with the floating-point parameters of a checkpoint; the inverse of [`module_tensors`](crate::module_tensors).
///
/// Names, shapes and element types are compared for all tensors before any value is read. Parameters that were
/// never used are not initialised first. Whether gradients are wanted stays as it is on a backend that has
/// gradients; other backends forget it, so a model to be trained is loaded on the training backend.
///
/// `packed` names the layers whose weight is not read because the caller packs it: their weight stays as it is,
/// and tensors of the file that start with the layer's name and `.weight`, `.low_rank_` or `.input_`, or are the parts
/// `compressed`, `bitmask`, `row_offsets` and `shape` of a weight without its zeros, are the caller's.
///
/// Batch normalizations share their running statistics with their clones: load into a model of your own.
///
/// # Errors
/// All of missing, unexpected, misshaped and mistyped tensors at once; or a file that cannot be read.
pub fn load_module<B: Backend, M: Module<B>>(
    model: M,
    naming: &Naming,
    files: &TensorFiles,
    packed: &HashSet<String>,
) -> Result<M, CheckpointError> {
    let (stored, problems) = naming.stored(files);
    let mut check = Check {
        at: Place::default(),
        naming,
        files,
        packed,
        stored: &stored,
        wanted: HashSet::new(),
        problems,
    };
    model.visit(&mut check);
    let problems = check.finish();
    if !problems.is_empty() {
        return Err(CheckpointError::Tensors { file: files.source().into(), problems });
    }
    let mut fill = Fill { at: Place::default(), naming, files, packed, stored: &stored, failed: None };
    let model = model.map(&mut fill);
    match fill.failed {
        Some(error) => Err(error),
        None => Ok(model),
    }
}

/// First walk: compares, touches nothing.
struct Check<'a> {
    at: Place,
    naming: &'a Naming,
    files: &'a TensorFiles,
    packed: &'a HashSet<String>,
    stored: &'a HashMap<String, &'a str>,
    wanted: HashSet<String>,
    problems: Vec<TensorProblem>,
}

impl Check<'_> {
    fn compare(&mut self, slot: Slot, native: &[usize]) {
        let tensor = slot.tensor.clone();
        self.wanted.insert(tensor.clone());
        let Some(name) = self.stored.get(&tensor) else {
            self.problems.push(TensorProblem::Missing { tensor });
            return;
        };
        let found = self.files.get(name).expect("`stored` lists names of these files");
        if !is_float(found.dtype()) {
            self.problems.push(TensorProblem::Type { tensor, found: found.dtype() });
            return;
        }
        let expected = slot.shape(native);
        if found.shape() != expected {
            self.problems.push(TensorProblem::Shape { tensor, found: found.shape().to_vec(), expected });
        }
    }

    /// Adds the tensors that nobody wants.
    fn finish(mut self) -> Vec<TensorProblem> {
        let mut unwanted: Vec<&str> = self
            .stored
            .iter()
            .filter(|(current, _)| !self.wanted.contains(*current) && !(self.naming.ignorable)(current))
            .filter(|(current, _)| !belongs_to_packed(current, self.packed))
            .map(|(_, name)| *name)
            .collect();
        unwanted.sort_unstable();
        self.problems.extend(unwanted.iter().map(|n| TensorProblem::Unexpected { tensor: n.to_string() }));
        self.problems
    }
}

/// Whether a tensor is a weight or a part of one, a correction of one, or a static input range, of one of the packed
/// layers.
fn belongs_to_packed(tensor: &str, packed: &HashSet<String>) -> bool {
    const PARTS: [&str; 4] = ["compressed", "bitmask", "row_offsets", "shape"];
    tensor.rsplit_once('.').is_some_and(|(site, own)| {
        let of_layer = ["weight", "low_rank_", "input_"].iter().any(|start| own.starts_with(start));
        let of_weight = PARTS.contains(&own);
        let layer = if of_weight { site.strip_suffix(".weight").unwrap_or(site) } else { site };
        packed.contains(layer) && (of_layer || of_weight)
    })
}

impl<B: Backend> ModuleVisitor<B> for Check<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.at.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.leave();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let slot = self.at.slot(self.naming, D);
        if !(slot.is_weight && self.packed.contains(&slot.site)) {
            self.compare(slot, &shape_of(param));
        }
    }
}

/// Second walk: reads. Names, shapes and types have been compared, so that only reading itself can fail.
struct Fill<'a> {
    at: Place,
    naming: &'a Naming,
    files: &'a TensorFiles,
    packed: &'a HashSet<String>,
    stored: &'a HashMap<String, &'a str>,
    failed: Option<CheckpointError>,
}

impl Fill<'_> {
    fn values(&self, slot: &Slot) -> Result<Vec<f32>, CheckpointError> {
        let tensor = self.files.get(self.stored[&slot.tensor])?;
        let values = tensor.to_f32()?;
        match (slot.transposed, tensor.shape()) {
            (true, [rows, columns]) => Ok(transpose(&values, *rows, *columns)),
            _ => Ok(values),
        }
    }
}

impl<B: Backend> ModuleMapper<B> for Fill<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.at.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.leave();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let slot = self.at.slot(self.naming, D);
        if self.failed.is_some() || (slot.is_weight && self.packed.contains(&slot.site)) {
            return param;
        }
        match self.values(&slot) {
            Ok(values) => {
                let data = TensorData::new(values, shape_of(&param));
                let tensor = Tensor::from_data(data, &param.lazy_device());
                let id = param.id;
                // Keeps whether gradients are wanted, which a lazy parameter tells nobody outside of burn.
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.failed = Some(error);
                param
            }
        }
    }
}
