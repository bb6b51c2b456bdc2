//! `distillation`: what a recipe says about learning from a teacher.
//!
//! ```json
//! "distillation": { "labels": 0.1, "logits": { "loss": "kl", "temperature": 4.0, "weight": 0.9 } }
//!
//! "distillation": {
//!     "layers": [1, 3, 5, 7, 9, 11],
//!     "stages": [
//!         { "share": 0.6, "logits": { "loss": "soft_cross_entropy" }, "hidden": {}, "scores": {} },
//!         { "labels": 1.0 } ] }
//! ```
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `stages` | one, whose keys stand in the block itself | one after the other, each a list of losses |
//! | `layers` | those that layer reduction kept, else `"uniform"` | which blocks are compared: [`Layers`] |
//!
//! A stage:
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `share` | required but for the last, which takes the rest | part of all training steps, 0 to 1 |
//! | `labels` | 0 | weight of the cross-entropy with the labels |
//! | `logits` | not compared | `loss`: `"soft_cross_entropy"` (default, as DeepSpeed), `"kl"` or `"mse"` |
//! | `hidden` | not compared | mean squared difference of hidden states |
//! | `scores` | not compared | mean squared difference of attention scores |
//! | `probabilities` | not compared | attention probabilities; `loss`: `"kl"` (default) or `"mse"` |
//! | `values` | not compared | value relations |
//!
//! All but `share` and `labels` are objects with a `weight`, 1 where it is not said. `kl` of the logits has a
//! `temperature`, 1 where it is not said; `soft_cross_entropy` a `reduction`, `"mean"` (over rows and classes, the
//! default, as DeepSpeed) or `"batchmean"` (over rows).
//!
//! A block without any loss has those of its task's [`Preset`].

use crate::losses::Reduction;
use crate::mapping::Layers;
use briquette_core::fields::{Fields, FromJson, type_problem};
use briquette_core::{Diagnostics, Problem};
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// How logits are compared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogitsLoss {
    /// [`soft_cross_entropy`](crate::losses::soft_cross_entropy).
    SoftCrossEntropy {
        /// Over what the sum is divided.
        reduction: Reduction,
    },
    /// [`logits_kl`](crate::losses::logits_kl).
    Kl {
        /// By which both models' logits are divided.
        temperature: f64,
    },
    /// [`logits_mse`](crate::losses::logits_mse).
    Mse,
}

/// Comparison of the logits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LogitsTerm {
    /// How.
    pub loss: LogitsLoss,
    /// Factor of the loss.
    pub weight: f64,
}

/// How attention probabilities are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbabilitiesLoss {
    /// [`probabilities_kl`](crate::losses::probabilities_kl).
    Kl,
    /// [`probabilities_mse`](crate::losses::probabilities_mse).
    Mse,
}

/// Comparison of the attention probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ProbabilitiesTerm {
    /// How.
    pub loss: ProbabilitiesLoss,
    /// Factor of the loss.
    pub weight: f64,
}

/// The losses of one part of a training. A weight of 0 stands for a loss that is not there.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StageSettings {
    /// Where the recipe says it.
    #[serde(skip)]
    pub place: String,
    /// Part of all training steps, 0 to 1. `None` in the last stage, which takes the rest.
    pub share: Option<f64>,
    /// Weight of the cross-entropy with the labels.
    pub labels: f64,
    /// Comparison of the logits.
    pub logits: Option<LogitsTerm>,
    /// Weight of the comparison of hidden states.
    pub hidden: f64,
    /// Weight of the comparison of attention scores.
    pub scores: f64,
    /// Comparison of attention probabilities.
    pub probabilities: Option<ProbabilitiesTerm>,
    /// Weight of the comparison of value relations.
    pub values: f64,
}

