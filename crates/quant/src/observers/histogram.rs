//! A histogram whose range grows with what it sees.

use serde::{Deserialize, Serialize};

/// Bins over `[-limit, limit)`; an even number, so that zero is an edge.
const BINS: usize = 4096;

/// Counts of values in equal bins around zero. When a value falls outside, the range doubles and
/// neighbouring bins merge, so that the result does not depend on how values were batched.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Histogram {
    limit: f32,
    counts: Vec<u64>,
    extremes: Option<(f32, f32)>,
}

impl Default for Histogram {
    fn default() -> Self {
        // A power of two far below any activation worth representing.
        Self { limit: f32::powi(2.0, -40), counts: vec![0; BINS], extremes: None }
    }
}

impl Histogram {
    /// Counts finite values; others are left out.
    pub(super) fn add(&mut self, values: &[f32]) {
        for v in values.iter().copied().filter(|v| v.is_finite()) {
            while v.abs() >= self.limit && self.limit < f32::MAX / 4.0 {
                self.double();
            }
            let at = ((v / self.limit + 1.0) * (BINS / 2) as f32) as usize;
            self.counts[at.min(BINS - 1)] += 1;
            self.extremes = Some(self.extremes.map_or((v, v), |(l, h)| (l.min(v), h.max(v))));
        }
    }

    fn double(&mut self) {
        let mut merged = vec![0; BINS];
        for (i, count) in self.counts.iter().enumerate() {
            merged[BINS / 4 + i / 2] += count;
        }
        self.counts = merged;
        self.limit *= 2.0;
    }

    /// Smallest and largest value seen.
    pub(super) fn extremes(&self) -> Option<(f32, f32)> {
        self.extremes
    }

    /// Width of a bin.
    pub(super) fn width(&self) -> f32 {
        2.0 * self.limit / BINS as f32
    }

    /// Centre and count of every bin that holds something, from below.
    pub(super) fn filled(&self) -> impl Iterator<Item = (f32, u64)> + '_ {
        let centre = |i: usize| (i as f32 + 0.5) * self.width() - self.limit;
        self.counts.iter().enumerate().filter(|(_, n)| **n > 0).map(move |(i, n)| (centre(i), *n))
    }

    /// Number of values seen.
    pub(super) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batching_does_not_matter() {
        let values: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1000) as f32 / 37.0 - 9.0).collect();
        let (mut once, mut parts) = (Histogram::default(), Histogram::default());
        once.add(&values);
        values.chunks(13).rev().for_each(|c| parts.add(c));
        assert_eq!(once.counts, parts.counts);
        assert_eq!(once.total(), 1000);
        assert_eq!(once.extremes(), parts.extremes());
    }
}
