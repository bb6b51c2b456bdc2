//! Heads: however queries, keys and values are made, whoever shares them.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod common;

use briquette_core::Role::{Consumes, Produces};
use briquette_core::{Dependencies, Role};
use burn::module::Param;
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::activation::softmax;
use burn::tensor::ops::AttentionModuleOptions;
use common::{Net, dependencies, judge, names};

const D_HEAD: usize = 4;

/// How queries, keys and values are made and brought together.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Three layers.
    Separate,
    /// Three layers, burn's operation.
    Fused,
    /// One layer, cut in three.
    Chunks,
    /// One layer, `[3, heads, d_head]`.
    Axes,
    /// One layer, `[heads, 3 * d_head]`.
    HeadMajor,
    /// Twice as many query heads as those of keys and values, which are expanded.
    Expanded,
    /// The same, chosen by index.
    Chosen,
    /// The same, with an axis for the queries of a group.
    Grouped,
    /// Positions turn queries and keys by a table.
    Rotary,
    /// Queries and keys are normalized within a head.
    Normalized,
}
use Kind::*;

#[derive(Module, Debug)]
struct Attention<B: Backend> {
    embed: Linear<B>,
    qkv: Vec<Linear<B>>,
    scale: Param<Tensor<B, 1>>,
    out: Linear<B>,
    head: Linear<B>,
}

impl<B: Backend> Attention<B> {
    fn made(kind: Kind, device: &B::Device) -> Self {
        let linear = |from, to| LinearConfig::new(from, to).init(device);
        let widths: &[usize] = match kind {
            Chunks | Axes | HeadMajor => &[36],
            Expanded | Chosen | Grouped => &[24, 12, 12],
            _ => &[12, 12, 12],
        };
        let inner = if widths[0] == 36 { 12 } else { widths[0] };
        Self {
            embed: linear(5, 6),
            qkv: widths.iter().map(|&width| linear(6, width)).collect(),
            scale: Param::from_tensor(Tensor::ones([D_HEAD], device)),
            out: linear(inner, 6),
            head: linear(6, 3),
        }
    }

    /// `[batch, heads, seq, d_head]` each.
    fn qkv(&self, kind: Kind, x: Tensor<B, 3>) -> [Tensor<B, 4>; 3] {
        let [batch, seq, _] = x.dims();
        let made: Vec<Tensor<B, 3>> = self.qkv.iter().map(|layer| layer.forward(x.clone())).collect();
        let width = made[0].dims()[2];
        let split = |x: Tensor<B, 3>| {
            let heads = x.dims()[2] / D_HEAD;
            x.reshape([batch, seq, heads, D_HEAD]).swap_dims(1, 2)
        };
        let list: Vec<Tensor<B, 4>> = match kind {
            Chunks => made[0].clone().split(width / 3, 2).into_iter().map(split).collect(),
            Axes => {
                let all = made[0].clone().reshape([batch, seq, 3, width / 3 / D_HEAD, D_HEAD]);
                let part = |i| all.clone().slice([0..batch, 0..seq, i..i + 1]).squeeze_dim::<4>(2);
                (0..3).map(|i| part(i).swap_dims(1, 2)).collect()
            }
            HeadMajor => {
                let all = made[0].clone().reshape([batch, seq, width / 3 / D_HEAD, 3 * D_HEAD]);
                all.split(D_HEAD, 3).into_iter().map(|part| part.swap_dims(1, 2)).collect()
            }
            _ => made.into_iter().map(split).collect(),
        };
        list.try_into().unwrap()
    }

    fn attend(&self, kind: Kind, x: Tensor<B, 3>) -> Tensor<B, 2> {
        let x = self.embed.forward(x);
        let [q, k, v] = self.qkv(kind, x.clone());
        let [batch, heads, seq, _] = q.dims();
        let (q, k, v) = match kind {
            Expanded | Chosen => (q, repeated(k, kind, heads), repeated(v, kind, heads)),
            Rotary => (turned(q), turned(k), v),
            Normalized => (self.normalized(q), self.normalized(k), v),
            _ => (q, k, v),
        };
        let context = match kind {
            Fused => burn::tensor::module::attention(q, k, v, None, None, AttentionModuleOptions::default()),
            Grouped => {
                let shared = k.dims()[1];
                let q = q.reshape([batch, shared, heads / shared, seq, D_HEAD]);
                let scores = q.matmul(k.unsqueeze_dim::<5>(2).swap_dims(3, 4));
                softmax(scores, 4).matmul(v.unsqueeze_dim(2)).reshape([batch, heads, seq, D_HEAD])
            }
            _ => {
                let future = Tensor::<B, 2, Bool>::tril_mask([seq, seq], 0, &q.device());
                let scores = q.matmul(k.swap_dims(2, 3)).mask_fill(future.unsqueeze(), -1e4);
                softmax(scores, 3).matmul(v)
            }
        };
        let context = context.swap_dims(1, 2).reshape([batch, seq, heads * D_HEAD]);
        let x = x + self.out.forward(context);
        self.head.forward(x.mean_dim(1).squeeze_dim(1))
    }

