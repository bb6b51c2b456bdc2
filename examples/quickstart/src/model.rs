//! The model: a small classifier of sentences, made of drop-in layers.
//!
//! Two things make a burn model compressible: its layers come from `briquette_nn` instead of `burn::nn`,
//! and it derives `Compressible`. The rest is an ordinary burn model. A recipe calls the layers by the
//! names of the fields: `words`, `pair`, `hidden`, `output`.

use briquette_nn::{
    Compressible, Embedding, EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig,
};
use burn::prelude::*;
use burn::tensor::activation::relu;

/// Sizes of a [`SentenceClassifier`].
#[derive(Config, Debug)]
pub(crate) struct ClassifierConfig {
    /// Number of word ids.
    pub(crate) vocabulary: usize,
    /// Width of a word's vector.
    #[config(default = 64)]
    pub(crate) d_model: usize,
    /// Width of what two neighbouring words are turned into.
    #[config(default = 256)]
    pub(crate) d_pair: usize,
    /// Width of the last hidden layer.
    #[config(default = 128)]
    pub(crate) d_hidden: usize,
    /// Number of classes.
    #[config(default = 2)]
    pub(crate) classes: usize,
}

impl ClassifierConfig {
    /// A model with fresh weights.
    pub(crate) fn init<B: Backend>(&self, device: &B::Device) -> SentenceClassifier<B> {
        // Small vectors are learned from few examples: of large ones, too much stays what it was by chance.
        let small = Initializer::Normal { mean: 0.0, std: 0.1 };
        SentenceClassifier {
            words: EmbeddingConfig::new(self.vocabulary, self.d_model).with_initializer(small).init(device),
            pair: LinearConfig::new(2 * self.d_model, self.d_pair).init(device),
            norm: LayerNormConfig::new(self.d_pair).init(device),
            hidden: LinearConfig::new(self.d_pair, self.d_hidden).init(device),
            output: LinearConfig::new(self.d_hidden, self.classes).init(device),
        }
    }
}

/// Looks at every two neighbouring words, averages what it sees, and decides.
#[derive(Module, Debug, Compressible)]
pub(crate) struct SentenceClassifier<B: Backend> {
    words: Embedding<B>,
    pair: Linear<B>,
    norm: LayerNorm<B>,
    hidden: Linear<B>,
    output: Linear<B>,
}

impl<B: Backend> SentenceClassifier<B> {
    /// Scores `[batch, classes]` of the sentences `ids` `[batch, length]`, `length` at least 2.
    pub(crate) fn forward(&self, ids: Tensor<B, 2, Int>) -> Tensor<B, 2> {
        let length = ids.dims()[1];
        let words = self.words.forward(ids);
        let first = words.clone().narrow(1, 0, length - 1);
        let second = words.narrow(1, 1, length - 1);
        let pairs = relu(self.pair.forward(Tensor::cat(vec![first, second], 2)));
        let sentence = self.norm.forward(pairs.mean_dim(1).squeeze_dim::<2>(1));
        self.output.forward(relu(self.hidden.forward(sentence)))
    }
}