/// What is compared where a recipe does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Texts: soft cross-entropy of the logits, mean over rows and classes, and hidden states, both with weight 1, as
    /// DeepSpeed, whose third loss, of the attention scores, has to be asked for: it keeps models from their fused
    /// attention.
    Classification,
    /// Next tokens: cross-entropy with the labels and divergence of the logits, both with weight 1 at temperature 1,
    /// the defaults of DeepSpeed's pre-training distillation.
    LanguageModel,
    /// Images: 0.1 of the cross-entropy with the labels, 0.9 of the divergence of the logits at temperature 4, as Tian
    /// et al. 2019 (arXiv 1910.10699) have it for CIFAR.
    Vision,
}

impl Preset {
    /// The stage that lasts for the whole training.
    pub fn stage(self) -> StageSettings {
        let kl = |temperature, weight| LogitsTerm { loss: LogitsLoss::Kl { temperature }, weight };
        let soft = LogitsLoss::SoftCrossEntropy { reduction: Reduction::Mean };
        let none = StageSettings { place: DistillationSettings::KEY.into(), ..StageSettings::default() };
        match self {
            Self::Classification => {
                StageSettings { logits: Some(LogitsTerm { loss: soft, weight: 1.0 }), hidden: 1.0, ..none }
            }
            Self::LanguageModel => StageSettings { labels: 1.0, logits: Some(kl(1.0, 1.0)), ..none },
            Self::Vision => StageSettings { labels: 0.1, logits: Some(kl(4.0, 0.9)), ..none },
        }
    }
}

/// What a recipe says about distillation; [`resolve`](Self::resolve) makes a [`Distillation`](crate::Distillation) of
/// it for two models. By default nothing is said, and everything is the task's preset.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DistillationSettings {
    /// One after the other; none where the preset's is meant.
    pub stages: Vec<StageSettings>,
    /// Which blocks are compared, where the recipe says it.
    pub layers: Option<Layers>,
}

impl DistillationSettings {
    /// The block's key in a recipe.
    pub const KEY: &'static str = "distillation";

    /// Reads the block at `place`; every mistake goes to `out`.
    pub fn read(value: &Value, place: &str, out: &mut Diagnostics) -> Self {
        let Some(mut f) = Fields::open(value, place, out) else { return Self::default() };
        let layers = f.raw("layers").and_then(|value| layers(value, f.place_of("layers"), out));
        let direct = TERMS.iter().any(|key| f.has(key));
        let stages = match f.raw("stages") {
            Some(list) => {
                if direct {
                    let text = "losses stand either in `stages` or in the block itself";
                    out.add(place, Problem::Conflict(text.into()));
                }
                for key in TERMS {
                    f.raw(key);
                }
                stages(list, &f.place_of("stages"), out)
            }
            // Read even where nothing is there, so that a misspelt key is told what it resembles.
            None => {
                let before = out.len();
                let stage = StageSettings::read(&mut f, out);
                if direct && out.len() == before {
                    stage.refuse_nothing(out);
                }
                Some(stage).filter(|_| direct).into_iter().collect()
            }
        };
        f.finish(out);
        Self { stages, layers }
    }
}

/// The keys of a stage that name its losses.
const TERMS: [&str; 6] = ["labels", "logits", "hidden", "scores", "probabilities", "values"];

fn stages(list: &Value, place: &str, out: &mut Diagnostics) -> Vec<StageSettings> {
    let Some(list) = list.as_array().filter(|list| !list.is_empty()) else {
        out.add(place, type_problem("a list of at least one stage", list));
        return Vec::new();
    };
    let before = out.len();
    let read = |(n, value): (usize, &Value)| {
        let mut f = Fields::open(value, format!("{place}[{n}]"), out)?;
        let before = out.len();
        let last = n + 1 == list.len();
        let share = if last { f.optional("share", out) } else { f.required("share", out) };
        let share = share.filter(|share| refuse_unless(*share > 0.0 && *share <= 1.0, *share, &f, out));
        let stage = StageSettings { share, ..StageSettings::read(&mut f, out) };
        f.finish(out);
        if out.len() == before {
            stage.refuse_nothing(out);
        }
        Some(stage)
    };
    let mut stages: Vec<StageSettings> = list.iter().enumerate().filter_map(read).collect();
    if out.len() == before {
        check_shares(&mut stages, place, out);
    }
    stages
}

