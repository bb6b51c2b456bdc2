//! The models compute what PyTorch computes, and more exactly so what float64 arithmetic does.
//!
//! The stored logits of the two transformers are themselves rounded: a float64 evaluation of the same files
//! differs from them by 2.7e-3 (MiniLM) and 6.6e-3 (GPT-2). Hence the wide tolerance there, and the narrow one
//! against the float64 values below.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use briquette_core::host_floats;
use briquette_models::bert::BertForSequenceClassification;
use briquette_models::gpt2::Gpt2LmHead;
use briquette_models::resnet::CifarResNet;
use briquette_models::{ModelConfig, load};
use burn::backend::Flex;
use burn::prelude::*;
use common::{ints, max_difference, reference, shared};

/// Against float64 arithmetic.
const EXACT: f32 = 1e-4;

/// MiniLM's logits of the first 8 reference inputs in float64.
const MINILM: [[f32; 2]; 8] = [
    [-3.789885, 3.844607],
    [3.480402, -3.525276],
    [-2.951085, 2.991847],
    [-2.705932, 2.740544],
    [3.465969, -3.472293],
    [-3.781089, 3.835709],
    [3.328968, -3.359356],
    [1.198615, -1.236893],
];

/// GPT-2's logits of every 1024th token after the last position of both reference inputs, in float64.
const GPT2: [[f32; 8]; 2] = [
    [-13.016922, -3.218356, -1.689163, -13.076633, -5.066054, -2.627677, -5.063785, -10.656307],
    [-13.128905, -2.350306, -2.801968, -13.098112, -3.52434, -1.067507, -6.749883, -9.455531],
];

fn int_tensor(values: (Vec<i32>, Vec<usize>)) -> Tensor<Flex, 2, Int> {
    Tensor::from_data(TensorData::new(values.0, values.1), &Default::default())
}

fn close(what: &str, found: &[f32], wanted: &[f32], tolerance: f32) {
    let difference = max_difference(found, wanted);
    eprintln!("{what}: largest difference {difference:e}");
    assert!(difference <= tolerance, "{what}: {difference}");
}

#[test]
fn bert() {
    let Some(folder) = shared("models/minilm-sst2") else { return };
    let ModelConfig::Bert(config) = ModelConfig::from_dir(&folder).unwrap() else { panic!("a BERT") };
    let model: BertForSequenceClassification<Flex> = load(&config, &folder, &Default::default()).unwrap();
    let files = reference(&folder);
    let wanted = files.get("logits").unwrap().to_f32().unwrap();
    let (ids, mask) = (int_tensor(ints(&files, "input_ids")), int_tensor(ints(&files, "attention_mask")));
    let found = host_floats(model.forward(ids, Some(mask)));
    close("MiniLM", &found, &wanted, 5e-3);
    close("MiniLM, float64", &found[..16], MINILM.as_flattened(), EXACT);
}

#[test]
fn gpt2() {
    let Some(folder) = shared("models/gpt2-wikitext2") else { return };
    let ModelConfig::Gpt2(config) = ModelConfig::from_dir(&folder).unwrap() else { panic!("a GPT-2") };
    let model: Gpt2LmHead<Flex> = load(&config, &folder, &Default::default()).unwrap();
    let files = reference(&folder);
    let wanted = files.get("logits_last16").unwrap().to_f32().unwrap();
    let logits = model.forward(int_tensor(ints(&files, "input_ids")));
    let [batch, seq, vocabulary] = logits.dims();
    let last = logits.slice([0..batch, seq - 16..seq, 0..vocabulary]);
    let found = host_floats(last);
    close("GPT-2", &found, &wanted, 1e-2);
    let rows = [15, 31].map(|row| &found[row * vocabulary..][..vocabulary]);
    let some: Vec<f32> = rows.iter().flat_map(|row| row.iter().step_by(1024).copied()).collect();
    close("GPT-2, float64", &some, GPT2.as_flattened(), EXACT);
}

#[test]
fn resnet() {
    let Some(folder) = shared("models/resnet20-cifar10") else { return };
    let ModelConfig::ResNet(config) = ModelConfig::from_dir(&folder).unwrap() else { panic!("a ResNet") };
    let model: CifarResNet<Flex> = load(&config, &folder, &Default::default()).unwrap();
    let files = reference(&folder);
    let (pixels, shape) = ints(&files, "pixels_u8");
    let values: Vec<f32> = pixels
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let c = i / 1024 % 3;
            (*p as f32 / 255.0 - config.image_mean[c]) / config.image_std[c]
        })
        .collect();
    let images = Tensor::from_data(TensorData::new(values, shape), &Default::default());
    let wanted = files.get("logits").unwrap().to_f32().unwrap();
    close("ResNet-20", &host_floats(model.forward(images)), &wanted, EXACT);
}
