//! A recipe resolved for one model: full names, shapes, integers. Nothing is touched.

mod cost;
mod eigenvalue;
mod pruning;
mod reduction;
mod sensitivity;

use crate::recipe::{Entry, LayerByLayerSettings, Recipe, SensitivitySettings, TrainingSettings};
use crate::registry::Registry;
use briquette_core::{
    CompressionMethod, Dependencies, Diagnostic, Diagnostics, GroupCut, ModelView, PlanBuilder, Problem,
    StageKind, Step,
};
use briquette_distill::DistillationSettings;
use briquette_layer_reduce::ReducedLayers;
use burn::prelude::*;
use eigenvalue::Eigenvalues;
use reduction::Reduction;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

/// Turns recipes into plans, with the methods of its registry.
pub struct Composer<B: Backend> {
    registry: Registry<B>,
}

/// Finds out what can only be removed together in a model, of which only some layers stay where they are given; or says
/// why it cannot be found out.
pub type Trace<'a> = dyn Fn(Option<&ReducedLayers>) -> Result<Dependencies, String> + 'a;

/// What will be done to which layer, in model order and, on one layer, in the order of the recipe.
#[derive(Clone)]
pub struct Plan<B: Backend> {
    steps: Vec<Step>,
    methods: HashMap<usize, Arc<dyn CompressionMethod<B>>>,
    model: ModelView,
    reduction: Option<Reduction>,
    eigenvalues: Option<Eigenvalues>,
    distillation: Option<DistillationSettings>,
    layer_by_layer: Option<LayerByLayerSettings>,
    sensitivity: Option<SensitivitySettings>,
    training: TrainingSettings,
    recipe: Value,
}

impl<B: Backend> Composer<B> {
    /// With the methods of this library.
    pub fn builtin() -> Self {
        Self::new(Registry::builtin())
    }

    /// With the methods of `registry`.
    pub fn new(registry: Registry<B>) -> Self {
        Self { registry }
    }

    /// Resolves `recipe` for `model`. Pure: reads names and shapes, never tensors or files, and the
    /// same input gives the same plan.
    ///
    /// What the view says of dependencies is that of the whole model: a recipe that reduces layers and prunes needs
    /// [`plan_traced`](Self::plan_traced).
    ///
    /// # Errors
    /// Every problem of the recipe at once, each with its place.
    pub fn plan(&self, recipe: &Recipe, model: &ModelView) -> Result<Plan<B>, Diagnostics> {
        self.plan_with(recipe, model, None)
    }

    /// [`plan`](Self::plan) that asks `trace` what goes together in the model, where the recipe prunes or scans
    /// sensitivities and the view does not say so. `trace` is told which layers stay, where the recipe reduces them.
    ///
    /// # Errors
    /// Every problem of the recipe at once, each with its place; what `trace` says at the first entry that prunes.
    pub fn plan_traced(
        &self,
        recipe: &Recipe,
        model: &ModelView,
        trace: &Trace<'_>,
    ) -> Result<Plan<B>, Diagnostics> {
        self.plan_with(recipe, model, Some(trace))
    }

    fn plan_with(
        &self,
        recipe: &Recipe,
        model: &ModelView,
        trace: Option<&Trace<'_>>,
    ) -> Result<Plan<B>, Diagnostics> {
        let mut problems = recipe.problems.clone();
        let (mut model, reduction) =
            reduction::resolve(recipe.layer_reduction.as_ref(), model, &mut problems);
        let asks = self.first_pruning(recipe).map(|entry| entry.place.as_str());
        let asks = asks.or(recipe.sensitivity.as_ref().map(|_| SensitivitySettings::KEY));
        if let (Some(trace), None, Some(place)) = (trace, &model.dependencies, asks) {
            match trace(reduction.as_ref().map(|reduction| &reduction.layers)) {
                Ok(found) => model.dependencies = Some(found),
                Err(text) => problems.add(place, Problem::Other(text)),
            }
        }
        let mut plan = Plan {
            steps: vec![],
            methods: HashMap::new(),
            model,
            reduction,
            eigenvalues: None,
            distillation: recipe.distillation.clone(),
            layer_by_layer: recipe.layer_by_layer.clone(),
            sensitivity: recipe.sensitivity.clone(),
            training: recipe.training.clone(),
            recipe: recipe.source.clone(),
        };
        let mut claims = Claims::default();
        for (index, entry) in recipe.entries.iter().enumerate() {
            self.resolve(index, entry, &mut plan, &mut claims, &mut problems);
        }
        let order: HashMap<&str, usize> =
            plan.model.sites.iter().enumerate().map(|(i, s)| (s.name.as_str(), i)).collect();
        plan.steps.sort_by_key(|s| (order.get(s.site.name.as_str()).copied(), s.entry));
        check_order(&plan.steps, &mut problems);
        pruning::check(&plan, recipe, &mut problems);
        sensitivity::check(&plan, &mut problems);
        let entry = recipe.eigenvalue.as_ref();
        plan.eigenvalues = eigenvalue::resolve(entry, &plan.model, &plan.steps, &mut problems);
        problems.into_result(plan)
    }

