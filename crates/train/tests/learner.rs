//! burn-train's learner trains a session: the same steps, its metrics, checkpoints and early stopping.
#![allow(clippy::unwrap_used)]

mod common;

use briquette_composer::{Session, Trained};
use briquette_core::Clock;
use briquette_distill::losses::cross_entropy;
use briquette_nn::{Tapped, Wanted};
use briquette_train::learner::{Objective, SessionModel, SessionOptimizer, SessionView};
use briquette_train::{Grouped, Rule, TrainingData};
use burn::backend::Flex;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::InMemDataset;
use burn::module::AutodiffModule;
use burn::nn::DropoutConfig;
use burn::optim::{AdamWConfig, GradientsAccumulator, MultiGradientsParams, Optimizer};
use burn::prelude::*;
use burn::record::{BinFileRecorder, FullPrecisionSettings};
use burn::tensor::backend::Device;
use burn_train::metric::store::{Aggregate, Direction, Split};
use burn_train::metric::{AccuracyMetric, LossMetric};
use burn_train::{
    ClassificationOutput, Learner, LearningComponentsMarker, MetricEarlyStoppingStrategy, StoppingCondition,
    SupervisedTraining, TrainStep,
};
use common::*;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

const DATA: Sums = Sums(48);
const BATCH: usize = 8;
const EPOCH: usize = 6;
const LR: f64 = 0.01;

/// Inputs and their classes.
#[derive(Debug, Clone)]
struct Examples<B: Backend> {
    input: Tensor<B, 3>,
    targets: Tensor<B, 1, Int>,
}

struct Collate;

impl<B: Backend> Batcher<B, usize, Examples<B>> for Collate {
    fn batch(&self, items: Vec<usize>, device: &B::Device) -> Examples<B> {
        let (input, targets) = DATA.batch::<B>(&items, device);
        Examples { input, targets }
    }
}

fn loader<B: Backend>() -> Arc<dyn DataLoader<B, Examples<B>>> {
    DataLoaderBuilder::new(Collate).batch_size(BATCH).build(InMemDataset::new((0..DATA.0).collect()))
}

/// To find the class.
#[derive(Clone)]
struct Classes;

fn judged<B: Backend>(model: &Toy<B>, batch: Examples<B>) -> ClassificationOutput<B> {
    let logits = model.tapped(batch.input, Wanted::default()).logits;
    let loss = cross_entropy(logits.clone(), batch.targets.clone());
    ClassificationOutput::new(loss, logits, batch.targets)
}

impl Objective<A, Toy<A>> for Classes {
    type Batch = Examples<A>;
    type Output = ClassificationOutput<A>;
    type ValidBatch = Examples<Flex>;
    type ValidOutput = ClassificationOutput<Flex>;

    fn train(&self, model: &Toy<A>, batch: Examples<A>) -> (Tensor<A, 1>, ClassificationOutput<A>) {
        let output = judged(model, batch);
        (output.loss.clone(), output)
    }

    fn valid(&self, model: &Toy<Flex>, batch: Examples<Flex>) -> ClassificationOutput<Flex> {
        judged(model, batch)
    }
}

type Wrapped = SessionModel<A, Toy<A>, Classes>;

/// Bits fall while the session trains, and a static range follows the data.
fn session() -> Session<A, Toy<A>> {
    let recipe = json!({"steps": [
        {"weight_quantization": {"on": ["blocks.**"], "bits": 4, "start_bits": 6, "start": 2, "end": 10}},
        {"weight_quantization": {"on": ["head"], "bits": 4, "scale": "learned"}},
        {"activation_quantization": {"on": ["head"], "bits": 8, "range": "static", "observer": "moving_average"}}
    ]});
    let model = Toy { dropout: DropoutConfig::new(0.0).init(), ..Toy::<A>::new(12) };
    plan(&model, &recipe).attach_training(&model, 1)
}

type Training<O> = SupervisedTraining<LearningComponentsMarker<A, f64, Wrapped, O>>;

