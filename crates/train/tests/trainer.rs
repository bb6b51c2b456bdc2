//! The loop: it learns, follows a teacher, and goes on where it stopped.
#![allow(clippy::unwrap_used)]

mod common;

use briquette_composer::{Augmentation, Decay, Keep, LayerByLayerSettings, TrainingSettings};
use briquette_distill::{Distillation, DistillationSettings, Preset};
use briquette_nn::{Tapped, Wanted};
use briquette_train::{
    Checkpoints, Guide, Measured, Outcome, Purpose, Settings, TrainError, Trainer, TrainingData, Watch,
    layer_by_layer,
};
use burn::backend::Flex;
use burn::module::AutodiffModule;
use common::*;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

const DATA: Sums = Sums(48);

fn recipe() -> Value {
    json!({"steps": [
        {"weight_quantization": {"on": ["blocks.**"], "bits": 4}},
        {"activation_quantization": {"on": ["head"], "bits": 8, "range": "static", "observer": "moving_average"}}
    ]})
}

fn settings() -> Settings {
    let said = TrainingSettings {
        epochs: Some(4),
        batch: Some(8),
        lr: Some(0.02),
        decay: Some(Decay::Cosine),
        checkpoint_every: Some(5),
        ..TrainingSettings::default()
    };
    Settings::resolve(&said, Purpose::Classification, false, 3).unwrap()
}

fn taught(student: &Toy<A>) -> (Toy<Flex>, Distillation) {
    let teacher = Toy::<Flex>::new(20);
    let said = DistillationSettings::default();
    let resolved =
        said.resolve(Preset::Classification, &student.tap_shape(), &teacher.tap_shape(), None).unwrap();
    (teacher, resolved)
}

/// The backend's dropout draws from one generator for all threads, and tests run side by side.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stops the process's training where a real one would be killed.
struct KillAt(usize);

impl Watch for KillAt {
    fn measured(&mut self, measured: Measured) {
        assert!(measured.epoch < self.0, "killed");
    }
}

fn run(settings: Settings, folder: &Path, resume: bool, kill: usize, teach: bool) -> Outcome<A, Toy<A>> {
    let _alone = alone();
    let device = Default::default();
    let model = Toy::<A>::new(12);
    let session = plan(&model, &recipe()).attach_training(&model, settings.seed);
    let guide = if teach {
        let (teacher, distillation) = taught(&model);
        Guide::teacher(teacher, distillation, settings.rule(), 5, &device)
    } else {
        Guide::labels()
    };
    let measure = |model: &Toy<Flex>| Ok(f64::from(accuracy(model)));
    Trainer::new(session, guide, settings, &DATA, &device)
        .unwrap()
        .measured_by(measure, true)
        .checkpointed(Checkpoints::new(folder, "this run"))
        .run(resume, &mut KillAt(kill))
        .unwrap()
}

fn accuracy(model: &Toy<Flex>) -> f32 {
    let device = Default::default();
    let all: Vec<usize> = (0..48).collect();
    let (input, classes) = DATA.batch::<Flex>(&all, &device);
    let found = model.tapped(input, Wanted::default()).logits.argmax(1).reshape([48]);
    found.equal(classes).float().mean().into_scalar()
}

#[test]
fn training_on_labels_learns() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = run(settings(), &folder.path().join("c"), false, 99, false);
    assert_eq!(outcome.steps, 24);
    let values: Vec<f64> = outcome.measured.iter().map(|m| m.value).collect();
    assert_eq!(values.len(), 4);
    let before = f64::from(accuracy(&Toy::<Flex>::new(12)));
    assert!(values[3] > before + 0.2, "{before} then {values:?}");
}

#[test]
fn a_killed_run_goes_on_to_the_same_bits() {
    for teach in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let whole = run(settings(), &folder.path().join("whole"), false, 99, teach);
        let at = folder.path().join("killed");
        let killed = std::panic::catch_unwind(|| run(settings(), &at, false, 3, teach));
        assert!(killed.is_err());
        let left: Vec<String> =
            std::fs::read_dir(&at).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        // Killed at the end of epoch 3, step 18; checkpoints are 5 steps apart and older ones are gone.
        assert_eq!(left, ["step-15"]);
        let resumed = run(settings(), &at, true, 99, teach);
        assert_eq!(
            parameters(resumed.session.parts()),
            parameters(whole.session.parts()),
            "teacher: {teach}"
        );
        assert_eq!(resumed.session.position(), whole.session.position());
        assert_eq!(resumed.measured, whole.measured);
    }
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    run(settings(), folder.path(), false, 99, false);
    let error = Checkpoints::new(folder.path(), "another run").newest().unwrap_err();
    assert!(matches!(error, TrainError::OtherRun { .. }), "{error}");
    let error = Checkpoints::new(folder.path().join("nowhere"), "this run").newest().unwrap_err();
    assert!(matches!(error, TrainError::NothingToResume { .. }), "{error}");
    std::fs::write(folder.path().join("step-24/state.json"), "{").unwrap();
    let error = Checkpoints::new(folder.path(), "this run").newest().unwrap_err();
    assert!(error.to_string().contains("state.json"), "{error}");
}

