//! Masked and shrunk models give the same results within 1e-5 of the largest.

use crate::keep_units::{keep, plan};
use crate::networks::{Concat, GroupedQuery, Known, bert, gpt2, resnet};
use briquette_core::{Dependencies, ModelView, Role, host_floats};
use briquette_models::Pretrained;
use briquette_nn::Compressible;
use burn::backend::Flex;
use burn::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

type Kept = BTreeMap<String, Vec<usize>>;

fn kept<const N: usize>(units: [(&str, Vec<usize>); N]) -> Kept {
    units.into_iter().map(|(name, units)| (name.to_string(), units)).collect()
}

/// Every unit but those that `gone` picks.
pub(crate) fn without(units: usize, gone: impl Fn(usize) -> bool) -> Vec<usize> {
    (0..units).filter(|unit| !gone(*unit)).collect()
}

pub(crate) fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(b).all(|v| v.is_finite()));
    let largest = a.iter().fold(1e-12f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0f32, |d, (x, y)| d.max((x - y).abs())) / largest
}

/// Masks, compares, removes, compares; the smaller model.
fn check<B: Backend, M: Module<B> + Compressible<B>>(
    model: &M,
    view: ModelView,
    groups: &Dependencies,
    units: &Kept,
    forward: impl Fn(&M) -> Tensor<B, 2>,
) -> M {
    let run = |model: &M| host_floats(forward(model));
    let view = view.with_dependencies(groups.clone());
    let plan = plan::<B>(&view, &json!([keep(units, 0)])).unwrap_or_else(|e| panic!("{e}"));
    let whole = run(model);
    let session = plan.attach(model, 0);
    assert!(session.can_shrink());
    let masked = run(&session.view());
    assert!(distance(&whole, &masked) > 1e-3, "the mask changes something");
    let finished = session.finish().unwrap();
    let shrunk = run(&finished.model);
    let apart = distance(&masked, &shrunk);
    assert!(apart <= 1e-5, "{apart} apart");
    assert!(finished.model.num_params() < model.num_params());
    assert_eq!(run(model), whole, "the user's model is as it was");
    let removed = finished.removed.unwrap();
    let names: Vec<&str> = removed.groups.iter().map(|g| g.kept.group.as_str()).collect();
    assert_eq!(names, units.keys().map(String::as_str).collect::<Vec<_>>());
    finished.model
}

fn check_known<B: Backend, M: Pretrained<B>>(known: &Known<B, M>, groups: &Dependencies, units: &Kept) -> M {
    check(&known.model, known.model.view(), groups, units, |m| m.logits(known.inputs.clone()))
}

pub(crate) fn bert_rows_heads_and_width<B: Backend>() {
    let known = bert::<B>();
    let groups = known.groups.clone();
    let (rows, heads) =
        ("bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.1.attention.self.query");
    let rows = (rows, without(40, |u| u % 5 == 1));
    let heads = (heads, vec![0, 2, 3, 5, 7, 8, 9, 11]);
    let width = ("bert.embeddings.word_embeddings", without(48, |u| u % 3 == 0));
    check_known(&known, &groups, &kept([rows.clone()]));
    let model = check_known(&known, &groups, &kept([heads.clone()]));
    let attention = &model.bert.encoder.layer[1].attention;
    assert_eq!((attention.self_.n_heads, attention.output.dense.shape()), (8, [48, 32]));
    assert_eq!(model.bert.encoder.layer[0].attention.self_.n_heads, 12);
    check_known(&known, &groups, &kept([width.clone()]));
    let model = check_known(&known, &groups, &kept([rows, heads, width]));
    assert_eq!(model.bert.encoder.layer[0].intermediate.dense.shape(), [32, 32]);
    assert_eq!(model.bert.encoder.layer[1].attention.self_.key.shape(), [32, 32]);
    assert!(model.bert.embeddings.layer_norm.kept().is_none(), "nothing of the session is left");
}

