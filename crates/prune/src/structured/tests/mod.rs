//! Plans and the life of masks, on a model small enough to check by hand.

mod at_work;
mod budgets;
mod plans;

use super::*;
use crate::methods::{ChannelPruning, HeadPruning, RowPruning, StructurePruning, WidthPruning};
use crate::test_kit::{
    Run, Weights, convolution, dependencies, group, lines, member, plan, site, uneven, view,
};
use briquette_core::{Clock, Dependencies, Parameter};
use burn::backend::{Autodiff, Flex};
use serde_json::{Value, json};

type A = Autodiff<Flex>;

/// A feed-forward layer, an attention of three heads of two, two convolutions with a normalization between, an
/// embedding whose width all of them but the convolutions share, and a classifier.
fn untraced() -> ModelView {
    let linear = |name: &str, shape| site(name, LayerKind::Linear, shape);
    let mut model = view(vec![
        site("words", LayerKind::Embedding, [9, 4]),
        linear("q", [6, 4]),
        linear("k", [6, 4]),
        linear("v", [6, 4]),
        linear("o", [4, 6]),
        linear("up", [8, 4]),
        linear("down", [4, 8]),
        convolution("conv1", [4, 3, 3, 3]),
        convolution("conv2", [5, 4, 3, 3]),
        linear("classifier", [2, 4]),
    ]);
    for name in ["bn.weight", "bn.bias"] {
        let (name, path) = (name.to_string(), name.to_string());
        model.parameters.push(Parameter { name, path, shape: vec![4], trainable: true });
    }
    model.norms.push("bn".into());
    model
}

fn traced() -> Dependencies {
    use Role::{Consumes, Follows, Produces};
    let rows = group(vec![
        member("up.weight", 1, Produces, [0, 8, 1]),
        member("up.bias", 0, Produces, [0, 8, 1]),
        member("down.weight", 0, Consumes, [0, 8, 1]),
    ]);
    let mut heads = Vec::new();
    for name in ["q", "k", "v"] {
        heads.push(member(&format!("{name}.weight"), 1, Produces, [0, 3, 2]));
        heads.push(member(&format!("{name}.bias"), 0, Produces, [0, 3, 2]));
    }
    heads.push(member("o.weight", 0, Consumes, [0, 3, 2]));
    let mut channels =
        vec![member("conv1.weight", 0, Produces, [0, 4, 1]), member("conv1.bias", 0, Produces, [0, 4, 1])];
    for name in ["weight", "bias", "running_mean", "running_var"] {
        channels.push(member(&format!("bn.{name}"), 0, Follows, [0, 4, 1]));
    }
    channels.push(member("conv2.weight", 1, Consumes, [0, 4, 1]));
    let mut width = vec![member("words.weight", 1, Produces, [0, 4, 1])];
    for name in ["o", "down"] {
        width.push(member(&format!("{name}.weight"), 1, Produces, [0, 4, 1]));
        width.push(member(&format!("{name}.bias"), 0, Produces, [0, 4, 1]));
    }
    width.push(member("norm.weight", 0, Follows, [0, 4, 1]));
    width.extend(
        ["q", "k", "v", "up", "classifier"]
            .map(|name| member(&format!("{name}.weight"), 0, Consumes, [0, 4, 1])),
    );
    let mut width = group(width);
    width.averaged_by.push("norm".into());
    dependencies(vec![group(heads), rows, group(channels), width])
}

fn model() -> ModelView {
    untraced().with_dependencies(traced())
}

fn read<T: Technique>(value: &Value) -> Result<GroupPruning<T>, Vec<String>> {
    let mut out = Diagnostics::new();
    let read = GroupPruning::<T>::read(value, "s", &mut out);
    assert_eq!(read.is_none(), !out.is_empty());
    read.ok_or_else(|| lines(&out))
}

fn method<T: Technique>(value: &Value) -> GroupPruning<T> {
    read(value).unwrap_or_else(|e| panic!("{value}: {e:?}"))
}

/// Problems of the plan for these layers of `model`.
fn problems<T: Technique>(model: &ModelView, settings: &Value, names: &[&str]) -> Vec<String> {
    plan::<Flex>(&method::<T>(settings), model, names).err().unwrap_or_default()
}

fn run<T: Technique>(settings: &Value, names: &[&str], clock: Clock) -> Run<Flex> {
    let model = model();
    Run::new(&method::<T>(settings), &model, names, &uneven(&model), clock)
}

/// Settings with more keys.
fn with(base: &Value, more: Value) -> Value {
    let mut settings = base.clone();
    more.as_object().expect("an object").iter().for_each(|(k, v)| settings[k] = v.clone());
    settings
}

/// Which units are there.
fn units<B: Backend>(run: &Run<B>, group: &str) -> Vec<usize> {
    let masks = run.masks();
    let mask = masks.into_iter().find(|m| m.group == group).expect("a mask of the group").mask;
    let values = briquette_core::host_floats(mask);
    assert!(values.iter().all(|v| *v == 0.0 || *v == 1.0));
    (0..values.len()).filter(|i| values[*i] == 1.0).collect()
}

/// Names of those types, which only documentation uses otherwise.
const NAMES: [&str; 5] =
    [RowPruning::NAME, HeadPruning::NAME, ChannelPruning::NAME, WidthPruning::NAME, StructurePruning::NAME];

#[test]
fn names_are_the_keys() {
    assert_eq!(
        NAMES,
        ["row_pruning", "head_pruning", "channel_pruning", "width_pruning", "structure_pruning"]
    );
}
