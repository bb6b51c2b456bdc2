//! The learning rate of each step.

use briquette_composer::Decay;

/// Warm-up, then decay to zero.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    /// The highest learning rate.
    pub peak: f64,
    /// Steps in which it rises.
    pub warmup: usize,
    /// Steps in all.
    pub total: usize,
    /// Its course after warm-up.
    pub decay: Decay,
}

impl LearningRate {
    /// The learning rate of step `step`, counted from 0.
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let length = self.total.saturating_sub(self.warmup).max(1);
        let done = ((step - self.warmup) as f64 / length as f64).min(1.0);
        match self.decay {
            Decay::Constant => self.peak,
            Decay::Linear => self.peak * (1.0 - done),
            Decay::Cosine => self.peak * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(decay: Decay) -> Vec<f64> {
        let rate = LearningRate { peak: 1.0, warmup: 2, total: 6, decay };
        (0..7).map(|s| (rate.at(s) * 1e4).round() / 1e4).collect()
    }

    #[test]
    fn rises_then_falls() {
        assert_eq!(course(Decay::Constant), [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(course(Decay::Linear), [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]);
        assert_eq!(course(Decay::Cosine), [0.5, 1.0, 1.0, 0.8536, 0.5, 0.1464, 0.0]);
    }

    #[test]
    fn no_steps_at_all_divide_nothing_by_zero() {
        let rate = LearningRate { peak: 1.0, warmup: 0, total: 0, decay: Decay::Linear };
        assert_eq!(rate.at(0), 1.0);
    }
}
