//! What a plan refuses before anything is computed.

use crate::groups::{Groups, one, run};
use crate::keep_units::{keep, plan};
use crate::networks::{bert, resnet};
use briquette_core::{Dependencies, ModelView, Role};
use briquette_models::Pretrained;
use briquette_nn::{Compressible, Conv2d, Conv2dConfig, Linear, LinearConfig, model_view};
use burn::backend::Flex;
use burn::nn;
use burn::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What burn's own layers cannot follow.
#[derive(Module, Debug, Compressible)]
struct Plain<B: Backend> {
    up: Linear<B>,
    norm: nn::LayerNorm<B>,
    down: Linear<B>,
    conv: Conv2d<B>,
    depthwise: nn::conv::Conv2d<B>,
    last: Conv2d<B>,
    query: Linear<B>,
    output: Linear<B>,
    n_heads: usize,
}

fn plain() -> Plain<Flex> {
    let d = Default::default();
    Plain {
        up: LinearConfig::new(4, 6).init(&d),
        norm: nn::LayerNormConfig::new(6).init(&d),
        down: LinearConfig::new(6, 4).init(&d),
        conv: Conv2dConfig::new([3, 4], [3, 3]).init(&d),
        depthwise: nn::conv::Conv2dConfig::new([4, 4], [3, 3]).with_groups(4).init(&d),
        last: Conv2dConfig::new([4, 2], [3, 3]).init(&d),
        query: LinearConfig::new(4, 8).init(&d),
        output: LinearConfig::new(8, 4).init(&d),
        n_heads: 4,
    }
}

fn refused(view: &ModelView, groups: Dependencies, steps: &Value) -> Vec<String> {
    let view = view.clone().with_dependencies(groups);
    let problems = plan::<Flex>(&view, steps).err().expect("refused");
    problems.iter().map(ToString::to_string).collect()
}

fn keeping(name: &str, units: &[usize]) -> Value {
    keep(&BTreeMap::from([(name.to_string(), units.to_vec())]), 0)
}

#[test]
fn a_layer_normalization_of_burn_cannot_leave_masked_entries_out() {
    let view = model_view(&plain());
    let groups = Groups::of(&view).group("up", 6).outputs("up", one).inputs("down", one).averaged_at("norm");
    let found = refused(&view, groups.finish(), &json!([keeping("up", &[0, 1])]));
    let text = "steps[0].keep_units: up: `norm` averages over the axis; only `briquette_nn::LayerNorm` can leave masked \
                entries out, in a model that derives `Compressible`";
    assert_eq!(found, [text]);
}

#[test]
fn a_depthwise_convolution_of_burn_cannot_change_its_groups() {
    let view = model_view(&plain());
    let groups = Groups::of(&view)
        .group("conv", 4)
        .member("conv.weight", 0, Role::Produces, one)
        .member("conv.bias", 0, Role::Produces, one)
        .member("depthwise.weight", 0, Role::Follows, one)
        .member("depthwise.bias", 0, Role::Follows, one)
        .channels("last", one);
    let found = refused(&view, groups.finish(), &json!([keeping("conv", &[0, 1])]));
    let text =
        "steps[0].keep_units: conv: the groups of `depthwise` change: it must be a `briquette_nn::Conv2d`";
    assert_eq!(found, [text]);
}

#[test]
fn heads_need_a_number_that_counts_them() {
    let view = model_view(&plain());
    let groups = || Groups::of(&view).group("query", 4).outputs("query", run(2)).inputs("output", run(2));
    let found = refused(&view, groups().finish(), &json!([keeping("query", &[0, 1])]));
    let text = "steps[0].keep_units: query: outputs of `query.weight` go in runs, as heads do, and no number of the \
                model is known to count them: declare it by `#[compressible(counts = \"..\")]`";
    assert_eq!(found, [text]);

    let known = bert::<Flex>();
    let view = known.model.view();
    let query = "bert.encoder.layer.0.attention.self.query";
    let output = "bert.encoder.layer.0.attention.output.dense";
    let halves = Groups::of(&view).group(query, 24).outputs(query, run(2)).inputs(output, run(2));
    let found = refused(&view, halves.finish(), &json!([keeping(query, &[0, 1])]));
    let text = format!(
        "steps[0].keep_units: {query}: `bert.encoder.layer.0.attention.self.n_heads`, which counts outputs of `{query}`: \
         of the 4 outputs of part 0 only 2 are left"
    );
    assert_eq!(found, [text]);
}

