//! An embedding that can run on a packed table.

use crate::module::{drop_in_module, needs::*};
use crate::slots::PackedSlot;
use crate::{Compressible, Initializer, LayerMut, LayerPath};
use briquette_kernels::{self as kernels, PackedMatrix};
use burn::config::Config;
use burn::module::Param;
use burn::nn::EmbeddingRecord;
use burn::prelude::*;
use burn::tensor::module::{embedding, linear};

/// Settings of an [`Embedding`]; the same as `burn::nn::EmbeddingConfig`.
#[derive(Config, Debug)]
pub struct EmbeddingConfig {
    /// Number of vectors.
    pub n_embedding: usize,
    /// Width of a vector.
    pub d_model: usize,
    /// How the table is initialised.
    #[config(default = "Initializer::Normal{mean:0.0, std:1.0}")]
    pub initializer: Initializer,
}

impl EmbeddingConfig {
    /// A float embedding with a fresh table, which stays lazy until it is used.
    pub fn init<B: Backend>(&self, device: &B::Device) -> Embedding<B> {
        burn::nn::EmbeddingConfig::new(self.n_embedding, self.d_model)
            .with_initializer(self.initializer.clone())
            .init(device)
            .into()
    }
}

/// A table of vectors, optionally packed.
///
/// Fields, records and display names are those of `burn::nn::Embedding`.
#[derive(Debug, Clone)]
pub struct Embedding<B: Backend> {
    /// `[n_embedding, d_model]`; `[0, 0]` when the table is packed.
    pub weight: Param<Tensor<B, 2>>,
    packed: PackedSlot<B>,
}

drop_in_module! {
    Embedding, EmbeddingRecord,
    parameters [weight],
    slots [packed],
    settings [],
    empty [],
}

impl<B: Backend> From<burn::nn::Embedding<B>> for Embedding<B> {
    fn from(layer: burn::nn::Embedding<B>) -> Self {
        Self { weight: layer.weight, packed: PackedSlot::default() }
    }
}

impl<B: Backend> Embedding<B> {
    /// The vectors `[batch, seq, d_model]` of the entries `ids` `[batch, seq]`.
    ///
    /// # Panics
    /// When an entry is not in the table (on some backends; others read anything).
    pub fn forward(&self, ids: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        match self.packed.get() {
            Some(packed) => kernels::embedding_packed(packed, ids),
            None => embedding(self.weight.val(), ids),
        }
    }

    /// The product `[.., n_embedding]` of `input` `[.., d_model]` with every vector of the table: the
    /// output layer of a language model that shares its table (Press and Wolf, arXiv 1608.05859).
    ///
    /// # Panics
    /// When the last axis of `input` is not `d_model`.
    pub fn as_linear<const D: usize>(&self, input: Tensor<B, D>) -> Tensor<B, D> {
        let mut dims = input.dims();
        let rows = dims[..D - 1].iter().product::<usize>();
        let input = input.reshape([rows, dims[D - 1]]);
        let output = match self.packed.get() {
            Some(packed) => kernels::linear_packed(input, packed, None),
            None => linear(input, self.weight.val().transpose(), None),
        };
        dims[D - 1] = output.dims()[1];
        output.reshape(dims)
    }

    /// Shape `[n_embedding, d_model]` of the table, packed or not. A lazy table stays lazy.
    pub fn shape(&self) -> [usize; 2] {
        match self.packed.get() {
            Some(packed) => packed.shape,
            None => self.weight.lazy_shape().dims(),
        }
    }

    /// Computes with this table from now on. The float table is freed.
    ///
    /// # Panics
    /// When its shape is not [`shape`](Self::shape).
    pub fn set_packed(&mut self, packed: PackedMatrix<B>) {
        assert_eq!(packed.shape, self.shape(), "shape [n_embedding, d_model] of a packed table");
        let empty = Tensor::empty([0, 0], &packed.words.device());
        self.weight = Param::initialized(self.weight.id, empty);
        self.packed.set(packed);
    }

    /// The packed table, if there is one.
    pub fn packed(&self) -> Option<&PackedMatrix<B>> {
        self.packed.get()
    }
}

impl<B: Backend> Compressible<B> for Embedding<B> {
    fn layers_mut(&mut self, at: &mut LayerPath, visit: &mut dyn FnMut(&LayerPath, LayerMut<'_, B>)) {
        visit(at, LayerMut::Embedding(self));
    }
}

impl<B: Backend> ModuleDisplay for Embedding<B> {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let [n_embedding, d_model] = self.shape();
        let content = content.add("n_embedding", &n_embedding).add("d_model", &d_model);
        match self.packed.get() {
            Some(packed) => content.add("bits", &packed.bits).optional(),
            None => content.optional(),
        }
    }
}
