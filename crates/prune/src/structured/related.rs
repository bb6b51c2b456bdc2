//! Layers that a recipe says to change together.

use briquette_core::fields::{Fields, FromJson, type_problem};
use briquette_core::{
    Dependencies, Diagnostics, DimensionGroup, LayerKind, LayerPattern, Member, ModelView, PlanBuilder,
    Problem, Role, Site,
};
use serde_json::Value;
use std::collections::BTreeSet;

/// Which layers go with which of the named ones.
#[derive(Debug, Clone)]
pub(super) struct Related {
    /// Among the named layers; none for all of them.
    of: Option<LayerPattern>,
    /// Each means as many layers as there are named ones.
    are: Vec<LayerPattern>,
}

impl Related {
    /// Reads the key `related`; every mistake goes to `out`.
    pub(super) fn read(f: &mut Fields<'_>, out: &mut Diagnostics) -> Vec<Self> {
        let place = f.place_of("related");
        let Some(value) = f.raw("related") else { return Vec::new() };
        let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
            out.add(place, type_problem("a list of patterns or of {\"of\": .., \"are\": [..]}", value));
            return Vec::new();
        };
        if list.iter().any(Value::is_object) {
            let entries = list.iter().enumerate();
            return entries.filter_map(|(n, entry)| pair(entry, &format!("{place}[{n}]"), out)).collect();
        }
        vec![Self { of: None, are: patterns(list, &place, out) }]
    }
}

fn pair(value: &Value, place: &str, out: &mut Diagnostics) -> Option<Related> {
    let mut f = Fields::open(value, place, out)?;
    let of_place = f.place_of("of");
    let of = f.required::<String>("of", out).and_then(|text| pattern(&text, &of_place, out));
    let are_place = f.place_of("are");
    let are = f.required::<Value>("are", out);
    let are = match are.as_ref().and_then(Value::as_array) {
        Some(list) => patterns(list, &are_place, out),
        None => {
            are.iter().for_each(|value| out.add(&are_place, type_problem("a list of patterns", value)));
            Vec::new()
        }
    };
    f.finish(out);
    Some(Related { of: Some(of?), are })
}

fn patterns(list: &[Value], place: &str, out: &mut Diagnostics) -> Vec<LayerPattern> {
    let mut read = |(n, value): (usize, &Value)| {
        let place = format!("{place}[{n}]");
        let Some(text) = String::from_json(value) else {
            out.add(place, type_problem("a pattern", value));
            return None;
        };
        pattern(&text, &place, out)
    };
    list.iter().enumerate().filter_map(&mut read).collect()
}

fn pattern(text: &str, place: &str, out: &mut Diagnostics) -> Option<LayerPattern> {
    LayerPattern::native(text)
        .map_err(|e| out.add(place, Problem::Pattern { pattern: e.pattern, reason: e.reason }))
        .ok()
}

/// A named layer and the names of those that the recipe says to go with it.
pub(super) type Pair = (Site, Vec<String>);

/// The layers that belong to each named one: the first to the first, the second to the second.
pub(super) fn pairs(
    related: &[Related],
    model: &ModelView,
    named: &[Site],
    out: &mut PlanBuilder<'_>,
) -> Vec<Pair> {
    let mut found = Vec::new();
    for related in related {
        let meant = |site: &&Site| related.of.as_ref().is_none_or(|of| of.matches(&site.name));
        let of: Vec<&Site> = named.iter().filter(meant).collect();
        let mut all: Vec<Pair> = of.iter().map(|site| ((*site).clone(), Vec::new())).collect();
        for pattern in &related.are {
            let layers = layers(model).filter(|name| pattern.matches(name));
            let layers: Vec<&str> = layers.collect();
            if layers.len() != of.len() {
                let count = |n: usize| format!("{n} layer{}", if n == 1 { "" } else { "s" });
                let text = format!(
                    "pattern `{}` means {}, for {} that lose something; they pair one to one",
                    pattern.text(),
                    count(layers.len()),
                    count(of.len())
                );
                out.problem("related", Problem::Conflict(text));
                continue;
            }
            all.iter_mut().zip(layers).for_each(|((_, names), layer)| names.push(layer.into()));
        }
        found.append(&mut all);
    }
    found
}

/// Names of everything that a pattern of `related` can mean.
fn layers(model: &ModelView) -> impl Iterator<Item = &str> {
    model.sites.iter().map(|s| s.name.as_str()).chain(model.norms.iter().map(String::as_str))
}

/// Compares what the recipe says of a named layer with what the model's dependencies say.
pub(super) fn check(pair: &Pair, group: &DimensionGroup, model: &ModelView, out: &mut PlanBuilder<'_>) {
    let (site, said) = pair;
    let known: BTreeSet<&str> = layers(model).collect();
    let members = group.members.iter().map(|m| layer_of(&m.name));
    let others: BTreeSet<&str> = members.filter(|name| *name != site.name && known.contains(name)).collect();
    let said: BTreeSet<&str> = said.iter().map(String::as_str).collect();
    if said != others {
        let list = |names: &BTreeSet<&str>| match names.is_empty() {
            true => "nothing".to_string(),
            false => names.iter().copied().collect::<Vec<_>>().join(", "),
        };
        let text = format!("what goes with it is {}, not {}", list(&others), list(&said));
        out.problem_at("related", site, Problem::Conflict(text));
    }
}

