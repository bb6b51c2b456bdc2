//! Parts that are removed for good, and the normalization that leaves masked entries out.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

use briquette_core::{DimensionGroup, Member, Removal, Role, host_floats, stop};
use briquette_nn::{
    Compressible, Conv2d, Conv2dConfig, Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear,
    LinearConfig, MhaInput, MultiHeadAttention, MultiHeadAttentionConfig, RemovalError, cut, remove, unshare,
};
use burn::backend::{Autodiff, Flex};
use burn::module::{AutodiffModule, Param};
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::prelude::*;
use burn::tensor::Distribution;

type A = Autodiff<Flex>;

fn random<B: Backend, const D: usize>(shape: [usize; D]) -> Tensor<B, D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Default::default())
}

fn near(a: Vec<f32>, b: Vec<f32>) {
    assert_eq!(a.len(), b.len());
    a.iter().zip(&b).for_each(|(x, y)| assert!((x - y).abs() < 1e-5, "{x} {y}"));
}

/// Keeps these entries of axes of parameters, each a group of its own.
fn removal(cuts: &[(&str, usize, usize, &[usize])]) -> Removal {
    let group = |(path, axis, length, _): &(&str, usize, usize, &[usize])| {
        let units = (0..*length).map(|i| vec![i]).collect();
        let name = path.to_string();
        let member =
            Member { name: name.clone(), path: name.clone(), axis: *axis, role: Role::Produces, units };
        DimensionGroup { name, units: *length, members: vec![member], averaged_by: vec![] }
    };
    let groups: Vec<DimensionGroup> = cuts.iter().map(group).collect();
    Removal::new(groups.iter().zip(cuts.iter().map(|cut| cut.3)))
}

#[test]
fn a_masked_normalization_computes_what_a_narrower_one_does() {
    let device = Default::default();
    let mut wide: LayerNorm<A> = LayerNormConfig::new(6).with_epsilon(1e-3).init(&device);
    wide.gamma = Param::from_tensor(random([6]));
    wide.beta = Some(Param::from_tensor(random([6])));
    let kept = [0, 2, 3, 5].map(|i: i32| i);
    let index = Tensor::from_data(kept, &device);
    let mut narrow: LayerNorm<A> = LayerNormConfig::new(4).with_epsilon(1e-3).init(&device);
    narrow.gamma = Param::from_tensor(stop(wide.gamma.val()).select(0, index.clone()));
    narrow.beta = wide.beta.as_ref().map(|b| Param::from_tensor(stop(b.val()).select(0, index.clone())));
    let x: Tensor<A, 3> = random([2, 3, 6]);
    wide.set_kept(Some(Tensor::from_data([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], &device)));
    let y = wide.forward(x.clone());
    near(
        host_floats(y.clone().select(2, index.clone())),
        host_floats(narrow.forward(x.clone().select(2, index.clone()))),
    );
    near(host_floats(y.clone().select(2, Tensor::from_data([1, 4], &device))), vec![0.0; 12]);
    // Gradients are those of the narrower one.
    let gradient = |y: Tensor<A, 3>, gamma: &Param<Tensor<A, 1>>| {
        let gradients = y.powi_scalar(3).sum().backward();
        gamma.val().grad(&gradients).unwrap()
    };
    let wide_gradient = gradient(y, &wide.gamma).select(0, index.clone().inner());
    let narrow_gradient = gradient(narrow.forward(x.clone().select(2, index)), &narrow.gamma);
    let scale = host_floats(narrow_gradient.clone().abs().max())[0];
    near(host_floats(wide_gradient / scale), host_floats(narrow_gradient / scale));
    // The mask goes where the layer goes, and is forgotten when it is told so.
    assert_eq!(host_floats(wide.valid().kept().unwrap()), [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]);
    assert!(LayerNorm::<A>::from_inner(wide.valid()).kept().is_some());
    wide.set_kept(None);
    assert!(wide.kept().is_none());
}

#[derive(Module, Debug, Compressible)]
struct Net<B: Backend> {
    conv: Conv2d<B>,
    norm: BatchNorm<B>,
    attention: MultiHeadAttention<B>,
    words: Embedding<B>,
    again: Embedding<B>,
}

fn net<B: Backend>() -> Net<B> {
    let d = Default::default();
    let words: Embedding<B> = EmbeddingConfig::new(5, 8).init(&d);
    let net = Net {
        conv: Conv2dConfig::new([4, 8], [3, 3]).with_groups(4).init(&d),
        norm: BatchNormConfig::new(8).init(&d),
        attention: MultiHeadAttentionConfig::new(8, 4).with_dropout(0.0).init(&d),
        again: words.clone(),
        words,
    };
    briquette_core::materialize(&net);
    net
}