/// Trains for `epochs` in `folder`, from the checkpoint of epoch `from` on where there is one.
fn launch<O: Optimizer<Wrapped, A> + 'static>(
    folder: &Path,
    optimizer: O,
    lr: f64,
    epochs: usize,
    set: impl FnOnce(Training<O>) -> Training<O>,
) -> SessionView<A, Toy<A>, Classes> {
    let training = SupervisedTraining::new(folder, loader::<A>(), loader::<Flex>())
        .metrics((LossMetric::new(), AccuracyMetric::new()))
        .with_file_checkpointer(BinFileRecorder::<FullPrecisionSettings>::new())
        .with_application_logger(None)
        .num_epochs(epochs);
    let learner = Learner::new(SessionModel::new(session(), Classes), optimizer, lr);
    set(training).launch(learner).model
}

fn adamw<M: AutodiffModule<A> + 'static>() -> impl Optimizer<M, A> + 'static {
    AdamWConfig::new().init::<A, M>()
}

/// What a loop written by hand gives.
fn by_hand<O: Optimizer<Trained<A, Toy<A>>, A>>(mut optimizer: O, epochs: usize) -> Session<A, Toy<A>> {
    let mut session = session();
    for _ in 0..epochs {
        for batch in loader::<A>().iter() {
            let loss = judged(&session.view(), batch).loss;
            session.step(loss.backward(), &mut optimizer, LR);
        }
    }
    session
}

#[test]
fn the_learner_takes_the_steps_of_a_loop_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let before = session().parts().model.blocks[0].weight.val().into_data();
    let view = launch(folder.path(), adamw(), LR, 2, |training| training);
    assert!(format!("{view:?}").starts_with("SessionView"));
    // What validation saw last is compressed, and what a view of the session shows.
    let seen = parameters::<Flex, _>(view.model());
    let session = view.into_session().unwrap();
    assert_eq!(session.clock(), Clock::Step(2 * EPOCH));
    assert_eq!(seen, parameters::<Flex, _>(&session.valid()));

    let plain = by_hand(adamw(), 2);
    assert_ne!(before, session.parts().model.blocks[0].weight.val().into_data());
    assert_eq!(parameters::<A, _>(session.parts()), parameters::<A, _>(plain.parts()));
    assert_eq!(session.position(), plain.position());
    assert_eq!(seen, parameters::<Flex, _>(&plain.finish().unwrap().model.valid()));

    let finished = session.finish().unwrap();
    let bits: Vec<_> =
        finished.layers.iter().map(|l| (l.site.name.as_str(), l.coded().unwrap().bits)).collect();
    assert_eq!(bits, [("blocks.0", 4), ("blocks.1", 4), ("head", 4)]);
    assert_eq!(parameters::<Flex, _>(&finished.model.valid()), seen);

    for file in ["model-2.bin", "optim-2.bin", "scheduler-2.bin"] {
        assert!(folder.path().join("checkpoint").join(file).is_file(), "{file}");
    }
    for (split, metric) in
        [("train", "Loss"), ("train", "Accuracy"), ("valid", "Loss"), ("valid", "Accuracy")]
    {
        let log = folder.path().join(format!("{split}/epoch-2/{metric}.log"));
        assert!(std::fs::read_to_string(&log).unwrap().lines().count() == EPOCH, "{}", log.display());
    }
}

#[test]
fn a_checkpoint_goes_on_in_the_middle_of_the_schedules() {
    let folder = tempfile::tempdir().unwrap();
    let whole = launch(&folder.path().join("whole"), adamw(), LR, 3, |training| training);
    launch(&folder.path().join("parts"), adamw(), LR, 1, |training| training);
    let resumed = launch(&folder.path().join("parts"), adamw(), LR, 3, |training| training.checkpoint(1));
    let [whole, resumed] = [whole, resumed].map(|view| view.into_session().unwrap());
    assert_eq!(resumed.position(), whole.position());
    assert_eq!(parameters::<A, _>(resumed.parts()), parameters::<A, _>(whole.parts()));
}

