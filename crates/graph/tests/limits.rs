//! What cannot be traced, fitting, groups stated by hand, and how groups are shown.
#![allow(clippy::unwrap_used, reason = "a test that fails here has failed")]

use briquette_core::Role::{Consumes, Follows, Produces};
use briquette_core::{ModelView, Role};
use briquette_graph::{DeclareError, DependenciesBuilder, TraceError, Tracing, describe, dot, fitted, trace};
use burn::backend::Flex;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::prelude::*;

#[derive(Module, Debug)]
struct Net<B: Backend> {
    conv: Conv2d<B>,
    norm: BatchNorm<B>,
    head: Linear<B>,
}

fn net<B: Backend>(channels: usize) -> Net<B> {
    let device = Default::default();
    Net {
        conv: Conv2dConfig::new([3, channels], [3, 3]).init(&device),
        norm: BatchNormConfig::new(channels).init(&device),
        head: LinearConfig::new(channels * 4, 5).init(&device),
    }
}

fn forward(net: &Net<Tracing>, x: Tensor<Tracing, 4>) -> Tensor<Tracing, 2> {
    net.head.forward(net.norm.forward(net.conv.forward(x)).flatten(1, 3))
}

fn images() -> Tensor<Tracing, 4> {
    Tensor::ones([2, 3, 4, 4], &Default::default())
}

#[test]
fn a_panic_is_an_error_and_the_next_trace_works() {
    let model = net::<Tracing>(6);
    let wide = Tensor::<Tracing, 4>::ones([2, 4, 4, 9], &Default::default());
    let error = trace(&model, &Default::default(), wide, forward).unwrap_err();
    assert!(matches!(&error, TraceError::Panicked { message } if !message.is_empty()), "{error}");
    let found = trace(&model, &Default::default(), images(), forward).unwrap().dependencies();
    assert_eq!(found.groups[0].units, 6);
}

#[test]
fn numbers_that_were_never_computed_cannot_be_read() {
    let model = net::<Tracing>(6);
    let error = trace(&model, &Default::default(), images(), |m, x| {
        let y = forward(m, x);
        let _ = y.clone().sum().into_scalar();
        y
    });
    assert_eq!(error.unwrap_err(), TraceError::ReadsValues { shape: vec![1] });
    // What came from the host can be.
    let found = trace(&model, &Default::default(), images(), |m, x| {
        let list = Tensor::<Tracing, 1, Int>::from_ints([4, 2], &Default::default());
        assert_eq!(list.into_data().to_vec::<i32>().unwrap(), [4, 2]);
        forward(m, x)
    });
    assert_eq!(found.unwrap().dependencies().groups.len(), 1);
}

#[test]
fn a_model_is_fitted_to_one_that_lost_channels() {
    let view = ModelView::of(&net::<Flex>(4));
    let model = fitted(net::<Tracing>(6), &view).unwrap();
    let found = trace(&model, &Default::default(), images(), forward).unwrap().dependencies();
    assert_eq!(found.groups[0].units, 4);
    assert_eq!(found.groups[0].member("norm.running_var", Follows).unwrap().units.len(), 4);
    let device = Default::default();
    let other = ModelView::of(&LinearConfig::new(3, 4).init::<Flex>(&device));
    let error = fitted(net::<Tracing>(6), &other).unwrap_err();
    let expected =
        TraceError::OtherModel { path: "conv.weight".into(), found: vec![6, 3, 3, 3], expected: vec![] };
    assert_eq!(error, expected);
}

fn stated(view: &ModelView) -> DependenciesBuilder<'_> {
    let pixels = (0..6).map(|u| (u * 4..u * 4 + 4).collect()).collect();
    DependenciesBuilder::new(view)
        .group(6)
        .member("head.weight", 0, Consumes, pixels)
        .produces("conv.weight")
        .produces("conv.bias")
        .follows("norm.weight")
        .follows("norm.bias")
        .follows("norm.running_mean")
        .follows("norm.running_var")
}

