//! What a recipe says about layer reduction, in whichever schema.

use briquette_core::Diagnostics;
use briquette_core::fields::join;
use briquette_layer_reduce::LayerReduction;
use serde_json::Value;
use std::collections::BTreeMap;

/// The layer reduction of a recipe. It is carried out before everything else, so that all other entries speak of the
/// reduced model and its numbers of layers.
#[derive(Debug, Clone, PartialEq)]
pub struct ReductionEntry {
    /// Place in the recipe's JSON.
    pub place: String,
    /// What it says.
    pub settings: LayerReduction,
    /// Where the recipe states a key of the settings, if not at `place.key`.
    pub aliases: BTreeMap<String, String>,
}

impl ReductionEntry {
    /// Reads the native schema's root key.
    pub(super) fn read(value: &Value, place: &str, out: &mut Diagnostics) -> Option<Self> {
        let settings = LayerReduction::read(value, place, out)?;
        Some(Self { place: place.into(), settings, aliases: BTreeMap::new() })
    }

    /// Where the recipe states a key of the settings.
    pub(crate) fn place_of(&self, key: &str) -> String {
        self.aliases.get(key).cloned().unwrap_or_else(|| join(&self.place, key))
    }
}