#[test]
fn every_consumer_is_masked_and_every_group_cut_once() {
    let view = model_view(&plain());
    let groups = || {
        Groups::of(&view).group("up", 6).outputs("up", one).inputs("down", one).member(
            "depthwise.weight",
            1,
            Role::Consumes,
            |_| vec![],
        )
    };
    let some = json!([{"keep_units": {"on": ["down"], "keep": {"up": [0, 1]}}}]);
    let found = refused(&view, groups().finish(), &some);
    let missing = "steps[0].keep_units: up: `depthwise.weight` reads the values and is not masked";
    assert!(found.contains(&missing.to_string()), "{found:?}");

    let twice = json!([keeping("up", &[0, 1]), keeping("up", &[0, 2])]);
    let groups = Groups::of(&view).group("up", 6).outputs("up", one).inputs("down", one).finish();
    let found = refused(&view, groups, &twice);
    let text = "steps[1].keep_units: down: units of `up` are removed by steps[0].keep_units already";
    assert!(found.contains(&text.to_string()), "{found:?}");
}

#[test]
fn quantizers_must_fit_what_is_left() {
    let known = bert::<Flex>();
    let view = known.model.view();
    let rows = "bert.encoder.layer.0.intermediate.dense";
    let quantize = |granularity: Value| {
        json!([
            keeping(rows, &(0..27).collect::<Vec<_>>()),
            {"weight_quantization": {"on": ["bert.encoder.layer.0.output.dense"], "bits": 4, "granularity": granularity}},
        ])
    };
    let found = refused(&view, known.groups.clone(), &quantize(json!({"group_size": 8})));
    let text = "steps[1].weight_quantization.granularity: bert.encoder.layer.0.output.dense: 8 columns a group do not \
                divide 27 (pruning leaves 48x27)";
    assert_eq!(found, [text]);
    let view = view.clone().with_dependencies(known.groups.clone());
    for granularity in [json!({"group_size": 9}), json!("channel")] {
        // What does not divide the whole weight is refused as well: the model trains with it first.
        let whole = plan::<Flex>(&view, &quantize(granularity.clone()));
        assert_eq!(whole.is_ok(), granularity == json!("channel"), "{granularity}");
    }
}

#[test]
fn what_a_session_cannot_reach_is_an_error_at_its_end() {
    let known = resnet::<Flex>();
    let view = known.model.view().with_dependencies(known.groups.clone());
    let plan = plan::<Flex>(&view, &json!([keeping("layer1.0.conv1", &[0, 1])])).unwrap();
    let error = plan.attach_weights(&known.model, 0).finish().err().expect("statistics are shared");
    let text = "`layer1.0.bn1.running_mean` cannot be changed: derive `Compressible` for the model and attach the plan \
                with its layers";
    assert_eq!(error.to_string(), text);

    let known = bert::<Flex>();
    let view = known.model.view().with_dependencies(known.groups.clone());
    let query = "bert.encoder.layer.0.attention.self.query";
    let heads = crate::keep_units::plan::<Flex>(&view, &json!([keeping(query, &[0, 1])])).unwrap();
    let error = heads.attach_weights(&known.model, 0).finish().err().expect("the number is out of reach");
    assert!(
        error.to_string().starts_with("`bert.encoder.layer.0.attention.self_.n_heads` cannot"),
        "{error}"
    );
    // Rows need neither.
    let rows = "bert.encoder.layer.0.intermediate.dense";
    let rows = crate::keep_units::plan::<Flex>(&view, &json!([keeping(rows, &[0, 1])])).unwrap();
    assert!(rows.attach_weights(&known.model, 0).finish().unwrap().removed.is_some());
}