/// `a.b.weight` is a parameter of `a.b`.
fn layer_of(parameter: &str) -> &str {
    parameter.rsplit_once('.').map_or(parameter, |(layer, _)| layer)
}

/// What the recipe says, as dependencies, for a model of which none are known. `heads` is the number of units where
/// the named layers consume the values; otherwise they make them, a unit a row.
pub(super) fn declare(
    pairs: &[Pair],
    heads: Option<usize>,
    model: &ModelView,
    out: &mut PlanBuilder<'_>,
) -> Dependencies {
    let group = |(site, others): &Pair| match declared(site, others, heads, model) {
        Ok(group) => Some(group),
        Err((key, problem)) => {
            out.problem_at(key, site, problem);
            None
        }
    };
    Dependencies { groups: pairs.iter().filter_map(group).collect(), ..Dependencies::default() }
}

fn declared(
    site: &Site,
    others: &[String],
    heads: Option<usize>,
    model: &ModelView,
) -> Result<DimensionGroup, (&'static str, Problem)> {
    let mut members = Vec::new();
    let (units, own, theirs) = match heads {
        Some(heads) => (heads, Role::Consumes, Role::Produces),
        None => (site.shape[0], Role::Produces, Role::Consumes),
    };
    let key = if heads.is_some() { "heads" } else { "related" };
    members.append(&mut layer_members(site, own, units, model).map_err(|problem| (key, problem))?);
    for name in others {
        let mut more = match model.site(name) {
            Some(other) => layer_members(other, theirs, units, model),
            None => norm_members(name, units, model),
        };
        let told = |problem: Problem| Problem::Other(format!("{name}: {problem}"));
        members.append(more.as_mut().map_err(|problem| ("related", told(problem.clone())))?);
    }
    Ok(DimensionGroup { name: site.name.clone(), units, members, averaged_by: Vec::new() })
}

/// The axis of a layer's weight, as burn holds it, that makes its outputs or reads its inputs.
pub(super) fn axis_of(kind: LayerKind, role: Role) -> usize {
    match (kind, role) {
        (LayerKind::Linear, Role::Consumes) => 0,
        (LayerKind::Linear, _) => 1,
        (LayerKind::Embedding, _) => 1,
        (_, Role::Consumes) => 1,
        _ => 0,
    }
}

/// The weight of a layer, and its bias where it makes the values.
fn layer_members(site: &Site, role: Role, units: usize, model: &ModelView) -> Result<Vec<Member>, Problem> {
    if !matches!(site.kind, LayerKind::Linear | LayerKind::Conv2d) {
        return Err(Problem::WrongKind { method: "related".into(), kind: site.kind.to_string() });
    }
    let axis = axis_of(site.kind, role);
    let what = if role == Role::Consumes { "inputs" } else { "outputs" };
    let ranges = ranges(site.native[axis], units, what)?;
    let mut members = vec![Member {
        name: format!("{}.weight", site.name),
        path: format!("{}.weight", site.path),
        axis,
        role,
        units: ranges.clone(),
    }];
    let bias = format!("{}.bias", site.path);
    if role == Role::Produces && model.parameters.iter().any(|p| p.path == bias) {
        members.push(Member {
            name: format!("{}.bias", site.name),
            path: bias,
            axis: 0,
            role,
            units: ranges,
        });
    }
    Ok(members)
}

/// Scale, bias and statistics of a batch normalization.
fn norm_members(name: &str, units: usize, model: &ModelView) -> Result<Vec<Member>, Problem> {
    let own = |p: &&briquette_core::Parameter| layer_of(&p.name) == name;
    let parameters: Vec<_> = model.parameters.iter().filter(own).collect();
    let Some(first) = parameters.first() else {
        return Err(Problem::Other("nothing is known of its parameters".into()));
    };
    let ranges = ranges(first.shape.iter().product(), units, "channels")?;
    let member = |name: String, path: String| Member {
        name,
        path,
        axis: 0,
        role: Role::Follows,
        units: ranges.clone(),
    };
    let mut members: Vec<Member> =
        parameters.iter().map(|p| member(p.name.clone(), p.path.clone())).collect();
    let path = layer_of(&first.path);
    for statistic in ["running_mean", "running_var"] {
        members.push(member(format!("{name}.{statistic}"), format!("{path}.{statistic}")));
    }
    Ok(members)
}

/// `size` entries in `units` equal runs.
fn ranges(size: usize, units: usize, what: &str) -> Result<Vec<Vec<usize>>, Problem> {
    if units == 0 || !size.is_multiple_of(units) {
        let problem = Problem::Other(format!("its {size} {what} are not {units} equal parts"));
        return Err(problem);
    }
    let each = size / units;
    Ok((0..units).map(|u| (u * each..(u + 1) * each).collect()).collect())
}
