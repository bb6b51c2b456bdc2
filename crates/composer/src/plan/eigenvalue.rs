//! The eigenvalues of a plan.

use super::Plan;
use crate::recipe::EigenvalueEntry;
use briquette_core::{Diagnostics, ModelView, Problem, Step};
use briquette_quant::Eigenvalue;
use briquette_quant::eigenvalue::Block;
use burn::prelude::*;

/// Settings and the blocks that they mean.
#[derive(Debug, Clone)]
pub(super) struct Eigenvalues {
    settings: Eigenvalue,
    blocks: Vec<Block>,
}

/// Checks the entry against the model and the steps, whose periods the eigenvalues are to lengthen.
pub(super) fn resolve(
    entry: Option<&EigenvalueEntry>,
    model: &ModelView,
    steps: &[Step],
    problems: &mut Diagnostics,
) -> Option<Eigenvalues> {
    let entry = entry?;
    let blocks = match entry.settings.blocks(model) {
        Ok(blocks) => blocks,
        Err((key, problem)) => {
            problems.add(entry.place_of(key), problem);
            return None;
        }
    };
    let within = |step: &Step| {
        let begins =
            |block: &Block| step.site.name.strip_prefix(&block.name).is_some_and(|s| s.starts_with('.'));
        blocks.iter().any(begins)
    };
    // A faulty entry may be the one that would have had a period.
    if problems.is_empty() && !steps.iter().any(|s| s.details.contains_key("period") && within(s)) {
        let text = format!(
            "would change nothing: no layer in `{}` has bits that fall by a period",
            entry.settings.layer_name
        );
        problems.add(&entry.place, Problem::Conflict(text));
    }
    let settings = Eigenvalue { layer_num: blocks.len(), ..entry.settings.clone() };
    Some(Eigenvalues { settings, blocks })
}

impl<B: Backend> Plan<B> {
    /// How eigenvalues lengthen the periods of bit schedules, where the recipe asks for it. `layer_num` is the number
    /// of blocks.
    pub fn eigenvalue(&self) -> Option<&Eigenvalue> {
        self.eigenvalues.as_ref().map(|e| &e.settings)
    }

    /// The blocks whose eigenvalues are wanted, in model order; none where the recipe asks for none.
    pub fn eigenvalue_blocks(&self) -> &[Block] {
        self.eigenvalues.as_ref().map_or(&[], |e| &e.blocks)
    }
}