#[test]
fn a_damaged_checkpoint_is_an_error_that_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    run(settings(), folder.path(), false, 99, false);
    std::fs::write(folder.path().join("step-24/parameters.bin"), b"no").unwrap();
    let device = Default::default();
    let model = Toy::<A>::new(12);
    let session = plan(&model, &recipe()).attach_training(&model, 3);
    let trainer: Trainer<'_, A, Toy<A>, Sums, Toy<Flex>> =
        Trainer::new(session, Guide::labels(), settings(), &DATA, &device).unwrap();
    let outcome = trainer.checkpointed(Checkpoints::new(folder.path(), "this run")).run(true, &mut ());
    let error = outcome.err().unwrap().to_string();
    assert!(error.contains("step-24/parameters"), "{error}");
}

/// What a run leaves when one setting is another.
fn trained_with(change: impl FnOnce(&mut Settings)) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings();
    change(&mut settings);
    parameters(run(settings, folder.path(), false, 99, true).session.parts())
}

#[test]
fn every_setting_changes_the_result() {
    let usual = trained_with(|_| {});
    assert_eq!(usual, trained_with(|_| {}), "the same settings give the same bits");
    assert_eq!(usual, trained_with(|s| s.checkpoint_every = None), "checkpoints change nothing");
    type Change = (&'static str, fn(&mut Settings));
    let changes: [Change; 12] = [
        ("epochs", |s| s.epochs = 3),
        ("batch", |s| s.batch = 12),
        ("lr", |s| s.lr = 0.01),
        ("optimizer", |s| s.optimizer = briquette_composer::OptimizerKind::Sgd),
        ("weight_decay", |s| s.weight_decay = 0.5),
        ("beta_1", |s| s.betas.0 = 0.5),
        ("beta_2", |s| s.betas.1 = 0.9),
        ("decay", |s| s.decay = Decay::Linear),
        ("warmup", |s| s.warmup = 0.5),
        ("accumulate", |s| s.accumulate = 2),
        ("clip", |s| s.clip = Some(1e-3)),
        ("augmentation", |s| s.augmentation = Augmentation::CropFlip),
    ];
    for (name, change) in changes {
        assert_ne!(usual, trained_with(change), "{name}");
    }
    assert_ne!(usual, trained_with(|s| s.seed = 4), "seed");
}

#[test]
fn what_methods_learn_has_a_rate_that_suits_the_optimizer() {
    let said = TrainingSettings { epochs: Some(1), ..TrainingSettings::default() };
    let rate =
        |said: &TrainingSettings, purpose| Settings::resolve(said, purpose, false, 0).unwrap().learned_lr;
    assert_eq!((rate(&said, Purpose::Vision), rate(&said, Purpose::Classification)), (0.002, 1.0));
    let said = TrainingSettings { learned_lr: Some(3.0), ..said };
    assert_eq!(rate(&said, Purpose::Vision), 3.0);
}

#[test]
fn augmentation_suits_the_data() {
    let said =
        TrainingSettings { epochs: Some(1), augmentation: Some(Augmentation::None), ..Default::default() };
    let resolve = |purpose| Settings::resolve(&said, purpose, false, 0);
    assert!(resolve(Purpose::Classification).unwrap_err().to_string().contains("augmentation"));
    assert_eq!(resolve(Purpose::Vision).unwrap().augmentation, Augmentation::None);
    let usual = TrainingSettings { augmentation: None, ..said.clone() };
    let usual = Settings::resolve(&usual, Purpose::Vision, false, 0).unwrap();
    assert_eq!(usual.augmentation, Augmentation::CropFlip);
    let text = |augmentation| {
        let said = TrainingSettings { augmentation: Some(augmentation), ..said.clone() };
        Settings::resolve(&said, Purpose::LanguageModel, true, 0)
    };
    assert_eq!(text(Augmentation::Shift).unwrap().augmentation, Augmentation::Shift);
    let refused = text(Augmentation::CropFlip).unwrap_err().to_string();
    assert!(refused.contains("CropFlip") && refused.contains("shift"), "{refused}");
}

#[test]
fn language_models_keep_dropout_beside_a_teacher() {
    let said = TrainingSettings { epochs: Some(1), ..Default::default() };
    let dropout = |purpose, teacher| Settings::resolve(&said, purpose, teacher, 0).unwrap().dropout;
    assert!(dropout(Purpose::Classification, false) && !dropout(Purpose::Classification, true));
    assert!(dropout(Purpose::LanguageModel, false) && dropout(Purpose::LanguageModel, true));
}

#[test]
fn two_halves_of_a_batch_make_the_same_step_as_the_whole() {
    // A trainer seeds the generator, whether anything draws from it or not.
    let _alone = alone();
    // Without dropout, which draws anew for each part.
    let step = |batch: usize, accumulate: usize| {
        let device = Default::default();
        let mut model = Toy::<A>::new(12);
        model.dropout.prob = 0.0;
        let recipe = json!({"steps": [{"weight_quantization": {"on": ["blocks.**"], "bits": 4}}]});
        let session = plan(&model, &recipe).attach_training(&model, 0);
        let settings = Settings { batch, accumulate, epochs: 1, checkpoint_every: None, ..settings() };
        let trainer: Trainer<'_, A, Toy<A>, Sums, Toy<Flex>> =
            Trainer::new(session, Guide::labels(), settings, &DATA, &device).unwrap();
        parameters(trainer.run(false, &mut ()).unwrap().session.parts())
    };
    let (whole, halves) = (step(8, 1), step(4, 2));
    let worst = whole.iter().zip(&halves).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 2e-4, "{worst}");
}

