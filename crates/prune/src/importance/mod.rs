//! How much a weight, or a unit of many, matters; the least important go.
//!
//! | | file | score |
//! |---|---|---|
//! | magnitude | `magnitude.rs` | size of the weights now |
//! | movement | `movement.rs` | learned: whether training moves the weights away from zero |
//! | snip momentum, Taylor | `gradient.rs` | change of the loss without the weights, to first order, over past steps |
//! | activation | `activation.rs` | size of the weights now times the inputs they meet, of calibration data |
//! | random | here | what every other one has to beat |

pub mod activation;
pub mod gradient;
pub mod magnitude;
pub mod movement;

use crate::sparsity_schedule::SparsitySchedule;
use briquette_core::fields::Fields;
use briquette_core::{Diagnostics, Problem};

/// A kind of importance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// Sum, or mean where units differ in size, of magnitudes.
    L1,
    /// Root of the sum of squares.
    L2,
    /// Learned scores: [`movement`].
    Movement,
    /// [`gradient::snip_momentum`].
    SnipMomentum,
    /// [`gradient::taylor`].
    Taylor,
    /// [`activation`].
    Activation,
    /// Drawn from the session's seed.
    Random,
}

impl Importance {
    /// Whether it is made of gradients, of which there are none before the first optimizer step.
    pub fn needs_gradients(self) -> bool {
        matches!(self, Self::SnipMomentum | Self::Taylor)
    }

    /// Refuses a choice by gradients before there are any.
    pub(crate) fn check_start(self, f: &Fields<'_>, schedule: &SparsitySchedule, out: &mut Diagnostics) {
        if self.needs_gradients() && schedule.is_one_shot() && schedule.start() == 0 {
            let text =
                "what is ranked by gradients is chosen after some optimizer steps: `start` is at least 1";
            out.add(f.place_of("schedule.start"), Problem::Conflict(text.into()));
        }
    }
}
