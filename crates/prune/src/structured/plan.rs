//! Which groups lose how many units, and which weights are masked for it.

use super::related::{self, Pair};
use super::settings::{Keep, Settings};
use super::{Technique, consumer_axis, entries_of_a_unit};
use crate::axis::UnitAxis;
use crate::budget::{Allocate, Budget, Competing, Worth, lowest};
use crate::importance::Importance;
use crate::importance::activation::inputs_unseen;
use crate::scope::Scope;
use briquette_core::{
    Curve, Dependencies, DimensionGroup, GroupCut, Member, ModelView, PlanBuilder, Problem, Role, Site,
    Within,
};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) fn plan<T: Technique>(
    settings: &Settings,
    model: &ModelView,
    selected: &[Site],
    out: &mut PlanBuilder<'_>,
) {
    let (named, others): (Vec<Site>, Vec<Site>) = selected.iter().cloned().partition(|s| T::takes(s.kind));
    for site in others {
        let problem = Problem::WrongKind { method: T::NAME.into(), kind: site.kind.to_string() };
        out.problem_at("on", &site, problem);
    }
    let pairs = related::pairs(&settings.related, model, &named, out);
    let Some(dependencies) = dependencies::<T>(settings, model, &named, &pairs, out) else { return };
    let mut cut: Vec<(&DimensionGroup, Vec<Site>)> = Vec::new();
    let mut passed_over = Vec::new();
    for site in named {
        let group = match find::<T>(&dependencies, settings, &site) {
            Ok(group) => group,
            Err((key, problem)) => {
                match T::PASSES_OVER {
                    true => passed_over.push((key, site, problem)),
                    false => out.problem_at(key, &site, problem),
                }
                continue;
            }
        };
        if model.dependencies.is_some() {
            let own = pairs.iter().filter(|(of, _)| of.name == site.name);
            own.for_each(|pair| related::check(pair, group, model, out));
        }
        match cut.iter_mut().find(|(known, _)| known.name == group.name) {
            Some((_, sites)) => sites.push(site),
            None => cut.push((group, vec![site])),
        }
    }
    if cut.is_empty() {
        passed_over.into_iter().for_each(|(key, site, problem)| out.problem_at(key, &site, problem));
    }
    let within = match settings.budget().map(|budget| affordable(settings, budget, &dependencies, &cut)) {
        Some(Err((key, problem))) => return out.problem(key, problem),
        Some(Ok(within)) => Some(within),
        None => None,
    };
    for (group, named) in cut {
        plan_group(settings, model, group, named, within.as_ref(), out);
    }
}

/// What the model costs, where its groups can become small enough for the budget.
fn affordable(
    settings: &Settings,
    budget: Budget,
    dependencies: &Dependencies,
    cut: &[(&DimensionGroup, Vec<Site>)],
) -> Result<Within, (&'static str, Problem)> {
    let Some(cost) = &dependencies.cost else {
        let text = "the model was not traced: nothing says what it costs";
        return Err(("budget", Problem::Other(text.into())));
    };
    let most = settings.max_sparsity();
    let competing = cut.iter().filter_map(|(group, _)| {
        Some(Competing {
            group: cost.place_of(&group.name, group.units)?,
            worth: Worth::Loss(vec![0.0; group.units]),
            losses: None,
            step: settings.step(entries_of_a_unit(group)),
            floors: Competing::floors(group, most),
        })
    });
    let lowest = lowest(cost, budget.measure, &competing.collect::<Vec<_>>());
    let reached = lowest / cost.whole(budget.measure).max(1.0);
    if !cut.is_empty() && reached > budget.share {
        // Rounded up, so that what is said can be reached.
        let reached = (reached * 1000.0).ceil() / 1000.0;
        let expected = format!(
            "at least {reached}: that of the model's {} is left when every named group keeps {:.3} of its units",
            budget.measure,
            1.0 - most
        );
        return Err(("budget", Problem::Range { value: budget.share.to_string(), expected }));
    }
    let curve = match budget.allocate {
        Allocate::Importance => Curve::Unused,
        Allocate::Sensitivity => Curve::Open,
    };
    Ok(Within { cost: Arc::new(cost.clone()), curve })
}

/// What is known of the model, or else what the recipe says.
fn dependencies<T: Technique>(
    settings: &Settings,
    model: &ModelView,
    named: &[Site],
    pairs: &[Pair],
    out: &mut PlanBuilder<'_>,
) -> Option<Dependencies> {
    if let Some(known) = &model.dependencies {
        return Some(known.clone());
    }
    // Masking heads needs nothing but the layer that reads them.
    let alone = T::HEADS && !settings.remove && settings.related.is_empty();
    if !alone && (settings.related.is_empty() || !T::DECLARABLE) {
        let text = format!(
            "the model was not traced: nothing says what goes with the {} of these layers{}",
            T::UNITS,
            if T::DECLARABLE { "; name it in `related`" } else { "" }
        );
        out.problem("on", Problem::Other(text));
        return None;
    }
    if T::HEADS && settings.heads.is_none() {
        out.problem("heads", Problem::Missing { key: "heads".into() });
        return None;
    }
    let own: Vec<Pair> = named.iter().filter(|_| alone).map(|site| (site.clone(), Vec::new())).collect();
    let pairs = if alone { &own } else { pairs };
    Some(related::declare(pairs, settings.heads.filter(|_| T::HEADS), model, out))
}

