//! A model as names, kinds and shapes.

use crate::block_list::BlockList;
use crate::counts::OutputCount;
use crate::dependencies::Dependencies;
use crate::fields::join;
use crate::weight::canonical_shape;
use burn::module::{ModuleVisitor, Param, ParamId};
use burn::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;

/// Kind of a layer that holds a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerKind {
    /// Fully connected, weight `[out, in]`.
    Linear,
    /// Table of vectors, weight `[vocabulary, width]`.
    Embedding,
    /// Two-dimensional convolution, weight `[out, in/groups, kh, kw]`.
    Conv2d,
    /// Batch normalization; has no canonical weight, named only because recipes may point at it.
    BatchNorm,
}

impl LayerKind {
    /// The kind of a struct by burn's name for it.
    pub fn of_struct(name: &str) -> Option<Self> {
        match name {
            "Linear" => Some(Self::Linear),
            "Embedding" => Some(Self::Embedding),
            "Conv2d" => Some(Self::Conv2d),
            "BatchNorm" => Some(Self::BatchNorm),
            _ => None,
        }
    }
}

impl fmt::Display for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "a linear layer",
            Self::Embedding => "an embedding",
            Self::Conv2d => "a convolution",
            Self::BatchNorm => "a batch normalization",
        })
    }
}

/// A layer with a weight that methods can act on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Site {
    /// Its name: the checkpoint's name without `.weight`.
    pub name: String,
    /// Its field path in the Rust model.
    pub path: String,
    /// What it is.
    pub kind: LayerKind,
    /// Canonical shape `[out, in]`.
    pub shape: [usize; 2],
    /// Shape as burn holds it.
    pub native: Vec<usize>,
    /// Whether gradients are wanted.
    pub trainable: bool,
    /// Other names under which the same parameter is used.
    pub tied: Vec<String>,
    /// Whether the layer is a drop-in one, which can quantize its input and hold packed weights.
    pub drop_in: bool,
}

impl Site {
    /// Number of weights.
    pub fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Whether the weight holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One parameter of a model, of whatever layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Parameter {
    /// Its name in a checkpoint: that of its layer and its own, `weight` and `bias` for a normalization's gamma and
    /// beta.
    pub name: String,
    /// Field path in the Rust model, parameter included.
    pub path: String,
    /// Shape as burn holds it; its length is the rank.
    pub shape: Vec<usize>,
    /// Whether gradients are wanted.
    pub trainable: bool,
}

/// Checkpoint names and properties of layers, by field path in the Rust model.
#[derive(Debug, Clone, Default)]
pub struct NameTable {
    names: HashMap<String, String>,
    drop_in: std::collections::HashSet<String>,
    tied: Vec<(String, String)>,
    lists: Vec<(String, usize)>,
    layer_norms: Vec<String>,
    counts: Vec<OutputCount>,
}

impl NameTable {
    /// States the name of the layer at `path`.
    pub fn insert(&mut self, path: impl Into<String>, name: impl Into<String>, drop_in: bool) {
        let path = path.into();
        if drop_in {
            self.drop_in.insert(path.clone());
        }
        self.names.insert(path, name.into());
    }

    /// States that a list of `len` blocks, which can lose some of them, is at `path`.
    pub fn insert_list(&mut self, path: impl Into<String>, len: usize) {
        self.lists.push((path.into(), len));
    }

    /// States that a layer normalization that can average over a part of its input is at `path`.
    pub fn insert_layer_norm(&mut self, path: impl Into<String>) {
        self.layer_norms.push(path.into());
    }

    /// States that a number of the model follows from the outputs of a layer.
    pub fn insert_count(&mut self, count: OutputCount) {
        self.counts.push(count);
    }

    /// States that the layer `name` is also used under the name `alias`.
    pub fn tie(&mut self, name: impl Into<String>, alias: impl Into<String>) {
        self.tied.push((name.into(), alias.into()));
    }

