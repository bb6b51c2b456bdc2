//! Linear layers: chains, residual sums, gates, what holds entries.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod common;

use briquette_core::Role::{Consumes, Follows, Produces};
use briquette_graph::{Tracing, trace};
use burn::module::Param;
use burn::nn::{Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::activation::{gelu, relu, sigmoid, silu, softmax};
use common::{Net, dependencies, judge, names, shape_of};

fn floats<B: Backend, const D: usize>(shape: [usize; D], device: &B::Device) -> Tensor<B, D> {
    let len = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..len).map(|i| ((i * 37 % 19) as f32 - 9.0) / 6.0).collect();
    Tensor::from_data(burn::tensor::TensorData::new(values, shape), device)
}

#[derive(Module, Debug)]
struct Mlp<B: Backend> {
    one: Linear<B>,
    two: Linear<B>,
    three: Linear<B>,
}

impl<B: Backend> Net<B> for Mlp<B> {
    type Input = Tensor<B, 2>;
    fn new(device: &B::Device) -> Self {
        Self {
            one: LinearConfig::new(5, 12).init(device),
            two: LinearConfig::new(12, 7).with_bias(false).init(device),
            three: LinearConfig::new(7, 3).init(device),
        }
    }
    fn input(device: &B::Device) -> Self::Input {
        floats([2, 5], device)
    }
    fn run(&self, x: Self::Input) -> Tensor<B, 2> {
        let x = gelu(self.one.forward(x));
        self.three.forward(sigmoid(self.two.forward(x)))
    }
}
family!(MlpFamily, Mlp);

#[test]
fn a_chain_of_layers_has_a_group_between_each_two() {
    let found = judge::<MlpFamily>();
    assert_eq!(names(&found), [("one", 12), ("two", 7)]);
    let first =
        [("one.weight", 1, Produces, 1), ("one.bias", 0, Produces, 1), ("two.weight", 0, Consumes, 1)];
    assert_eq!(shape_of(&found.groups[0]), (12, first.to_vec()));
    let second = [("two.weight", 1, Produces, 1), ("three.weight", 0, Consumes, 1)];
    assert_eq!(shape_of(&found.groups[1]), (7, second.to_vec()));
    let why = |name| found.why_fixed(name, if name == "three.bias" { 0 } else { 1 }).unwrap();
    assert_eq!(
        found.why_fixed("one.weight", 0),
        Some("it goes with an axis of the model's input or of a constant")
    );
    assert_eq!(why("three.weight"), "it is an output of the model");
    assert_eq!(why("three.bias"), "it is an output of the model");
    assert_eq!(found.why_fixed("two.weight", 0), None);
}

#[derive(Module, Debug)]
struct Residual<B: Backend> {
    embed: Linear<B>,
    up: Linear<B>,
    down: Linear<B>,
    scale: Param<Tensor<B, 1>>,
    head: Linear<B>,
}

impl<B: Backend> Net<B> for Residual<B> {
    type Input = Tensor<B, 3>;
    fn new(device: &B::Device) -> Self {
        Self {
            embed: LinearConfig::new(5, 8).init(device),
            up: LinearConfig::new(8, 11).init(device),
            down: LinearConfig::new(11, 8).init(device),
            scale: Param::from_tensor(Tensor::ones([8], device)),
            head: LinearConfig::new(8, 3).init(device),
        }
    }
    fn input(device: &B::Device) -> Self::Input {
        floats([2, 4, 5], device)
    }
    fn run(&self, x: Self::Input) -> Tensor<B, 2> {
        let x = self.embed.forward(x);
        let inner = self.down.forward(self.up.forward(x.clone()).tanh()) * self.scale.val().unsqueeze();
        // A mean over positions is none over the width.
        let pooled: Tensor<B, 2> = (x + inner).mean_dim(1).squeeze_dim(1);
        self.head.forward(pooled)
    }
}
family!(ResidualFamily, Residual);

