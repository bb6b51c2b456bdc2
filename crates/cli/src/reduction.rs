//! Layer reduction on a loaded model.

use crate::backend::On;
use crate::error::CliError;
use briquette_composer::Plan;
use briquette_layer_reduce::{BlockInfluence, Kept, initialise_from, reduce};
use briquette_models::{Examples, Inputs, Pretrained};
use briquette_nn::{Compressible, Wanted};
use burn::prelude::*;

/// Examples on which the influence of layers is measured, at most.
const INFLUENCE_EXAMPLES: usize = 256;

/// `model` with the layers that the plan keeps, and with a teacher's values in them where there is one. Unchanged
/// where the plan reduces nothing.
pub(crate) fn reduced<B: Backend, M: Module<B> + Compressible<B>>(
    mut model: M,
    teacher: Option<M>,
    plan: &Plan<B>,
) -> Result<M, CliError> {
    let Some(reduction) = plan.layer_reduction() else { return Ok(model) };
    let Some(kept) = reduction.indices() else {
        return Err(CliError::Internal("blocks are to be chosen before the model is reduced".into()));
    };
    reduce(&mut model, &reduction.path, kept).map_err(|e| CliError::Usage(e.to_string()))?;
    match teacher {
        Some(teacher) => initialise_from(model, &teacher, &reduction.path, kept, &reduction.copied)
            .map_err(|e| CliError::Usage(e.to_string())),
        None => Ok(model),
    }
}

/// How many layers are to be chosen by their influence on data.
pub(crate) fn open_choice<B: Backend>(plan: &Plan<B>) -> Option<usize> {
    match plan.layer_reduction()?.kept {
        Kept::ByInfluence(count) => Some(count),
        Kept::Indices(_) => None,
    }
}

/// The layers that change their inputs most, on calibration data.
pub(crate) fn most_influential<B: Backend, M: Pretrained<B>>(
    model: &M,
    count: usize,
    data: Option<&Examples>,
    batch: usize,
    on: &On<B>,
) -> Result<Vec<usize>, CliError> {
    let Some(examples) = data else {
        let text = "the recipe chooses layers by their influence on data: give data with --calib FILE";
        return Err(CliError::Usage(text.into()));
    };
    let examples = examples.clone().first(INFLUENCE_EXAMPLES);
    let mut influence = BlockInfluence::new();
    for part in examples.by_length(batch) {
        let inputs = examples.batch(&part, &on.device).inputs;
        let mask = match &inputs {
            Inputs::Tokens { mask, .. } => mask.clone(),
            Inputs::Images(_) => None,
        };
        let hidden = model.tapped(inputs, Wanted { hidden: true, ..Wanted::default() }).hidden;
        influence.observe(&hidden, mask.as_ref()).map_err(|e| CliError::Usage(e.to_string()))?;
    }
    influence.most_influential(count).map_err(|e| CliError::Usage(e.to_string()))
}

/// The plan with the layers chosen.
pub(crate) fn with_kept<B: Backend>(plan: Plan<B>, kept: Vec<usize>) -> Result<Plan<B>, CliError> {
    plan.with_kept(kept).map_err(|problem| CliError::Internal(problem.to_string()))
}
