//! DeepSpeed's two calls over the same machinery.

use crate::plan::Composer;
use crate::recipe::{Recipe, RecipeError};
use crate::session::{FinishError, Finished, Session};
use briquette_core::Diagnostics;
use briquette_nn::{Compressible, model_view};
use burn::prelude::*;
use std::path::Path;

/// Why compression cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// The recipe's file.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The recipe's content.
    #[error(transparent)]
    Plan(#[from] Diagnostics),
}

/// DeepSpeed's `init_compression(model, config)`: a session for `model` by the recipe at `config`.
/// Unlike there, `model` itself is not changed; compute with the session's view.
///
/// # Errors
/// When the recipe cannot be read, or with all of its problems for this model.
pub fn init_compression<B: Backend, M: Module<B> + Compressible<B>>(
    model: &M,
    config: impl AsRef<Path>,
) -> Result<Session<B, M>, InitError> {
    let recipe = Recipe::from_file(config)?;
    let plan = Composer::builtin().plan(&recipe, &model_view(model))?;
    Ok(plan.attach(model, 0))
}

/// DeepSpeed's `redundancy_clean(model, config)`: ends the session and makes its changes permanent.
///
/// # Errors
/// When static input ranges are unknown, or a weight is infinite or not a number.
pub fn redundancy_clean<B: Backend, M: Module<B>>(
    session: Session<B, M>,
) -> Result<Finished<B, M>, FinishError> {
    session.finish()
}
