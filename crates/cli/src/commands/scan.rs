//! Scans of sensitivities, before anything is compressed.

use crate::backend::On;
use crate::error::CliError;
use crate::progress::Progress;
use briquette_composer::sensitivity::curves;
use briquette_composer::{Plan, SensitivityRow};
use briquette_models::{Examples, Pretrained};
use burn::prelude::*;

/// Examples at once: logits of several batches are held at a time, and those of a language model are large.
const AT_ONCE: usize = 16;

/// What compressing each part of `model` alone does on `data`; `None` where the plan asks for no scan. `model` has the
/// layers that the plan keeps.
pub(super) fn sensitivities<B: Backend, M: Pretrained<B>>(
    plan: &Plan<B>,
    model: &M,
    data: Option<&Examples>,
    on: &On<B>,
    seed: u64,
) -> Result<Option<Vec<SensitivityRow>>, CliError> {
    let Some(settings) = plan.sensitivity() else { return Ok(None) };
    let Some(data) = data else {
        let text = "the recipe scans sensitivities: give data for it with --calib FILE";
        return Err(CliError::Usage(text.into()));
    };
    let examples = data.clone().first(settings.examples);
    let mut scan = plan.scan(model, &settings, seed)?;
    let batches = examples.by_length(AT_ONCE);
    let inputs = |part: &[usize]| examples.batch(part, &on.device);
    scan.observe(|model| {
        for part in &batches {
            let _ = model.logits(inputs(part).inputs).into_data();
        }
        Ok::<(), CliError>(())
    })?;
    let (mut progress, mut done) = (Progress::new("scanning"), 0);
    let total = scan.len() * batches.len();
    for part in &batches {
        let batch = inputs(part);
        let logits = |model: &M| Ok::<_, CliError>(model.logits(batch.inputs.clone()));
        scan.show(Some(batch.targets.clone()), logits, &mut || {
            done += 1;
            progress.at(done, total);
        })?;
    }
    Ok(Some(scan.finish()?))
}

/// The plan with what the scan found.
pub(super) fn with_sensitivities<B: Backend>(
    plan: Plan<B>,
    rows: &[SensitivityRow],
) -> Result<Plan<B>, CliError> {
    plan.with_sensitivity(&curves(rows)).map_err(|problem| CliError::Internal(problem.to_string()))
}