#[test]
fn heads_of_the_drop_in_attention_are_counted_anew() {
    let heads: &[usize] = &[2, 3, 6, 7];
    let part = |name: &str, axis| (format!("attention.{name}"), axis);
    let axes = [
        part("query.weight", 1),
        part("query.bias", 0),
        part("key.weight", 1),
        part("key.bias", 0),
        part("value.weight", 1),
        part("value.bias", 0),
        part("output.weight", 0),
    ];
    let cuts: Vec<(&str, usize, usize, &[usize])> =
        axes.iter().map(|(path, axis)| (path.as_str(), *axis, 8, heads)).collect();
    let before = net::<Flex>();
    let (after, cuts) = remove(before.clone(), &removal(&cuts)).unwrap();
    assert_eq!((after.attention.n_heads, before.attention.n_heads), (2, 4));
    assert_eq!(after.attention.output.shape(), [8, 4]);
    let x: Tensor<Flex, 3> = random([2, 3, 8]);
    let weights = |net: &Net<Flex>| net.attention.forward(MhaInput::self_attn(x.clone())).weights;
    near(
        host_floats(weights(&after)),
        host_floats(weights(&before).select(1, Tensor::from_data([1, 3], &Default::default()))),
    );
    assert_eq!(cuts[&before.attention.output.weight.id][0].kept, heads);
    let uneven = removal(&[("attention.query.weight", 1, 8, &[2, 3, 6])]);
    let error = remove(before, &uneven).expect_err("half a head").to_string();
    let text = "`attention.n_heads`, which counts outputs of `attention.query`: of the 2 outputs of part 3 only 1 are left";
    assert_eq!(error, text);
}

#[test]
fn groups_of_a_convolution_are_counted_anew() {
    let whole = removal(&[("conv.weight", 0, 8, &[0, 1, 6, 7]), ("conv.bias", 0, 8, &[0, 1, 6, 7])]);
    let (after, _) = remove(net::<Flex>(), &whole).unwrap();
    assert_eq!((after.conv.groups, after.conv.native()), (2, [4, 1, 3, 3]));
    let each = removal(&[("conv.weight", 0, 8, &[0, 2, 4, 6])]);
    assert_eq!(remove(net::<Flex>(), &each).unwrap().0.conv.groups, 4);
    let uneven = removal(&[("conv.weight", 0, 8, &[0, 1, 2])]);
    let error = remove(net::<Flex>(), &uneven).expect_err("uneven");
    let expected = RemovalError::Groups { path: "conv".into(), groups: 4, kept: vec![2, 1, 0, 0] };
    assert_eq!(error, expected);
}

#[test]
fn running_statistics_of_another_clone_stay_whole() {
    let before = net::<A>();
    // Statistics that are still to be taken in, of the old width.
    before.norm.forward(random::<A, 4>([2, 8, 3, 3]));
    let kept: &[usize] = &[1, 4, 7];
    let paths = ["norm.gamma", "norm.beta", "norm.running_mean", "norm.running_var"];
    let cuts: Vec<(&str, usize, usize, &[usize])> = paths.map(|path| (path, 0, 8, kept)).to_vec();
    let (after, _) = remove(before.clone(), &removal(&cuts)).unwrap();
    after.norm.forward(random::<A, 4>([2, 3, 3, 3]));
    after.norm.forward(random::<A, 4>([2, 3, 3, 3]));
    assert_eq!(after.norm.running_mean.value_sync().dims(), [3]);
    before.norm.forward(random::<A, 4>([2, 8, 3, 3]));
    assert_eq!(before.norm.running_mean.value_sync().dims(), [8]);
    assert!(after.norm.gamma.is_require_grad());
    let mut own = before.clone();
    unshare(&mut own);
    own.norm.forward(random::<A, 4>([2, 8, 3, 3]));
    own.norm.forward(random::<A, 4>([2, 8, 3, 3]));
    let mean = |net: &Net<A>| host_floats(net.norm.running_mean.value());
    assert_ne!(mean(&own), mean(&before));
}

#[test]
fn a_shared_parameter_is_cut_once_for_all() {
    let before = net::<Flex>();
    let cuts = removal(&[("words.weight", 1, 8, &[0, 1, 2, 3, 5]), ("again.weight", 1, 8, &[0, 1, 2, 3, 5])]);
    let (after, cuts) = remove(before.clone(), &cuts).unwrap();
    assert_eq!((after.words.shape(), after.again.shape()), ([5, 5], [5, 5]));
    assert_eq!((cuts.len(), after.words.weight.id), (1, before.words.weight.id));
    let own = host_floats(cut(before.words.weight.val(), &cuts[&before.words.weight.id]));
    assert_eq!(host_floats(after.words.weight.val()), own);
}

#[test]
fn what_is_not_there_cannot_go() {
    let refused = |path: &str, axis, length, kept: &[usize]| {
        remove(net::<Flex>(), &removal(&[(path, axis, length, kept)])).expect_err("refused").to_string()
    };
    assert_eq!(refused("no.weight", 0, 2, &[0]), "`no.weight`: the model has no such parameter");
    let text = "`words.weight`: entry 11 of axis 1 of a parameter of shape [5, 8] is to be removed";
    assert_eq!(refused("words.weight", 1, 12, &[0]), text);
    assert_eq!(refused("words.weight", 0, 5, &[]), "`words.weight`: nothing would be left of axis 0");
    let text = "`words.weight`: entry 1 of axis 2 of a parameter of shape [5, 8] is to be removed";
    assert_eq!(refused("words.weight", 2, 2, &[0]), text);
}

/// A linear layer whose number nobody asked for keeps it.
#[test]
fn linear_layers_need_no_numbers() {
    let layer: Linear<Flex> = LinearConfig::new(3, 4).init(&Default::default());
    let (layer, _) = remove(layer, &removal(&[("weight", 1, 4, &[1, 2]), ("bias", 0, 4, &[1, 2])])).unwrap();
    assert_eq!(layer.forward(random::<Flex, 2>([2, 3])).dims(), [2, 2]);
}
