//! Without any compression, the layers are burn's.

mod common;

use briquette_nn::attention::{MhaInput, MultiHeadAttention, MultiHeadAttentionConfig};
use briquette_nn::{
    Conv2d, Conv2dConfig, Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig,
    LinearLayout, PaddingConfig2d,
};
use burn::backend::Flex;
use burn::module::{AutodiffModule, ModuleMapper, Param};
use burn::nn as burn_nn;
use burn::prelude::*;
use burn::tensor::Distribution;
use common::{A, assert_close, assert_same, random};

#[test]
fn linear_equals_burns_at_every_rank() {
    let device = Default::default();
    let theirs: burn_nn::Linear<Flex> = burn_nn::LinearConfig::new(6, 5).init(&device);
    let _ = (theirs.weight.val(), theirs.bias.as_ref().map(|b| b.val()));
    let ours = Linear::from(theirs.clone());
    let (x1, x2, x3, x4) = (random([6]), random([4, 6]), random([2, 3, 6]), random([2, 2, 3, 6]));
    assert_same(&ours.forward::<1>(x1.clone()), &theirs.forward(x1));
    assert_same(&ours.forward::<2>(x2.clone()), &theirs.forward(x2));
    assert_same(&ours.forward::<3>(x3.clone()), &theirs.forward(x3));
    assert_same(&ours.forward::<4>(x4.clone()), &theirs.forward(x4));
}

#[test]
fn rank_three_gradients_equal_rank_two() {
    let layer: Linear<A> = LinearConfig::new(6, 5).init(&Default::default());
    let x = random::<A, 3>([2, 3, 6]);
    let run3 = {
        let x = x.clone().require_grad();
        let grads = layer.forward(x.clone()).powi_scalar(2).sum().backward();
        (x.grad(&grads).expect("dx"), layer.weight.grad(&grads).expect("dw"))
    };
    let x2 = x.reshape([6, 6]).require_grad();
    let grads = layer.forward(x2.clone()).powi_scalar(2).sum().backward();
    assert_same(&run3.0.reshape([6, 6]), &x2.grad(&grads).expect("dx"));
    assert_same(&run3.1, &layer.weight.grad(&grads).expect("dw"));
}

#[test]
fn config_options_of_linear_have_an_effect() {
    let device = Default::default();
    let no_bias: Linear<Flex> = LinearConfig::new(3, 2).with_bias(false).init(&device);
    assert!(no_bias.bias.is_none());
    let columns: Linear<Flex> = LinearConfig::new(3, 2).with_layout(LinearLayout::Col).init(&device);
    assert_eq!(columns.weight.val().dims(), [3, 2]);
    assert_eq!(columns.shape(), [2, 3]);
}

#[test]
fn embedding_equals_burns_and_serves_as_a_tied_output() {
    let device = Default::default();
    let theirs: burn_nn::Embedding<Flex> = burn_nn::EmbeddingConfig::new(7, 4).init(&device);
    let _ = theirs.weight.val();
    let ours: Embedding<Flex> = theirs.clone().into();
    let ids = Tensor::from_ints([[0, 6, 3], [2, 2, 5]], &device);
    assert_same(&ours.forward(ids.clone()), &theirs.forward(ids));
    let x = random::<Flex, 3>([2, 3, 4]);
    let expected = x.clone().matmul(theirs.weight.val().transpose().unsqueeze());
    assert_close(&ours.as_linear(x), &expected, 1e-6);
    assert_eq!(EmbeddingConfig::new(7, 4).init::<Flex>(&device).shape(), [7, 4]);
}

#[test]
fn conv_equals_burns_for_every_option() {
    let device = Default::default();
    let base = || burn_nn::conv::Conv2dConfig::new([4, 6], [3, 2]);
    let configs = [
        base(),
        base().with_stride([2, 3]),
        base().with_dilation([1, 2]),
        base().with_groups(2),
        base().with_padding(PaddingConfig2d::Same),
        base().with_padding(PaddingConfig2d::Same).with_stride([2, 2]),
        base().with_padding(PaddingConfig2d::Explicit(1, 2, 0, 3)),
        base().with_bias(false),
    ];
    let x = random::<Flex, 4>([2, 4, 9, 8]);
    for config in configs {
        let theirs: burn_nn::conv::Conv2d<Flex> = config.init(&device);
        let _ = (theirs.weight.val(), theirs.bias.as_ref().map(|b| b.val()));
        let ours: Conv2d<Flex> = theirs.clone().into();
        // Sums are of the same products in another order.
        assert_close(&ours.forward(x.clone()), &theirs.forward(x.clone()), 1e-5);
        let fresh: Conv2d<Flex> = Conv2dConfig::new(config.channels, config.kernel_size)
            .with_stride(config.stride)
            .with_dilation(config.dilation)
            .with_groups(config.groups)
            .with_padding(config.padding.clone())
            .with_bias(config.bias)
            .init(&device);
        assert_eq!(fresh.forward(x.clone()).dims(), theirs.forward(x.clone()).dims());
        assert_eq!(fresh.to_string(), Conv2d::from(theirs).to_string());
    }
}

