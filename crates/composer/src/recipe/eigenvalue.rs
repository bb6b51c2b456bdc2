//! What a recipe says about eigenvalues, in whichever schema.

use briquette_core::Diagnostics;
use briquette_core::fields::join;
use briquette_quant::Eigenvalue;
use serde_json::Value;

/// How eigenvalues of blocks lengthen the periods of a bit schedule (root key `eigenvalue`).
#[derive(Debug, Clone, PartialEq)]
pub struct EigenvalueEntry {
    /// Place in the recipe's JSON.
    pub place: String,
    /// What it says.
    pub settings: Eigenvalue,
}

impl EigenvalueEntry {
    /// Reads the native schema's root key.
    pub(super) fn read(value: &Value, place: &str, out: &mut Diagnostics) -> Option<Self> {
        let settings = Eigenvalue::read(value, place, out)?;
        Some(Self { place: place.into(), settings })
    }

    /// Where the recipe states a key of the settings.
    pub(crate) fn place_of(&self, key: &str) -> String {
        join(&self.place, key)
    }
}