    fn normalized(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let mean = (x.clone() * x.clone()).mean_dim(3);
        x / (mean + 1e-3).sqrt() * self.scale.val().unsqueeze()
    }
}

fn repeated<B: Backend>(x: Tensor<B, 4>, kind: Kind, heads: usize) -> Tensor<B, 4> {
    let [batch, shared, seq, d_head] = x.dims();
    let each = heads / shared;
    if kind == Chosen {
        let numbers: Vec<i32> = (0..heads).map(|i| (i / each) as i32).collect();
        let device = x.device();
        return x.select(1, Tensor::from_ints(numbers.as_slice(), &device));
    }
    let wide = x.unsqueeze_dim::<5>(2).expand([batch, shared, each, seq, d_head]);
    wide.reshape([batch, heads, seq, d_head])
}

/// Rotary positions (Su et al. 2021, arXiv 2104.09864) on halves.
fn turned<B: Backend>(x: Tensor<B, 4>) -> Tensor<B, 4> {
    let [batch, heads, seq, d_head] = x.dims();
    let half = d_head / 2;
    let angle = |i: usize| (i / d_head) as f32 * 0.3f32.powi((i % half) as i32);
    let table = |f: fn(f32) -> f32| {
        let values: Vec<f32> = (0..seq * d_head).map(|i| f(angle(i))).collect();
        Tensor::<B, 4>::from_data(burn::tensor::TensorData::new(values, [1, 1, seq, d_head]), &x.device())
    };
    let part = |from, to| x.clone().slice([0..batch, 0..heads, 0..seq, from..to]);
    let other = Tensor::cat(vec![part(half, d_head).neg(), part(0, half)], 3);
    x.clone() * table(f32::cos) + other * table(f32::sin)
}

macro_rules! attention {
    ($($family:ident, $net:ident, $kind:expr;)*) => {$(
        #[derive(Module, Debug)]
        struct $net<B: Backend> {
            net: Attention<B>,
        }
        impl<B: Backend> Net<B> for $net<B> {
            type Input = Tensor<B, 3>;
            fn new(device: &B::Device) -> Self {
                Self { net: Attention::made($kind, device) }
            }
            fn input(device: &B::Device) -> Self::Input {
                let values: Vec<f32> = (0..70).map(|i| ((i * 37 % 19) as f32 - 9.0) / 6.0).collect();
                Tensor::from_data(burn::tensor::TensorData::new(values, [2, 7, 5]), device)
            }
            fn run(&self, x: Self::Input) -> Tensor<B, 2> {
                self.net.attend($kind, x)
            }
        }
        family!($family, $net);
    )*};
}
attention! {
    SeparateFamily, SeparateNet, Separate;
    FusedFamily, FusedNet, Fused;
    ChunksFamily, ChunksNet, Chunks;
    AxesFamily, AxesNet, Axes;
    HeadMajorFamily, HeadMajorNet, HeadMajor;
    ExpandedFamily, ExpandedNet, Expanded;
    ChosenFamily, ChosenNet, Chosen;
    GroupedFamily, GroupedNet, Grouped;
    RotaryFamily, RotaryNet, Rotary;
    NormalizedFamily, NormalizedNet, Normalized;
}

fn units(found: &Dependencies, name: &str, role: Role, unit: usize) -> Vec<usize> {
    found.groups[1].member(name, role).unwrap().units[unit].clone()
}

fn heads(found: &Dependencies) {
    assert_eq!(names(found), [("net.embed", 6), ("net.qkv.0", 3)]);
    assert_eq!(units(found, "net.out.weight", Consumes, 1), [4, 5, 6, 7]);
    let why = found.why_fixed("net.head.bias", 0);
    assert_eq!(why, Some("it is an output of the model"));
}

#[test]
fn a_head_is_its_rows_in_three_layers_and_its_columns_in_the_next() {
    for found in [judge::<SeparateFamily>(), judge::<RotaryFamily>(), judge::<FusedFamily>()] {
        heads(&found);
        for layer in 0..3 {
            for (parameter, axis) in [("weight", 1), ("bias", 0)] {
                let name = format!("net.qkv.{layer}.{parameter}");
                let member = found.groups[1].member(&name, Produces).unwrap();
                assert_eq!((member.axis, &member.units[2]), (axis, &vec![8, 9, 10, 11]));
            }
        }
        assert_eq!(found.groups[1].members.len(), 7);
        assert_eq!(found.groups[1].averaged_by, [""; 0]);
    }
}

