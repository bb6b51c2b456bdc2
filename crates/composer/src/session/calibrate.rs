//! Calibration on data: what methods have to see of inputs before they decide, and static input ranges.

use super::Session;
use super::view::Setting;
use briquette_core::{InputObserver, InputRange};
use briquette_nn::LayerMut;
use burn::module::ParamId;
use burn::prelude::*;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// Inputs that calibration did not see.
#[derive(Debug, thiserror::Error)]
#[error("no input reached {}: what depends on them is unknown; give calibration data that uses them", .layers.join(", "))]
pub struct CalibrationError {
    /// Names of the layers.
    pub layers: Vec<String>,
}

/// What one stage watches: its weight, its place in the chain, the layer's field path.
struct Watched {
    id: ParamId,
    link: usize,
    path: String,
    observer: Arc<dyn InputObserver>,
}

impl<B: Backend, M: Module<B>> Session<B, M> {
    /// Whether there is anything that must be found by calibration: static ranges, or what methods
    /// [have to see](Self::needs_inputs).
    pub fn needs_calibration(&self) -> bool {
        let pending = self.inputs.values().any(|i| matches!(i.quantization.range, InputRange::Pending));
        pending || self.needs_inputs()
    }

    /// Whether methods have to see inputs before they can decide, such as which weights matter.
    pub fn needs_inputs(&self) -> bool {
        !self.watched().is_empty()
    }

    /// Shows methods the inputs of their layers: those of the data that `forward` runs through the model it is given,
    /// with the weights as they are now. They decide then, as far as their schedules have come. Does nothing where
    /// [no method](Self::needs_inputs) has to see any.
    ///
    /// # Errors
    /// What `forward` returns, or the layers that no input reached.
    pub fn observe_inputs<E: From<CalibrationError>>(
        &mut self,
        forward: impl FnOnce(&M) -> Result<(), E>,
    ) -> Result<(), E> {
        let watched = self.watched();
        if watched.is_empty() {
            return Ok(());
        }
        let mut model = self.view_that(false, "");
        self.set_observers(&mut model, &watched);
        forward(&model)?;
        let mut trained = self.trained.take().expect("taken out only within one call");
        for Watched { id, link, observer, .. } in &watched {
            if let Some(chain) = self.chains.get(id) {
                chain.links[*link].stage.observed(&mut trained.state, &observer.save());
            }
        }
        self.trained = Some(trained);
        self.update_joints();
        self.seen().map_err(E::from)
    }

    /// Finds all that depends on data by what `forward` runs through the model it is given. First what methods
    /// [have to see](Self::observe_inputs), then, with the compressed weights and inputs not yet quantized, all static
    /// ranges; where a recipe has both, `forward` is called twice. Ranges seen before count no more.
    ///
    /// # Errors
    /// What `forward` returns, or the layers that no input reached.
    pub fn calibrate<E: From<CalibrationError>>(
        &mut self,
        mut forward: impl FnMut(&M) -> Result<(), E>,
    ) -> Result<(), E> {
        self.observe_inputs(&mut forward)?;
        if self.inputs.values().all(|input| input.observer.is_none()) {
            return self.calibrated().map_err(E::from);
        }
        for observer in self.inputs.values_mut().filter_map(|i| i.observer.as_mut()) {
            *observer = observer.fresh();
        }
        let mut model = self.view();
        self.set_inputs(&mut model, |input| Setting { quantize: None, observe: input.observer.is_some() });
        forward(&model)?;
        for input in self.inputs.values_mut() {
            if let Some((min, max)) = input.observer.as_ref().and_then(|o| o.range()) {
                input.quantization.range = InputRange::Static { min, max };
            }
        }
        self.calibrated().map_err(E::from)
    }

    pub(super) fn calibrated(&self) -> Result<(), CalibrationError> {
        self.seen()?;
        let pending = |i: &&super::Input| matches!(i.range_now(), InputRange::Pending);
        missing(self.inputs.values().filter(pending).map(|i| i.site.name.clone()))
    }

    /// Whether methods have seen what they have to.
    fn seen(&self) -> Result<(), CalibrationError> {
        let name = |watched: &Watched| self.chains.get(&watched.id).map(|chain| chain.site.name.clone());
        missing(self.watched().iter().filter_map(name))
    }

    fn watched(&self) -> Vec<Watched> {
        let state = &self.parts().state;
        let of = |(id, chain): (&ParamId, &super::Chain<B>)| {
            let links = chain.links.iter().enumerate();
            let found = links.filter_map(|(link, l)| {
                let observer = l.stage.observer(state)?;
                Some(Watched { id: *id, link, path: chain.site.path.clone(), observer })
            });
            found.collect::<Vec<_>>()
        };
        self.chains.iter().flat_map(of).collect()
    }

    fn set_observers(&self, model: &mut M, watched: &[Watched]) {
        let Some(layers) = self.layers else { return };
        let mut by_path: HashMap<&str, Vec<Arc<dyn InputObserver>>> = HashMap::new();
        for one in watched {
            by_path.entry(&one.path).or_default().push(one.observer.clone());
        }
        layers(model, &mut |at, layer| {
            let Some(all) = by_path.get(at.path()) else { return };
            let observer: Arc<dyn InputObserver> = Arc::new(Several(all.clone()));
            match layer {
                LayerMut::Linear(l) => l.observe_input(Some(observer)),
                LayerMut::Conv2d(l) => l.observe_input(Some(observer)),
                _ => {}
            }
        });
    }
}

fn missing(layers: impl Iterator<Item = String>) -> Result<(), CalibrationError> {
    let mut layers: Vec<String> = layers.collect();
    layers.sort();
    layers.dedup();
    if layers.is_empty() { Ok(()) } else { Err(CalibrationError { layers }) }
}

/// Observers of one layer.
#[derive(Debug)]
struct Several(Vec<Arc<dyn InputObserver>>);

impl InputObserver for Several {
    fn observe(&self, values: &[f32]) {
        self.0.iter().for_each(|observer| observer.observe(values));
    }

    fn range(&self) -> Option<(f32, f32)> {
        None
    }

    fn fresh(&self) -> Arc<dyn InputObserver> {
        Arc::new(Self(self.0.iter().map(|observer| observer.fresh()).collect()))
    }

    fn save(&self) -> Value {
        self.0.iter().map(|observer| observer.save()).collect()
    }

    fn restore(&self, saved: &Value) -> bool {
        let parts = saved.as_array().filter(|parts| parts.len() == self.0.len());
        parts.is_some_and(|parts| self.0.iter().zip(parts).all(|(observer, part)| observer.restore(part)))
    }
}
