//! The derive, the walk over layers, and names.

mod common;

use briquette_core::LayerKind;
use briquette_nn::{
    Compressible, Conv2d, Conv2dConfig, Embedding, EmbeddingConfig, LayerList, LayerMut, LayerNorm,
    LayerNormConfig, Linear, LinearConfig, MultiHeadAttention, MultiHeadAttentionConfig, model_view,
    name_table, visit_layers,
};
use burn::backend::Flex;
use burn::module::{Module, Param};
use burn::nn::{self as burn_nn, BatchNorm, BatchNormConfig, PaddingConfig2d};
use burn::prelude::*;
use std::marker::PhantomData;

#[derive(Module, Debug, Compressible)]
struct SelfAttention<B: Backend> {
    query: Linear<B>,
    key: Linear<B>,
    n_heads: usize,
    scale: f64,
}

#[derive(Module, Debug, Compressible)]
struct Block<B: Backend> {
    self_: SelfAttention<B>,
    #[compressible(name = "output.LayerNorm")]
    norm: LayerNorm<B>,
    r#type: Option<Linear<B>>,
}

#[derive(Clone, Debug)]
struct NotCompressible;

#[derive(Module, Debug, Compressible)]
struct Wrapper<B: Backend, M: Module<B>> {
    #[compressible(name = "")]
    inner: M,
    #[module(skip)]
    #[compressible(skip)]
    note: NotCompressible,
    backend: PhantomData<B>,
}

/// Without a backend.
#[derive(Module, Clone, Debug, Compressible)]
struct Settings {
    width: usize,
}

#[derive(Module, Debug, Compressible)]
struct Net<B: Backend> {
    #[compressible(name = "word_embeddings")]
    words: Embedding<B>,
    #[compressible(name = "encoder.layer")]
    blocks: Vec<Block<B>>,
    conv: Conv2d<B>,
    bn: BatchNorm<B>,
    attention: MultiHeadAttention<B>,
    #[compressible(name = "old")]
    burns: burn_nn::attention::MultiHeadAttention<B>,
    #[compressible(skip, name = "frozen")]
    closed: burn_nn::transformer::PositionWiseFeedForward<B>,
    #[compressible(name = "cls_token")]
    token: Param<Tensor<B, 1>>,
    pair: (Linear<B>, Linear<B>),
    padding: PaddingConfig2d,
    settings: Settings,
}

fn block<B: Backend>(device: &B::Device, with_type: bool) -> Block<B> {
    Block {
        self_: SelfAttention {
            query: LinearConfig::new(4, 4).init(device),
            key: LinearConfig::new(4, 4).init(device),
            n_heads: 2,
            scale: 0.5,
        },
        norm: LayerNormConfig::new(4).init(device),
        r#type: with_type.then(|| LinearConfig::new(4, 4).init(device)),
    }
}

fn net() -> Net<Flex> {
    let d = Default::default();
    Net {
        words: EmbeddingConfig::new(9, 4).init(&d),
        blocks: vec![block(&d, true), block(&d, false), block(&d, false)],
        conv: Conv2dConfig::new([1, 2], [3, 3]).init(&d),
        bn: BatchNormConfig::new(2).init(&d),
        attention: MultiHeadAttentionConfig::new(4, 2).init(&d),
        burns: burn_nn::attention::MultiHeadAttentionConfig::new(4, 2).init(&d),
        closed: burn_nn::transformer::PositionWiseFeedForwardConfig::new(4, 8).init(&d),
        token: burn_nn::Initializer::Zeros.init([4], &d),
        pair: (LinearConfig::new(4, 4).init(&d), LinearConfig::new(4, 2).init(&d)),
        padding: PaddingConfig2d::Same,
        settings: Settings { width: 4 },
    }
}