#[test]
fn a_residual_sum_joins_all_that_is_added() {
    let found = judge::<ResidualFamily>();
    assert_eq!(names(&found), [("embed", 8), ("up", 11)]);
    let width = [
        ("embed.weight", 1, Produces, 1),
        ("embed.bias", 0, Produces, 1),
        ("up.weight", 0, Consumes, 1),
        ("down.weight", 1, Produces, 1),
        ("down.bias", 0, Produces, 1),
        ("scale", 0, Follows, 1),
        ("head.weight", 0, Consumes, 1),
    ];
    assert_eq!(shape_of(&found.groups[0]).1, width);
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Gate {
    Separate,
    Chunks,
    Axis,
}

#[derive(Module, Debug)]
struct Gated<B: Backend> {
    embed: Linear<B>,
    up: Linear<B>,
    gate: Option<Linear<B>>,
    down: Linear<B>,
}

impl<B: Backend> Gated<B> {
    fn made(gate: Gate, device: &B::Device) -> Self {
        let two = if gate == Gate::Separate { 1 } else { 2 };
        Self {
            embed: LinearConfig::new(5, 8).init(device),
            up: LinearConfig::new(8, 6 * two).init(device),
            gate: (two == 1).then(|| LinearConfig::new(8, 6).init(device)),
            down: LinearConfig::new(6, 3).init(device),
        }
    }
    fn gated(&self, gate: Gate, x: Tensor<B, 2>) -> Tensor<B, 2> {
        let x = self.embed.forward(x);
        let both = self.up.forward(x.clone());
        let [rows, width] = both.dims();
        let (up, gate) = match gate {
            Gate::Separate => (both, self.gate.as_ref().unwrap().forward(x)),
            Gate::Chunks => {
                let mut parts = both.chunk(2, 1);
                (parts.remove(0), parts.remove(0))
            }
            Gate::Axis => {
                let both = both.reshape([rows, 2, width / 2]);
                let part = |i| both.clone().slice([0..rows, i..i + 1]).reshape([rows, width / 2]);
                (part(0), part(1))
            }
        };
        self.down.forward(up * silu(gate))
    }
}

macro_rules! gated {
    ($family:ident, $net:ident, $gate:expr) => {
        #[derive(Module, Debug)]
        struct $net<B: Backend> {
            net: Gated<B>,
        }
        impl<B: Backend> Net<B> for $net<B> {
            type Input = Tensor<B, 2>;
            fn new(device: &B::Device) -> Self {
                Self { net: Gated::made($gate, device) }
            }
            fn input(device: &B::Device) -> Self::Input {
                floats([2, 5], device)
            }
            fn run(&self, x: Self::Input) -> Tensor<B, 2> {
                self.net.gated($gate, x)
            }
        }
        family!($family, $net);
    };
}
gated!(SeparateGate, SeparateGateNet, Gate::Separate);
gated!(ChunkedGate, ChunkedGateNet, Gate::Chunks);
gated!(AxisGate, AxisGateNet, Gate::Axis);

#[test]
fn a_gate_goes_with_what_it_gates() {
    let found = judge::<SeparateGate>();
    assert_eq!(names(&found), [("net.embed", 8), ("net.up", 6)]);
    let members: Vec<_> = found.groups[1].members.iter().map(|m| m.name.as_str()).collect();
    let expected = ["net.up.weight", "net.up.bias", "net.gate.weight", "net.gate.bias", "net.down.weight"];
    assert_eq!(members, expected);
}

#[test]
fn a_fused_gate_has_two_rows_a_unit() {
    for found in [judge::<ChunkedGate>(), judge::<AxisGate>()] {
        assert_eq!(names(&found), [("net.embed", 8), ("net.up", 6)]);
        assert_eq!(found.groups[1].member("net.up.weight", Produces).unwrap().units[2], [2, 8]);
        assert_eq!(found.groups[1].member("net.up.bias", Produces).unwrap().units[5], [5, 11]);
        assert_eq!(found.groups[1].member("net.down.weight", Consumes).unwrap().units[5], [5]);
    }
}

/// Why the hidden entries of a two-layer network stay, when this is done to them.
fn held_by(hidden: impl FnOnce(Tensor<Tracing, 2>) -> Tensor<Tracing, 2>) -> Option<String> {
    let device = Default::default();
    let model: Vec<Linear<Tracing>> =
        vec![LinearConfig::new(5, 6).init(&device), LinearConfig::new(6, 3).init(&device)];
    let x = floats([2, 5], &device);
    let trace = trace(&model, &Default::default(), x, |m, x| m[1].forward(hidden(m[0].forward(x)))).unwrap();
    let found = trace.dependencies();
    assert_eq!(found.groups.is_empty(), found.why_fixed("0.weight", 1).is_some());
    assert_eq!(found.why_fixed("0.weight", 1), found.why_fixed("1.weight", 0));
    found.why_fixed("0.weight", 1).map(String::from)
}

#[test]
fn what_needs_all_entries_holds_them_and_says_so() {
    let constant: Tensor<Tracing, 2> = floats([1, 6], &Default::default());
    assert_eq!(held_by(relu), None);
    assert_eq!(held_by(|x| x.clone() + Tensor::zeros_like(&x)), None);
    assert_eq!(
        held_by(|x| x * constant).unwrap(),
        "it goes with an axis of the model's input or of a constant"
    );
    assert_eq!(held_by(|x| softmax(x, 1)).unwrap(), "what `max_dim` does with its entries takes all of them");
    assert_eq!(held_by(|x| x.cumsum(1)).unwrap(), "what `cum_sum` does with its entries takes all of them");
    assert_eq!(
        held_by(|x| x.clone() - x.mean_dim(1)).unwrap(),
        "`mean_dim` averages over it, and no scale of a normalization follows"
    );
    assert_eq!(
        held_by(|x| x.clone().matmul(x.clone().transpose()).matmul(x)).unwrap(),
        "`matmul` multiplies two activations over it"
    );
    assert_eq!(
        held_by(|x| x.reshape([3, 4]).reshape([2, 6])).unwrap(),
        "`reshape` merges it into another axis that can lose entries"
    );
    assert_eq!(
        held_by(|x| x.clone() * x.mean().unsqueeze()).unwrap(),
        "what `mean` does with its entries takes all of them"
    );
}

#[test]
fn a_split_axis_of_which_nothing_else_is_known_goes_by_its_outer_part() {
    let device = Default::default();
    let model: Vec<Linear<Tracing>> =
        vec![LinearConfig::new(5, 6).init(&device), LinearConfig::new(6, 3).init(&device)];
    let x: Tensor<Tracing, 2> = floats([2, 5], &device);
    let shuffled = |x: Tensor<Tracing, 2>| x.reshape([2, 3, 2]).swap_dims(1, 2).reshape([2, 6]);
    let trace =
        trace(&model, &Default::default(), x, |m, x| m[1].forward(shuffled(m[0].forward(x)))).unwrap();
    let found = trace.dependencies();
    assert_eq!(names(&found), [("0", 3)]);
    assert_eq!(found.groups[0].member("0.weight", Produces).unwrap().units, [[0, 1], [2, 3], [4, 5]]);
    assert_eq!(found.groups[0].member("1.weight", Consumes).unwrap().units, [[0, 3], [1, 4], [2, 5]]);
}

#[derive(Module, Debug)]
struct Unused<B: Backend> {
    one: Linear<B>,
    two: Linear<B>,
    never: Linear<B>,
}

#[test]
fn what_is_not_used_or_not_consumed_is_told() {
    let device = Default::default();
    let linear = |from, to| LinearConfig::new(from, to).init::<Tracing>(&device);
    let model = Unused { one: linear(5, 6), two: linear(6, 4), never: linear(4, 4) };
    let x: Tensor<Tracing, 2> = floats([2, 5], &device);
    let trace = trace(&model, &Default::default(), x, |m, x| {
        let hidden = m.one.forward(x);
        // Computed, and thrown away.
        let _ = m.two.forward(hidden.clone());
        hidden
    });
    let found = trace.unwrap().dependencies();
    assert_eq!(found.groups, []);
    assert_eq!(found.why_fixed("never.weight", 1), Some("the forward pass does not use it"));
    assert_eq!(found.why_fixed("two.weight", 1), Some("no parameter takes the values that it makes"));
    assert_eq!(found.why_fixed("two.weight", 0), Some("it is an output of the model"));
}

#[derive(Module, Debug)]
struct Concatenated<B: Backend> {
    left: Linear<B>,
    right: Linear<B>,
    norm: Param<Tensor<B, 1>>,
    head: Linear<B>,
}

impl<B: Backend> Net<B> for Concatenated<B> {
    type Input = Tensor<B, 2>;
    fn new(device: &B::Device) -> Self {
        Self {
            left: LinearConfig::new(5, 4).init(device),
            right: LinearConfig::new(5, 6).init(device),
            norm: Param::from_tensor(Tensor::ones([13], device)),
            head: LinearConfig::new(13, 3).init(device),
        }
    }
    fn input(device: &B::Device) -> Self::Input {
        floats([2, 5], device)
    }
    fn run(&self, x: Self::Input) -> Tensor<B, 2> {
        let parts = vec![
            self.left.forward(x.clone()).tanh(),
            x.clone().narrow(1, 0, 3),
            self.right.forward(x).tanh(),
        ];
        self.head.forward(Tensor::cat(parts, 1) * self.norm.val().unsqueeze())
    }
}
family!(ConcatenatedFamily, Concatenated);

#[test]
fn what_is_concatenated_keeps_its_own_group() {
    let found = judge::<ConcatenatedFamily>();
    assert_eq!(names(&found), [("left", 4), ("right", 6)]);
    let units = |g: usize, name: &str, role| found.groups[g].member(name, role).unwrap().units.clone();
    assert_eq!(units(0, "head.weight", Consumes), [[0], [1], [2], [3]]);
    assert_eq!(units(1, "head.weight", Consumes), [[7], [8], [9], [10], [11], [12]]);
    assert_eq!(units(1, "norm", Follows)[0], [7]);
    let why = found.why_fixed("head.weight", 0).unwrap();
    assert!(why.contains("input"), "{why}");
}

#[test]
fn groups_do_not_depend_on_the_order_of_names() {
    assert_eq!(dependencies::<MlpFamily>(), dependencies::<MlpFamily>());
}
