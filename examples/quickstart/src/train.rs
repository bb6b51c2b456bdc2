//! Training: a plain burn loop, with nothing of compression in it.

use crate::data::{Random, Sentences};
use crate::model::SentenceClassifier;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamConfig, GradientsParams, Optimizer};
use burn::tensor::backend::AutodiffBackend;

/// Sentences in a batch.
const BATCH: usize = 64;
/// Learning rate of the first step; it falls to zero in a straight line.
const LEARNING_RATE: f64 = 3e-3;

/// The model after `epochs` passes over the sentences, each in an order of its own that `seed` decides.
pub(crate) fn train<B: AutodiffBackend>(
    mut model: SentenceClassifier<B>,
    sentences: &Sentences,
    epochs: usize,
    seed: u64,
    device: &B::Device,
) -> SentenceClassifier<B> {
    let loss = CrossEntropyLossConfig::new().init(device);
    let mut optimizer = AdamConfig::new().init();
    let mut random = Random(seed);
    let steps = epochs * sentences.len().div_ceil(BATCH);
    let mut done = 0;
    for _ in 0..epochs {
        for numbers in random.order(sentences.len()).chunks(BATCH) {
            let batch = sentences.batch::<B>(numbers, device);
            let loss = loss.forward(model.forward(batch.ids), batch.labels);
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            let rate = LEARNING_RATE * (1.0 - done as f64 / steps as f64);
            model = optimizer.step(rate, model, gradients);
            done += 1;
        }
    }
    model
}