fn kind<B: Backend>(layer: &LayerMut<'_, B>) -> &'static str {
    match layer {
        LayerMut::Linear(_) => "linear",
        LayerMut::Embedding(_) => "embedding",
        LayerMut::Conv2d(_) => "conv",
        LayerMut::Attention(_) => "attention",
        LayerMut::Layers(_) => "list",
        LayerMut::Field(_) | LayerMut::Number(_) => "number",
        LayerMut::LayerNorm(_) | LayerMut::BatchNorm(_) => "norm",
        LayerMut::Other => "other",
    }
}

#[test]
fn the_walk_goes_in_field_order_with_paths_and_names() {
    let mut seen = Vec::new();
    visit_layers(&mut net(), |at, layer| {
        if !matches!(layer, LayerMut::Other) {
            seen.push(format!("{} {} {}", kind(&layer), at.path(), at.name()));
        }
    });
    let expected = [
        "embedding words word_embeddings",
        "list blocks encoder.layer",
        "linear blocks.0.self_.query encoder.layer.0.self.query",
        "linear blocks.0.self_.key encoder.layer.0.self.key",
        "number blocks.0.self_.n_heads encoder.layer.0.self.n_heads",
        "norm blocks.0.norm encoder.layer.0.output.LayerNorm",
        "linear blocks.0.r#type encoder.layer.0.type",
        "linear blocks.1.self_.query encoder.layer.1.self.query",
        "linear blocks.1.self_.key encoder.layer.1.self.key",
        "number blocks.1.self_.n_heads encoder.layer.1.self.n_heads",
        "norm blocks.1.norm encoder.layer.1.output.LayerNorm",
        "linear blocks.2.self_.query encoder.layer.2.self.query",
        "linear blocks.2.self_.key encoder.layer.2.self.key",
        "number blocks.2.self_.n_heads encoder.layer.2.self.n_heads",
        "norm blocks.2.norm encoder.layer.2.output.LayerNorm",
        "conv conv conv",
        "norm bn bn",
        "attention attention attention",
        "linear attention.query attention.query",
        "linear attention.key attention.key",
        "linear attention.value attention.value",
        "linear attention.output attention.output",
        "number attention.n_heads attention.n_heads",
        "linear pair.0 pair.0",
        "linear pair.1 pair.1",
        "number settings.width settings.width",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn the_walk_changes_numbers_and_lists() {
    let mut net = net();
    visit_layers(&mut net, |at, layer| match layer {
        LayerMut::Field(heads) if at.name() == "encoder.layer.0.self.n_heads" => *heads = 1,
        LayerMut::Layers(list) => {
            assert_eq!(list.len(), 3);
            list.keep(&[0, 2]);
        }
        _ => {}
    });
    assert_eq!(net.blocks.len(), 2);
    assert_eq!(net.blocks[0].self_.n_heads, 1);
    assert_eq!(net.blocks[1].self_.n_heads, 2);
}

#[test]
fn a_list_keeps_what_it_is_told_in_that_order() {
    let mut list = vec!["a", "b", "c", "d"];
    LayerList::keep(&mut list, &[3, 1]);
    assert_eq!(list, ["d", "b"]);
}

#[test]
#[should_panic(expected = "block 1 is to be kept twice")]
fn a_block_is_kept_once() {
    LayerList::keep(&mut vec![1, 2, 3], &[1, 1]);
}

#[test]
#[should_panic(expected = "block 3 is to be kept, but there are 3")]
fn a_kept_block_must_exist() {
    LayerList::keep(&mut vec![1, 2, 3], &[3]);
}

#[test]
fn names_cover_every_module_and_parameter() {
    let names = name_table(&net());
    for (path, name) in [
        ("words", "word_embeddings"),
        ("blocks.1.self_.key", "encoder.layer.1.self.key"),
        ("blocks.1.norm", "encoder.layer.1.output.LayerNorm"),
        ("blocks.0.r#type", "encoder.layer.0.type"),
        ("bn", "bn"),
        ("burns.query", "old.query"),
        ("closed.linear_inner", "frozen.linear_inner"),
        ("token", "cls_token"),
        ("words.weight", "word_embeddings.weight"),
        ("blocks.1.norm.gamma", "encoder.layer.1.output.LayerNorm.gamma"),
    ] {
        assert_eq!(names.name(path), name);
    }
}

#[test]
fn the_view_has_names_and_marks_drop_in_layers() {
    let view = model_view(&net());
    let site = |name: &str| view.site(name).unwrap_or_else(|| panic!("{name} in {view:?}"));
    assert_eq!(site("word_embeddings").kind, LayerKind::Embedding);
    assert_eq!(site("encoder.layer.2.self.query").shape, [4, 4]);
    assert_eq!(site("conv").shape, [2, 9]);
    assert!(site("word_embeddings").drop_in && site("attention.output").drop_in && site("conv").drop_in);
    assert!(!site("old.query").drop_in && !site("frozen.linear_outer").drop_in);
    assert_eq!(view.norms, ["bn"]);
}

#[test]
fn lazy_parameters_stay_lazy() {
    let net = net();
    let _ = (name_table(&net), model_view(&net));
    assert!(!net.words.weight.is_initialized());
    assert!(!net.blocks[0].self_.query.weight.is_initialized());
    assert!(!net.closed.linear_inner.weight.is_initialized());
    let _ = (net.words.to_string(), net.conv.to_string(), net.words.shape());
    assert!(!net.words.weight.is_initialized() && !net.conv.weight.is_initialized());
}

#[test]
fn a_wrapper_over_any_module_can_be_nameless() {
    let d = Default::default();
    let net =
        Wrapper::<Flex, _> { inner: vec![block(&d, false)], note: NotCompressible, backend: PhantomData };
    let view = model_view(&net);
    let names: Vec<_> = view.sites.iter().map(|s| (s.path.as_str(), s.name.as_str())).collect();
    assert_eq!(names, [("inner.0.self_.query", "0.self.query"), ("inner.0.self_.key", "0.self.key")]);
}
