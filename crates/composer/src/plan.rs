//! A recipe resolved for one model: full names, shapes, integers. Nothing is touched.

mod eigenvalue;
mod reduction;

use crate::recipe::{Entry, LayerByLayerSettings, NOT_BUILT, Recipe, TrainingSettings};
use crate::registry::Registry;
use briquette_core::{
    CompressionMethod, Diagnostic, Diagnostics, ModelView, PlanBuilder, Problem, StageKind, Step,
};
use briquette_distill::DistillationSettings;
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
    /// # Errors
    /// Every problem of the recipe at once, each with its place.
    pub fn plan(&self, recipe: &Recipe, model: &ModelView) -> Result<Plan<B>, Diagnostics> {
        let mut problems = recipe.problems.clone();
        let (model, reduction) = reduction::resolve(recipe.layer_reduction.as_ref(), model, &mut problems);
        let mut plan = Plan {
            steps: vec![],
            methods: HashMap::new(),
            model,
            reduction,
            eigenvalues: None,
            distillation: recipe.distillation.clone(),
            layer_by_layer: recipe.layer_by_layer.clone(),
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
        let entry = recipe.eigenvalue.as_ref();
        plan.eigenvalues = eigenvalue::resolve(entry, &plan.model, &plan.steps, &mut problems);
        problems.into_result(plan)
    }

    fn resolve(
        &self,
        index: usize,
        entry: &Entry,
        plan: &mut Plan<B>,
        claims: &mut Claims,
        problems: &mut Diagnostics,
    ) {
        let before = problems.len();
        let method = self.read(entry, problems);
        let fits = |site: &briquette_core::Site| method.as_ref().is_none_or(|m| m.fits(site));
        let selected = entry.selector.select(&plan.model.sites, fits, problems);
        let on = entry.aliases.get("on").cloned().unwrap_or_else(|| format!("{}.on", entry.place));
        for site in &selected {
            claims.claim(&entry.method, &site.name, &on, problems);
        }
        if NOT_BUILT.contains(&entry.method.as_str()) && self.registry.get(&entry.method).is_none() {
            if !entry.faulty && problems.len() == before {
                problems.add(&entry.place, Problem::NotAvailable { what: entry.method.clone() });
            }
            return;
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
            if !NOT_BUILT.contains(&entry.method.as_str()) {
                problems.add(&entry.place, self.unknown(&entry.method));
            }
            return None;
        };
        let mut found = Diagnostics::new();
        let method = factory(&entry.settings, &entry.place, &mut found);
        found.iter().for_each(|d| problems.push(restate(d, entry)));
        method
    }

    fn unknown(&self, name: &str) -> Problem {
        let mut known = self.registry.names();
        known.extend(NOT_BUILT.map(String::from));
        known.sort();
        let nearest = briquette_core::nearest(name, known.iter().map(String::as_str));
        Problem::UnknownMethod { name: name.into(), nearest, known: self.registry.names() }
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
        plan
    }
}

impl<B: Backend> fmt::Display for Plan<B> {
    /// A line for the layer reduction, if there is one, and one for each layer: its name, shape and methods.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reduced) = self.layer_reduction() {
            writeln!(f, "{reduced}")?;
        }
        let width = self.model.sites.iter().map(|s| s.name.len()).max().unwrap_or(0);
        for site in &self.model.sites {
            let steps: Vec<String> =
                self.steps.iter().filter(|s| s.site.name == site.name).map(short).collect();
            let text = if steps.is_empty() { "unchanged".into() } else { steps.join(", ") };
            let shape = format!("{}x{}", site.shape[0], site.shape[1]);
            writeln!(f, "{:width$}  {:>12}  {text}", site.name, shape)?;
        }
        Ok(())
    }
}

fn short(step: &Step) -> String {
    let value = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
    let details: Vec<String> = step.details.iter().map(|(k, v)| format!("{k}={}", value(v))).collect();
    format!("{}({})", step.method, details.join(" "))
}
