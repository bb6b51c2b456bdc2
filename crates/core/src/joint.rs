//! What a method does over all its layers at once.

use crate::schedule::Clock;
use crate::state::SessionState;
use burn::prelude::*;

/// The part of a method that looks at all its layers together: thresholds over the whole model, masks that the
/// members of a [`DimensionGroup`](crate::DimensionGroup) share.
///
/// Like a [`Stage`](crate::Stage) it holds settings and indices into the state, never tensors; all that changes lies
/// in the state, so that a resumed session goes on bit for bit.
pub trait Joint<B: Backend>: Send {
    /// Called once after the method is attached to all its layers, and then after every optimizer step, after the
    /// stages' [`after_step`](crate::Stage::after_step); `clock` counts the step. Once more with
    /// [`Clock::Finished`] before the session ends, which must bring every schedule to its end, and must change
    /// nothing where the schedule had ended before.
    ///
    /// `weights` gives the float weight of now of any layer by its field path, in the canonical view `[out, in]`, off
    /// the graph; `None` for what has no such weight.
    ///
    /// Tensors may be read back to the host only at steps at which the method decides something, never at every step.
    fn update(
        &self,
        state: &mut SessionState<B>,
        clock: Clock,
        weights: &dyn Fn(&str) -> Option<Tensor<B, 2>>,
    );

    /// Which units of which groups are there now, for the groups whose units are removed in the end. The session tells it
    /// to layers that average over a group's axis. Empty for a method that removes nothing but single weights.
    ///
    /// Where it names a group, the method's stages on that group's members do nothing but multiply by this mask: once
    /// the units are removed the stages are gone too.
    fn masks(&self, _state: &SessionState<B>) -> Vec<UnitMask<B>> {
        Vec::new()
    }

    /// Whether [`masks`](Self::masks) can no longer change, so that units can be removed.
    fn settled(&self, clock: Clock) -> bool {
        clock == Clock::Finished
    }
}

/// The units of one group that are there.
#[derive(Debug, Clone)]
pub struct UnitMask<B: Backend> {
    /// [`DimensionGroup::name`](crate::DimensionGroup::name).
    pub group: String,
    /// `[1, units]`: 1 for a unit that stays, 0 for one that is gone.
    pub mask: Tensor<B, 2>,
}
