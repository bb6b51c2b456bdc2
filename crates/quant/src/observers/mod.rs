//! Observers: they watch what enters a layer and fix its static range.

mod histogram;
mod min_max;
mod moving_average;
mod mse;
mod percentile;

pub use min_max::MinMax;
pub use moving_average::MovingAverage;
pub use mse::Mse;
pub use percentile::Percentile;

use briquette_core::fields::Fields;
use briquette_core::{Diagnostics, InputObserver, InputQuantization, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// Momentum of [`MovingAverage`] where none is given: DeepSpeed's.
pub const DEFAULT_MOMENTUM: f64 = 0.95;
/// Share of values inside the range of [`Percentile`] where none is given, in percent. TensorRT's
/// and ModelOpt's default.
pub const DEFAULT_PERCENTILE: f64 = 99.99;

/// An observer's kind and settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ObserverKind {
    /// Smallest and largest value seen.
    MinMax,
    /// Exponential moving average of each batch's smallest and largest value.
    MovingAverage {
        /// Weight of the past, in `[0, 1)`.
        momentum: f64,
    },
    /// The range that holds this share of the values.
    Percentile {
        /// In percent, in `(50, 100]`.
        percentile: f64,
    },
    /// The range with the least squared quantization error.
    Mse,
}

impl ObserverKind {
    /// Reads `observer`, `momentum` and `percentile` of an entry. `None` where ranges are dynamic.
    pub(crate) fn read(f: &mut Fields<'_>, calibrated: bool, out: &mut Diagnostics) -> Option<Self> {
        let kinds = [
            ("min_max", Self::MinMax),
            ("moving_average", Self::MovingAverage { momentum: DEFAULT_MOMENTUM }),
            ("percentile", Self::Percentile { percentile: DEFAULT_PERCENTILE }),
            ("mse", Self::Mse),
        ];
        let named = f.has("observer");
        let mut kind = f.choice("observer", &kinds, out);
        let momentum = f.optional::<f64>("momentum", out);
        let percentile = f.optional::<f64>("percentile", out);
        if named && !calibrated {
            let text = "an observer has an effect with `range: static` only";
            out.add(f.place_of("observer"), Problem::Conflict(text.into()));
        }
        if let Some(value) = momentum {
            check(f, "momentum", value, (0.0..1.0).contains(&value), "in 0 .. 1", out);
            match &mut kind {
                Some(Self::MovingAverage { momentum }) => *momentum = value,
                _ => without_effect(f, "momentum", "moving_average", out),
            }
        }
        if let Some(value) = percentile {
            check(f, "percentile", value, value > 50.0 && value <= 100.0, "over 50 and at most 100", out);
            match &mut kind {
                Some(Self::Percentile { percentile }) => *percentile = value,
                _ => without_effect(f, "percentile", "percentile", out),
            }
        }
        calibrated.then(|| kind.unwrap_or(Self::Mse))
    }

    /// The settings for plan and manifest.
    pub fn to_json(&self) -> Value {
        match self {
            Self::MinMax => json!("min_max"),
            Self::MovingAverage { momentum } => json!({"moving_average": {"momentum": momentum}}),
            Self::Percentile { percentile } => json!({"percentile": {"percentile": percentile}}),
            Self::Mse => json!("mse"),
        }
    }
}

fn check(f: &Fields<'_>, key: &str, value: f64, legal: bool, expected: &str, out: &mut Diagnostics) {
    if !legal {
        out.add(f.place_of(key), Problem::Range { value: value.to_string(), expected: expected.into() });
    }
}

fn without_effect(f: &Fields<'_>, key: &str, observer: &str, out: &mut Diagnostics) {
    let text = format!("has an effect with the observer `{observer}` only");
    out.add(f.place_of(key), Problem::Conflict(text));
}

/// A fresh observer for inputs quantized in this way.
pub fn make(kind: &ObserverKind, quantization: &InputQuantization) -> Arc<dyn InputObserver> {
    match *kind {
        ObserverKind::MinMax => Arc::new(MinMax::default()),
        ObserverKind::MovingAverage { momentum } => Arc::new(MovingAverage::new(momentum)),
        ObserverKind::Percentile { percentile } => Arc::new(Percentile::new(percentile)),
        ObserverKind::Mse => Arc::new(Mse::new(*quantization)),
    }
}

/// What an observer has taken in, as JSON.
fn saved<T: Serialize>(seen: &Mutex<T>) -> Value {
    let seen = seen.lock().expect("no holder of this lock panics");
    serde_json::to_value(&*seen).expect("numbers and lists of numbers")
}

/// Puts back what [`saved`] gave; `false`, and nothing done, where it is not that.
fn restored<T: DeserializeOwned>(seen: &Mutex<T>, saved: &Value) -> bool {
    let Ok(read) = serde_json::from_value(saved.clone()) else { return false };
    *seen.lock().expect("no holder of this lock panics") = read;
    true
}

/// Smallest and largest of `values`, `None` where there are none.
fn extremes(values: &[f32]) -> Option<(f32, f32)> {
    let first = *values.first()?;
    Some(values.iter().fold((first, first), |(low, high), v| (low.min(*v), high.max(*v))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use briquette_core::{InputRange, ScaleRule};

    #[test]
    fn an_observer_goes_on_from_what_was_saved() {
        let quantization = InputQuantization {
            bits: 8,
            symmetric: false,
            rule: ScaleRule::Paper,
            range: InputRange::Pending,
        };
        let kinds = [
            ObserverKind::MinMax,
            ObserverKind::MovingAverage { momentum: 0.9 },
            ObserverKind::Percentile { percentile: 99.0 },
            ObserverKind::Mse,
        ];
        for kind in kinds {
            let values = |from: i32| (from..from + 500).map(|i| i as f32 / 37.0 - 5.0).collect::<Vec<_>>();
            let whole = make(&kind, &quantization);
            whole.observe(&values(0));
            let saved = whole.save();
            whole.observe(&values(300));
            let second = whole.fresh();
            assert!(second.restore(&saved), "{kind:?}");
            assert_ne!(second.range(), whole.range(), "{kind:?}");
            second.observe(&values(300));
            assert_eq!(second.range(), whole.range(), "{kind:?}");
            assert!(!second.restore(&json!("no")), "{kind:?}");
            assert_eq!(second.range(), whole.range(), "{kind:?}");
        }
    }
}