#[test]
fn what_is_stated_by_hand_is_what_a_trace_finds() {
    let model = net::<Tracing>(6);
    let traced = trace(&model, &Default::default(), images(), forward).unwrap().dependencies();
    let stated = stated(&ModelView::of(&net::<Flex>(6))).build().unwrap();
    assert_eq!(stated.groups, traced.groups);
    // Runs of equal length: the same without naming the pixels.
    let view = ModelView::of(&net::<Flex>(6));
    let runs = DependenciesBuilder::new(&view).group(6).produces("conv.weight").consumes("head.weight");
    let runs = runs.averaged_by("norm").build().unwrap();
    let of = |group: &briquette_core::DimensionGroup| group.member("head.weight", Consumes).cloned();
    assert_eq!(of(&runs.groups[0]), of(&traced.groups[0]));
    assert_eq!(runs.groups[0].averaged_by, ["norm"]);
}

#[test]
fn mistakes_in_what_is_stated_name_their_place() {
    let view = ModelView::of(&net::<Flex>(6));
    let builder = || DependenciesBuilder::new(&view).group(6);
    let error = |builder: DependenciesBuilder<'_>| builder.build().unwrap_err();
    assert_eq!(
        error(builder().produces("conv.wieght")).to_string(),
        "group 0: the model has no parameter `conv.wieght`; did you mean `conv.weight`?"
    );
    assert_eq!(
        error(stated(&view).group(4).produces("conv.weight")),
        DeclareError::DoesNotDivide { group: 1, name: "conv.weight".into(), axis: 0, size: 6, units: 4 }
    );
    assert_eq!(
        error(builder().follows("conv.weight")),
        DeclareError::UnclearAxis { group: 0, name: "conv.weight".into(), role: Follows }
    );
    assert_eq!(
        error(builder().member("norm.bias", 1, Follows, Vec::new())),
        DeclareError::NoSuchAxis { group: 0, name: "norm.bias".into(), axis: 1, rank: 1 }
    );
    let member = |units| builder().member("norm.bias", 0, Follows, units);
    assert_eq!(
        error(member(vec![vec![0], vec![6]])),
        DeclareError::NoSuchEntry { group: 0, name: "norm.bias".into(), axis: 0, index: 6, size: 6 }
    );
    assert_eq!(
        error(member(vec![vec![0], vec![0]])),
        DeclareError::Twice { group: 0, name: "norm.bias".into(), axis: 0, index: 0 }
    );
    assert_eq!(
        error(member(vec![vec![0], vec![1]])),
        DeclareError::OtherUnits { group: 0, name: "norm.bias".into(), found: 2, units: 6 }
    );
    let lacks = |role: Role| DeclareError::Lacks { group: 0, role };
    assert_eq!(error(builder().produces("conv.weight")), lacks(Consumes));
    assert_eq!(error(builder().consumes("head.weight")), lacks(Produces));
    assert_eq!(
        error(builder().averaged_by("nrom")).to_string(),
        "group 0: the model has no layer `nrom`; did you mean `norm`?"
    );
    assert!(matches!(
        error(DependenciesBuilder::new(&view).produces("conv.weight")),
        DeclareError::DoesNotDivide { units: 0, .. }
    ));
}

#[test]
fn groups_are_told_and_drawn() {
    let model = net::<Tracing>(6);
    let found = trace(&model, &Default::default(), images(), forward).unwrap().dependencies();
    let expected = "\
conv: 6 units of up to 4 entries
  made by     conv
  followed by norm
  consumed by head
stays, at least in part
  conv.weight axis 1
    because it goes with an axis of the model's input or of a constant
  head.weight axis 1
  head.bias axis 0
    because it is an output of the model
";
    assert_eq!(describe(&found), expected);
    let expected = r#"digraph dependencies {
  rankdir=LR;
  node [shape=box];
  g0 [shape=ellipse, label="6 units"];
  l0 [label="conv"];
  l1 [label="head"];
  l2 [label="norm"];
  l0 -> g0;
  g0 -> l1;
  g0 -> l2 [style=dotted, dir=none];
}
"#;
    assert_eq!(dot(&found), expected);
}
