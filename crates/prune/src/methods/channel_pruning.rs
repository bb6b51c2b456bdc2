//! Channel pruning: filters of convolutions.

use crate::structured::{GroupPruning, Technique};
use briquette_core::{DimensionGroup, LayerKind, Problem, Role};

/// Removes filters of convolutions (Li et al. 2017, arXiv 1608.08710) with the normalization of their channels and what
/// reads them; of channels that sums join, in all the convolutions that make them. `on` names the convolutions
/// whose filters go. Settings: [`GroupPruning`].
pub type ChannelPruning = GroupPruning<Channels>;

/// What tells [`ChannelPruning`] apart.
#[derive(Debug)]
pub enum Channels {}

impl Technique for Channels {
    const NAME: &'static str = "channel_pruning";
    const UNITS: &'static str = "channels";
    const ROLES: &'static [Role] = &[Role::Produces];

    fn takes(kind: LayerKind) -> bool {
        kind == LayerKind::Conv2d
    }

    fn removes(_: &DimensionGroup, _: usize) -> Result<(), Problem> {
        Ok(())
    }
}
