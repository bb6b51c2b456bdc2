//! What has to hold where a plan removes units: nothing else is left to be found out after compute was spent.

use super::Plan;
use crate::recipe::Recipe;
use briquette_core::fields::join;
use briquette_core::{
    Counts, Diagnostics, DimensionGroup, GroupCut, LayerKind, Member, ModelView, OutputCount, PlanBuilder,
    Problem, Removal, Role, Site, StageKind, Step,
};
use burn::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Checks the groups that the plan cuts.
pub(super) fn check<B: Backend>(plan: &Plan<B>, recipe: &Recipe, problems: &mut Diagnostics) {
    let cutting: Vec<(&Step, &GroupCut)> =
        plan.steps.iter().filter_map(|s| Some((s, s.cut.as_ref()?))).collect();
    let mut seen: BTreeMap<&str, &Step> = BTreeMap::new();
    for (step, cut) in &cutting {
        match seen.get(cut.group.name.as_str()) {
            Some(first) if first.entry != step.entry => {
                let text = format!("units of `{}` are removed by {} already", cut.group.name, first.place);
                problems.add_at(&step.place, &step.site.name, Problem::Conflict(text));
            }
            Some(_) => {}
            None => {
                seen.insert(&cut.group.name, step);
                let removed = || group_problems(&plan.model, &cut.group, &plan.steps, step.entry);
                let found = if cut.removed { removed() } else { Vec::new() };
                for problem in found {
                    problems.add_at(&step.place, &cut.group.name, problem);
                }
            }
        }
    }
    check_budgets(&cutting, problems);
    check_masks_that_go_on(plan, problems);
    check_later_methods(plan, recipe, problems);
}

/// A budget speaks of the whole model: whatever else removes units would be left out of the account.
fn check_budgets(cutting: &[(&Step, &GroupCut)], problems: &mut Diagnostics) {
    let mut told = BTreeSet::new();
    for (step, _) in cutting.iter().filter(|(_, cut)| cut.within.is_some()) {
        let other = cutting.iter().find(|(other, cut)| other.entry != step.entry && cut.removed);
        if let Some((other, _)) = other.filter(|_| told.insert(step.entry)) {
            let text = format!(
                "speaks of the whole model, and {} removes units as well: let `structure_pruning` remove both",
                other.place
            );
            problems.add(join(&step.place, "budget"), Problem::Conflict(text));
        }
    }
}

/// Whether masks of single weights go on where rows or columns are removed.
fn check_masks_that_go_on<B: Backend>(plan: &Plan<B>, problems: &mut Diagnostics) {
    let cuts = plan.cuts();
    let others = plan.steps.iter().filter(|step| step.kind == StageKind::Prune && step.cut.is_none());
    for step in others {
        let weight = format!("{}.weight", step.site.path);
        let members = cuts.values().flat_map(|cut| &cut.group.members).filter(|m| m.path == weight);
        let found = members.filter_map(|m| plan.method(step).removal_problem(&step.site, m)).next();
        found.into_iter().for_each(|problem| problems.add_at(&step.place, &step.site.name, problem));
    }
}

/// Everything that speaks against removing units of a group.
fn group_problems(model: &ModelView, group: &DimensionGroup, steps: &[Step], entry: usize) -> Vec<Problem> {
    let mut problems = Vec::new();
    let masked: BTreeSet<&str> =
        steps.iter().filter(|s| s.entry == entry).map(|s| s.site.path.as_str()).collect();
    for member in group.with_role(Role::Consumes) {
        let path = member.path.strip_suffix(".weight").unwrap_or(&member.path);
        if !masked.contains(path) {
            problems.push(Problem::Conflict(format!("`{}` reads the values and is not masked", member.name)));
        }
    }
    for path in group.averaged_by.iter().filter(|path| !model.layer_norms.contains(path)) {
        let text = format!(
            "`{path}` averages over the axis; only `briquette_nn::LayerNorm` can leave masked entries out, in a \
             model that derives `Compressible`"
        );
        problems.push(Problem::Conflict(text));
    }
    problems.extend(uncounted_runs(model, group));
    problems.extend(group.members.iter().filter_map(|member| outputs_problem(model, member)));
    problems
}

