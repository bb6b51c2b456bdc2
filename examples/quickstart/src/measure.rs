//! Measuring: accuracy on sentences, time of a forward pass.

use crate::data::Sentences;
use crate::model::SentenceClassifier;
use burn::prelude::*;
use std::time::Instant;

/// Sentences at once.
pub(crate) const BATCH: usize = 64;
/// Passes before time is taken.
const WARM_UP: usize = 2;
/// Passes that are timed.
const PASSES: usize = 15;

/// The share of sentences that the model labels rightly.
pub(crate) fn accuracy<B: Backend>(
    model: &SentenceClassifier<B>,
    sentences: &Sentences,
    device: &B::Device,
) -> f64 {
    let numbers: Vec<usize> = (0..sentences.len()).collect();
    let right = |numbers: &[usize]| {
        let batch = sentences.batch::<B>(numbers, device);
        let labels = model.forward(batch.ids).argmax(1).squeeze_dim::<1>(1);
        labels.equal(batch.labels).int().sum().into_scalar().elem::<i64>()
    };
    numbers.chunks(BATCH).map(right).sum::<i64>() as f64 / sentences.len() as f64
}

/// Median time of a forward pass over one batch, in milliseconds.
pub(crate) fn latency_ms<B: Backend>(
    model: &SentenceClassifier<B>,
    sentences: &Sentences,
    device: &B::Device,
) -> f64 {
    let numbers: Vec<usize> = (0..BATCH.min(sentences.len())).collect();
    let ids = sentences.batch::<B>(&numbers, device).ids;
    let pass = || {
        let start = Instant::now();
        // Reading the result waits for a device that computes in the background.
        let _ = model.forward(ids.clone()).into_data();
        start.elapsed().as_secs_f64() * 1e3
    };
    for _ in 0..WARM_UP {
        pass();
    }
    let mut times: Vec<f64> = (0..PASSES).map(|_| pass()).collect();
    times.sort_by(f64::total_cmp);
    times[PASSES / 2]
}
