//! The points of a scan, and what is measured at each.

use super::SensitivityRow;
use super::measure::{Reference, Sums};
use crate::plan::{Composer, Plan};
use crate::recipe::{Recipe, SensitivitySettings};
use crate::session::{CalibrationError, Session, ShrinkError};
use briquette_core::{
    Cost, Dependencies, Diagnostics, DimensionGroup, Measure, ModelView, Role, StageKind, Step,
};
use briquette_nn::Compressible;
use briquette_prune::StructurePruning;
use burn::prelude::*;
use serde_json::json;

/// Why sensitivities cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// A group that the recipe cuts and that cannot be masked alone.
    #[error("`{group}` cannot be scanned: {problems}")]
    Group {
        /// The group.
        group: String,
        /// Why.
        problems: Diagnostics,
    },
    /// Masks that leave nothing.
    #[error(transparent)]
    Shrink(#[from] ShrinkError),
    /// Inputs that did not reach a layer.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
}

/// A scan under way: [show](Self::show) it data, then [finish](Self::finish).
pub struct Scan<B: Backend, M: Module<B>> {
    whole: M,
    points: Vec<Point<B, M>>,
    cost: Option<Cost>,
    rows: usize,
    squares: f64,
    labelled: bool,
}

struct Point<B: Backend, M: Module<B>> {
    name: String,
    method: String,
    units: Option<usize>,
    session: Session<B, M>,
    sums: Sums,
}

impl<B: Backend> Plan<B> {
    /// The points of a scan of `model`, which has the layers that the plan keeps. Where groups are scanned, it needs the
    /// plan's [dependencies](briquette_core::ModelView::dependencies).
    ///
    /// # Errors
    /// When a group that a step cuts cannot be masked alone. Of a scan of all groups those that cannot are left out.
    pub fn scan<M: Module<B> + Compressible<B>>(
        &self,
        model: &M,
        settings: &SensitivitySettings,
        seed: u64,
    ) -> Result<Scan<B, M>, ScanError> {
        let (all, mut points) = (settings.everything(self.steps()), Vec::new());
        for (group, step) in self.scanned_groups(all) {
            let importance = step.map_or("l1", data_free);
            let method = step.map_or(StructurePruning::NAME, |step| step.method.as_str());
            for keep in &settings.keep {
                let plan = match shrinking(self.model(), group, *keep, importance) {
                    Ok(plan) => plan,
                    Err(_) if step.is_none() => break,
                    Err(problems) => return Err(ScanError::Group { group: group.name.clone(), problems }),
                };
                points.push(Point {
                    name: group.name.clone(),
                    method: method.into(),
                    units: Some(group.units),
                    session: plan.attach(model, seed),
                    sums: Sums::default(),
                });
            }
        }
        let alone = self.steps().iter().filter(|step| !all && step.cut.is_none());
        for step in alone.filter(|step| matches!(step.kind, StageKind::Prune | StageKind::Quantize)) {
            let plan = self.alone(|other| other.entry == step.entry && other.site.path == step.site.path);
            points.push(Point {
                name: step.site.name.clone(),
                method: step.method.clone(),
                units: None,
                session: plan.attach(model, seed),
                sums: Sums::default(),
            });
        }
        let (whole, cost) = (model.clone(), self.cost().cloned());
        Ok(Scan { whole, points, cost, rows: 0, squares: 0.0, labelled: true })
    }

    /// Groups to scan, each with a step that cuts it.
    fn scanned_groups(&self, all: bool) -> Vec<(&DimensionGroup, Option<&Step>)> {
        let step_of = |group: &DimensionGroup| {
            let cuts = |step: &&Step| step.cut.as_ref().is_some_and(|cut| cut.group.name == group.name);
            self.steps().iter().find(cuts)
        };
        let groups = self.model().dependencies.iter().flat_map(|found| &found.groups);
        groups.map(|group| (group, step_of(group))).filter(|(_, step)| all || step.is_some()).collect()
    }
}