#[test]
fn a_head_of_a_fused_layer_is_three_runs_of_rows() {
    for found in [judge::<ChunksFamily>(), judge::<AxesFamily>()] {
        heads(&found);
        let rows = [4, 5, 6, 7, 16, 17, 18, 19, 28, 29, 30, 31];
        assert_eq!(units(&found, "net.qkv.0.weight", Produces, 1), rows);
        assert_eq!(units(&found, "net.qkv.0.bias", Produces, 1), rows);
    }
    let found = judge::<HeadMajorFamily>();
    heads(&found);
    let rows: Vec<usize> = (12..24).collect();
    assert_eq!(units(&found, "net.qkv.0.weight", Produces, 1), rows);
}

#[test]
fn shared_keys_and_values_go_with_all_their_queries() {
    for found in [judge::<ExpandedFamily>(), judge::<ChosenFamily>(), judge::<GroupedFamily>()] {
        assert_eq!(names(&found), [("net.embed", 6), ("net.qkv.0", 3)]);
        let queries: Vec<usize> = (8..16).collect();
        assert_eq!(units(&found, "net.qkv.0.weight", Produces, 1), queries);
        assert_eq!(units(&found, "net.qkv.1.weight", Produces, 1), [4, 5, 6, 7]);
        assert_eq!(units(&found, "net.qkv.2.bias", Produces, 1), [4, 5, 6, 7]);
        assert_eq!(units(&found, "net.out.weight", Consumes, 1), queries);
    }
}

#[test]
fn a_scale_within_heads_stays() {
    let found = judge::<NormalizedFamily>();
    heads(&found);
    let why = "it is the inner part of a split axis, such as the width of a head";
    assert_eq!(found.why_fixed("net.scale", 0), Some(why));
}

#[derive(Module, Debug)]
struct OneHead<B: Backend> {
    qkv: Vec<Linear<B>>,
    out: Linear<B>,
}

impl<B: Backend> Net<B> for OneHead<B> {
    type Input = Tensor<B, 3>;
    fn new(device: &B::Device) -> Self {
        let qkv = (0..3).map(|_| LinearConfig::new(5, 6).init(device)).collect();
        Self { qkv, out: LinearConfig::new(6, 3).init(device) }
    }
    fn input(device: &B::Device) -> Self::Input {
        let values: Vec<f32> = (0..70).map(|i| ((i * 37 % 19) as f32 - 9.0) / 6.0).collect();
        Tensor::from_data(burn::tensor::TensorData::new(values, [2, 7, 5]), device)
    }
    fn run(&self, x: Self::Input) -> Tensor<B, 2> {
        let [q, k, v] = [0, 1, 2].map(|i| self.qkv[i].forward(x.clone()));
        let context = softmax(q.matmul(k.swap_dims(1, 2)), 2).matmul(v);
        self.out.forward(context.mean_dim(1).squeeze_dim(1))
    }
}
family!(OneHeadFamily, OneHead);

#[test]
fn without_heads_the_width_of_keys_stays_and_that_of_values_may_go() {
    let found = judge::<OneHeadFamily>();
    assert_eq!(names(&found), [("qkv.2", 6)]);
    assert_eq!(found.why_fixed("qkv.0.weight", 1), Some("`matmul` multiplies two activations over it"));
    assert_eq!(found.why_fixed("qkv.1.bias", 0), Some("`matmul` multiplies two activations over it"));
}

/// burn's own block.
#[test]
fn heads_of_burns_own_encoder_are_found() {
    use briquette_graph::{Tracing, trace};
    use burn::nn::transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput};
    let device = Default::default();
    let model: TransformerEncoder<Tracing> = TransformerEncoderConfig::new(12, 20, 3, 2).init(&device);
    let x = Tensor::<Tracing, 3>::ones([2, 5, 12], &device);
    let trace = trace(&model, &Default::default(), x, |m, x| m.forward(TransformerEncoderInput::new(x)));
    let found = trace.unwrap().dependencies();
    let sizes: Vec<usize> = found.groups.iter().map(|g| g.units).collect();
    // Heads and neurons of two layers; the width is that of input and output.
    assert_eq!(sizes, [3, 20, 3, 20], "{:#?}", names(&found));
    assert_eq!(dependencies::<SeparateFamily>().groups[1].units, 3);
}
