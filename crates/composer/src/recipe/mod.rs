//! A recipe as written: which methods with which settings on which layers.
//!
//! Two schemas are read, told apart by their root key: the native one (`steps`, see [`native`]) and
//! DeepSpeed's (`compression_training`, see [`deepspeed`]).

pub mod deepspeed;
mod eigenvalue;
mod json;
mod layer_by_layer;
mod layer_reduction;
pub mod native;
mod sensitivity;
mod training;

pub use eigenvalue::EigenvalueEntry;
pub use layer_by_layer::{BlockInput, LayerByLayerSettings};
pub use layer_reduction::ReductionEntry;
pub use sensitivity::{Scanned, SensitivitySettings};
pub use training::{Augmentation, Decay, Keep, OptimizerKind, TrainingSettings};

use briquette_core::fields::type_problem;
use briquette_core::{Diagnostics, Problem, Selector};
use briquette_distill::DistillationSettings;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Root keys that both schemas have: what is done beside the methods on layers.
const COMMON_KEYS: [&str; 4] = ["distillation", "layer_by_layer", "sensitivity", "training"];

/// One entry of a recipe: one method on one selection of layers.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Place in the recipe's JSON.
    pub place: String,
    /// Name of the method.
    pub method: String,
    /// The method's settings, without the selection.
    pub settings: Value,
    /// Which layers.
    pub selector: Selector,
    /// Where the recipe states a key of the method's settings, if not at `place.key`.
    pub aliases: BTreeMap<String, String>,
}

/// A recipe as written, with the problems that can be seen without a model.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The entries that could be read, in order.
    pub entries: Vec<Entry>,
    /// Which layers stay, done before all entries (native root key `layer_reduction`).
    pub layer_reduction: Option<ReductionEntry>,
    /// How eigenvalues of blocks lengthen the periods of bit schedules (root key `eigenvalue`).
    pub eigenvalue: Option<EigenvalueEntry>,
    /// What the model learns from a teacher, as far as the recipe says it (root key `distillation`).
    pub distillation: Option<DistillationSettings>,
    /// Layer-by-layer distillation, where the recipe asks for it (root key `layer_by_layer`).
    pub layer_by_layer: Option<LayerByLayerSettings>,
    /// A scan of sensitivities, where the recipe asks for it (root key `sensitivity`).
    pub sensitivity: Option<SensitivitySettings>,
    /// How the model is trained, as far as the recipe says it (root key `training`).
    pub training: TrainingSettings,
    /// What is wrong with the recipe itself. A plan reports it together with what is wrong for the
    /// model at hand.
    pub problems: Diagnostics,
    /// The JSON as read.
    pub source: Value,
}

/// A recipe that is no JSON at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// Not JSON, or a key stands twice in one object.
    #[error("{}: {source}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong.
        source: serde_json::Error,
    },
}

impl Recipe {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or is no JSON. Problems of its content are kept for the plan.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, RecipeError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|source| RecipeError::Read { path: path.into(), source })?;
        Self::from_json(&text).map_err(|source| RecipeError::Syntax { path: path.into(), source })
    }

    /// Reads JSON text.
    ///
    /// # Errors
    /// When the text is no JSON, or a key stands twice in one object.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        json::parse(text).map(|value| Self::from_value(&value))
    }

    /// Reads a JSON value; what is wrong with it is in [`problems`](Self::problems).
    pub fn from_value(value: &Value) -> Self {
        let mut recipe = Self {
            entries: vec![],
            layer_reduction: None,
            eigenvalue: None,
            distillation: None,
            layer_by_layer: None,
            sensitivity: None,
            training: TrainingSettings::default(),
            problems: Diagnostics::new(),
            source: value.clone(),
        };
        let has = |key: &str| value.get(key).is_some();
        match (value.is_object(), has("steps"), has("compression_training")) {
            (false, ..) => recipe.problems.add("recipe", type_problem("an object", value)),
            (_, true, true) => {
                let text = "`steps` and `compression_training` are two schemas; a recipe has one of them";
                recipe.problems.add("recipe", Problem::Conflict(text.into()));
            }
            (_, _, true) => deepspeed::read(value, &mut recipe),
            (_, false, _) if has("quantize_training") => deepspeed::read(value, &mut recipe),
            _ => native::read(value, &mut recipe),
        }
        if let Some(block) = value.get(DistillationSettings::KEY) {
            let read = DistillationSettings::read(block, DistillationSettings::KEY, &mut recipe.problems);
            recipe.distillation = Some(read);
        }
        if let Some(block) = value.get(LayerByLayerSettings::KEY) {
            let read = LayerByLayerSettings::read(block, LayerByLayerSettings::KEY, &mut recipe.problems);
            recipe.layer_by_layer = Some(read);
        }
        if let Some(block) = value.get(SensitivitySettings::KEY) {
            let read = SensitivitySettings::read(block, SensitivitySettings::KEY, &mut recipe.problems);
            recipe.sensitivity = Some(read);
        }
        if let Some(block) = value.get("training") {
            recipe.training = TrainingSettings::read(block, "training", &mut recipe.problems);
        }
        let trained = recipe.distillation.is_some() || value.get("training").is_some();
        let other = recipe.layer_reduction.is_some() || recipe.sensitivity.is_some();
        if recipe.entries.is_empty() && !trained && !other && recipe.problems.is_empty() {
            recipe.problems.add("recipe", Problem::Conflict("asks for nothing".into()));
        }
        recipe
    }
}

#[cfg(test)]
mod tests;
