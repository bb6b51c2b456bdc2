//! Records of burn's layers load into ours, and the other way round.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use briquette_nn::attention::MhaInput;
use briquette_nn::{
    Conv2d, Conv2dConfig, Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig,
    MultiHeadAttention, MultiHeadAttentionConfig,
};
use burn::backend::Flex;
use burn::nn as burn_nn;
use burn::prelude::*;
use burn::record::{BinBytesRecorder, FullPrecisionSettings, NamedMpkBytesRecorder, Recorder};
use common::{assert_close, random};

#[derive(Module, Debug)]
struct Theirs<B: Backend> {
    words: burn_nn::Embedding<B>,
    blocks: Vec<burn_nn::attention::MultiHeadAttention<B>>,
    norm: burn_nn::LayerNorm<B>,
    dense: burn_nn::Linear<B>,
    conv: burn_nn::conv::Conv2d<B>,
    last: burn_nn::Linear<B>,
}

#[derive(Module, Debug)]
struct Ours<B: Backend> {
    words: Embedding<B>,
    blocks: Vec<MultiHeadAttention<B>>,
    norm: LayerNorm<B>,
    dense: Linear<B>,
    conv: Conv2d<B>,
    last: Linear<B>,
}

fn theirs() -> Theirs<Flex> {
    let d = Default::default();
    let net = Theirs {
        words: burn_nn::EmbeddingConfig::new(9, 8).init(&d),
        blocks: vec![burn_nn::attention::MultiHeadAttentionConfig::new(8, 2).init(&d)],
        norm: burn_nn::LayerNormConfig::new(8).init(&d),
        dense: burn_nn::LinearConfig::new(8, 16).with_bias(false).init(&d),
        conv: burn_nn::conv::Conv2dConfig::new([1, 2], [3, 3]).init(&d),
        last: burn_nn::LinearConfig::new(16, 3).init(&d),
    };
    briquette_core::materialize(&net);
    net
}

fn ours() -> Ours<Flex> {
    let d = Default::default();
    let net = Ours {
        words: EmbeddingConfig::new(9, 8).init(&d),
        blocks: vec![MultiHeadAttentionConfig::new(8, 2).init(&d)],
        norm: LayerNormConfig::new(8).init(&d),
        dense: LinearConfig::new(8, 16).with_bias(false).init(&d),
        conv: Conv2dConfig::new([1, 2], [3, 3]).init(&d),
        last: LinearConfig::new(16, 3).init(&d),
    };
    briquette_core::materialize(&net);
    net
}

/// Both nets over the same input.
macro_rules! output {
    ($net:expr, $input:path) => {{
        let net = &$net;
        let device = Default::default();
        let x = net.words.forward(Tensor::from_ints([[1, 8, 3]], &device));
        let x = net.norm.forward(net.blocks[0].forward(<$input>::self_attn(x)).context);
        let x = net.last.forward(net.dense.forward(x));
        // Sums of a few units: those of larger pixels would differ by their roundings where they nearly cancel.
        let image = Tensor::<Flex, 1, Int>::arange(0..25, &device).float().reshape([1, 1, 5, 5]) / 25.0;
        (x, net.conv.forward(image))
    }};
}

fn assert_equal(ours: &Ours<Flex>, theirs: &Theirs<Flex>) {
    let (a, b) = (output!(*ours, MhaInput<Flex>), output!(*theirs, burn_nn::attention::MhaInput<Flex>));
    assert_close(&a.0, &b.0, 1e-5);
    assert_close(&a.1, &b.1, 1e-6);
    assert_eq!(ours.last.weight.id, theirs.last.weight.id);
}

#[test]
fn binary_records_are_the_same_bytes() {
    let d = Default::default();
    let recorder = BinBytesRecorder::<FullPrecisionSettings>::default();
    let save_theirs = |net: &Theirs<Flex>| Recorder::<Flex>::record(&recorder, net.clone().into_record(), ());
    let save_ours = |net: &Ours<Flex>| Recorder::<Flex>::record(&recorder, net.clone().into_record(), ());

    let net = theirs();
    let bytes = save_theirs(&net).unwrap();
    let loaded = ours().load_record(Recorder::<Flex>::load(&recorder, bytes.clone(), &d).unwrap());
    assert_equal(&loaded, &net);
    assert_eq!(save_ours(&loaded).unwrap(), bytes);

    let net = ours();
    let back = theirs().load_record(Recorder::<Flex>::load(&recorder, save_ours(&net).unwrap(), &d).unwrap());
    assert_equal(&net, &back);
}

#[test]
fn named_records_load_both_ways() {
    let d = Default::default();
    let recorder = NamedMpkBytesRecorder::<FullPrecisionSettings>::default();
    let net = theirs();
    let bytes = Recorder::<Flex>::record(&recorder, net.clone().into_record(), ()).unwrap();
    let loaded = ours().load_record(Recorder::<Flex>::load(&recorder, bytes, &d).unwrap());
    assert_equal(&loaded, &net);

    let net = ours();
    let bytes = Recorder::<Flex>::record(&recorder, net.clone().into_record(), ()).unwrap();
    let back = theirs().load_record(Recorder::<Flex>::load(&recorder, bytes, &d).unwrap());
    assert_equal(&net, &back);
}

#[test]
fn a_record_of_one_layer_has_burns_type() {
    let theirs: burn_nn::Linear<Flex> = burn_nn::LinearConfig::new(3, 2).init(&Default::default());
    let _ = (theirs.weight.val(), theirs.bias.as_ref().map(|b| b.val()));
    let ours: Linear<Flex> = LinearConfig::new(3, 2).init(&Default::default());
    let ours = ours.load_record(theirs.clone().into_record());
    let x = random::<Flex, 2>([4, 3]);
    common::assert_same(&ours.forward(x.clone()), &theirs.forward(x));
    assert_eq!(ours.to_string(), theirs.to_string());
    assert_eq!(ours.num_params(), 8);
}