    /// The first entry whose method removes parts of weights.
    fn first_pruning<'a>(&self, recipe: &'a Recipe) -> Option<&'a Entry> {
        recipe.entries.iter().find(|entry| {
            // Its mistakes are reported when it is read for good.
            let mut unheard = Diagnostics::new();
            let factory = self.registry.get(&entry.method);
            let method = factory.and_then(|f| f(&entry.settings, &entry.place, &mut unheard));
            method.is_some_and(|method| method.kind() == StageKind::Prune)
        })
    }

    fn resolve(
        &self,
        index: usize,
        entry: &Entry,
        plan: &mut Plan<B>,
        claims: &mut Claims,
        problems: &mut Diagnostics,
    ) {
        let method = self.read(entry, problems);
        let fits = |site: &briquette_core::Site| method.as_ref().is_none_or(|m| m.fits(site));
        let selected = entry.selector.select(&plan.model.sites, fits, problems);
        let on = entry.aliases.get("on").cloned().unwrap_or_else(|| format!("{}.on", entry.place));
        for site in &selected {
            claims.claim(&entry.method, &site.name, &on, problems);
        }
        let Some(method) = method else { return };
        let mut builder = PlanBuilder::new(&entry.place, &entry.aliases, index, method.name(), method.kind());
        method.plan(&plan.model, &selected, &mut builder);
        let (mut steps, found) = builder.into_parts();
        problems.append(found);
        plan.steps.append(&mut steps);
        plan.methods.insert(index, method);
    }

    fn read(&self, entry: &Entry, problems: &mut Diagnostics) -> Option<Arc<dyn CompressionMethod<B>>> {
        let Some(factory) = self.registry.get(&entry.method) else {
            problems.add(&entry.place, self.unknown(&entry.method));
            return None;
        };
        let mut found = Diagnostics::new();
        let method = factory(&entry.settings, &entry.place, &mut found);
        found.iter().for_each(|d| problems.push(restate(d, entry)));
        method
    }

    fn unknown(&self, name: &str) -> Problem {
        let known = self.registry.names();
        let nearest = briquette_core::nearest(name, known.iter().map(String::as_str));
        Problem::UnknownMethod { name: name.into(), nearest, known }
    }
}

/// A diagnostic of a method's own settings, at the place where this recipe states the key.
fn restate(d: &Diagnostic, entry: &Entry) -> Diagnostic {
    let key = d.place.strip_prefix(&format!("{}.", entry.place)).unwrap_or("");
    let place = entry.aliases.get(key).cloned().unwrap_or_else(|| d.place.clone());
    Diagnostic { place, ..d.clone() }
}

/// Which layer is claimed by which method, and where.
#[derive(Default)]
struct Claims(BTreeMap<(String, String), String>);

impl Claims {
    fn claim(&mut self, method: &str, site: &str, place: &str, problems: &mut Diagnostics) {
        let key = (method.to_string(), site.to_string());
        match self.0.get(&key) {
            Some(first) => problems.add_at(place, site, Problem::Claimed { by: first.clone() }),
            None => {
                self.0.insert(key, place.to_string());
            }
        }
    }
}

/// Prune, then transform, then quantize, once, then compensate what was quantized; inputs are beside the point.
fn check_order(steps: &[Step], problems: &mut Diagnostics) {
    let weights: Vec<&Step> = steps.iter().filter(|s| s.kind != StageKind::Input).collect();
    for pair in weights.windows(2).filter(|p| p[0].site.name == p[1].site.name) {
        let (first, then) = (pair[0], pair[1]);
        // Two entries of one method are reported as claiming the layer twice.
        let twice =
            then.kind == StageKind::Quantize && first.kind == then.kind && first.method != then.method;
        if then.kind < first.kind || twice {
            let problem = Problem::Order { method: then.method.clone(), after: first.method.clone() };
            problems.add_at(&then.place, &then.site.name, problem);
        }
    }
    let quantized = |name: &str| weights.iter().any(|s| s.kind == StageKind::Quantize && s.site.name == name);
    for step in weights.iter().filter(|s| s.kind == StageKind::Compensate && !quantized(&s.site.name)) {
        let text = format!("{} follows a quantizer of the weight, and there is none", step.method);
        problems.add_at(&step.place, &step.site.name, Problem::Conflict(text));
    }
}

