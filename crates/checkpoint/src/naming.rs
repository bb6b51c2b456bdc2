//! How a module's parameters are called and laid out in a checkpoint.

use crate::error::TensorProblem;
use crate::files::TensorFiles;
use briquette_core::NameTable;
use burn::module::Param;
use burn::prelude::*;
use safetensors::Dtype;
use std::collections::HashMap;

/// How the tensors of one model family are called and laid out in its checkpoints.
///
/// A parameter is called by its layer's name and its own: `weight` and `bias` (burn's `gamma` and `beta`),
/// `running_mean`, or whatever the field is called.
#[derive(Debug, Clone)]
pub struct Naming {
    /// Names of the layers by field path.
    pub layers: NameTable,
    /// Whether the Linear layer of this name is stored `[in, out]` rather than `[out, in]`, as the `Conv1D`
    /// layers of GPT-2 are.
    pub input_major: fn(&str) -> bool,
    /// The present name of a tensor that older files call otherwise; any other name comes back as it is.
    pub current: fn(&str) -> String,
    /// Whether the tensor of this (present) name may be in a file although no parameter wants it.
    pub ignorable: fn(&str) -> bool,
}

impl Naming {
    /// Names without exceptions: every Linear stored `[out, in]`, no older names, nothing to ignore.
    pub fn new(layers: NameTable) -> Self {
        Self { layers, input_major: |_| false, current: str::to_string, ignorable: |_| false }
    }

    /// The element type of every tensor of `files` by its present name, to write tensors back as they were.
    pub fn dtypes(&self, files: &TensorFiles) -> HashMap<String, Dtype> {
        files.tensors().map(|t| ((self.current)(t.name()), t.dtype())).collect()
    }

    /// Names in the file by present name, and the tensors that are there twice.
    pub(crate) fn stored<'a>(
        &self,
        files: &'a TensorFiles,
    ) -> (HashMap<String, &'a str>, Vec<TensorProblem>) {
        let mut stored: HashMap<String, &str> = HashMap::new();
        let mut problems = Vec::new();
        for name in files.names() {
            let tensor = (self.current)(name);
            if let Some(first) = stored.insert(tensor.clone(), name) {
                problems.push(TensorProblem::Twice { tensor, first: first.into(), second: name.into() });
            }
        }
        (stored, problems)
    }
}

/// Where a walk through a module stands: field name and kind of the struct around it, from the root on.
#[derive(Default)]
pub(crate) struct Place(Vec<(String, String)>);

/// A parameter as a checkpoint sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Slot {
    /// Name of the layer.
    pub(crate) site: String,
    /// Whether this is the weight of a layer that can be packed.
    pub(crate) is_weight: bool,
    /// Name of the tensor.
    pub(crate) tensor: String,
    /// Whether the checkpoint's two axes are burn's in the other order.
    pub(crate) transposed: bool,
}

impl Slot {
    /// A shape as burn has it, as the checkpoint has it. Its own inverse.
    pub(crate) fn shape(&self, shape: &[usize]) -> Vec<usize> {
        let mut shape = shape.to_vec();
        if self.transposed {
            shape.reverse();
        }
        shape
    }
}

impl Place {
    pub(crate) fn enter(&mut self, field: &str, container: &str) {
        self.0.push((field.into(), container.into()));
    }

    pub(crate) fn leave(&mut self) {
        self.0.pop();
    }

    /// The parameter at this place.
    pub(crate) fn slot(&self, naming: &Naming, rank: usize) -> Slot {
        let (field, container) = self.0.last().map_or(("", ""), |(f, c)| (f.as_str(), c.as_str()));
        let up = &self.0[..self.0.len().saturating_sub(1)];
        let path = up.iter().map(|(f, _)| f.as_str()).collect::<Vec<_>>().join(".");
        let site = naming.layers.name(&path);
        let layer = container.strip_prefix("Struct:").unwrap_or(container);
        let own = match field {
            "gamma" if is_norm(layer) => "weight",
            "beta" if is_norm(layer) => "bias",
            other => other.strip_suffix('_').unwrap_or(other),
        };
        let tensor = if site.is_empty() { own.to_string() } else { format!("{site}.{own}") };
        let transposed = layer == "Linear" && field == "weight" && rank == 2 && !(naming.input_major)(&site);
        let is_weight = field == "weight" && matches!(layer, "Linear" | "Embedding" | "Conv2d");
        Slot { site, is_weight, tensor, transposed }
    }
}

fn is_norm(layer: &str) -> bool {
    layer.ends_with("Norm")
}

/// The shape of a parameter; a parameter that was never used stays unallocated.
pub(crate) fn shape_of<B: Backend, const D: usize>(param: &Param<Tensor<B, D>>) -> Vec<usize> {
    param.lazy_shape().as_slice().to_vec()
}
