//! What a trace says a model costs: the known figures of whole models, and of smaller ones what their own traces say.

use super::networks::{Concat, GroupedQuery, bert, gpt2, resnet};
use briquette_core::{Cost, Dependencies, DimensionGroup, KeptUnits, Measure, NameTable};
use briquette_graph::{Outputs, Tracing, trace};
use briquette_models::Pretrained;
use briquette_nn::{Compressible, name_table, remove};
use burn::module::Module;
use burn::prelude::*;

/// Multiplications for an input of one example.
fn multiplications(cost: &Cost) -> f64 {
    cost.clone().of_examples(1).whole(Measure::Flops) / 2.0
}

#[test]
fn resnet_20_costs_what_its_layers_multiply() {
    let cost = resnet::<Tracing>().groups.cost.unwrap();
    // The first convolution, three stages of equal cost less half a convolution where a stage begins, ten classes:
    // the well-known 40.8 million are those with convolutions in the shortcuts (option B), 262144 more.
    let stage = 6 * 16 * 16 * 9 * 32 * 32;
    let begins = 16 * 16 * 9 * 32 * 32 / 2;
    let expected = 3 * 16 * 9 * 32 * 32 + stage + 2 * (stage - begins) + 64 * 10;
    assert_eq!(expected, 40_551_040);
    assert_eq!(multiplications(&cost), 2.0 * f64::from(expected));
    assert_eq!(cost.of_examples(2).whole(Measure::Flops), 2.0 * f64::from(expected));
}

#[test]
fn bert_costs_a_sum_over_tokens_and_pairs_of_them() {
    let known = bert::<Tracing>();
    let (width, inner, layers, batch, tokens) = (48, 40, 2, 2, 3);
    let token = layers * (4 * width * width + 2 * width * inner);
    let pair = layers * 2 * width;
    let ends = width * width + 2 * width;
    let expected = batch * (tokens * token + tokens * tokens * pair + ends);
    let cost = known.groups.cost.unwrap();
    assert_eq!(multiplications(&cost), f64::from(expected));
    assert_eq!(cost.whole(Measure::Parameters), Module::num_params(&known.model) as f64);
}

#[test]
fn gpt2_costs_its_tied_head_as_well() {
    let known = gpt2::<Tracing>();
    let (width, vocabulary, layers, batch, tokens) = (48, 30, 2, 2, 3);
    let token = layers * 12 * width * width + width * vocabulary;
    let expected = batch * (tokens * token + tokens * tokens * layers * 2 * width);
    let cost = known.groups.cost.unwrap();
    assert_eq!(multiplications(&cost), f64::from(expected));
    assert_eq!(cost.whole(Measure::Parameters), Module::num_params(&known.model) as f64);
}

/// Some of a group's units, at least one from each part of it.
fn some(group: &DimensionGroup, round: usize) -> KeptUnits {
    let units = (0..group.units).filter(|unit| !(unit * 7 + round).is_multiple_of(3)).collect();
    KeptUnits { group: group.name.clone(), of: group.units, units }
}

/// Each group alone and all together: what is predicted of the smaller model is what its own trace says.
fn predicts<M, I, O>(model: &M, names: impl Fn(&M) -> NameTable, input: I, run: impl Fn(&M, I) -> O)
where
    M: Module<Tracing> + Compressible<Tracing>,
    I: Clone,
    O: Outputs,
{
    let traced = |model: &M| -> Dependencies {
        trace(model, &names(model), input.clone(), &run).unwrap().dependencies()
    };
    let whole = traced(model);
    let cost = whole.cost.as_ref().unwrap();
    let all: Vec<KeptUnits> = whole.groups.iter().map(|group| some(group, 0)).collect();
    let each = whole.groups.iter().enumerate().map(|(at, group)| vec![some(group, at)]);
    for kept in each.chain([all]) {
        let (smaller, _) = remove(model.clone(), &whole.removal(&kept).unwrap()).unwrap();
        let now = traced(&smaller).cost.unwrap();
        for measure in [Measure::Flops, Measure::Parameters] {
            let (predicted, found) = (cost.left(measure, &kept), now.whole(measure));
            assert_eq!(predicted, found, "{measure} of {kept:?}");
            assert!(found < cost.whole(measure), "{measure} of {kept:?}");
        }
    }
}

#[test]
fn a_smaller_model_costs_what_was_predicted() {
    let known = bert::<Tracing>();
    predicts(&known.model, |m| m.naming().layers, known.inputs, |m, inputs| m.logits(inputs));
    let known = gpt2::<Tracing>();
    predicts(&known.model, |m| m.naming().layers, known.inputs, |m, inputs| m.logits(inputs));
    let known = resnet::<Tracing>();
    predicts(&known.model, |m| m.naming().layers, known.inputs, |m, inputs| m.logits(inputs));
    let device = Default::default();
    let x = Tensor::<Tracing, 3>::zeros([2, 3, 24], &device);
    predicts(&GroupedQuery::new(), name_table, x, GroupedQuery::forward);
    let x = Tensor::<Tracing, 4>::zeros([2, 3, 6, 6], &device);
    predicts(&Concat::new(), name_table, x, Concat::forward);
}
