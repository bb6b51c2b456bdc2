//! The published figures of the models, on the data they were published for.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use briquette_kernels::backend::Cpu;
use briquette_models::{
    Evaluation, Examples, ModelConfig, ModelJob, Pretrained, PretrainedConfig, evaluate, load,
};
use common::shared;
use std::path::Path;
use std::time::Instant;

struct Evaluate<'a> {
    folder: &'a Path,
    data: &'a Path,
    batch: usize,
}

impl ModelJob<Cpu> for Evaluate<'_> {
    type Output = Evaluation;

    fn run<M: Pretrained<Cpu>>(self, config: &M::Config) -> Evaluation {
        let (device, task) = (Default::default(), config.task());
        let start = Instant::now();
        let model: M = load(config, self.folder, &device).unwrap();
        let loaded = start.elapsed();
        let examples = Examples::read(self.data, &task, self.folder).unwrap();
        let read = start.elapsed() - loaded;
        let mut calls = 0;
        let mut count = |done: usize, all: usize| {
            calls += 1;
            assert!(done <= all);
        };
        let found = evaluate(&model, &task, &examples, self.batch, &device, &mut count).unwrap();
        assert!(calls > 0);
        eprintln!("{found:?}; load {loaded:.2?}, read {read:.2?}, all {:.2?}", start.elapsed());
        found
    }
}

fn measure(model: &str, data: &str, batch: usize) -> Option<Evaluation> {
    let (folder, data) = (shared(model)?, shared(data)?);
    let config = ModelConfig::from_dir(&folder).unwrap();
    Some(config.run(Evaluate { folder: &folder, data: &data, batch }))
}

#[test]
#[ignore = "takes minutes without optimisation"]
fn minilm_on_sst2() {
    let Some(found) = measure("models/minilm-sst2", "data/sst2/dev.tsv", 32) else { return };
    assert_eq!((found.metric, found.n), ("accuracy", 872));
    assert!((found.value - 0.8911).abs() < 0.0006, "{}", found.value);
}

#[test]
#[ignore = "takes minutes without optimisation"]
fn gpt2_on_wikitext2() {
    let Some(found) = measure("models/gpt2-wikitext2", "data/wikitext2/valid.txt", 8) else { return };
    assert_eq!((found.metric, found.n % 256), ("perplexity", 0));
    assert!((found.value - 36.04).abs() < 0.02, "{}", found.value);
}

#[test]
#[ignore = "takes minutes without optimisation"]
fn resnet20_on_cifar10() {
    let Some(found) = measure("models/resnet20-cifar10", "data/cifar10/test_first5000.bin", 100) else {
        return;
    };
    assert_eq!((found.metric, found.n), ("accuracy", 5000));
    assert!((found.value - 0.9148).abs() < 0.0005, "{}", found.value);
}

#[test]
fn a_few_sentences() {
    let (Some(folder), Some(data)) = (shared("models/minilm-sst2"), shared("data/sst2/dev.tsv")) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let few = dir.path().join("few.tsv");
    let text = std::fs::read_to_string(data).unwrap();
    std::fs::write(&few, text.lines().take(9).map(|l| format!("{l}\n")).collect::<String>()).unwrap();
    let config = ModelConfig::from_dir(&folder).unwrap();
    let found = [1, 8].map(|batch| config.run(Evaluate { folder: &folder, data: &few, batch }));
    assert_eq!(found[0], found[1], "the size of batches changes nothing");
    assert_eq!(found[0].n, 8);
    assert!(found[0].value >= 0.75, "{}", found[0].value);
}