#[test]
fn the_best_epoch_is_kept_where_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { keep: Keep::Best, lr: 0.2, epochs: 6, ..settings() };
    let outcome = run(settings.clone(), &folder.path().join("a"), false, 99, false);
    let best = outcome.measured.iter().map(|m| m.value).fold(0.0, f64::max);
    let last = outcome.measured.last().unwrap().value;
    assert!(last < best, "a run whose last epoch is the best shows nothing: {:?}", outcome.measured);
    let kept = outcome.session.valid();
    assert_eq!(f64::from(accuracy(&kept)), best);
    let device = Default::default();
    let model = Toy::<A>::new(12);
    let session = plan(&model, &recipe()).attach_training(&model, 3);
    let trainer: Trainer<'_, A, Toy<A>, Sums, Toy<Flex>> =
        Trainer::new(session, Guide::labels(), settings, &DATA, &device).unwrap();
    assert!(matches!(trainer.run(false, &mut ()), Err(TrainError::NothingMeasures)));
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let _alone = alone();
    let device = Default::default();
    let model = Toy::<A>::new(12);
    let session = plan(&model, &recipe()).attach_training(&model, 0);
    let settings = Settings { lr: 1e30, clip: None, checkpoint_every: None, ..settings() };
    let trainer: Trainer<'_, A, Toy<A>, Sums, Toy<Flex>> =
        Trainer::new(session, Guide::labels(), settings, &DATA, &device).unwrap();
    let error = trainer.run(false, &mut ()).err().unwrap();
    assert!(matches!(error, TrainError::Diverged { .. }), "{error}");
}

#[test]
fn blocks_learn_what_the_teachers_give() {
    let _alone = alone();
    for (input, lr) in [("teacher", 0.01), ("student", 0.01), ("student", 3.0)] {
        let device = Default::default();
        let model = Toy::<A>::new(12);
        let recipe = json!({
            "steps": [{"weight_quantization": {"on": ["blocks.**"], "bits": 3}}],
            "layer_by_layer": {"steps": 100, "batch": 8, "lr": lr, "input": input}
        });
        let plan = plan(&model, &recipe);
        let settings: LayerByLayerSettings = plan.layer_by_layer().unwrap().clone();
        let mut session = plan.attach_training(&model, 0).with_schedules_finished();
        let teacher = model.valid();
        let blocks = layer_by_layer(&mut session, &teacher, &settings, &DATA, 0, &device, &mut ()).unwrap();
        assert_eq!(blocks.iter().map(|b| b.block.as_str()).collect::<Vec<_>>(), ["blocks.0", "blocks.1"]);
        for block in &blocks {
            let most = if lr < 1.0 { 0.9 } else { 1.0 };
            assert!(block.after <= most * block.before, "{input} {lr}: {block:?}");
        }
        // Nothing outside of the blocks has moved.
        let head = |model: &Toy<A>| parameters(&model.head);
        assert_eq!(head(&session.parts().model), head(&model));
    }
}
