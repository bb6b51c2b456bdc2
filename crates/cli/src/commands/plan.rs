//! `briquette plan`: what a recipe would do.

use crate::args::PlanArgs;
use crate::dependencies;
use crate::error::{CliError, write_file};
use crate::model::Opened;
use crate::output::say;
use briquette_composer::{Composer, Plan, Recipe, ReducedLayers};
use briquette_kernels::backend::Cpu;
use briquette_models::ModelConfig;
use burn::prelude::Backend;
use std::path::Path;

pub(crate) fn run(args: &PlanArgs) -> Result<(), CliError> {
    let opened = Opened::new(&args.model)?;
    let plan: Plan<Cpu> = make(&args.recipe, &opened.config)?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&plan.to_json()).expect("a plan has string keys only");
        write_file(path, &(text + "\n"))?;
    }
    crate::output::write(format_args!("{plan}"));
    say!("{} steps on {} layers", plan.steps().len(), plan.model().sites.len());
    Ok(())
}

/// The recipe resolved for a model, or all of its problems.
pub(crate) fn make<B: Backend>(recipe: &Path, config: &ModelConfig) -> Result<Plan<B>, CliError> {
    let read = Recipe::from_file(recipe)?;
    let problems = |problems| CliError::Plan { recipe: recipe.into(), problems };
    let trace = |kept: Option<&ReducedLayers>| dependencies::find(config, kept);
    Composer::builtin().plan_traced(&read, &config.view(), &trace).map_err(problems)
}
