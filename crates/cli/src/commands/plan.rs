//! `briquette plan`: what a recipe would do.

use crate::args::PlanArgs;
use crate::error::{CliError, write_file};
use crate::model::Opened;
use briquette_composer::{Composer, Plan, Recipe};
use briquette_core::ModelView;
use briquette_kernels::backend::Cpu;
use burn::prelude::Backend;
use std::path::Path;

pub(crate) fn run(args: &PlanArgs) -> Result<(), CliError> {
    let opened = Opened::new(&args.model)?;
    let plan: Plan<Cpu> = make(&args.recipe, &opened.config.view())?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&plan.to_json()).expect("a plan has string keys only");
        write_file(path, &(text + "\n"))?;
    }
    print!("{plan}");
    println!("{} steps on {} layers", plan.steps().len(), plan.model().sites.len());
    Ok(())
}

/// The recipe resolved for a model, or all of its problems.
pub(crate) fn make<B: Backend>(recipe: &Path, view: &ModelView) -> Result<Plan<B>, CliError> {
    let read = Recipe::from_file(recipe)?;
    let problems = |problems| CliError::Plan { recipe: recipe.into(), problems };
    Composer::builtin().plan(&read, view).map_err(problems)
}
