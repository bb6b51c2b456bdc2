//! Smallest and largest value seen.

use super::{extremes, restored, saved};
use briquette_core::InputObserver;
use serde_json::Value;
use std::sync::{Arc, Mutex};

/// The range of everything seen: nothing is clipped, and one outlier widens it for good.
#[derive(Debug, Default)]
pub struct MinMax {
    range: Mutex<Option<(f32, f32)>>,
}

impl InputObserver for MinMax {
    fn observe(&self, values: &[f32]) {
        let Some((low, high)) = extremes(values) else { return };
        let mut range = self.range.lock().expect("no holder of this lock panics");
        *range = Some(range.map_or((low, high), |(l, h)| (l.min(low), h.max(high))));
    }

    fn range(&self) -> Option<(f32, f32)> {
        *self.range.lock().expect("no holder of this lock panics")
    }

    fn fresh(&self) -> Arc<dyn InputObserver> {
        Arc::new(Self::default())
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
    fn keeps_the_extremes() {
        let o = MinMax::default();
        assert_eq!(o.range(), None);
        o.observe(&[]);
        o.observe(&[0.5, -1.0]);
        o.observe(&[3.0, 0.0]);
        assert_eq!(o.range(), Some((-1.0, 3.0)));
        assert_eq!(o.fresh().range(), None);
    }
}
