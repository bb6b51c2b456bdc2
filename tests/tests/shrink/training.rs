//! Masks while training, removal in its midst, and resuming.

use crate::equality::distance;
use crate::keep_units::{keep, plan};
use crate::networks::{Known, bert, resnet};
use briquette_composer::{Plan, Position, Session, Trainable, Trained};
use briquette_core::{Clock, Dependencies, host_floats};
use briquette_models::bert::BertForSequenceClassification;
use briquette_models::resnet::CifarResNet;
use briquette_models::{Inputs, Pretrained, PretrainedConfig};
use briquette_train::{Grouped, Rule};
use burn::backend::{Autodiff, Flex};
use burn::module::{AutodiffModule, Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, Optimizer};
use burn::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;

type A = Autodiff<Flex>;

/// The optimizer steps that pass before units are masked.
const START: usize = 2;

const RULE: Rule = Rule::AdamW { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };

/// A training of a model whose units are masked from step [`START`] on.
struct Training<M: Pretrained<A> + Trainable<A>> {
    known: Known<A, M>,
    plan: Plan<A>,
}

impl<M: Pretrained<A> + Trainable<A>> Training<M> {
    fn new(known: Known<A, M>, groups: Dependencies, units: &[(&str, Vec<usize>)]) -> Self {
        let units: BTreeMap<String, Vec<usize>> =
            units.iter().map(|(name, units)| (name.to_string(), units.clone())).collect();
        let known = Known { model: known.model.without_dropout(), ..known };
        let view = known.model.view().with_dependencies(groups);
        let plan = plan(&view, &json!([keep(&units, START)])).unwrap();
        Self { known, plan }
    }

    fn session(&self) -> Session<A, M> {
        self.plan.attach_training(&self.known.model, 0)
    }

    /// One step towards a target that the model does not reach.
    fn step<O: Optimizer<Trained<A, M>, A>>(&self, session: &mut Session<A, M>, optimizer: &mut O) {
        let logits = session.view().logits(self.known.inputs.clone());
        let target = Tensor::arange(0..logits.shape().num_elements() as i64, &logits.device());
        let target = target.float().sin().reshape(logits.dims());
        let gradients = (logits - target).square().mean().backward();
        session.step(gradients, optimizer, 1e-2);
    }

    fn logits(&self, session: &Session<A, M>) -> Vec<f32> {
        // The training backend's view: batch normalizations see the batch.
        host_floats(session.view_within("").logits(self.known.inputs.clone()))
    }
}

fn bert_training() -> Training<BertForSequenceClassification<A>> {
    let known = bert::<A>();
    let groups = known.groups.clone();
    let units = [
        ("bert.embeddings.word_embeddings", (0..48).filter(|u| u % 3 != 1).collect()),
        ("bert.encoder.layer.0.intermediate.dense", (0..40).filter(|u| u % 4 > 1).collect()),
        ("bert.encoder.layer.1.attention.self.query", vec![0, 3, 4, 5, 6, 9, 10, 11]),
    ];
    Training::new(known, groups, &units)
}

fn resnet_training() -> Training<CifarResNet<A>> {
    let known = resnet::<A>();
    let groups = known.groups.clone();
    let units = [
        ("conv1", (0..64).filter(|u| u % 4 != 0).collect()),
        ("layer2.1.conv1", (0..32).filter(|u| u % 3 != 0).collect()),
    ];
    Training::new(known, groups, &units)
}

/// Every float parameter of the session.
fn parameters<M: Trainable<A>>(session: &Session<A, M>) -> Vec<Vec<f32>> {
    struct Collect(Vec<Vec<f32>>);
    impl<B: Backend> ModuleVisitor<B> for Collect {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
            self.0.push(host_floats(param.val()));
        }
    }
    let mut collect = Collect(Vec::new());
    session.copy_parts().visit(&mut collect);
    collect.0
}