fn refuse_unless(good: bool, share: f64, f: &Fields<'_>, out: &mut Diagnostics) -> bool {
    if !good {
        let problem = Problem::Range { value: share.to_string(), expected: "over 0 and at most 1".into() };
        out.add(f.place_of("share"), problem);
    }
    good
}

/// The last stage takes the rest, of which there must be some; a share that it names must be that rest.
fn check_shares(stages: &mut [StageSettings], place: &str, out: &mut Diagnostics) {
    let Some((last, before)) = stages.split_last_mut() else { return };
    let rest = 1.0 - before.iter().filter_map(|stage| stage.share).sum::<f64>();
    let (value, expected) = match last.share.take() {
        _ if rest < 1e-9 => (1.0 - rest, "a sum of shares that leaves some for the last stage".to_string()),
        Some(share) if (share - rest).abs() > 1e-6 => (share, format!("the rest, which is {rest}")),
        _ => return,
    };
    out.add(place, Problem::Range { value: value.to_string(), expected });
}

fn layers(value: &Value, place: String, out: &mut Diagnostics) -> Option<Layers> {
    if value.as_str() == Some("uniform") {
        return Some(Layers::Uniform);
    }
    let list = value.as_array().filter(|list| !list.is_empty());
    let blocks = list.and_then(|list| list.iter().map(usize::from_json).collect::<Option<Vec<_>>>());
    let pair = |value: &Value| match Vec::<usize>::from_json(value)?[..] {
        [student, teacher] => Some((student, teacher)),
        _ => None,
    };
    let pairs = list.and_then(|list| list.iter().map(pair).collect::<Option<Vec<_>>>());
    let read = blocks.map(Layers::Teacher).or(pairs.map(Layers::Pairs));
    if read.is_none() {
        let expected = "\"uniform\", a list of the teacher's blocks, or a list of pairs of the student's and the teacher's";
        out.add(place, type_problem(expected, value));
    }
    read
}

impl StageSettings {
    /// Takes the keys of the losses.
    fn read(f: &mut Fields<'_>, out: &mut Diagnostics) -> Self {
        let place = f.place().to_string();
        let labels = weight(f, "labels", out).unwrap_or(0.0);
        let logits = open(f, "logits", out).map(|mut f| {
            let read = LogitsTerm::read(&mut f, out);
            f.finish(out);
            read
        });
        let probabilities = open(f, "probabilities", out).map(|mut f| {
            let known = [("kl", ProbabilitiesLoss::Kl), ("mse", ProbabilitiesLoss::Mse)];
            let loss = f.choice("loss", &known, out).unwrap_or(ProbabilitiesLoss::Kl);
            let weight = weight(&mut f, "weight", out).unwrap_or(1.0);
            f.finish(out);
            ProbabilitiesTerm { loss, weight }
        });
        let mut plain = |key| {
            let Some(mut f) = open(f, key, out) else { return 0.0 };
            let weight = weight(&mut f, "weight", out).unwrap_or(1.0);
            f.finish(out);
            weight
        };
        let (hidden, scores, values) = (plain("hidden"), plain("scores"), plain("values"));
        Self { place, share: None, labels, logits, hidden, scores, probabilities, values }
    }

    fn refuse_nothing(&self, out: &mut Diagnostics) {
        if self.labels == 0.0 && !self.needs_teacher() {
            out.add(self.place.clone(), Problem::Conflict("no loss has a weight over 0".into()));
        }
    }

    /// Whether anything is compared with a teacher.
    pub(crate) fn needs_teacher(&self) -> bool {
        self.logits().is_some() || self.compares_layers()
    }