    /// The name of the layer at `path`. Without an entry it is the path itself, each component
    /// without a trailing underscore: a Rust field cannot be called `self`, so it is `self_`.
    pub fn name(&self, path: &str) -> String {
        self.names.get(path).cloned().unwrap_or_else(|| default_name(path))
    }

    fn aliases(&self, name: &str) -> Vec<String> {
        self.tied.iter().filter(|(n, _)| n == name).map(|(_, a)| a.clone()).collect()
    }

    fn block_lists(&self) -> Vec<BlockList> {
        let list = |(path, len): &(String, usize)| BlockList {
            name: self.name(path),
            path: path.clone(),
            len: *len,
        };
        self.lists.iter().map(list).collect()
    }
}

fn default_name(path: &str) -> String {
    path.split('.').map(|c| c.strip_suffix('_').unwrap_or(c)).collect::<Vec<_>>().join(".")
}

/// A model as names, kinds and shapes. Making one touches no tensor.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ModelView {
    /// Layers with a weight, in model order.
    pub sites: Vec<Site>,
    /// All parameters, in model order.
    pub parameters: Vec<Parameter>,
    /// Batch normalizations by name, in model order.
    pub norms: Vec<String>,
    /// Lists of blocks that can lose some, in model order; those that a [`NameTable`] states.
    pub lists: Vec<BlockList>,
    /// Field paths of the layer normalizations that can average over a part of their input: the drop-in ones, as far
    /// as a [`NameTable`] states them.
    pub layer_norms: Vec<String>,
    /// Numbers that follow from the outputs of layers, as far as a [`NameTable`] states them.
    pub counts: Vec<OutputCount>,
    /// Which parts of the parameters go together, where that is known: a trace of the model or its declared rules.
    #[serde(skip)]
    pub dependencies: Option<Dependencies>,
}

impl ModelView {
    /// The view of any burn module; layers are named by their field paths.
    pub fn of<B: Backend, M: Module<B>>(model: &M) -> Self {
        Self::with_names(model, &NameTable::default())
    }

    /// The view of a module whose layers are named by `names`.
    pub fn with_names<B: Backend, M: Module<B>>(model: &M, names: &NameTable) -> Self {
        let (layer_norms, counts) = (names.layer_norms.clone(), names.counts.clone());
        let view = Self { lists: names.block_lists(), layer_norms, counts, ..Self::default() };
        let mut look = Look { at: Vec::new(), names, ids: HashMap::new(), view };
        model.visit(&mut look);
        look.view
    }

    /// The view with what a trace of the model found, for pruning that removes rows, heads or channels.
    #[must_use]
    pub fn with_dependencies(mut self, dependencies: Dependencies) -> Self {
        self.dependencies = Some(dependencies);
        self
    }

    /// The layer of this name.
    pub fn site(&self, name: &str) -> Option<&Site> {
        self.sites.iter().find(|s| s.name == name)
    }

    /// Number of weights and other parameters.
    pub fn num_params(&self) -> usize {
        self.parameters.iter().map(|p| p.shape.iter().product::<usize>()).sum()
    }
}

struct Look<'a> {
    at: Vec<(String, String)>,
    names: &'a NameTable,
    ids: HashMap<ParamId, usize>,
    view: ModelView,
}

