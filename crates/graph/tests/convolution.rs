//! Channels: batch normalization, residual sums, concatenation, groups, depthwise, flattening, zero channels.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod common;

use briquette_core::Role::{Consumes, Follows, Produces};
use burn::module::Param;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{AdaptiveAvgPool2dConfig, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::prelude::*;
use burn::tensor::activation::relu;
use burn::tensor::module::{conv_transpose2d, conv2d};
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions, PaddedConvOptions};
use common::{Net, judge, names, shape_of};

fn images<B: Backend>(channels: usize, device: &B::Device) -> Tensor<B, 4> {
    let shape = [2, channels, 6, 8];
    let values: Vec<f32> =
        (0..shape.iter().product::<usize>()).map(|i| ((i * 37 % 19) as f32 - 9.0) / 6.0).collect();
    Tensor::from_data(burn::tensor::TensorData::new(values, shape), device)
}

fn conv<B: Backend>(from: usize, to: usize, device: &B::Device) -> Conv2d<B> {
    Conv2dConfig::new([from, to], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(device)
}

fn linear<B: Backend>(from: usize, to: usize, device: &B::Device) -> Linear<B> {
    LinearConfig::new(from, to).init(device)
}

fn pooled<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 2> {
    AdaptiveAvgPool2dConfig::new([1, 1]).init().forward(x).flatten(1, 3)
}

#[derive(Module, Debug)]
struct Plain<B: Backend> {
    one: Conv2d<B>,
    norm: BatchNorm<B>,
    two: Conv2d<B>,
    head: Linear<B>,
}

impl<B: Backend> Net<B> for Plain<B> {
    type Input = Tensor<B, 4>;
    fn new(device: &B::Device) -> Self {
        Self {
            one: conv(3, 6, device),
            norm: BatchNormConfig::new(6).init(device),
            two: conv(6, 5, device),
            head: linear(5 * 3 * 4, 3, device),
        }
    }
    fn input(device: &B::Device) -> Self::Input {
        images(3, device)
    }
    fn run(&self, x: Self::Input) -> Tensor<B, 2> {
        let x = relu(self.norm.forward(self.one.forward(x)));
        let x = MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init().forward(self.two.forward(x));
        self.head.forward(x.flatten(1, 3))
    }
}
family!(PlainFamily, Plain);

#[test]
fn a_channel_takes_its_normalization_and_the_next_kernels_along() {
    let found = judge::<PlainFamily>();
    assert_eq!(names(&found), [("one", 6), ("two", 5)]);
    let first = [
        ("one.weight", 0, Produces, 1),
        ("one.bias", 0, Produces, 1),
        ("norm.weight", 0, Follows, 1),
        ("norm.bias", 0, Follows, 1),
        ("norm.running_mean", 0, Follows, 1),
        ("norm.running_var", 0, Follows, 1),
        ("two.weight", 1, Consumes, 1),
    ];
    assert_eq!(shape_of(&found.groups[0]).1, first);
    // Flattened: the pixels of the channel.
    let pixels: Vec<usize> = (24..36).collect();
    assert_eq!(found.groups[1].member("head.weight", Consumes).unwrap().units[2], pixels);
}

#[derive(Module, Debug)]
struct Branches<B: Backend> {
    stem: Conv2d<B>,
    left: Conv2d<B>,
    right: Conv2d<B>,
    norm: BatchNorm<B>,
    join: Conv2d<B>,
    head: Linear<B>,
}

impl<B: Backend> Net<B> for Branches<B> {
    type Input = Tensor<B, 4>;
    fn new(device: &B::Device) -> Self {
        Self {
            stem: conv(3, 4, device),
            left: conv(4, 5, device),
            right: conv(4, 6, device),
            norm: BatchNormConfig::new(11).init(device),
            join: conv(11, 4, device),
            head: linear(4, 3, device),
        }
    }
    fn input(device: &B::Device) -> Self::Input {
        images(3, device)
    }
    fn run(&self, x: Self::Input) -> Tensor<B, 2> {
        let x = relu(self.stem.forward(x));
        let both = Tensor::cat(vec![self.left.forward(x.clone()), self.right.forward(x.clone())], 1);
        let y = self.join.forward(relu(self.norm.forward(both)));
        self.head.forward(pooled(relu(x + y)))
    }
}
family!(BranchesFamily, Branches);

#[test]
fn residual_sums_join_channels_and_concatenation_does_not() {
    let found = judge::<BranchesFamily>();
    assert_eq!(names(&found), [("stem", 4), ("left", 5), ("right", 6)]);
    let stem: Vec<_> = found.groups[0].members.iter().map(|m| (m.name.as_str(), m.role)).collect();
    let expected = [
        ("stem.weight", Produces),
        ("stem.bias", Produces),
        ("left.weight", Consumes),
        ("right.weight", Consumes),
        ("join.weight", Produces),
        ("join.bias", Produces),
        ("head.weight", Consumes),
    ];
    assert_eq!(stem, expected);
    let right = &found.groups[2];
    assert_eq!(right.member("join.weight", Consumes).unwrap().units[0], [5]);
    assert_eq!(right.member("norm.running_var", Follows).unwrap().units[5], [10]);
}

/// Groups follow from the sizes: what a pruned convolution has to do.
#[derive(Module, Debug)]
struct InGroups<B: Backend> {
    stem: Conv2d<B>,
    depth: Param<Tensor<B, 4>>,
    bias: Param<Tensor<B, 1>>,
    middle: Conv2d<B>,
    pairs: Param<Tensor<B, 4>>,
    head: Linear<B>,
}

impl<B: Backend> Net<B> for InGroups<B> {
    type Input = Tensor<B, 4>;
    fn new(device: &B::Device) -> Self {
        Self {
            stem: conv(3, 6, device),
            // Two filters for each channel.
            depth: Param::from_tensor(Tensor::zeros([12, 1, 3, 3], device)),
            bias: Param::from_tensor(Tensor::zeros([12], device)),
            middle: conv(12, 8, device),
            // Two groups of four channels and three filters.
            pairs: Param::from_tensor(Tensor::zeros([6, 4, 3, 3], device)),
            head: linear(6, 3, device),
        }
    }
    fn input(device: &B::Device) -> Self::Input {
        images(3, device)
    }
    fn run(&self, x: Self::Input) -> Tensor<B, 2> {
        let x = relu(self.stem.forward(x));
        let options = |groups| ConvOptions::new([1, 1], [1, 1], [1, 1], groups);
        let groups = x.dims()[1];
        let x = relu(conv2d(x, self.depth.val(), Some(self.bias.val()), options(groups)));
        let x = relu(self.middle.forward(x));
        self.head.forward(pooled(relu(conv2d(x, self.pairs.val(), None, options(2)))))
    }
}
family!(InGroupsFamily, InGroups);

#[test]
fn depthwise_filters_follow_and_groups_lose_the_same_positions() {
    let found = judge::<InGroupsFamily>();
    assert_eq!(names(&found), [("stem", 6), ("middle", 4), ("pairs", 3)]);
    let depthwise = [
        ("stem.weight", 0, Produces, 1),
        ("stem.bias", 0, Produces, 1),
        ("depth", 0, Follows, 2),
        ("bias", 0, Follows, 2),
        ("middle.weight", 1, Consumes, 2),
    ];
    assert_eq!(shape_of(&found.groups[0]).1, depthwise);
    assert_eq!(found.groups[0].member("depth", Follows).unwrap().units[4], [8, 9]);
    let middle = &found.groups[1];
    assert_eq!(middle.member("middle.weight", Produces).unwrap().units[1], [1, 5]);
    assert_eq!(middle.member("pairs", Consumes).unwrap().units[1], [1]);
    let pairs = &found.groups[2];
    assert_eq!(pairs.member("pairs", Produces).unwrap().units[2], [2, 5]);
    assert_eq!(pairs.member("head.weight", Consumes).unwrap().units[2], [2, 5]);
}

/// Wider after the first stage: the channels that are new start at zero (option A of He et al., arXiv 1512.03385).
#[derive(Module, Debug)]
struct Widening<B: Backend> {
    stem: Conv2d<B>,
    inner: Conv2d<B>,
    wide: Conv2d<B>,
    norm: BatchNorm<B>,
    head: Linear<B>,
    /// Which of the new channels are fed by the old ones.
    #[module(skip)]
    by_assignment: bool,
}

impl<B: Backend> Widening<B> {
    fn made(by_assignment: bool, device: &B::Device) -> Self {
        Self {
            stem: conv(3, 4, device),
            inner: conv(4, 5, device),
            wide: conv(5, 8, device),
            norm: BatchNormConfig::new(8).init(device),
            head: linear(8, 3, device),
            by_assignment,
        }
    }

    fn shortcut(&self, x: Tensor<B, 4>, channels: usize) -> Tensor<B, 4> {
        let x = x.slice(s![.., .., ..;2, ..;2]);
        let [batch, present, height, width] = x.dims();
        let before = (channels - present) / 2;
        let zeros = |n| Tensor::zeros([batch, n, height, width], &x.device());
        if self.by_assignment {
            return zeros(channels).slice_assign(s![.., before..before + present, .., ..], x);
        }
        Tensor::cat(vec![zeros(before), x.clone(), zeros(channels - present - before)], 1)
    }
}

impl<B: Backend> Net<B> for Widening<B> {
    type Input = Tensor<B, 4>;
    fn new(device: &B::Device) -> Self {
        Self::made(false, device)
    }
    fn input(device: &B::Device) -> Self::Input {
        images(3, device)
    }
    fn run(&self, x: Self::Input) -> Tensor<B, 2> {
        let x = relu(self.stem.forward(x));
        let y = self.wide.forward(relu(self.inner.forward(x.clone()))).slice(s![.., .., ..;2, ..;2]);
        let y = self.norm.forward(y);
        let channels = y.dims()[1];
        self.head.forward(pooled(relu(y + self.shortcut(x, channels))))
    }
}

#[test]
fn channels_fed_by_zeros_stand_for_themselves() {
    use briquette_graph::{Tracing, trace};
    let device = Default::default();
    for by_assignment in [false, true] {
        let model = Widening::<Tracing>::made(by_assignment, &device);
        let x = images(3, &device);
        let found = trace(&model, &Default::default(), x, |m, x| m.run(x)).unwrap().dependencies();
        assert_eq!(names(&found), [("stem", 8), ("inner", 5)]);
        let stream = &found.groups[0];
        let units = |name: &str, role| stream.member(name, role).unwrap().units.clone();
        let none = Vec::new();
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| vec![i]);
        assert_eq!(
            units("stem.weight", Produces),
            [a, b, c, d, none.clone(), none.clone(), none.clone(), none]
        );
        let wide = [[2], [3], [4], [5], [0], [1], [6], [7]];
        assert_eq!(units("wide.weight", Produces), wide);
        assert_eq!(units("norm.running_mean", Follows), wide);
        assert_eq!(units("head.weight", Consumes), wide);
        assert_eq!(units("inner.weight", Consumes)[3..5], [vec![3], vec![]]);
    }
}

