//! Layer reduction on a loaded model.

use crate::error::CliError;
use briquette_composer::Plan;
use briquette_layer_reduce::{initialise_from, reduce};
use briquette_nn::Compressible;
use burn::prelude::*;

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
