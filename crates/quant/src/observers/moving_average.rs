//! Exponential moving average of each batch's extremes.

use super::{extremes, restored, saved};
use briquette_core::InputObserver;
use serde_json::Value;
use std::sync::{Arc, Mutex};

/// DeepSpeed's `QuantAct`: `r <- m r + (1 - m) batch` for both ends, begun at the first batch's range
/// (and again while both ends are equal).
#[derive(Debug)]
pub struct MovingAverage {
    momentum: f64,
    range: Mutex<Option<(f32, f32)>>,
}

impl MovingAverage {
    /// `momentum` in `[0, 1)`: the weight of the past.
    pub fn new(momentum: f64) -> Self {
        Self { momentum, range: Mutex::new(None) }
    }
}

impl InputObserver for MovingAverage {
    fn observe(&self, values: &[f32]) {
        let Some((low, high)) = extremes(values) else { return };
        let mut range = self.range.lock().expect("no holder of this lock panics");
        let (l, h) = range.filter(|(l, h)| l != h).unwrap_or((low, high));
        // The complement is rounded once, as Python's double is when it meets a float tensor.
        let (past, present) = (self.momentum as f32, (1.0 - self.momentum) as f32);
        *range = Some((past * l + present * low, past * h + present * high));
    }

    fn range(&self) -> Option<(f32, f32)> {
        *self.range.lock().expect("no holder of this lock panics")
    }

    fn fresh(&self) -> Arc<dyn InputObserver> {
        Arc::new(Self::new(self.momentum))
    }

    fn save(&self) -> Value {
        saved(&self.range)
    }

    fn restore(&self, saved: &Value) -> bool {
        restored(&self.range, saved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_vector_of_deepspeed() {
        let close = |range: Option<(f32, f32)>, low: f32, high: f32| {
            let (l, h) = range.expect("observed");
            assert!((l - low).abs() < 1e-6 && (h - high).abs() < 1e-6, "{l} {h}");
        };
        let o = MovingAverage::new(0.95);
        o.observe(&[-1.0, 2.0]);
        close(o.range(), -1.0, 2.0);
        o.observe(&[-3.0, 4.0]);
        close(o.range(), -1.1, 2.1);
    }
}
