//! The methods a recipe can name.

use briquette_core::{CompressionMethod, Diagnostics, Problem};
use briquette_prune::{
    ChannelPruning, HeadPruning, RowPruning, SparsePruning, StructurePruning, WidthPruning,
};
use briquette_quant::{ActivationQuantization, LowRankCompensation, WeightQuantization};
use burn::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Reads the settings of one entry, standing at `place`; every mistake goes to `out`.
type Factory<B> =
    Box<dyn Fn(&Value, &str, &mut Diagnostics) -> Option<Arc<dyn CompressionMethod<B>>> + Send + Sync>;

/// The methods a recipe can name, as trait objects: a crate outside the library adds its own.
pub struct Registry<B: Backend> {
    factories: BTreeMap<String, Factory<B>>,
}

/// A method whose name is taken.
#[derive(Debug, thiserror::Error)]
#[error("a method called `{0}` is registered already")]
pub struct NameTaken(pub String);

impl<B: Backend> Registry<B> {
    /// No methods.
    pub fn empty() -> Self {
        Self { factories: BTreeMap::new() }
    }

    /// The methods of this library.
    pub fn builtin() -> Self {
        let mut registry = Self::empty();
        registry.insert(SparsePruning::NAME, |value, place, out| {
            let method = SparsePruning::read(value, place, out)?;
            Some(Arc::new(method))
        });
        registry.insert(RowPruning::NAME, |value, place, out| {
            let method = RowPruning::read(value, place, out)?;
            Some(Arc::new(method))
        });
        registry.insert(HeadPruning::NAME, |value, place, out| {
            let method = HeadPruning::read(value, place, out)?;
            Some(Arc::new(method))
        });
        registry.insert(ChannelPruning::NAME, |value, place, out| {
            let method = ChannelPruning::read(value, place, out)?;
            Some(Arc::new(method))
        });
        registry.insert(WidthPruning::NAME, |value, place, out| {
            let method = WidthPruning::read(value, place, out)?;
            Some(Arc::new(method))
        });
        registry.insert(StructurePruning::NAME, |value, place, out| {
            let method = StructurePruning::read(value, place, out)?;
            Some(Arc::new(method))
        });
        registry.insert(WeightQuantization::NAME, |value, place, out| {
            let method = WeightQuantization::read(value, place, out)?;
            Some(Arc::new(method))
        });
        registry.insert(LowRankCompensation::NAME, |value, place, out| {
            let method = LowRankCompensation::read(value, place, out)?;
            Some(Arc::new(method))
        });
        registry.insert(ActivationQuantization::NAME, |value, place, out| {
            let method = ActivationQuantization::read(value, place, out)?;
            Some(Arc::new(method))
        });
        registry
    }

    /// Adds a method that reads its own settings, to report all their mistakes at once.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn register_with(
        &mut self,
        name: &str,
        read: impl Fn(&Value, &str, &mut Diagnostics) -> Option<Arc<dyn CompressionMethod<B>>>
        + Send
        + Sync
        + 'static,
    ) -> Result<(), NameTaken> {
        if self.factories.contains_key(name) {
            return Err(NameTaken(name.into()));
        }
        self.insert(name, read);
        Ok(())
    }

    /// Adds a method whose settings serde reads; give it `deny_unknown_fields`.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn register<T>(&mut self, name: &str) -> Result<(), NameTaken>
    where
        T: CompressionMethod<B> + DeserializeOwned + 'static,
    {
        self.register_with(name, |value, place, out| match serde_json::from_value::<T>(value.clone()) {
            Ok(method) => Some(Arc::new(method)),
            Err(e) => {
                out.add(place, Problem::Other(e.to_string()));
                None
            }
        })
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.factories.keys().cloned().collect()
    }

    fn insert(
        &mut self,
        name: &str,
        read: impl Fn(&Value, &str, &mut Diagnostics) -> Option<Arc<dyn CompressionMethod<B>>>
        + Send
        + Sync
        + 'static,
    ) {
        self.factories.insert(name.into(), Box::new(read));
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Factory<B>> {
        self.factories.get(name)
    }
}
