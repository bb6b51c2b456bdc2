//! Head pruning: heads of attentions.

use crate::structured::{GroupPruning, Technique};
use briquette_core::{DimensionGroup, LayerKind, Problem, Role};

/// Removes attention heads (Michel et al. 2019, arXiv 1905.10650) with their queries, keys, values and the columns of
/// the output projection. `on` names output projections, or what makes the queries. Settings: [`GroupPruning`], and
///
/// | key | default | why |
/// |---|---|---|
/// | `heads` | what the trace found | number of heads of each attention: checked, or used where the model was not traced |
///
/// Where keys and values serve several queries (grouped-query attention), a unit is a key's head with its queries.
pub type HeadPruning = GroupPruning<Heads>;

/// What tells [`HeadPruning`] apart.
#[derive(Debug)]
pub enum Heads {}

impl Technique for Heads {
    const NAME: &'static str = "head_pruning";
    const UNITS: &'static str = "heads";
    const ROLES: &'static [Role] = &[Role::Consumes, Role::Produces];
    const HEADS: bool = true;

    fn takes(kind: LayerKind) -> bool {
        kind == LayerKind::Linear
    }

    fn removes(_: &DimensionGroup, each: usize) -> Result<(), Problem> {
        match each {
            0 | 1 => Err(Problem::Conflict("it neither makes nor reads attention heads".into())),
            _ => Ok(()),
        }
    }
}