pub(crate) fn gpt2_rows_fused_heads_and_tied_width<B: Backend>() {
    let known = gpt2::<B>();
    let groups = known.groups.clone();
    let rows = ("transformer.h.1.mlp.c_fc", without(192, |u| u % 7 < 3));
    let heads = ("transformer.h.0.attn.c_attn", vec![1, 2, 4, 5, 6, 8, 10, 11]);
    let width = ("transformer.wte", without(48, |u| u % 4 == 2));
    check_known(&known, &groups, &kept([rows.clone()]));
    let model = check_known(&known, &groups, &kept([heads.clone()]));
    let attention = &model.transformer.h[0].attn;
    assert_eq!((attention.n_heads, attention.c_attn.shape()), (8, [96, 48]));
    check_known(&known, &groups, &kept([width.clone()]));
    let model = check_known(&known, &groups, &kept([rows, heads, width]));
    assert_eq!(model.transformer.wte.shape(), [30, 36]);
}

pub(crate) fn resnet_channels_within_blocks_and_of_the_residual_stream<B: Backend>() {
    let known = resnet::<B>();
    let groups = known.groups.clone();
    let inner = [
        ("layer1.0.conv1", without(16, |u| u % 2 == 0)),
        ("layer2.0.conv1", without(32, |u| u % 3 == 0)),
        ("layer3.2.conv1", vec![5, 6, 60]),
    ];
    check_known(&known, &groups, &kept(inner.clone()));
    let stream = ("conv1", uneven_stream(&known.groups));
    let model = check_known(&known, &groups, &kept([stream.clone()]));
    let [second, third] = [&model.layer2[0], &model.layer3[0]];
    assert_eq!([model.layer1[0].before, second.before, third.before], [0, 7, 5]);
    let [one, two, three] = inner;
    check_known(&known, &groups, &kept([one, two, three, stream]));
}

/// Channels of the residual stream of which some are gone on both sides of what the shortcuts pad.
pub(crate) fn uneven_stream(groups: &Dependencies) -> Vec<usize> {
    let stream = groups.groups.iter().find(|g| g.name == "conv1").unwrap();
    let last = stream.member("layer3.2.conv2.weight", Role::Produces).unwrap();
    let gone = |channel: usize| channel.is_multiple_of(5) || channel < 9 || (24..30).contains(&channel);
    assert_eq!((stream.units, last.units.len()), (64, 64));
    without(64, |unit| gone(last.units[unit][0]))
}

pub(crate) fn grouped_queries_and_gates<B: Backend>() {
    let model = GroupedQuery::<B>::new();
    let (view, groups) = (model.view(), GroupedQuery::<B>::groups());
    let x = Tensor::random([2, 5, 24], burn::tensor::Distribution::Normal(0.0, 1.0), &Default::default());
    let units = kept([("gate", without(32, |u| u % 3 == 1)), ("query", vec![0, 2])]);
    let shrunk = check(&model, view, &groups, &units, |m| m.forward(x.clone()));
    assert_eq!((shrunk.n_heads, shrunk.n_key_value_heads), (4, 2));
}

pub(crate) fn concatenated_branches_and_depthwise_convolutions<B: Backend>() {
    let model = Concat::<B>::new();
    let (view, groups) = (model.view(), Concat::<B>::groups());
    let x = Tensor::random([2, 3, 6, 6], burn::tensor::Distribution::Normal(0.0, 1.0), &Default::default());
    let units = kept([("last", vec![0, 3, 4, 7]), ("left", vec![1, 2, 5]), ("right", vec![0, 2, 3])]);
    let shrunk = check(&model, view, &groups, &units, |m| m.forward(x.clone()));
    assert_eq!(shrunk.depthwise.groups, 6);
}

/// One test each on one backend.
macro_rules! on_backend {
    ($backend:ty: $($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            super::$name::<$backend>();
        })*
    };
}

mod cpu {
    on_backend! { super::Flex:
        bert_rows_heads_and_width,
        gpt2_rows_fused_heads_and_tied_width,
        resnet_channels_within_blocks_and_of_the_residual_stream,
        grouped_queries_and_gates,
        concatenated_branches_and_depthwise_convolutions,
    }
}

#[cfg(feature = "wgpu")]
mod vulkan {
    on_backend! { briquette_kernels::backend::Wgpu:
        bert_rows_heads_and_width,
        gpt2_rows_fused_heads_and_tied_width,
        resnet_channels_within_blocks_and_of_the_residual_stream,
        grouped_queries_and_gates,
        concatenated_branches_and_depthwise_convolutions,
    }
}
