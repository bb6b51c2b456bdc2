//! Pruning within a training: what is masked for good is removed on the way.
#![allow(clippy::unwrap_used)]

mod common;

use briquette_composer::{Composer, Keep, Plan, Recipe, TrainingSettings};
use briquette_core::{Dependencies, DimensionGroup, Member, Role};
use briquette_distill::{DistillationSettings, Preset};
use briquette_nn::{Tapped, model_view};
use briquette_train::{Checkpoints, Guide, Measured, Outcome, Purpose, Settings, Trainer, Watch};
use burn::backend::Flex;
use burn::module::Module;
use common::*;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

const DATA: Sums = Sums(48);
const STEPS_OF_AN_EPOCH: usize = 6;

/// The outputs of the first block, which the second one reads.
fn between_blocks() -> Dependencies {
    let member = |layer: &str, name: &str, axis, role| Member {
        name: format!("{layer}.{name}"),
        path: format!("{layer}.{name}"),
        axis,
        role,
        units: (0..12).map(|unit| vec![unit]).collect(),
    };
    let members = vec![
        member("blocks.0", "weight", 1, Role::Produces),
        member("blocks.0", "bias", 0, Role::Follows),
        member("blocks.1", "weight", 0, Role::Consumes),
    ];
    let group = DimensionGroup { name: "blocks.0".into(), units: 12, members, averaged_by: Vec::new() };
    Dependencies { groups: vec![group], ..Dependencies::default() }
}

/// Half of these units go, bit by bit, at step 7 for good.
fn pruned(model: &Toy<A>) -> Plan<A> {
    let schedule = json!({"shape": "linear", "start": 1, "end": 7, "every": 2});
    let step = json!({"on": ["blocks.0"], "keep": 0.5, "importance": "movement", "schedule": schedule});
    let recipe = json!({"steps": [{"row_pruning": step}]});
    let view = model_view(model).with_dependencies(between_blocks());
    Composer::builtin().plan(&Recipe::from_value(&recipe), &view).unwrap()
}

fn settings() -> Settings {
    let said = TrainingSettings {
        epochs: Some(4),
        batch: Some(8),
        lr: Some(0.02),
        checkpoint_every: Some(5),
        ..TrainingSettings::default()
    };
    Settings::resolve(&said, Purpose::Classification, false, 3).unwrap()
}

/// The backend's dropout draws from one generator for all threads, and tests run side by side.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn guide(student: &Toy<A>, distillation: &Value) -> Guide<A, Toy<Flex>> {
    let teacher = Toy::<Flex>::new(12);
    let mut problems = briquette_core::Diagnostics::new();
    let said = DistillationSettings::read(distillation, "distillation", &mut problems);
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(problems.is_empty(), "{problems:?}");
    let resolved =
        said.resolve(Preset::Classification, &student.tap_shape(), &teacher.tap_shape(), None).unwrap();
    Guide::teacher(teacher, resolved, settings().rule(), 5, &Default::default())
}

struct KillAt(usize);

impl Watch for KillAt {
    fn measured(&mut self, measured: Measured) {
        assert!(measured.epoch < self.0, "killed");
    }
}

/// A run, each of whose epochs is worth what `value` says of the number of parameters.
fn run(
    settings: Settings,
    folder: &Path,
    (resume, kill): (bool, usize),
    distillation: &Value,
    mut value: impl FnMut(usize) -> f64,
) -> Outcome<A, Toy<A>> {
    let _alone = alone();
    let model = Toy::<A>::new(12);
    let session = pruned(&model).attach_training(&model, settings.seed);
    let guide = guide(&model, distillation);
    Trainer::new(session, guide, settings, &DATA, &Default::default())
        .unwrap()
        .measured_by(move |model: &Toy<Flex>| Ok(value(model.num_params())), true)
        .checkpointed(Checkpoints::new(folder, "this run"))
        .run(resume, &mut KillAt(kill))
        .unwrap()
}

/// Parameters of the model with so many outputs of its first block.
fn size(units: usize) -> usize {
    let linear = |i, o| i * o + o;
    linear(4, 12) + linear(12, units) + linear(units, 12) + linear(12, 3)
}

#[test]
fn the_steps_after_the_last_event_are_taken_by_the_smaller_model() {
    let folder = tempfile::tempdir().unwrap();
    let mut sizes = Vec::new();
    let outcome = run(settings(), folder.path(), (false, 99), &json!({"logits": {}}), |size| {
        sizes.push(size);
        0.0
    });
    // The masks are final after step 7, in the second epoch.
    assert_eq!(sizes, [size(12), size(6), size(6), size(6)]);
    assert_eq!(outcome.steps, 4 * STEPS_OF_AN_EPOCH);
    let removed = outcome.session.removed().unwrap().clone();
    assert_eq!(removed.groups[0].kept.units.len(), 6);
    let finished = outcome.session.finish().unwrap();
    assert_eq!(finished.removed.unwrap(), removed);
    assert_eq!(finished.model.num_params(), size(6));
}

#[test]
fn a_run_that_is_killed_before_or_after_the_removal_goes_on_to_the_same_bits() {
    for kill in [2, 4] {
        let folder = tempfile::tempdir().unwrap();
        let go = |at: &str, resume, kill| {
            run(settings(), &folder.path().join(at), (resume, kill), &json!({"logits": {}}), |_| 0.0)
        };
        let whole = go("whole", false, 99);
        let killed = std::panic::catch_unwind(|| go("killed", false, kill));
        assert!(killed.is_err());
        let resumed = go("killed", true, 99);
        assert_eq!(
            parameters(resumed.session.parts()),
            parameters(whole.session.parts()),
            "killed at {kill}"
        );
        assert_eq!(resumed.session.removed(), whole.session.removed());
    }
}

#[test]
fn the_best_epoch_is_one_of_the_smaller_model() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { keep: Keep::Best, ..settings() };
    let mut values = [0.9, 0.5, 0.6, 0.4].into_iter();
    let outcome =
        run(settings.clone(), &folder.path().join("best"), (false, 99), &json!({"logits": {}}), |_| {
            values.next().unwrap()
        });
    // Epoch 3, the best after the removal: what a run to its end has had there.
    let mut values = [0.0, 0.0, 0.6, 0.0].into_iter();
    let third = run(settings, &folder.path().join("third"), (false, 99), &json!({"logits": {}}), |_| {
        values.next().unwrap()
    });
    assert_eq!(parameters(outcome.session.parts()), parameters(third.session.parts()));
    assert_eq!(outcome.session.finish().unwrap().model.num_params(), size(6));
}

#[test]
fn a_student_whose_hidden_states_are_compared_keeps_its_shapes_to_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let hidden = json!({"hidden": {"weight": 1.0}});
    let mut sizes = Vec::new();
    let outcome = run(settings(), folder.path(), (false, 99), &hidden, |size| {
        sizes.push(size);
        0.0
    });
    assert_eq!(sizes, [size(12); 4]);
    assert!(outcome.session.removed().is_none());
    assert_eq!(outcome.session.finish().unwrap().model.num_params(), size(6));
}