/// Two sessions take the same steps; one loses its masked units on the way. Both go on alike: what is masked has no
/// gradient, and the optimizer's moments of what is left are the same.
fn goes_on_as_the_masked_one<M: Pretrained<A> + Trainable<A>>(training: &Training<M>) {
    let optimizer = || Grouped::<A>::new(RULE, 1.0);
    let (mut masked, mut shrunk) = (training.session(), training.session());
    let (mut of_masked, mut of_shrunk) = (optimizer(), optimizer());
    for step in 0..START + 3 {
        assert_eq!(shrunk.clock(), Clock::Step(step));
        let can = shrunk.can_shrink();
        assert_eq!(can, step == START, "masked at step {START}, removed at once");
        assert_eq!(shrunk.shrink(&mut of_shrunk).unwrap(), can);
        training.step(&mut masked, &mut of_masked);
        training.step(&mut shrunk, &mut of_shrunk);
    }
    assert!(shrunk.parts().num_params() < masked.parts().num_params());
    let apart = distance(&training.logits(&masked), &training.logits(&shrunk));
    assert!(apart < 1e-4, "{apart} apart");
    // With moments that began anew it would be another model.
    let (mut forgetful, mut of_forgetful) = (training.session(), optimizer());
    for step in 0..START + 3 {
        if forgetful.shrink(&mut of_forgetful).unwrap() {
            of_forgetful = optimizer();
            assert_eq!(step, START);
        }
        training.step(&mut forgetful, &mut of_forgetful);
    }
    let apart = distance(&training.logits(&masked), &training.logits(&forgetful));
    assert!(apart > 1e-3, "{apart} apart");
}

#[test]
fn a_bert_that_shrinks_in_training_goes_on_as_the_masked_one() {
    goes_on_as_the_masked_one(&bert_training());
}

#[test]
fn a_resnet_that_shrinks_in_training_goes_on_as_the_masked_one() {
    goes_on_as_the_masked_one(&resnet_training());
}

/// A run that is interrupted after so many steps gives the bits of one that never stopped.
fn resumes<M: Pretrained<A> + Trainable<A>>(training: &Training<M>, interrupted_after: usize) {
    let run = |session: &mut Session<A, M>, optimizer: &mut Grouped<A>, steps: usize| {
        for _ in 0..steps {
            session.shrink(optimizer).unwrap();
            training.step(session, optimizer);
        }
    };
    let (mut session, mut optimizer) = (training.session(), Grouped::<A>::new(RULE, 1.0));
    run(&mut session, &mut optimizer, interrupted_after);
    let record = session.copy_parts().into_record();
    let position = serde_json::to_string(&session.position()).unwrap();
    let moments = Optimizer::<Trained<A, M>, A>::to_record(&optimizer);
    run(&mut session, &mut optimizer, 3);

    let position: Position = serde_json::from_str(&position).unwrap();
    let mut resumed = training.session();
    resumed.resume(record, &position).unwrap();
    let optimizer = Grouped::<A>::new(RULE, 1.0);
    let mut optimizer = Optimizer::<Trained<A, M>, A>::load_record(optimizer, moments);
    run(&mut resumed, &mut optimizer, 3);
    assert_eq!(parameters(&resumed), parameters(&session));
    assert_eq!(resumed.position(), session.position());
    assert_eq!(resumed.removed(), session.removed());
}

#[test]
fn a_bert_resumes_before_and_after_it_shrank() {
    let training = bert_training();
    for steps in [1, START, START + 1] {
        resumes(&training, steps);
    }
}

#[test]
fn a_resnet_resumes_after_it_shrank() {
    resumes(&resnet_training(), START + 1);
}

#[test]
fn burns_optimizers_forget_parameters_that_lost_entries_and_go_on() {
    let training = bert_training();
    let mut session = training.session();
    let mut optimizer = AdamWConfig::new().init();
    for _ in 0..START + 2 {
        session.shrink(&mut optimizer).unwrap();
        training.step(&mut session, &mut optimizer);
    }
    assert!(session.removed().is_some());
}

#[test]
fn a_training_that_ends_early_is_cut_all_the_same() {
    let training = bert_training();
    let whole = training.session().finish().unwrap();
    assert_eq!(whole.removed.unwrap().groups.len(), 3);
    let masked = training.session().with_schedules_finished();
    let inputs = Inputs::dummy(&training.known.config.task(), 2, 7, &Default::default()).unwrap();
    let before = host_floats(masked.valid().logits(inputs.clone()));
    let finished = masked.finish().unwrap();
    let after = host_floats(finished.model.valid().logits(inputs));
    assert!(distance(&before, &after) <= 1e-5);
}