#[derive(Module, Debug)]
struct Decoder<B: Backend> {
    stem: Conv2d<B>,
    up: Param<Tensor<B, 4>>,
    norm: BatchNorm<B>,
    depth: Param<Tensor<B, 4>>,
    last: Conv2d<B>,
    head: Linear<B>,
}

impl<B: Backend> Net<B> for Decoder<B> {
    type Input = Tensor<B, 4>;
    fn new(device: &B::Device) -> Self {
        Self {
            stem: conv(3, 4, device),
            up: Param::from_tensor(Tensor::zeros([4, 6, 2, 2], device)),
            norm: BatchNormConfig::new(6).init(device),
            depth: Param::from_tensor(Tensor::zeros([6, 1, 2, 2], device)),
            last: conv(6, 5, device),
            head: linear(5, 3, device),
        }
    }
    fn input(device: &B::Device) -> Self::Input {
        images(3, device)
    }
    fn run(&self, x: Self::Input) -> Tensor<B, 2> {
        let options = |groups| ConvTransposeOptions::new([2, 2], [0, 0], [0, 0], [1, 1], groups);
        let x = relu(self.stem.forward(x));
        let x = relu(self.norm.forward(conv_transpose2d(x, self.up.val(), None, options(1))));
        let groups = x.dims()[1];
        let x = relu(conv_transpose2d(x, self.depth.val(), None, options(groups)));
        // Uneven padding is a tensor of zeros into which the image is written.
        let padded = PaddedConvOptions::asymmetric([1, 1], [1, 0], [0, 2], [1, 1], 1);
        let x = conv2d(x, self.last.weight.val(), None, padded);
        self.head.forward(pooled(relu(x)))
    }
}
family!(DecoderFamily, Decoder);

