//! Reading `config.json`.

use crate::activation::Activation;
use crate::bert::BertConfig;
use crate::error::ModelError;
use crate::gpt2::Gpt2Config;
use crate::resnet::ResNetConfig;
use crate::task::Task;
use briquette_core::fields::{Fields, FromJson};
use briquette_core::{Diagnostics, Problem};
use serde_json::{Map, Value};
use std::path::Path;

/// The name of the configuration in a model's folder.
pub const CONFIG_FILE: &str = "config.json";

/// What all configurations have in common.
pub trait PretrainedConfig: Clone + std::fmt::Debug + Send + Sync + 'static {
    /// What the model does.
    fn task(&self) -> Task;

    /// The configuration as JSON: as it was read, with the present values of this struct's fields.
    fn to_json(&self) -> Value;

    /// The configuration within `config`, where it is of this architecture.
    fn pick(config: &ModelConfig) -> Option<&Self>;
}

/// The configuration of a model of one of the known architectures.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ModelConfig {
    /// `model_type` `bert`, with a classifier.
    Bert(BertConfig),
    /// `model_type` `gpt2`, with its language-model head.
    Gpt2(Gpt2Config),
    /// `model_type` `cifar-resnet`.
    ResNet(ResNetConfig),
}

impl ModelConfig {
    /// Reads `config.json` of a model's folder.
    ///
    /// # Errors
    /// When the file is missing or no JSON object, or when it asks for anything that the models of this library
    /// do not do: all such keys at once.
    pub fn from_dir(folder: impl AsRef<Path>) -> Result<Self, ModelError> {
        let folder = folder.as_ref();
        if !folder.is_dir() {
            return Err(ModelError::NoFolder { path: folder.into() });
        }
        let file = folder.join(CONFIG_FILE);
        let text = std::fs::read(&file).map_err(|source| ModelError::Io { file: file.clone(), source })?;
        let json: Value = serde_json::from_slice(&text)
            .map_err(|e| ModelError::Json { file: file.clone(), reason: e.to_string() })?;
        Self::from_json(&json).map_err(|problems| ModelError::Config { file, problems })
    }

    /// Reads a configuration that has been read from its file.
    ///
    /// # Errors
    /// Every key that asks for what the models of this library do not do.
    pub fn from_json(json: &Value) -> Result<Self, Diagnostics> {
        let mut out = Diagnostics::new();
        let set = without_nulls(json);
        let (Some(fields), Some(raw)) = (Fields::open(&set, "", &mut out), json.as_object()) else {
            return Err(out);
        };
        let mut keys = Keys { fields, raw, out: &mut out };
        let config = match keys.required::<String>("model_type").as_deref() {
            Some("bert") => BertConfig::read(&mut keys).map(Self::Bert),
            Some("gpt2") => Gpt2Config::read(&mut keys).map(Self::Gpt2),
            Some("cifar-resnet") => ResNetConfig::read(&mut keys).map(Self::ResNet),
            None => None,
            Some(other) => {
                let (value, expected) = (format!("`{other}`"), "one of bert, gpt2, cifar-resnet".into());
                out.add("model_type", Problem::Range { value, expected });
                None
            }
        };
        match config {
            Some(config) => out.into_result(config),
            None => Err(out),
        }
    }

    /// What the model does.
    pub fn task(&self) -> Task {
        match self {
            Self::Bert(config) => config.task(),
            Self::Gpt2(config) => config.task(),
            Self::ResNet(config) => config.task(),
        }
    }

    /// The configuration as JSON.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Bert(config) => config.to_json(),
            Self::Gpt2(config) => config.to_json(),
            Self::ResNet(config) => config.to_json(),
        }
    }
}

/// Hugging Face writes `null` for "not set", which is what a missing key means here.
fn without_nulls(json: &Value) -> Value {
    match json {
        Value::Object(map) => {
            let set = map.iter().filter(|(_, v)| !v.is_null());
            Value::Object(set.map(|(k, v)| (k.clone(), v.clone())).collect())
        }
        other => other.clone(),
    }
}

/// The keys of a configuration. Unlike a recipe's, unknown keys are no mistake: files hold much that concerns
/// training or other programs.
pub(crate) struct Keys<'a> {
    fields: Fields<'a>,
    raw: &'a Map<String, Value>,
    out: &'a mut Diagnostics,
}