impl<B: Backend> Plan<B> {
    /// The steps, in model order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The model it was made for, without the layers that it drops.
    pub fn model(&self) -> &ModelView {
        &self.model
    }

    /// What the model learns from a teacher, as far as the recipe says it.
    pub fn distillation(&self) -> Option<&DistillationSettings> {
        self.distillation.as_ref()
    }

    /// Layer-by-layer distillation, where the recipe asks for it.
    pub fn layer_by_layer(&self) -> Option<&LayerByLayerSettings> {
        self.layer_by_layer.as_ref()
    }

    /// How the model is trained, as far as the recipe says it.
    pub fn training(&self) -> &TrainingSettings {
        &self.training
    }

    /// The recipe it was made from.
    pub fn recipe(&self) -> &Value {
        &self.recipe
    }

    /// The groups whose units are removed in the end, by name.
    pub fn cuts(&self) -> BTreeMap<String, GroupCut> {
        let cuts = self.steps.iter().filter_map(|step| step.cut.as_ref()).filter(|cut| cut.removed);
        cuts.map(|cut| (cut.group.name.clone(), cut.clone())).collect()
    }

    pub(crate) fn method(&self, step: &Step) -> &Arc<dyn CompressionMethod<B>> {
        self.methods.get(&step.entry).expect("every step comes from an entry whose method was kept")
    }

    /// The plan as JSON, for programs.
    pub fn to_json(&self) -> Value {
        let steps: Vec<Value> = self
            .steps
            .iter()
            .map(|s| {
                json!({"layer": s.site.name, "kind": s.site.kind, "shape": s.site.shape, "method": s.method,
                       "details": s.details, "place": s.place})
            })
            .collect();
        let mut plan =
            json!({"layers": self.model.sites.len(), "parameters": self.model.num_params(), "steps": steps});
        if let Some(reduced) = self.layer_reduction() {
            plan["layer_reduction"] = reduced.to_json();
        }
        if let Some(eigenvalue) = self.eigenvalue() {
            plan["eigenvalue"] = json!(eigenvalue);
        }
        let left = self.shapes_left();
        if !left.is_empty() {
            plan["shapes_left"] = json!(left);
        }
        if let Some(cost) = self.cost() {
            plan["cost"] = cost::to_json(cost);
        }
        plan
    }

    /// What pruning leaves of each layer that loses rows or columns, `[out, in]` by name, as far as it is known before
    /// anything is computed.
    pub fn shapes_left(&self) -> BTreeMap<String, [usize; 2]> {
        let smaller = pruning::left(self).map(|(_, smaller)| smaller).unwrap_or_default();
        smaller.into_iter().map(|site| (site.name, site.shape)).collect()
    }
}

impl<B: Backend> fmt::Display for Plan<B> {
    /// A line for the layer reduction, if there is one, and one for each layer: its name, its shape, what pruning
    /// leaves of it, and its methods. What the model costs, and what each group of units accounts for, where it was traced.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reduced) = self.layer_reduction() {
            writeln!(f, "{reduced}")?;
        }
        let left = self.shapes_left();
        let width = self.model.sites.iter().map(|s| s.name.len()).max().unwrap_or(0);
        for site in &self.model.sites {
            let left = left.get(&site.name).map(|[rows, columns]| format!("left {rows}x{columns}"));
            let steps = self.steps.iter().filter(|s| s.site.name == site.name).map(short);
            let said: Vec<String> = left.into_iter().chain(steps).collect();
            let text = if said.is_empty() { "unchanged".into() } else { said.join(", ") };
            let shape = format!("{}x{}", site.shape[0], site.shape[1]);
            writeln!(f, "{:width$}  {:>12}  {text}", site.name, shape)?;
        }
        self.cost().map_or(Ok(()), |cost| cost::write(f, cost))
    }
}

/// Longest list of layers that a line of a plan shows.
const LISTED: usize = 4;

fn short(step: &Step) -> String {
    let value = |v: &Value| match v {
        Value::String(text) => text.clone(),
        // Names of layers, which have lines of their own.
        Value::Array(list) if list.len() > LISTED => format!("{} layers", list.len()),
        other => other.to_string(),
    };
    let details: Vec<String> = step.details.iter().map(|(k, v)| format!("{k}={}", value(v))).collect();
    format!("{}({})", step.method, details.join(" "))
}