#[test]
fn layer_norm_equals_burns() {
    let device = Default::default();
    let x = random::<Flex, 3>([2, 3, 8]) * 3.0 + 1.0;
    for bias in [true, false] {
        let mut ours: LayerNorm<Flex> =
            LayerNormConfig::new(8).with_epsilon(1e-3).with_bias(bias).init(&device);
        let mut theirs: burn_nn::LayerNorm<Flex> =
            burn_nn::LayerNormConfig::new(8).with_epsilon(1e-3).with_bias(bias).init(&device);
        ours.gamma = Param::from_tensor(random([8]));
        theirs.gamma = ours.gamma.clone();
        assert_close(&ours.forward(x.clone()), &theirs.forward(x.clone()), 1e-5);
    }
}

fn attention() -> (MultiHeadAttention<Flex>, burn_nn::attention::MultiHeadAttention<Flex>) {
    let theirs: burn_nn::attention::MultiHeadAttention<Flex> =
        burn_nn::attention::MultiHeadAttentionConfig::new(8, 4).init(&Default::default());
    briquette_core::materialize(&theirs);
    (theirs.clone().into(), theirs)
}

#[test]
fn attention_equals_burns_with_masks() {
    let (ours, theirs) = attention();
    let x = random::<Flex, 3>([2, 5, 8]);
    let memory = random::<Flex, 3>([2, 3, 8]);
    let mask = |shape: [usize; 3]| {
        Tensor::<Flex, 3>::random(shape, Distribution::Uniform(0.0, 1.0), &Default::default())
            .greater_elem(0.6)
    };
    let (pad, pairs) = (mask([1, 2, 3]).squeeze_dim::<2>(0), mask([2, 5, 3]));
    let a = ours.forward(
        MhaInput::new(x.clone(), memory.clone(), memory.clone())
            .mask_pad(pad.clone())
            .mask_attn(pairs.clone()),
    );
    let b = theirs.forward(
        burn_nn::attention::MhaInput::new(x.clone(), memory.clone(), memory).mask_pad(pad).mask_attn(pairs),
    );
    assert_close(&a.context, &b.context, 1e-6);
    assert_close(&a.weights, &b.weights, 1e-6);
    let a = ours.forward(MhaInput::self_attn(x.clone())).context;
    assert_close(&a, &theirs.forward(burn_nn::attention::MhaInput::self_attn(x)).context, 1e-6);
}

#[test]
fn options_of_attention_have_an_effect() {
    let device = Default::default();
    let x = random::<Flex, 3>([1, 4, 8]);
    let plain = MultiHeadAttentionConfig::new(8, 2).init::<Flex>(&device);
    let quiet = MultiHeadAttention { quiet_softmax: true, ..plain.clone() };
    let sums = |a: &MultiHeadAttention<Flex>| a.forward(MhaInput::self_attn(x.clone())).weights.sum_dim(3);
    assert_close(&sums(&plain), &Tensor::ones([1, 2, 4, 1], &device), 1e-5);
    assert!(common::floats(&sums(&quiet)).iter().all(|s| *s < 0.999));
    let dropping = MultiHeadAttentionConfig::new(8, 2).with_dropout(0.5).init::<A>(&device);
    assert_eq!(dropping.dropout.prob, 0.5);
}

#[test]
fn attention_without_a_head_equals_the_masked_one() {
    let (full, _) = attention();
    let x = random::<Flex, 3>([2, 5, 8]);
    let device = Default::default();
    let kept = Tensor::<Flex, 1, Int>::from_ints([0, 1, 4, 5, 6, 7], &device);
    let mask = Tensor::<Flex, 1>::from_floats([1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], &device);
    let mut masked = full.clone();
    masked.output.weight = masked.output.weight.map(|w| w * mask.unsqueeze_dim(1));
    let mut small = full;
    for part in [&mut small.query, &mut small.key, &mut small.value] {
        part.weight = Param::from_tensor(part.weight.val().select(1, kept.clone()));
        part.bias = part.bias.take().map(|b| Param::from_tensor(b.val().select(0, kept.clone())));
    }
    small.output.weight = Param::from_tensor(small.output.weight.val().select(0, kept));
    small.n_heads = 3;
    let a = small.forward(MhaInput::self_attn(x.clone()));
    let b = masked.forward(MhaInput::self_attn(x));
    assert_close(&a.context, &b.context, 1e-5);
    assert_eq!(a.weights.dims(), [2, 3, 5, 5]);
}

/// Doubles the weights of linear layers, by the path that burn's derive would give.
struct Double(Vec<(String, String)>);

impl<B: Backend> ModuleMapper<B> for Double {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.push((name.into(), container.into()));
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.0.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let weight = self.0.last().is_some_and(|(f, c)| f == "weight" && c == "Struct:Linear");
        if weight { param.map(|w| w * 2.0) } else { param }
    }
}

#[test]
fn gradients_through_a_mapped_view_reach_the_original() {
    let layer: Linear<A> = LinearConfig::new(3, 2).init(&Default::default());
    briquette_core::materialize(&layer);
    let x = random::<A, 3>([2, 2, 3]);
    let plain = layer.weight.grad(&layer.forward(x.clone()).sum().backward()).expect("plain");
    let view = layer.clone().map(&mut Double(Vec::new()));
    let through = layer.weight.grad(&view.forward(x).sum().backward()).expect("through the view");
    assert_close(&through, &(plain * 2.0), 1e-6);
}

#[test]
fn valid_and_train_keep_the_type() {
    let layer: Linear<A> = LinearConfig::new(3, 2).init(&Default::default());
    let inner: Linear<Flex> = layer.valid();
    let back: Linear<A> = inner.train::<A>();
    assert!(back.weight.is_require_grad());
}
