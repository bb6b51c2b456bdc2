//! Bit widths that fall while a model trains.

use serde::Serialize;

/// Bit widths from many to few, one bit at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BitSchedule {
    /// Bits when the schedule starts; more than `to`.
    pub from: u32,
    /// Bits at its end.
    pub to: u32,
    /// When a bit is dropped.
    pub pace: Pace,
}

/// When a bit is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// Mixture-of-Quantization of DeepSpeed: after this many optimizer steps, and the period is twice as long from
    /// then on, times `1 + floor(4 sensitivity)` where a sensitivity in 0 to 1 is known. Bits fall after P, 2P,
    /// 4P ... steps; with a period of 0 at every step.
    Doubling {
        /// Optimizer steps from the start of the schedule to the first drop.
        period: usize,
    },
    /// At equal distances, the last of them this many optimizer steps after the start of the schedule; at least 1.
    Even {
        /// Optimizer steps from the start of the schedule to its end.
        steps: usize,
    },
}

/// How far a schedule has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Stand {
    /// Bits now.
    pub(crate) bits: u32,
    /// Optimizer steps from the start of the schedule to the next drop; of no meaning to [`Pace::Even`].
    pub(crate) period: f64,
}

impl BitSchedule {
    /// Where the schedule starts.
    pub(crate) fn first(&self) -> Stand {
        let period = match self.pace {
            Pace::Doubling { period } => period as f64,
            Pace::Even { .. } => 0.0,
        };
        Stand { bits: self.from, period }
    }

    /// The stand after `elapsed` optimizer steps, 1 at the first, from that after one step fewer.
    pub(crate) fn next(&self, now: Stand, elapsed: usize, sensitivity: Option<f64>) -> Stand {
        match self.pace {
            Pace::Doubling { .. } if now.bits > self.to && elapsed as f64 >= now.period => {
                Stand { bits: now.bits - 1, period: 2.0 * now.period * factor(sensitivity) }
            }
            Pace::Doubling { .. } => now,
            Pace::Even { steps } => {
                let drops = u64::from(self.from - self.to);
                let done = (elapsed as u64).saturating_mul(drops) / steps.max(1) as u64;
                Stand { bits: self.from - done.min(drops) as u32, ..now }
            }
        }
    }

    /// Optimizer steps from the start of the schedule to its end, where every sensitivity is below 1/4; `None` for
    /// more than can be counted.
    pub fn length(&self) -> Option<usize> {
        let drops = self.from - self.to;
        match self.pace {
            Pace::Doubling { period: 0 } => Some(drops as usize),
            Pace::Doubling { period } => 1usize.checked_shl(drops.saturating_sub(1))?.checked_mul(period),
            Pace::Even { steps } => Some(steps),
        }
    }
}

/// How much longer the period of a sensitive layer becomes: 1 to 5.
fn factor(sensitivity: Option<f64>) -> f64 {
    let known = sensitivity.filter(|s| !s.is_nan()).unwrap_or(0.0);
    1.0 + (4.0 * known.clamp(0.0, 1.0)).floor()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(step, bits)` at each drop within `steps` steps.
    fn drops(schedule: BitSchedule, steps: usize, sensitivity: Option<f64>) -> Vec<(usize, u32)> {
        let mut now = schedule.first();
        let mut seen = Vec::new();
        for elapsed in 1..=steps {
            let next = schedule.next(now, elapsed, sensitivity);
            if next.bits != now.bits {
                seen.push((elapsed, next.bits));
            }
            now = next;
        }
        seen
    }

    fn doubling(from: u32, to: u32, period: usize) -> BitSchedule {
        BitSchedule { from, to, pace: Pace::Doubling { period } }
    }

    #[test]
    fn periods_double_as_in_deepspeed() {
        let twelve = doubling(12, 8, 10);
        assert_eq!(drops(twelve, 500, None), [(10, 11), (20, 10), (40, 9), (80, 8)]);
        let sixteen = doubling(16, 8, 1);
        let expected: Vec<(usize, u32)> = (0..8).map(|n| (1 << n, 15 - n)).collect();
        assert_eq!(drops(sixteen, 500, None), expected);
        assert_eq!(drops(doubling(6, 3, 0), 500, None), [(1, 5), (2, 4), (3, 3)]);
        for schedule in [twelve, sixteen, doubling(6, 3, 0)] {
            assert_eq!(schedule.length(), drops(schedule, 500, None).last().map(|d| d.0));
        }
        assert_eq!(doubling(32, 1, usize::MAX / 2).length(), None);
    }

    #[test]
    fn sensitive_layers_keep_their_bits_longer() {
        let schedule = doubling(12, 8, 10);
        assert_eq!(drops(schedule, 200, Some(0.24)), drops(schedule, 200, None));
        // The factor acts on every period but the first.
        assert_eq!(drops(schedule, 500, Some(0.25)), [(10, 11), (40, 10), (160, 9)]);
        assert_eq!(drops(schedule, 1000, Some(1.0)), [(10, 11), (100, 10), (1000, 9)]);
        for odd in [f64::NAN, -3.0] {
            assert_eq!(drops(schedule, 500, Some(odd)).len(), 4, "{odd}");
        }
    }

    #[test]
    fn even_drops_end_at_the_end() {
        let even = |steps| BitSchedule { from: 8, to: 4, pace: Pace::Even { steps } };
        assert_eq!(drops(even(40), 100, Some(1.0)), [(10, 7), (20, 6), (30, 5), (40, 4)]);
        assert_eq!(drops(even(6), 100, None), [(2, 7), (3, 6), (5, 5), (6, 4)]);
        assert_eq!(drops(even(1), 100, None), [(1, 4)]);
        assert_eq!(even(40).length(), Some(40));
    }
}