/// Outputs that go in runs, as heads do, where no number of the model counts those of any layer of the group.
fn uncounted_runs(model: &ModelView, group: &DimensionGroup) -> Option<Problem> {
    let makes = |member: &&Member| {
        let site =
            member.path.strip_suffix(".weight").and_then(|path| model.sites.iter().find(|s| s.path == path));
        member.axis == 1 && site.is_some_and(|site| site.kind == LayerKind::Linear)
    };
    let made: Vec<&Member> = group.with_role(Role::Produces).filter(makes).collect();
    let parts = |count: &&OutputCount| matches!(count.counts, Counts::Parts { .. });
    let counted = |m: &&Member| {
        model.counts.iter().filter(parts).any(|c| m.path.strip_suffix(".weight") == Some(&c.layer))
    };
    let runs = |m: &&&Member| m.units.iter().any(|unit| unit.windows(2).any(|pair| pair[1] == pair[0] + 1));
    let first = made.iter().find(runs).filter(|_| !made.iter().any(counted))?;
    Some(Problem::Conflict(format!(
        "outputs of `{}` go in runs, as heads do, and no number of the model is known to count them: declare it by \
         `#[compressible(counts = \"..\")]`",
        first.name
    )))
}

/// What speaks against removing outputs of the layer that has this member for its weight.
fn outputs_problem(model: &ModelView, member: &Member) -> Option<Problem> {
    let path = member.path.strip_suffix(".weight")?;
    let site = model.sites.iter().find(|site| site.path == path)?;
    let axis = if site.kind == LayerKind::Conv2d { 0 } else { 1 };
    if member.axis != axis || member.role == Role::Consumes {
        return None;
    }
    if site.kind == LayerKind::Conv2d && member.role == Role::Follows && !site.drop_in {
        let text = format!("the groups of `{}` change: it must be a `briquette_nn::Conv2d`", site.name);
        return Some(Problem::Conflict(text));
    }
    let counts: Vec<&OutputCount> = model.counts.iter().filter(|count| count.layer == path).collect();
    let outputs = site.native[axis];
    // Whatever units go, each must leave whole parts.
    let whole = |unit: &Vec<usize>, count: &OutputCount| {
        let kept: Vec<usize> = (0..outputs).filter(|i| !unit.contains(i)).collect();
        count.after(outputs, &kept).err()
    };
    let reason = counts.iter().find_map(|c| Some((c, member.units.iter().find_map(|unit| whole(unit, c))?)));
    reason.map(|(count, reason)| {
        Problem::Conflict(format!("`{}`, which counts outputs of `{}`: {reason}", count.name, site.name))
    })
}

/// Whether every unit holds as much of the layer's weight, so that the number of units tells what is left of it.
fn even(groups: &[(&DimensionGroup, Vec<usize>)], site: &Site) -> bool {
    let weight = format!("{}.weight", site.path);
    let members = groups.iter().flat_map(|(group, _)| &group.members).filter(|m| m.path == weight);
    members.into_iter().all(|m| m.units.iter().all(|unit| unit.len() == m.units[0].len()))
}

/// The model as pruning leaves it, as far as numbers of units are known, and those layers of it that become smaller and
/// whose shape these numbers tell; none where nothing is removed.
pub(super) fn left<B: Backend>(plan: &Plan<B>) -> Option<(ModelView, Vec<Site>)> {
    let cuts = plan.cuts();
    let kept: Vec<(&DimensionGroup, Vec<usize>)> =
        cuts.values().filter_map(|cut| Some((cut.group.as_ref(), (0..cut.kept?).collect()))).collect();
    // Which units stay is open; the first ones stand for them all.
    let removal = Removal::new(kept.iter().map(|(group, units)| (*group, units.as_slice())));
    if removal.is_empty() {
        return None;
    }
    let left = plan.model.without(&removal);
    let pairs = left.sites.iter().zip(&plan.model.sites);
    let smaller = pairs.filter(|(now, before)| now.shape != before.shape && even(&kept, now));
    let smaller = smaller.map(|(now, _)| now.clone()).collect();
    Some((left, smaller))
}

/// Plans every later method once more for the model as pruning leaves it, where the numbers of units are known.
fn check_later_methods<B: Backend>(plan: &Plan<B>, recipe: &Recipe, problems: &mut Diagnostics) {
    let Some((left, smaller)) = left(plan) else { return };
    for (index, entry) in recipe.entries.iter().enumerate() {
        let Some(method) = plan.methods.get(&index).filter(|m| m.kind() > StageKind::Prune) else { continue };
        let planned = |site: &&Site| plan.steps.iter().any(|s| s.entry == index && s.site.path == site.path);
        let sites: Vec<Site> = smaller.iter().filter(planned).cloned().collect();
        let mut builder = PlanBuilder::new(&entry.place, &entry.aliases, index, method.name(), method.kind());
        method.plan(&left, &sites, &mut builder);
        for found in builder.into_parts().1.iter() {
            let layer = found.layer.clone().unwrap_or_default();
            let shape = left.site(&layer).map_or([0, 0], |site| site.shape);
            let text = format!("{} (pruning leaves {}x{})", found.problem, shape[0], shape[1]);
            problems.add_at(&found.place, &layer, Problem::Other(text));
        }
    }
}
