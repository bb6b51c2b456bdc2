//! Reading `config.json`.

use crate::bert::BertConfig;
use crate::error::ModelError;
use crate::gpt2::Gpt2Config;
use crate::resnet::ResNetConfig;
use crate::task::Task;
use briquette_core::fields::Fields;
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
        let raw = without_nulls(json);
        let Some(mut fields) = Fields::open(&raw, "", &mut out) else { return Err(out) };
        let Some(model_type) = fields.required::<String>("model_type", &mut out) else { return Err(out) };
        let config = match model_type.as_str() {
            "bert" => BertConfig::read(&mut fields, &mut out).map(Self::Bert),
            "gpt2" => Gpt2Config::read(&mut fields, &mut out).map(Self::Gpt2),
            "cifar-resnet" => ResNetConfig::read(&mut fields, &mut out).map(Self::ResNet),
            other => {
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

/// The object behind `fields`, to be written back later.
pub(crate) fn raw(fields: &Fields<'_>) -> Map<String, Value> {
    fields.raw_map().clone()
}
