//! `training`: how a model is trained while it is compressed.

use briquette_core::fields::Fields;
use briquette_core::{Diagnostics, Problem};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The rule by which parameters follow their gradients.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101).
    Adamw,
    /// Gradient descent with Nesterov's momentum.
    Sgd,
}

/// How the learning rate goes on after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// As it is.
    Constant,
    /// Straight down to zero at the last step.
    Linear,
    /// Down to zero at the last step along half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5).
    Cosine,
}

/// Which parameters the artefact gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Those of the last step.
    Last,
    /// Those of the epoch that measured best on the evaluation data.
    Best,
}

/// How data are changed before a model sees them in training, each time otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Augmentation {
    /// As they are.
    None,
    /// Moved by up to four pixels in each direction, black coming in at the borders, and mirrored in half of the cases
    /// (He et al. 2016, arXiv 1512.03385, section 4.2).
    CropFlip,
    /// Each window of a running text begins up to one window later, so that an epoch cuts the text at other places.
    Shift,
}

/// How a model is trained: the recipe's `training`. What is `None` was not said, and a default that depends on
/// the model's task takes its place.
///
/// | key | default | why |
/// |---|---|---|
/// | `epochs` | none: must be said here or by the caller | it is what training costs |
/// | `batch` | 64 for texts, 16 windows, 128 images | as the models here were trained |
/// | `lr` | 5e-5 texts, 3e-4 windows, 0.05 images | likewise |
/// | `optimizer` | `"adamw"`, `"sgd"` for images | likewise |
/// | `weight_decay` | 0.01, 5e-4 for images | never on biases, normalizations and learned scales |
/// | `beta_1`, `beta_2` | 0.9, 0.999 | the paper's; AdamW only |
/// | `momentum` | 0.9 | SGD only |
/// | `decay` | `"linear"`, `"cosine"` for images | of the learning rate |
/// | `warmup` | 0.06 | share of the steps in which the learning rate rises from zero |
/// | `accumulate` | 1 | batches whose gradients make one step |
/// | `clip` | 1.0 | largest norm of all gradients together, with `"sgd"` of those of the model; 0 for no limit |
/// | `learned_lr` | 1.0, with `"sgd"` 0.002 | factor of the learning rate for what methods learn, such as scales: AdamW steps it in either case, and 0.05 for weights is 1e-4 for it |
/// | `dropout` | `true`; `false` with a teacher, but for language models | a student that is told the answers hardly overfits, one that reads the same text for epochs does |
/// | `max_tokens` | the model's | longer texts are cut while training |
/// | `augmentation` | `"crop_flip"` for images, else `"none"` | `"shift"` is for windows of running text; sentences stay as they are |
/// | `keep` | `"last"` | `"best"` needs evaluation data, and then chooses on them |
/// | `checkpoint_every` | every minute | steps between checkpoints |
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingSettings {
    /// Passes over the data.
    pub epochs: Option<usize>,
    /// Examples of a batch.
    pub batch: Option<usize>,
    /// Highest learning rate.
    pub lr: Option<f64>,
    /// Rule of the steps.
    pub optimizer: Option<OptimizerKind>,
    /// Share of a weight that is taken away per unit of learning rate.
    pub weight_decay: Option<f64>,
    /// Weight of the past in AdamW's mean of gradients.
    pub beta_1: Option<f64>,
    /// Weight of the past in AdamW's mean of squared gradients.
    pub beta_2: Option<f64>,
    /// Weight of the past in SGD's mean of gradients.
    pub momentum: Option<f64>,
    /// Course of the learning rate after warm-up.
    pub decay: Option<Decay>,
    /// Share of the steps in which the learning rate rises.
    pub warmup: Option<f64>,
    /// Batches of a step.
    pub accumulate: Option<usize>,
    /// Largest norm of the gradients; 0 for no limit.
    pub clip: Option<f64>,
    /// Factor of the learning rate for learned entries of methods.
    pub learned_lr: Option<f64>,
    /// Whether dropout acts.
    pub dropout: Option<bool>,
    /// Longest text, in tokens.
    pub max_tokens: Option<usize>,
    /// How data are changed.
    pub augmentation: Option<Augmentation>,
    /// Which parameters the artefact gets.
    pub keep: Option<Keep>,
    /// Steps between checkpoints.
    pub checkpoint_every: Option<usize>,
}

