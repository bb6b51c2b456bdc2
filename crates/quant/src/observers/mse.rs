//! The range with the least squared quantization error.

use super::histogram::Histogram;
use super::{restored, saved};
use briquette_core::{InputObserver, InputQuantization};
use briquette_nn::token_quant;
use serde_json::Value;
use std::sync::{Arc, Mutex};

/// Candidate ranges: this many equal fractions of the full one.
const CANDIDATES: usize = 100;

/// Tries fractions of the range seen and keeps the one whose quantization error, summed over a
/// histogram of the values, is least: clipping a few values may pay with finer steps for the rest.
#[derive(Debug)]
pub struct Mse {
    quantization: InputQuantization,
    seen: Mutex<Histogram>,
}

impl Mse {
    /// For inputs quantized in this way; bits, symmetry and scale rule enter the error.
    pub fn new(quantization: InputQuantization) -> Self {
        Self { quantization, seen: Mutex::new(Histogram::default()) }
    }

    fn error(&self, bins: &[(f32, u64)], low: f32, high: f32) -> f64 {
        let q = Grid::new(&self.quantization, low, high);
        bins.iter().map(|(v, n)| *n as f64 * f64::from(q.value(*v) - v).powi(2)).sum()
    }
}

/// The values that a static range can represent.
struct Grid {
    scale: f32,
    zero: f32,
    low: f32,
    high: f32,
}

impl Grid {
    fn new(q: &InputQuantization, min: f32, max: f32) -> Self {
        let q = token_quant(q);
        let (scale, zero) = q.scale_and_zero_point(min, max);
        let (low, high) = q.code_limits();
        Self { scale, zero, low, high }
    }

    fn value(&self, x: f32) -> f32 {
        let code = (x / self.scale - self.zero).round_ties_even().clamp(self.low, self.high);
        (code + self.zero) * self.scale
    }
}

impl InputObserver for Mse {
    fn observe(&self, values: &[f32]) {
        self.seen.lock().expect("no holder of this lock panics").add(values);
    }

    fn range(&self) -> Option<(f32, f32)> {
        let seen = self.seen.lock().expect("no holder of this lock panics");
        let (low, high) = seen.extremes()?;
        let bins: Vec<(f32, u64)> = seen.filled().collect();
        let candidate = |i: usize| {
            let f = i as f32 / CANDIDATES as f32;
            (low * f, high * f)
        };
        let best = (1..=CANDIDATES)
            .map(candidate)
            .map(|(l, h)| (self.error(&bins, l, h), l, h))
            .min_by(|a, b| a.0.total_cmp(&b.0))?;
        Some((best.1, best.2))
    }

    fn fresh(&self) -> Arc<dyn InputObserver> {
        Arc::new(Self::new(self.quantization))
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
    use briquette_core::{InputRange, ScaleRule};

    #[test]
    fn clips_an_outlier_at_four_bits_and_keeps_the_range_of_uniform_values() {
        let q = InputQuantization {
            bits: 4,
            symmetric: true,
            rule: ScaleRule::Paper,
            range: InputRange::Pending,
        };
        let mut values: Vec<f32> = (0..10_000).map(|i| (i as f32 / 5000.0 - 1.0).powi(3)).collect();
        let even = Mse::new(q);
        even.observe(&values);
        assert!(even.range().expect("observed").1 > 0.6);
        values[3] = 8.0;
        let clipped = Mse::new(q);
        clipped.observe(&values);
        assert!(clipped.range().expect("observed").1 < 3.0);
    }
}