impl Look<'_> {
    fn parameter(&mut self, shape: &[usize], trainable: bool) {
        let path = self.at.iter().map(|c| c.0.as_str()).collect::<Vec<_>>().join(".");
        let name = self.parameter_name(&path);
        self.view.parameters.push(Parameter { name, path, shape: shape.to_vec(), trainable });
    }

    /// The layer's name and the parameter's own as checkpoints have it.
    fn parameter_name(&self, path: &str) -> String {
        let (layer, field) = path.rsplit_once('.').unwrap_or(("", path));
        let normalizes = self.at.last().is_some_and(|(_, container)| container.ends_with("Norm"));
        let own = match field {
            "gamma" if normalizes => "weight",
            "beta" if normalizes => "bias",
            other => other.strip_suffix('_').unwrap_or(other),
        };
        join(&self.names.name(layer), own)
    }

    fn layer(&mut self, id: ParamId, native: &[usize], trainable: bool) {
        let Some(((field, parent), up)) = self.at.split_last() else { return };
        let Some(kind) = parent.strip_prefix("Struct:").and_then(LayerKind::of_struct) else { return };
        let path = up.iter().map(|c| c.0.as_str()).collect::<Vec<_>>().join(".");
        let name = self.names.name(&path);
        if kind == LayerKind::BatchNorm {
            if field == "gamma" {
                self.view.norms.push(name);
            }
            return;
        }
        let Some(shape) = canonical_shape(kind, native).filter(|_| field == "weight") else { return };
        if let Some(first) = self.ids.get(&id) {
            self.view.sites[*first].tied.push(name);
            return;
        }
        self.ids.insert(id, self.view.sites.len());
        let tied = self.names.aliases(&name);
        let drop_in = self.names.drop_in.contains(&path);
        self.view.sites.push(Site {
            name,
            path,
            kind,
            shape,
            native: native.to_vec(),
            trainable,
            tied,
            drop_in,
        });
    }
}

impl<B: Backend> ModuleVisitor<B> for Look<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.at.push((name.into(), container.into()));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let shape = param.lazy_shape();
        let trainable = if param.is_initialized() { param.val().is_require_grad() } else { true };
        self.parameter(shape.as_slice(), trainable);
        self.layer(param.id, shape.as_slice(), trainable);
    }
}

/// Makes every lazy parameter exist.
///
/// Without it, clones of a freshly built burn model initialise independently of each other.
pub fn materialize<B: Backend, M: Module<B>>(model: &M) {
    struct Touch;
    impl<B: Backend> ModuleVisitor<B> for Touch {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            let _ = param.val();
        }
        fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<B, D, Int>>) {
            let _ = param.val();
        }
        fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<B, D, Bool>>) {
            let _ = param.val();
        }
    }
    model.visit(&mut Touch);
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;
    use burn::nn::conv::{Conv2d, Conv2dConfig};
    use burn::nn::{BatchNorm, BatchNormConfig, Embedding, EmbeddingConfig, Linear, LinearConfig};

    #[derive(Module, Debug)]
    struct Inner<B: Backend> {
        self_: Linear<B>,
    }

    #[derive(Module, Debug)]
    struct Net<B: Backend> {
        words: Embedding<B>,
        conv: Conv2d<B>,
        norm: BatchNorm<B>,
        blocks: Vec<Inner<B>>,
    }

    #[test]
    fn view_lists_names_kinds_and_shapes_without_touching_weights() {
        let d = Default::default();
        let net = Net::<Flex> {
            words: EmbeddingConfig::new(7, 4).init(&d),
            conv: Conv2dConfig::new([2, 3], [5, 5]).init(&d),
            norm: BatchNormConfig::new(3).init(&d),
            blocks: vec![Inner { self_: LinearConfig::new(4, 6).init(&d) }],
        };
        let view = ModelView::of(&net);
        let sites: Vec<_> = view.sites.iter().map(|s| (s.name.as_str(), s.kind, s.shape)).collect();
        assert_eq!(
            sites,
            [
                ("words", LayerKind::Embedding, [7, 4]),
                ("conv", LayerKind::Conv2d, [3, 50]),
                ("blocks.0.self", LayerKind::Linear, [6, 4]),
            ]
        );
        assert_eq!(view.sites[2].path, "blocks.0.self_");
        assert_eq!(view.norms, ["norm"]);
        assert!(!net.blocks[0].self_.weight.is_initialized());
        assert_eq!(view.num_params(), net.num_params());
    }

    #[test]
    fn a_shared_parameter_is_one_site_with_two_names() {
        let d = Default::default();
        let shared: Linear<Flex> = LinearConfig::new(4, 4).init(&d);
        let both = vec![shared.clone(), shared];
        let view = ModelView::of(&both);
        assert_eq!(view.sites.len(), 1);
        assert_eq!(view.sites[0].tied, ["1"]);
    }
}