/// The importance of a step, as far as it can be told without training.
fn data_free(step: &Step) -> &str {
    let word = step.details.get("importance").and_then(|word| word.as_str());
    word.filter(|word| ["l1", "l2", "activation"].contains(word)).unwrap_or("l1")
}

/// A plan that makes one group smaller and nothing else.
fn shrinking<B: Backend>(
    model: &ModelView,
    group: &DimensionGroup,
    keep: f64,
    importance: &str,
) -> Result<Plan<B>, Diagnostics> {
    let makes = |name: String| group.with_role(Role::Produces).any(|m| m.name == format!("{name}.weight"));
    let makers: Vec<&str> =
        model.sites.iter().map(|s| s.name.as_str()).filter(|name| makes(name.to_string())).collect();
    // No other group can be meant where a layer makes several.
    let alone = Dependencies { groups: vec![group.clone()], ..Dependencies::default() };
    let view = ModelView { dependencies: Some(alone), ..model.clone() };
    let settings = json!({"on": makers, "keep": keep, "importance": importance});
    let recipe = json!({"steps": [{ StructurePruning::NAME: settings }]});
    Composer::builtin().plan(&Recipe::from_value(&recipe), &view)
}

impl<B: Backend, M: Module<B>> Scan<B, M> {
    /// Number of points.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether there is nothing to scan.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Shows the inputs of layers, where importance depends on them: `forward` runs the data through the model that it is
    /// given. To be done before [`show`](Self::show); does nothing where no point needs it.
    ///
    /// # Errors
    /// What `forward` returns, or the layers that no input reached.
    pub fn observe<E: From<CalibrationError>>(
        &mut self,
        mut forward: impl FnMut(&M) -> Result<(), E>,
    ) -> Result<(), E> {
        self.points.iter_mut().try_for_each(|point| point.session.observe_inputs(&mut forward))
    }

    /// Compares all points with the whole model on one batch: `logits` gives `[rows, classes]` for the model that it is
    /// given, `labels` are `[rows]`; `done` is called after each point.
    ///
    /// # Errors
    /// What `logits` returns.
    pub fn show<E>(
        &mut self,
        labels: Option<Tensor<B, 1, Int>>,
        mut logits: impl FnMut(&M) -> Result<Tensor<B, 2>, E>,
        done: &mut dyn FnMut(),
    ) -> Result<(), E> {
        self.labelled &= labels.is_some();
        let reference = Reference::new(logits(&self.whole)?, labels);
        let (rows, squares) = reference.size();
        self.rows += rows;
        self.squares += squares;
        for point in &mut self.points {
            reference.compare(logits(&point.session.view())?, &mut point.sums);
            done();
        }
        Ok(())
    }

    /// What was measured, group by group in model order, then layer by layer.
    ///
    /// # Errors
    /// When no unit of a group is left.
    pub fn finish(self) -> Result<Vec<SensitivityRow>, ScanError> {
        let (rows, squares, labelled) = (self.rows, self.squares, self.labelled && self.rows > 0);
        let cost = self.cost.as_ref();
        let row = |point: &Point<B, M>| {
            let [error, divergence, accuracy] = point.sums.result(rows, squares);
            let kept = match point.units {
                Some(_) => point.session.kept_units()?,
                None => Vec::new(),
            };
            let saved = |measure| {
                let (cost, _) = cost.zip(kept.first())?;
                Some(1.0 - cost.left(measure, &kept) / cost.whole(measure).max(1.0))
            };
            Ok(SensitivityRow {
                name: point.name.clone(),
                method: point.method.clone(),
                units: point.units.map(|units| [units, kept.first().map_or(units, |k| k.units.len())]),
                error,
                divergence,
                accuracy: labelled.then_some(accuracy),
                flops_saved: saved(Measure::Flops),
                parameters_saved: saved(Measure::Parameters),
            })
        };
        self.points.iter().map(row).collect()
    }
}
