//! Post-training calibration of static input ranges.

use super::Session;
use super::view::Setting;
use briquette_core::InputRange;
use burn::prelude::*;

/// Ranges that calibration did not find.
#[derive(Debug, thiserror::Error)]
#[error("no input reached {}: their static ranges are unknown; give calibration data that uses them", .layers.join(", "))]
pub struct CalibrationError {
    /// Names of the layers.
    pub layers: Vec<String>,
}

impl<B: Backend, M: Module<B>> Session<B, M> {
    /// Whether the plan has static ranges that must be found by calibration.
    pub fn needs_calibration(&self) -> bool {
        self.inputs.values().any(|i| matches!(i.quantization.range, InputRange::Pending))
    }

    /// Fixes all static input ranges from the data that `forward` runs through the model it is given:
    /// the compressed weights, inputs not yet quantized, every planned layer observed. What was seen
    /// before counts no more.
    ///
    /// # Errors
    /// What `forward` returns, or the layers that no input reached.
    pub fn calibrate<E: From<CalibrationError>>(
        &mut self,
        forward: impl FnOnce(&M) -> Result<(), E>,
    ) -> Result<(), E> {
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
        let pending = |i: &&super::Input| matches!(i.range_now(), InputRange::Pending);
        let mut layers: Vec<String> =
            self.inputs.values().filter(pending).map(|i| i.site.name.clone()).collect();
        layers.sort();
        if layers.is_empty() { Ok(()) } else { Err(CalibrationError { layers }) }
    }
}
