//! Structure pruning: units of every group that a trace finds, whatever they are.

use crate::structured::{GroupPruning, Technique};
use briquette_core::{DimensionGroup, LayerKind, Problem, Role};

/// Removes rows, heads, channels and entries of the hidden width alike (structural pruning, Fang et al. 2023, arXiv
/// 2301.12900): units of every group that one of the layers in `on` makes. Layers whose outputs always stay, such as a
/// classifier, are passed over, so that `on` can mean all layers; `except` takes groups out by the layers that make them.
/// Meant for a [budget](crate::budget) of the whole model; `keep` gives every group the same share. Settings:
/// [`GroupPruning`].
pub type StructurePruning = GroupPruning<Structures>;

/// What tells [`StructurePruning`] apart.
#[derive(Debug)]
pub enum Structures {}

impl Technique for Structures {
    const NAME: &'static str = "structure_pruning";
    const UNITS: &'static str = "outputs";
    const ROLES: &'static [Role] = &[Role::Produces];
    const DECLARABLE: bool = false;
    const PASSES_OVER: bool = true;

    fn takes(kind: LayerKind) -> bool {
        matches!(kind, LayerKind::Linear | LayerKind::Embedding | LayerKind::Conv2d)
    }

    fn removes(_: &DimensionGroup, _: usize) -> Result<(), Problem> {
        Ok(())
    }
}
