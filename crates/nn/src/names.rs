//! Names of a model's layers in checkpoints and recipes.

use crate::{Compressible, LayerMut, visit_layers};
use briquette_core::{ModelView, NameTable};
use burn::module::{ModuleVisitor, Param};
use burn::prelude::*;
use std::collections::BTreeMap;

/// The names of all layers and parameters of a model, by field path, and its lists of blocks.
///
/// Drop-in layers that hold a weight are marked as such. What lies inside a module that is named but
/// not entered (a layer of burn made of others, a skipped field) is named by the module's name and
/// its own field path. Nothing is computed: lazy parameters stay lazy.
pub fn name_table<B: Backend, M: Module<B> + Compressible<B>>(model: &M) -> NameTable {
    let mut known = BTreeMap::new();
    let mut table = NameTable::default();
    // Names are found by a walk that may change layers, so a clone is walked; a clone of a lazy
    // parameter is as lazy, and tensors are shared.
    visit_layers(&mut model.clone(), |at, layer| {
        if let Some(drop_in) = is_drop_in(&layer) {
            known.insert(at.path().to_string(), (at.name().to_string(), drop_in));
        }
        match layer {
            LayerMut::Layers(list) => table.insert_list(at.path(), list.len()),
            LayerMut::LayerNorm(_) => table.insert_layer_norm(at.path()),
            LayerMut::Number(number) => table.insert_count(number.counted(at)),
            _ => {}
        }
    });
    let mut complete = Complete { at: Vec::new(), known };
    model.visit(&mut complete);
    for (path, (name, drop_in)) in complete.known {
        table.insert(path, name, drop_in);
    }
    table
}

/// A model as names, kinds and shapes, with the names of [`name_table`].
///
/// Layers with a packed weight are left out: methods have nothing to act on there.
pub fn model_view<B: Backend, M: Module<B> + Compressible<B>>(model: &M) -> ModelView {
    let mut view = ModelView::with_names(model, &name_table(model));
    view.sites.retain(|site| !site.is_empty());
    view
}

/// Whether a layer can quantize its input or hold a packed weight; `None` for what has no name of
/// its own.
fn is_drop_in<B: Backend>(layer: &LayerMut<'_, B>) -> Option<bool> {
    match layer {
        LayerMut::Linear(_) | LayerMut::Embedding(_) | LayerMut::Conv2d(_) => Some(true),
        LayerMut::Attention(_) | LayerMut::Layers(_) | LayerMut::Other => Some(false),
        LayerMut::LayerNorm(_) | LayerMut::BatchNorm(_) => Some(false),
        LayerMut::Field(_) | LayerMut::Number(_) => None,
    }
}

/// Names every parameter, and the module that holds it, after the nearest named module above.
struct Complete {
    at: Vec<String>,
    known: BTreeMap<String, (String, bool)>,
}

impl Complete {
    fn name(&mut self, depth: usize) {
        let path = self.at[..depth].join(".");
        if self.known.contains_key(&path) {
            return;
        }
        let (above, mut name) = (0..depth)
            .rev()
            .find_map(|n| self.known.get(&self.at[..n].join(".")).map(|(name, _)| (n, name.clone())))
            .unwrap_or_default();
        for component in &self.at[above..depth] {
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(component.strip_suffix('_').unwrap_or(component));
        }
        self.known.insert(path, (name, false));
    }

    fn parameter(&mut self) {
        let depth = self.at.len();
        self.name(depth.saturating_sub(1));
        self.name(depth);
    }
}

impl<B: Backend> ModuleVisitor<B> for Complete {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.at.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.pop();
    }

    fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<B, D>>) {
        self.parameter();
    }

    fn visit_int<const D: usize>(&mut self, _: &Param<Tensor<B, D, Int>>) {
        self.parameter();
    }

    fn visit_bool<const D: usize>(&mut self, _: &Param<Tensor<B, D, Bool>>) {
        self.parameter();
    }
}
