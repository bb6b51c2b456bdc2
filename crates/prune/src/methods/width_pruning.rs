//! Width pruning: entries of the hidden state that residual sums pass from block to block.

use crate::structured::{GroupPruning, Technique};
use briquette_core::{DimensionGroup, LayerKind, Problem, Role};

/// Removes entries of the hidden width (Minitron, Muralidharan et al. 2024, arXiv 2407.14679, section 2.2) from every
/// layer that makes, normalizes or reads it. `on` names layers that make it, such as embeddings or the last layers
/// of blocks; their weights rank its entries. Settings: [`GroupPruning`].
///
/// Layer normalizations average over the entries that are left, while they are masked too.
pub type WidthPruning = GroupPruning<Width>;

/// What tells [`WidthPruning`] apart.
#[derive(Debug)]
pub enum Width {}

impl Technique for Width {
    const NAME: &'static str = "width_pruning";
    const UNITS: &'static str = "entries of the width";
    const ROLES: &'static [Role] = &[Role::Produces];
    // Every layer of the model takes part.
    const DECLARABLE: bool = false;

    fn takes(kind: LayerKind) -> bool {
        matches!(kind, LayerKind::Linear | LayerKind::Embedding | LayerKind::Conv2d)
    }

    fn removes(_: &DimensionGroup, each: usize) -> Result<(), Problem> {
        match each {
            0 | 1 => Ok(()),
            _ => {
                let text = format!(
                    "its outputs go {each} at a time, as those of attention heads do: use `head_pruning`"
                );
                Err(Problem::Conflict(text))
            }
        }
    }
}