impl TrainingSettings {
    /// Reads the block at `place`; every mistake goes to `out`.
    pub fn read(value: &Value, place: &str, out: &mut Diagnostics) -> Self {
        let Some(mut f) = Fields::open(value, place, out) else { return Self::default() };
        let optimizers = [("adamw", OptimizerKind::Adamw), ("sgd", OptimizerKind::Sgd)];
        let decays = [("constant", Decay::Constant), ("linear", Decay::Linear), ("cosine", Decay::Cosine)];
        let augmentations = [
            ("none", Augmentation::None),
            ("crop_flip", Augmentation::CropFlip),
            ("shift", Augmentation::Shift),
        ];
        let keeps = [("last", Keep::Last), ("best", Keep::Best)];
        let read = Self {
            epochs: count(&mut f, "epochs", out),
            batch: count(&mut f, "batch", out),
            lr: number(&mut f, "lr", |v| v > 0.0, "over 0", out),
            optimizer: f.choice("optimizer", &optimizers, out),
            weight_decay: number(&mut f, "weight_decay", |v| v >= 0.0, "at least 0", out),
            beta_1: number(&mut f, "beta_1", share, "in 0 .. 1", out),
            beta_2: number(&mut f, "beta_2", share, "in 0 .. 1", out),
            momentum: number(&mut f, "momentum", share, "in 0 .. 1", out),
            decay: f.choice("decay", &decays, out),
            warmup: number(&mut f, "warmup", share, "in 0 .. 1", out),
            accumulate: count(&mut f, "accumulate", out),
            clip: number(&mut f, "clip", |v| v >= 0.0, "at least 0", out),
            learned_lr: number(&mut f, "learned_lr", |v| v > 0.0, "over 0", out),
            dropout: f.optional("dropout", out),
            max_tokens: count(&mut f, "max_tokens", out),
            augmentation: f.choice("augmentation", &augmentations, out),
            keep: f.choice("keep", &keeps, out),
            checkpoint_every: count(&mut f, "checkpoint_every", out),
        };
        let (adamw, sgd) =
            (read.optimizer == Some(OptimizerKind::Adamw), read.optimizer == Some(OptimizerKind::Sgd));
        let mut only = |there: bool, key: &str, with: &str| {
            if there {
                let text = format!("`{key}` has an effect with the optimizer `{with}` only");
                out.add(f.place_of(key), Problem::Conflict(text));
            }
        };
        only(sgd && read.beta_1.is_some(), "beta_1", "adamw");
        only(sgd && read.beta_2.is_some(), "beta_2", "adamw");
        only(adamw && read.momentum.is_some(), "momentum", "sgd");
        f.finish(out);
        read
    }
}

fn share(value: f64) -> bool {
    (0.0..1.0).contains(&value)
}

/// A whole number of at least 1.
pub(super) fn count(f: &mut Fields<'_>, key: &'static str, out: &mut Diagnostics) -> Option<usize> {
    let value = f.optional::<usize>(key, out)?;
    if value == 0 {
        out.add(f.place_of(key), Problem::Range { value: "0".into(), expected: "at least 1".into() });
    }
    (value > 0).then_some(value)
}

pub(super) fn number(
    f: &mut Fields<'_>,
    key: &'static str,
    fits: fn(f64) -> bool,
    expected: &str,
    out: &mut Diagnostics,
) -> Option<f64> {
    let value = f.optional::<f64>(key, out)?;
    let good = fits(value);
    if !good {
        out.add(f.place_of(key), Problem::Range { value: value.to_string(), expected: expected.into() });
    }
    good.then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> (TrainingSettings, Vec<String>) {
        let mut out = Diagnostics::new();
        let settings = TrainingSettings::read(&value, "training", &mut out);
        (settings, out.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_key_is_read() {
        let value = json!({
            "epochs": 3, "batch": 8, "lr": 1e-4, "optimizer": "adamw", "weight_decay": 0.1, "beta_1": 0.8,
            "beta_2": 0.98, "decay": "cosine", "warmup": 0.1, "accumulate": 2, "clip": 0.0, "learned_lr": 10.0,
            "dropout": true, "max_tokens": 64, "augmentation": "shift", "keep": "best", "checkpoint_every": 5
        });
        let (settings, problems) = read(value.clone());
        assert!(problems.is_empty(), "{problems:?}");
        let mut back = serde_json::to_value(settings).expect("plain data");
        back.as_object_mut().expect("an object").retain(|_, v| !v.is_null());
        assert_eq!(back, value);
    }

    #[test]
    fn every_mistake_is_reported() {
        let (_, problems) = read(json!({
            "epochs": 0, "lr": -1.0, "optimizer": "sgd", "beta_1": 0.9, "warmup": 1.5, "keep": "all", "epoch": 1
        }));
        assert_eq!(
            problems,
            [
                "training.epochs: 0 is not at least 1",
                "training.lr: -1 is not over 0",
                "training.warmup: 1.5 is not in 0 .. 1",
                "training.keep: `all` is not one of last, best",
                "training.beta_1: `beta_1` has an effect with the optimizer `adamw` only",
                "training.epoch: unknown key `epoch`, did you mean `epochs`?",
            ]
        );
    }
}