#[test]
fn transposed_convolutions_have_their_axes_the_other_way_round() {
    let found = judge::<DecoderFamily>();
    assert_eq!(names(&found), [("stem", 4), ("up", 6), ("last", 5)]);
    let up = [
        ("up", 1, Produces, 1),
        ("norm.weight", 0, Follows, 1),
        ("norm.bias", 0, Follows, 1),
        ("norm.running_mean", 0, Follows, 1),
        ("norm.running_var", 0, Follows, 1),
        ("depth", 0, Follows, 1),
        ("last.weight", 1, Consumes, 1),
    ];
    assert_eq!(shape_of(&found.groups[1]).1, up);
    assert_eq!(found.groups[0].member("up", Consumes).unwrap().axis, 0);
}

/// A gate for each channel from the means of all (Hu et al. 2017, arXiv 1709.01507).
#[derive(Module, Debug)]
struct Squeezed<B: Backend> {
    stem: Conv2d<B>,
    down: Linear<B>,
    up: Linear<B>,
    head: Linear<B>,
}

impl<B: Backend> Net<B> for Squeezed<B> {
    type Input = Tensor<B, 4>;
    fn new(device: &B::Device) -> Self {
        Self {
            stem: conv(3, 6, device),
            down: linear(6, 4, device),
            up: linear(4, 6, device),
            head: linear(6, 3, device),
        }
    }
    fn input(device: &B::Device) -> Self::Input {
        images(3, device)
    }
    fn run(&self, x: Self::Input) -> Tensor<B, 2> {
        let x = relu(self.stem.forward(x));
        let gate = self.up.forward(relu(self.down.forward(pooled(x.clone())))).tanh();
        let [batch, channels] = gate.dims();
        self.head.forward(pooled(x * gate.reshape([batch, channels, 1, 1])))
    }
}
family!(SqueezedFamily, Squeezed);

#[test]
fn gates_of_channels_go_with_the_channels() {
    let found = judge::<SqueezedFamily>();
    assert_eq!(names(&found), [("stem", 6), ("down", 4)]);
    let members: Vec<_> = found.groups[0].members.iter().map(|m| (m.name.as_str(), m.role)).collect();
    let expected = [
        ("stem.weight", Produces),
        ("stem.bias", Produces),
        ("down.weight", Consumes),
        ("up.weight", Produces),
        ("up.bias", Produces),
        ("head.weight", Consumes),
    ];
    assert_eq!(members, expected);
}
