//! Row pruning: outputs of linear layers, such as the neurons of a feed-forward layer.

use crate::structured::{GroupPruning, Technique};
use briquette_core::{DimensionGroup, LayerKind, Problem, Role};

/// Removes outputs of linear layers with what reads them (McCarley et al. 2019, arXiv 1910.06360, for feed-forward
/// layers). `on` names the layers whose rows go. Settings: [`GroupPruning`].
pub type RowPruning = GroupPruning<Rows>;

/// What tells [`RowPruning`] apart.
#[derive(Debug)]
pub enum Rows {}

impl Technique for Rows {
    const NAME: &'static str = "row_pruning";
    const UNITS: &'static str = "rows";
    const ROLES: &'static [Role] = &[Role::Produces];

    fn takes(kind: LayerKind) -> bool {
        kind == LayerKind::Linear
    }

    fn removes(group: &DimensionGroup, each: usize) -> Result<(), Problem> {
        if each > 1 {
            let text =
                format!("its rows go {each} at a time, as those of attention heads do: use `head_pruning`");
            return Err(Problem::Conflict(text));
        }
        if !group.averaged_by.is_empty() {
            let text = "its rows are the hidden width, which many layers share: use `width_pruning`";
            return Err(Problem::Conflict(text.into()));
        }
        Ok(())
    }
}
