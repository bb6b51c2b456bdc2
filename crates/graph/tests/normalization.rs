//! Layers that average over what may be removed; tied embeddings.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

mod common;

use briquette_core::Role::{Consumes, Follows, Produces};
use briquette_graph::{Tracing, trace};
use burn::module::Param;
use burn::nn::{Embedding, EmbeddingConfig, GroupNorm, GroupNormConfig, Linear, LinearConfig};
use burn::prelude::*;
use burn::tensor::activation::gelu;
use common::{Net, judge, names};

/// A layer normalization that can be told which entries count.
#[derive(Module, Debug)]
struct Norm<B: Backend> {
    gamma: Param<Tensor<B, 1>>,
    beta: Option<Param<Tensor<B, 1>>>,
    kept: Option<Tensor<B, 1>>,
}

impl<B: Backend> Norm<B> {
    fn new(width: usize, bias: bool, device: &B::Device) -> Self {
        let ones = || Param::from_tensor(Tensor::ones([width], device));
        Self { gamma: ones(), beta: bias.then(ones), kept: None }
    }

    fn mean(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        match &self.kept {
            Some(kept) => (x * kept.clone().unsqueeze()).sum_dim(2) / kept.clone().sum().unsqueeze(),
            None => x.mean_dim(2),
        }
    }

    /// With a bias a layer normalization, without one a root mean square normalization.
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let x = if self.beta.is_some() { x.clone() - self.mean(x) } else { x };
        let variance = self.mean(x.clone() * x.clone());
        let x = x / (variance + 1e-5).sqrt() * self.gamma.val().unsqueeze();
        match &self.beta {
            Some(beta) => x + beta.val().unsqueeze(),
            None => x,
        }
    }
}

/// A language model whose output layer is its embedding.
#[derive(Module, Debug)]
struct Tied<B: Backend> {
    words: Embedding<B>,
    positions: Param<Tensor<B, 2>>,
    first: Norm<B>,
    up: Linear<B>,
    down: Linear<B>,
    last: Norm<B>,
}

impl<B: Backend> Net<B> for Tied<B> {
    type Input = Tensor<B, 2, Int>;
    fn new(device: &B::Device) -> Self {
        Self {
            words: EmbeddingConfig::new(11, 6).init(device),
            positions: Param::from_tensor(Tensor::zeros([9, 6], device)),
            first: Norm::new(6, true, device),
            up: LinearConfig::new(6, 10).init(device),
            down: LinearConfig::new(10, 6).init(device),
            last: Norm::new(6, false, device),
        }
    }
    fn input(device: &B::Device) -> Self::Input {
        Tensor::from_ints([[1, 4, 10, 3, 0], [7, 7, 2, 9, 5]], device)
    }
    fn run(&self, ids: Self::Input) -> Tensor<B, 2> {
        let [batch, seq] = ids.dims();
        let positions = self.positions.val().slice(s![0..seq, ..]);
        let x = self.words.forward(ids) + positions.unsqueeze();
        let x = x.clone() + self.down.forward(gelu(self.up.forward(self.first.forward(x))));
        let x = self.last.forward(x);
        let width = x.dims()[2];
        x.reshape([batch * seq, width]).matmul(self.words.weight.val().transpose())
    }
    fn average_over(&mut self, path: &str, kept: Tensor<B, 1>) {
        match path {
            "first" => self.first.kept = Some(kept),
            "last" => self.last.kept = Some(kept),
            other => panic!("`{other}` does not average"),
        }
    }
}
family!(TiedFamily, Tied);

#[test]
fn the_hidden_width_is_one_group_that_normalizations_average_over() {
    let found = judge::<TiedFamily>();
    assert_eq!(names(&found), [("words", 6), ("up", 10)], "{}", briquette_graph::describe(&found));
    let width = &found.groups[0];
    assert_eq!(width.averaged_by, ["first", "last"]);
    let members: Vec<_> = width.members.iter().map(|m| (m.name.as_str(), m.axis, m.role)).collect();
    let expected = [
        // Embedding and output layer.
        ("words.weight", 1, Produces),
        ("words.weight", 1, Consumes),
        ("positions", 1, Follows),
        ("first.weight", 0, Follows),
        ("first.bias", 0, Follows),
        ("up.weight", 0, Consumes),
        ("down.weight", 1, Produces),
        ("down.bias", 0, Produces),
        ("last.weight", 0, Follows),
    ];
    let layers = |name: &str| name.replace("gamma", "weight").replace("beta", "bias");
    let members: Vec<_> = members.iter().map(|(n, a, r)| (layers(n), *a, *r)).collect();
    assert_eq!(members, expected.map(|(n, a, r)| (n.to_string(), a, r)));
    assert_eq!(found.groups[1].averaged_by, [""; 0]);
    assert_eq!(found.why_fixed("words.weight", 0), Some("its entries are looked up by index"));
    assert_eq!(found.why_fixed("positions", 0), found.why_fixed("words.weight", 0));
}

#[test]
fn a_shared_parameter_is_a_member_by_each_of_its_paths() {
    let device = Default::default();
    let first: Linear<Tracing> = LinearConfig::new(6, 6).init(&device);
    briquette_core::materialize(&first);
    let other = LinearConfig::new(6, 3).init(&device);
    let embed = LinearConfig::new(5, 6).init(&device);
    let model = vec![embed, first.clone(), first, other];
    let x = Tensor::<Tracing, 2>::ones([2, 5], &device);
    let found =
        trace(&model, &Default::default(), x, |m, x| m.iter().fold(x, |x, layer| layer.forward(x).tanh()));
    let found = found.unwrap().dependencies();
    assert_eq!(names(&found), [("0", 6)]);
    let members: Vec<_> = found.groups[0].members.iter().map(|m| (m.path.as_str(), m.axis, m.role)).collect();
    let expected = [
        ("0.weight", 1, Produces),
        ("0.bias", 0, Produces),
        ("1.weight", 0, Consumes),
        ("1.weight", 1, Produces),
        ("1.bias", 0, Produces),
        ("2.weight", 0, Consumes),
        ("2.weight", 1, Produces),
        ("2.bias", 0, Produces),
        ("3.weight", 0, Consumes),
    ];
    assert_eq!(members, expected);
}

#[derive(Module, Debug)]
struct Grouped<B: Backend> {
    one: Linear<B>,
    norm: GroupNorm<B>,
    two: Linear<B>,
}

#[test]
fn channels_that_are_normalized_together_go_together() {
    let device = Default::default();
    let model = Grouped::<Tracing> {
        one: LinearConfig::new(5, 12).init(&device),
        norm: GroupNormConfig::new(3, 12).init(&device),
        two: LinearConfig::new(12, 4).init(&device),
    };
    let x = Tensor::<Tracing, 2>::ones([2, 5], &device);
    let found = trace(&model, &Default::default(), x, |m, x| m.two.forward(m.norm.forward(m.one.forward(x))));
    let found = found.unwrap().dependencies();
    assert_eq!(names(&found), [("one", 3)]);
    assert_eq!(found.groups[0].member("one.weight", Produces).unwrap().units[1], [4, 5, 6, 7]);
    assert_eq!(found.groups[0].averaged_by, [""; 0]);
}