#[test]
fn decay_groups_serve_the_learner_too() {
    let rule = Rule::AdamW { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.5 };
    let folder = tempfile::tempdir().unwrap();
    let optimizer = SessionOptimizer(Grouped::new(rule, 0.1));
    let session = launch(folder.path(), optimizer, LR, 1, |training| training).into_session().unwrap();
    let plain = by_hand(Grouped::new(rule, 0.1), 1);
    assert_eq!(parameters::<A, _>(session.parts()), parameters::<A, _>(plain.parts()));
    assert_ne!(parameters::<A, _>(session.parts()), parameters::<A, _>(by_hand(adamw(), 1).parts()));
}

#[test]
fn early_stopping_ends_the_schedules_early() {
    let folder = tempfile::tempdir().unwrap();
    let patience = StoppingCondition::NoImprovementSince { n_epochs: 1 };
    let (metric, lowest) = (LossMetric::<Flex>::new(), Direction::Lowest);
    let strategy = MetricEarlyStoppingStrategy::new(&metric, Aggregate::Mean, lowest, Split::Valid, patience);
    // Nothing is learnt at this rate. The loss rises when bits fall, and does not fall again.
    let view = launch(folder.path(), adamw(), 0.0, 9, |training| training.early_stopping(strategy));
    let Clock::Step(steps) = view.into_session().unwrap().clock() else { panic!("schedules are at an end") };
    assert!(steps < 9 * EPOCH && steps.is_multiple_of(EPOCH), "{steps}");
}

#[test]
fn a_session_is_given_back_once_and_accumulated_batches_are_one_step() {
    let folder = tempfile::tempdir().unwrap();
    let view = launch(folder.path(), adamw(), LR, 1, |training| training.grads_accumulation(3));
    let copy = view.clone();
    assert_eq!(view.into_session().unwrap().clock(), Clock::Step(EPOCH / 3));
    assert!(copy.into_session().is_none());
}

#[test]
fn it_shows_the_model_it_trains() {
    let model = SessionModel::new(session(), Classes);
    let text = model.to_string();
    assert!(text.contains("SessionModel") && text.contains("head"), "{text}");
}

#[test]
fn gradients_of_several_devices_are_added_up() {
    let device = Default::default();
    // Ranges follow each batch: both ways begin anew.
    let begin = || {
        let model = SessionModel::new(session(), Classes);
        let half = |n| model.step(Collate.batch((n * BATCH..(n + 1) * BATCH).collect(), &device)).grads;
        let gradients = [half(0), half(1)];
        (model, gradients)
    };
    let (model, gradients) = begin();
    let mut sum = GradientsAccumulator::<Wrapped>::new();
    gradients.into_iter().for_each(|g| sum.accumulate(&model, g));
    let single = model.clone().optimize::<A, _>(&mut adamw(), LR, sum.grads());
    // Copies have schedules of their own.
    assert_eq!([model.clock(), single.clock()], [Clock::Step(0), Clock::Step(1)]);

    let (several, gradients) = begin();
    let gradients = MultiGradientsParams { grads: gradients.map(|g| (g, device.to_id())).into() };
    let several = several.optimize_multi::<A, _>(&mut adamw(), LR, gradients);
    assert_eq!(parameters::<A, _>(&several), parameters::<A, _>(&single));
    assert_ne!(parameters::<A, _>(&several), parameters::<A, _>(&model));
    assert_eq!(several.clock(), Clock::Step(1));
}

#[test]
fn schedules_at_their_end_stay_there_in_a_checkpoint() {
    let model = SessionModel::new(session().with_schedules_finished(), Classes);
    let record = model.clone().into_record();
    let loaded = SessionModel::new(session().with_schedules_finished(), Classes).load_record(record);
    assert_eq!(loaded.clock(), Clock::Finished);
    assert_eq!(parameters::<A, _>(&loaded), parameters::<A, _>(&model));
}

#[test]
#[should_panic(expected = "the checkpoint does not fit")]
fn a_checkpoint_of_another_recipe_is_refused() {
    let model = Toy::<A>::new(12);
    let other = plan(&model, &json!({"steps": [{"weight_quantization": {"on": ["head"], "bits": 8}}]}));
    let other = SessionModel::new(other.attach_training(&model, 1), Classes);
    SessionModel::new(session(), Classes).load_record(other.into_record());
}
