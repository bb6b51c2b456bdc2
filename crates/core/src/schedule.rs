//! When a method acts.

use serde::{Deserialize, Serialize};

/// How far a session has come: the number of optimizer steps done, or past the end of every
/// schedule, as it is for compression without training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Clock {
    /// This many optimizer steps are done.
    Step(usize),
    /// Every schedule has run out.
    Finished,
}

impl Clock {
    /// The clock after one more optimizer step.
    pub fn next(self) -> Self {
        match self {
            Clock::Step(n) => Clock::Step(n + 1),
            Clock::Finished => Clock::Finished,
        }
    }

    /// Whether `step` optimizer steps are done.
    pub fn reached(self, step: usize) -> bool {
        match self {
            Clock::Step(n) => n >= step,
            Clock::Finished => true,
        }
    }
}

/// The steps during which a method acts: from `start` on, for good.
///
/// DeepSpeed's `schedule_offset` is `start`: a technique with offset 3 acts after the third step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Schedule {
    /// Number of optimizer steps that pass before the method acts. Default 0: from the start.
    pub start: usize,
}

impl Schedule {
    /// Whether the method acts at `clock`.
    pub fn active(&self, clock: Clock) -> bool {
        clock.reached(self.start)
    }

    /// Whether nothing about the schedule can change any more.
    pub fn settled(&self, clock: Clock) -> bool {
        self.active(clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_three_acts_after_the_third_step() {
        let s = Schedule { start: 3 };
        let mut clock = Clock::Step(0);
        let mut seen = vec![];
        for _ in 0..5 {
            seen.push(s.active(clock));
            clock = clock.next();
        }
        assert_eq!(seen, [false, false, false, true, true]);
        assert!(s.active(Clock::Finished));
    }
}