impl Keys<'_> {
    /// A key that must be there.
    pub(crate) fn required<T: FromJson>(&mut self, key: &'static str) -> Option<T> {
        self.fields.required(key, self.out)
    }

    /// A key that may be missing.
    pub(crate) fn optional<T: FromJson>(&mut self, key: &'static str) -> Option<T> {
        self.fields.optional(key, self.out)
    }

    /// A key that may be missing, and what it then is.
    pub(crate) fn or<T: FromJson>(&mut self, key: &'static str, default: T) -> T {
        self.optional(key).unwrap_or(default)
    }

    /// A size that must be there and be at least one.
    pub(crate) fn size(&mut self, key: &'static str) -> Option<usize> {
        let size: usize = self.required(key)?;
        if size == 0 {
            self.refuse(key, "0", "at least 1");
        }
        (size > 0).then_some(size)
    }

    /// A probability, 0.1 where it is missing.
    pub(crate) fn probability(&mut self, key: &'static str) -> f64 {
        let value: f64 = self.or(key, 0.1);
        if !(0.0..1.0).contains(&value) {
            self.refuse(key, value, "a probability below 1");
        }
        value
    }

    /// A small positive number that keeps a division finite.
    pub(crate) fn epsilon(&mut self, key: &'static str, default: f64) -> f64 {
        let value: f64 = self.or(key, default);
        if !(value > 0.0 && value < 1.0) {
            self.refuse(key, value, "between 0 and 1");
        }
        value
    }

    /// A key whose value changes the computation and for which only one value is supported.
    pub(crate) fn only<T: FromJson + PartialEq + std::fmt::Debug>(&mut self, key: &'static str, wanted: T) {
        match self.optional::<T>(key) {
            Some(found) if found != wanted => {
                self.refuse(key, format!("{found:?}"), format!("{wanted:?}, the only supported value"));
            }
            _ => {}
        }
    }

    /// One of the activation functions that models of this library have.
    pub(crate) fn activation(&mut self, key: &'static str, default: Activation) -> Activation {
        self.fields.choice(key, &Activation::KNOWN, self.out).unwrap_or(default)
    }

    /// The class in `architectures` must be `wanted`, where there is one.
    pub(crate) fn architecture(&mut self, wanted: &str) {
        let found: Vec<String> = self.or("architectures", Vec::new());
        if !found.is_empty() && !found.iter().any(|a| a == wanted) {
            self.refuse("architectures", found.join(", "), wanted);
        }
    }

    /// Heads removed by other programs: files with per-layer widths are not read.
    pub(crate) fn no_pruned_heads(&mut self) {
        match self.fields.raw("pruned_heads") {
            Some(Value::Object(map)) if !map.is_empty() => {
                self.refuse("pruned_heads", Value::Object(map.clone()), "empty, the only supported value");
            }
            _ => {}
        }
    }

    /// The untyped value of a key.
    pub(crate) fn raw_value(&mut self, key: &'static str) -> Option<&Value> {
        self.fields.raw(key)
    }

    /// Reports a value that cannot be used.
    pub(crate) fn refuse(&mut self, key: &str, value: impl ToString, expected: impl Into<String>) {
        let problem = Problem::Range { value: value.to_string(), expected: expected.into() };
        self.out.add(key, problem);
    }

    /// Reports heads that do not share the width evenly.
    pub(crate) fn heads_divide(&mut self, key: &str, heads: usize, width: usize) {
        if heads == 0 || !width.is_multiple_of(heads) {
            self.out.add(key, Problem::NotDivisible { what: "heads".into(), by: heads, size: width });
        }
    }

    /// The whole object as it was read, to be written back later.
    pub(crate) fn object(&self) -> Map<String, Value> {
        self.raw.clone()
    }
}

/// `raw` with some keys set anew.
pub(crate) fn overlay(raw: &Map<String, Value>, keys: &[(&str, Value)]) -> Value {
    let mut map = raw.clone();
    keys.iter().for_each(|(key, value)| {
        map.insert((*key).into(), value.clone());
    });
    Value::Object(map)
}
