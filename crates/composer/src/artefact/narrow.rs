//! A model built from a configuration to the narrower one that an artefact holds.

use super::decode::wrong;
use super::error::ArtefactError;
use super::manifest::{AxisRecord, RemovalRecord};
use briquette_checkpoint::Naming;
use briquette_core::{ModelView, Parameter, canonical_shape};
use briquette_nn::{Compressible, LayerMut, unshare, visit_layers};
use burn::module::{ModuleMapper, Param};
use burn::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The model with every parameter as long, and every number as large, as the manifest at `path` says. Values of
/// parameters that change are lost: they are going to be read.
pub(super) fn narrowed<B: Backend, M: Module<B> + Compressible<B>>(
    mut model: M,
    removed: &RemovalRecord,
    naming: &Naming,
    path: &Path,
) -> Result<M, ArtefactError> {
    let view = ModelView::with_names(&model, &naming.layers);
    let shapes = shapes(&view, removed, path)?;
    set_numbers(&mut model, &removed.numbers, path)?;
    // Running statistics of a model that the caller holds as well stay as they are.
    unshare(&mut model);
    Ok(model.map(&mut Narrow { at: Vec::new(), shapes }))
}

/// The view of a model built from a configuration as narrow as the manifest at `path` says.
pub(super) fn narrowed_view(
    view: &ModelView,
    removed: &RemovalRecord,
    path: &Path,
) -> Result<ModelView, ArtefactError> {
    let shapes = shapes(view, removed, path)?;
    let mut view = view.clone();
    for parameter in &mut view.parameters {
        if let Some(shape) = shapes.get(&parameter.path) {
            parameter.shape.clone_from(shape);
        }
    }
    for site in &mut view.sites {
        if let Some(native) = shapes.get(&format!("{}.weight", site.path)) {
            site.native.clone_from(native);
            site.shape = canonical_shape(site.kind, native).unwrap_or(site.shape);
        }
    }
    Ok(view)
}

/// New shapes by field path.
fn shapes(
    view: &ModelView,
    removed: &RemovalRecord,
    path: &Path,
) -> Result<HashMap<String, Vec<usize>>, ArtefactError> {
    let parameters: HashMap<&str, &Parameter> =
        view.parameters.iter().map(|p| (p.name.as_str(), p)).collect();
    let mut shapes: HashMap<String, Vec<usize>> = HashMap::new();
    for group in &removed.groups {
        let last = group.kept.0.last();
        if group.kept.0.len() >= group.of || last.is_none_or(|last| *last >= group.of) {
            let reason = format!("keeps {} of {} units", group.kept.0.len(), group.of);
            return Err(ArtefactError::Layer { path: path.into(), layer: group.group.clone(), reason });
        }
        for record in &group.axes {
            let refuse = |reason: String| Err(wrong(path, &record.tensor, reason));
            let Some(parameter) = parameters.get(record.tensor.as_str()) else {
                return refuse("the model has no such tensor".into());
            };
            let shape = shapes.entry(parameter.path.clone()).or_insert_with(|| parameter.shape.clone());
            match narrower(shape, record) {
                Ok(()) => {}
                Err(reason) => return refuse(reason),
            }
        }
    }
    Ok(shapes)
}

/// Shortens an axis, unless the configuration did so already.
fn narrower(shape: &mut [usize], record: &AxisRecord) -> Result<(), String> {
    let text = format!("{shape:?} in the model");
    let AxisRecord { axis, of, kept, .. } = *record;
    match shape.get_mut(axis) {
        Some(length) if (*length == of || *length == kept) && (1..of).contains(&kept) => {
            *length = kept;
            Ok(())
        }
        _ => Err(format!("axis {axis} is to have {kept} of {of} entries; the tensor is {text}")),
    }
}

fn set_numbers<B: Backend, M: Compressible<B>>(
    model: &mut M,
    numbers: &BTreeMap<String, usize>,
    path: &Path,
) -> Result<(), ArtefactError> {
    let mut left: BTreeMap<&str, usize> = numbers.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    let mut problem = None;
    visit_layers(model, |at, layer| {
        let (name, value, least) = match layer {
            LayerMut::Number(number) => {
                let least = usize::from(number.counts != briquette_core::Counts::Before);
                (at.name().to_string(), number.value, least)
            }
            LayerMut::Conv2d(conv) => (format!("{}.groups", at.name()), &mut conv.groups, 1),
            _ => return,
        };
        let Some(now) = left.remove(name.as_str()) else { return };
        if (least..=*value).contains(&now) {
            *value = now;
        } else {
            problem.get_or_insert((name, format!("is {now}, and {value} in the source")));
        }
    });
    if let Some(name) = left.keys().next() {
        problem.get_or_insert((name.to_string(), "the model has no such number".into()));
    }
    match problem {
        Some((layer, reason)) => Err(ArtefactError::Layer { path: path.into(), layer, reason }),
        None => Ok(()),
    }
}

struct Narrow {
    at: Vec<String>,
    shapes: HashMap<String, Vec<usize>>,
}

impl<B: Backend> ModuleMapper<B> for Narrow {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.at.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let Some(shape) = self.shapes.get(&self.at.join(".")) else { return param };
        let Ok(shape) = <[usize; D]>::try_from(shape.as_slice()) else { return param };
        if param.lazy_shape().dims() == shape {
            return param;
        }
        let (id, zeros) = (param.id, Tensor::zeros(shape, &param.lazy_device()));
        param.transform_for_load(zeros, id)
    }
}
