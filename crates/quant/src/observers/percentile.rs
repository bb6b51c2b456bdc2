//! The range that holds a share of the values.

use super::histogram::Histogram;
use super::{restored, saved};
use briquette_core::InputObserver;
use serde_json::Value;
use std::sync::{Arc, Mutex};

/// Leaves out the most extreme values: with 99.99, one in ten thousand, half of them at each end.
#[derive(Debug)]
pub struct Percentile {
    percentile: f64,
    seen: Mutex<Histogram>,
}

impl Percentile {
    /// `percentile` in percent, over 50 and at most 100.
    pub fn new(percentile: f64) -> Self {
        Self { percentile, seen: Mutex::new(Histogram::default()) }
    }
}

impl InputObserver for Percentile {
    fn observe(&self, values: &[f32]) {
        self.seen.lock().expect("no holder of this lock panics").add(values);
    }

    fn range(&self) -> Option<(f32, f32)> {
        let seen = self.seen.lock().expect("no holder of this lock panics");
        let (low, high) = seen.extremes()?;
        let tail = ((1.0 - self.percentile / 100.0) / 2.0 * seen.total() as f64).floor() as u64;
        let half = seen.width() / 2.0;
        let bins: Vec<(f32, u64)> = seen.filled().collect();
        let end = |bins: &mut dyn Iterator<Item = &(f32, u64)>| {
            let mut left = tail;
            for (centre, count) in bins {
                if *count > left {
                    return Some(*centre);
                }
                left -= count;
            }
            None
        };
        let from = end(&mut bins.iter())? - half;
        let to = end(&mut bins.iter().rev())? + half;
        Some((from.max(low), to.min(high)))
    }

    fn fresh(&self) -> Arc<dyn InputObserver> {
        Arc::new(Self::new(self.percentile))
    }

    fn save(&self) -> Value {
        saved(&self.seen)
    }

    fn restore(&self, saved: &Value) -> bool {
        restored(&self.seen, saved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_out_the_tails() {
        let mut values: Vec<f32> = (0..10_000).map(|i| i as f32 / 5000.0 - 1.0).collect();
        values[17] = 1000.0;
        let all = Percentile::new(100.0);
        all.observe(&values);
        assert_eq!(all.range().map(|r| r.1), Some(1000.0));
        let most = Percentile::new(99.0);
        most.observe(&values);
        let (low, high) = most.range().expect("observed");
        // The one outlier makes bins half a unit wide; the range is right to a bin.
        assert!((-1.0..=-0.4).contains(&low) && (0.9..=1.5).contains(&high), "{low} {high}");
    }
}
