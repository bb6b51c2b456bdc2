//! How much a model's output changes when one group of units, or one layer, is compressed alone.
//!
//! [`Plan::scan`](crate::Plan::scan) makes a session for each point of the scan, which masks a share of one group or
//! carries out one step on one layer; data is then shown to all of them, batch by batch, and compared with what the
//! model itself says. Neither the model nor a session of the plan is touched.

mod measure;
mod points;

pub use points::{Scan, ScanError};

use crate::recipe::Scanned;
use crate::recipe::SensitivitySettings;
use briquette_core::{SensitivityCurve, Step};
use serde::{Deserialize, Serialize};

/// One point of a scan: what was compressed alone, and how much the output changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SensitivityRow {
    /// The group of units, by the first layer that makes them, or the layer.
    pub name: String,
    /// What was done: the method of the step, `structure_pruning` for a group that no step asks for.
    pub method: String,
    /// Units of the group and how many of them stayed; `None` for a layer.
    pub units: Option<[usize; 2]>,
    /// `|changed - whole| / |whole|` over the logits of all examples.
    pub error: f64,
    /// Divergence of the predictions from those of the whole model, mean over rows of logits, in nats.
    pub divergence: f64,
    /// Change of the share of right predictions, where labels were given.
    pub accuracy: Option<f64>,
    /// Share of the model's floating-point operations that is saved, where it is known.
    pub flops_saved: Option<f64>,
    /// Share of the model's parameters that is saved, where it is known.
    pub parameters_saved: Option<f64>,
}

impl SensitivitySettings {
    /// Whether every group is scanned, not those of the steps alone.
    pub(crate) fn everything(&self, steps: &[Step]) -> bool {
        let usual = if steps.is_empty() { Scanned::All } else { Scanned::Steps };
        self.groups.unwrap_or(usual) == Scanned::All
    }
}

/// The curves of all groups: the divergence by the number of units that stay.
///
/// The divergence is what the budget adds up over groups: near the whole model it is quadratic in the change of the
/// logits, so that it grows faster than the share that goes, while the relative error soon stays near 1.
pub fn curves(rows: &[SensitivityRow]) -> Vec<SensitivityCurve> {
    let mut curves: Vec<SensitivityCurve> = Vec::new();
    for row in rows {
        let Some([units, kept]) = row.units else { continue };
        match curves.iter_mut().find(|curve| curve.group == row.name && curve.units == units) {
            Some(curve) => curve.points.push((kept, row.divergence)),
            None => {
                let (group, points) = (row.name.clone(), vec![(kept, row.divergence)]);
                curves.push(SensitivityCurve { group, units, points });
            }
        }
    }
    curves
}