/// The group that a named layer loses units of.
fn find<'a, T: Technique>(
    dependencies: &'a Dependencies,
    settings: &Settings,
    site: &Site,
) -> Result<&'a DimensionGroup, (&'static str, Problem)> {
    let candidates = T::ROLES
        .iter()
        .flat_map(|role| dependencies.groups.iter().filter_map(move |g| Some((g, member(g, site, *role)?))));
    let mut refused = None;
    for (group, member) in candidates {
        let each = member.units.iter().map(Vec::len).max().unwrap_or(0);
        match T::removes(group, each) {
            Ok(()) => return of_so_many(group, settings).map(|()| group),
            Err(problem) => refused = refused.or(Some(problem)),
        }
    }
    let none = || {
        let axis = related::axis_of(site.kind, T::ROLES[0]);
        let why = dependencies.why_fixed(&format!("{}.weight", site.name), axis);
        let why = why.map_or_else(|| "no group of the model's dimensions has them".into(), String::from);
        Problem::Other(format!("its {} cannot be removed: {why}", T::UNITS))
    };
    Err(("on", refused.unwrap_or_else(none)))
}

/// Whether the group has the number of heads that the recipe states.
fn of_so_many(group: &DimensionGroup, settings: &Settings) -> Result<(), (&'static str, Problem)> {
    match settings.heads.filter(|heads| *heads != group.units) {
        Some(heads) => {
            let expected = format!("the {} heads, or groups of heads, that the model has", group.units);
            Err(("heads", Problem::Range { value: heads.to_string(), expected }))
        }
        None => Ok(()),
    }
}

/// The part of a group that the weight of `site` is.
fn member<'a>(group: &'a DimensionGroup, site: &Site, role: Role) -> Option<&'a Member> {
    let names = std::iter::once(&site.name).chain(&site.tied);
    let names: Vec<String> = names.map(|name| format!("{name}.weight")).collect();
    group.members.iter().find(|m| m.role == role && names.contains(&m.name))
}

/// Where the units lie in the weight of a named layer.
pub(super) fn named_axis<T: Technique>(group: &DimensionGroup, site: &Site) -> Option<UnitAxis> {
    let member = T::ROLES.iter().find_map(|role| member(group, site, *role))?;
    UnitAxis::of(site, member).ok()
}

fn plan_group(
    settings: &Settings,
    model: &ModelView,
    group: &DimensionGroup,
    named: Vec<Site>,
    within: Option<&Within>,
    out: &mut PlanBuilder<'_>,
) {
    let first = named.first().cloned();
    let Some(first) = first else { return };
    let consumers = match consumers(model, group) {
        Ok(consumers) => consumers,
        Err(problem) => return out.problem_at("on", &first, problem),
    };
    let weighs = settings.importance == Importance::Activation;
    for site in consumers.iter().filter(|_| weighs) {
        if let Some(problem) = inputs_unseen(site) {
            return out.problem_at("importance", site, problem);
        }
    }
    if !settings.remove && !group.averaged_by.is_empty() {
        let text =
            format!("{} averages over what is masked; it has to be removed", group.averaged_by.join(", "));
        return out.problem_at("remove", &first, Problem::Conflict(text));
    }
    let kept = match kept(settings, group) {
        Ok(kept) => kept,
        Err((key, problem)) => return out.problem_at(key, &first, problem),
    };
    let mut details = settings.details(&group.name, group.units, kept);
    let names: Vec<&str> = named.iter().map(|site| site.name.as_str()).collect();
    if names != [group.name.as_str()] {
        let ranked_by: Value = json!(names);
        details.insert("ranked_by".into(), ranked_by);
    }
    let removed = settings.remove;
    let group = Arc::new(group.clone());
    let cut = GroupCut { group, kept, named: named.into(), removed, within: within.cloned() };
    consumers.into_iter().for_each(|site| out.step_in(site, details.clone(), cut.clone()));
}

/// The layers whose columns are masked.
fn consumers<'a>(model: &'a ModelView, group: &DimensionGroup) -> Result<Vec<&'a Site>, Problem> {
    let mut sites: Vec<&Site> = Vec::new();
    for member in group.with_role(Role::Consumes) {
        let path = member.path.strip_suffix(".weight");
        let site = path.and_then(|path| model.sites.iter().find(|site| site.path == path));
        let Some(site) = site else {
            let text = format!("`{}` reads the values and is no weight that can be masked", member.name);
            return Err(Problem::Other(text));
        };
        consumer_axis(group, site).map_err(|e| Problem::Other(format!("{}: {e}", site.name)))?;
        if !sites.iter().any(|known| known.name == site.name) {
            sites.push(site);
        }
    }
    if sites.is_empty() {
        return Err(Problem::Other(format!("nothing reads the values of `{}`", group.name)));
    }
    Ok(sites)
}

/// How many units stay, where that is known.
fn kept(settings: &Settings, group: &DimensionGroup) -> Result<Option<usize>, (&'static str, Problem)> {
    let (units, each) = (group.units, entries_of_a_unit(group));
    if let Keep::Number(number) = settings.keep
        && number > units
    {
        let expected = format!("at most {units}, all there are");
        return Err(("keep_number", Problem::Range { value: number.to_string(), expected }));
    }
    if settings.scope != Scope::Layer {
        return Ok(None);
    }
    let (kept, asked) = (settings.kept(units, each), Settings { multiple_of: 1, ..settings.clone() });
    if kept == units && asked.kept(units, each) < units {
        let text = format!("of {} entries no smaller multiple of {}", units * each, settings.multiple_of);
        let text = format!(
            "{text} holds the {} that stay: nothing is left to remove",
            asked.kept(units, each) * each
        );
        return Err(("multiple_of", Problem::Conflict(text)));
    }
    Ok(Some(kept))
}