    /// Whether anything inside of the models is compared.
    pub(crate) fn compares_layers(&self) -> bool {
        self.hidden > 0.0 || self.compares_attention()
    }

    /// Whether anything of the attention is compared.
    pub(crate) fn compares_attention(&self) -> bool {
        self.scores > 0.0 || self.probabilities().is_some() || self.values > 0.0
    }

    /// The comparison of the logits, where it has a weight.
    pub(crate) fn logits(&self) -> Option<LogitsTerm> {
        self.logits.filter(|term| term.weight > 0.0)
    }

    /// The comparison of the probabilities, where it has a weight.
    pub(crate) fn probabilities(&self) -> Option<ProbabilitiesTerm> {
        self.probabilities.filter(|term| term.weight > 0.0)
    }
}

impl LogitsTerm {
    fn read(f: &mut Fields<'_>, out: &mut Diagnostics) -> Self {
        let temperature = f.optional::<f64>("temperature", out);
        let known = [("mean", Reduction::Mean), ("batchmean", Reduction::BatchMean)];
        let reduction = f.choice("reduction", &known, out);
        let soft = LogitsLoss::SoftCrossEntropy { reduction: reduction.unwrap_or(Reduction::Mean) };
        let kl = LogitsLoss::Kl { temperature: temperature.unwrap_or(1.0) };
        let known = [("soft_cross_entropy", soft), ("kl", kl), ("mse", LogitsLoss::Mse)];
        let loss = f.choice("loss", &known, out).unwrap_or(soft);
        let only = |given: bool, key: &str, with: &str, out: &mut Diagnostics| {
            if given {
                let text = format!("`{key}` has an effect with the loss `{with}` only");
                out.add(f.place_of(key), Problem::Conflict(text));
            }
        };
        only(temperature.is_some() && loss != kl, "temperature", "kl", out);
        only(reduction.is_some() && loss != soft, "reduction", "soft_cross_entropy", out);
        if let Some(value) = temperature.filter(|t| !(*t > 0.0 && t.is_finite())) {
            let problem = Problem::Range { value: value.to_string(), expected: "over 0".into() };
            out.add(f.place_of("temperature"), problem);
        }
        Self { loss, weight: weight(f, "weight", out).unwrap_or(1.0) }
    }
}

/// The object of a key, where it is there.
fn open<'a>(f: &mut Fields<'a>, key: &'static str, out: &mut Diagnostics) -> Option<Fields<'a>> {
    let place = f.place_of(key);
    f.raw(key).and_then(|value| Fields::open(value, place, out))
}

/// A factor of at least 0.
fn weight(f: &mut Fields<'_>, key: &'static str, out: &mut Diagnostics) -> Option<f64> {
    let value = f.optional::<f64>(key, out)?;
    let good = value >= 0.0;
    if !good {
        let problem = Problem::Range { value: value.to_string(), expected: "at least 0".into() };
        out.add(f.place_of(key), problem);
    }
    good.then_some(value)
}

impl fmt::Display for StageSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut terms = Vec::new();
        let mut add = |name: String, weight: f64| {
            if weight > 0.0 {
                terms.push(if weight == 1.0 { name } else { format!("{weight} {name}") });
            }
        };
        add("labels".into(), self.labels);
        if let Some(term) = self.logits {
            let name = match term.loss {
                LogitsLoss::SoftCrossEntropy { .. } => "soft cross-entropy of logits".into(),
                LogitsLoss::Kl { temperature } => {
                    format!("divergence of logits at temperature {temperature}")
                }
                LogitsLoss::Mse => "squared difference of logits".into(),
            };
            add(name, term.weight);
        }
        add("hidden states".into(), self.hidden);
        add("attention scores".into(), self.scores);
        add("attention probabilities".into(), self.probabilities.map_or(0.0, |term| term.weight));
        add("value relations".into(), self.values);
        f.write_str(&terms.join(" + "))
    }
}
