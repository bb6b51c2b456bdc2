//! Removing parts of a model for good: entries of its parameters, and the numbers that follow from them.

use crate::{Compressible, LayerMut, LayerPath, visit_layers};
use briquette_core::{LayerKind, Removal, stop};
use burn::module::{ModuleMapper, ModuleVisitor, Param, ParamId, RunningState};
use burn::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// Why parts of a model cannot be removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RemovalError {
    /// No parameter is there.
    #[error("`{path}`: the model has no such parameter")]
    NoParameter {
        /// The field path.
        path: String,
    },
    /// An axis is not there, or too short.
    #[error("`{path}`: entry {index} of axis {axis} of a parameter of shape {shape:?} is to be removed")]
    NoEntry {
        /// The field path.
        path: String,
        /// The axis.
        axis: usize,
        /// The entry.
        index: usize,
        /// The parameter's shape.
        shape: Vec<usize>,
    },
    /// An axis would be empty.
    #[error("`{path}`: nothing would be left of axis {axis}")]
    Nothing {
        /// The field path.
        path: String,
        /// The axis.
        axis: usize,
    },
    /// A number of the model that follows from a layer's outputs no longer does.
    #[error("`{path}`, which counts outputs of `{layer}`: {reason}")]
    Number {
        /// The number's field path.
        path: String,
        /// The layer's field path.
        layer: String,
        /// Why, in words.
        reason: String,
    },
    /// A convolution whose groups become uneven.
    #[error("`{path}`: the {groups} groups of the convolution keep {kept:?} outputs")]
    Groups {
        /// The convolution's field path.
        path: String,
        /// Number of its groups.
        groups: usize,
        /// How many outputs each group keeps.
        kept: Vec<usize>,
    },
}

/// What is left of one axis of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AxisCut {
    /// The axis, in burn's layout.
    pub axis: usize,
    /// Which entries are left, ascending.
    pub kept: Vec<usize>,
}

/// What is left of the parameters that lose something, by their identity: for what is kept beside them, such as an
/// optimizer's moments.
pub type Cuts = HashMap<ParamId, Vec<AxisCut>>;

/// The part of a tensor that is left.
///
/// # Panics
/// When an axis or an entry is not there.
pub fn cut<B: Backend, const D: usize>(tensor: Tensor<B, D>, cuts: &[AxisCut]) -> Tensor<B, D> {
    cuts.iter().fold(tensor, |tensor, cut| {
        let kept: Vec<i32> = cut.kept.iter().map(|i| i32::try_from(*i).unwrap_or(i32::MAX)).collect();
        let kept = Tensor::from_data(TensorData::new(kept, [cut.kept.len()]), &tensor.device());
        tensor.select(cut.axis, kept)
    })
}

/// A removal that was checked against a model.
#[derive(Debug)]
pub struct Removing {
    cuts: Cuts,
    parameters: BTreeMap<String, Found>,
}

#[derive(Debug)]
struct Found {
    id: ParamId,
    shape: Vec<usize>,
    kind: Option<LayerKind>,
}

impl Removing {
    /// Checks that everything that is to go is there, and that something is left of it.
    ///
    /// # Errors
    /// The first parameter for which it is not so.
    pub fn new<B: Backend, M: Module<B>>(model: &M, removal: &Removal) -> Result<Self, RemovalError> {
        let mut look = Look { at: Vec::new(), found: BTreeMap::new() };
        model.visit(&mut look);
        let parameters = look.found;
        let mut cuts = Cuts::new();
        for path in removal.paths() {
            let found =
                parameters.get(path).ok_or_else(|| RemovalError::NoParameter { path: path.into() })?;
            // Layers that share a parameter may each say what goes of it.
            let cuts = cuts.entry(found.id).or_default();
            for now in axis_cuts(path, found, removal)? {
                match cuts.iter_mut().find(|cut| cut.axis == now.axis) {
                    Some(cut) => cut.kept.retain(|i| now.kept.contains(i)),
                    None => cuts.push(now),
                }
            }
        }
        Ok(Self { cuts, parameters })
    }

    /// What is left of each parameter.
    pub fn cuts(&self) -> &Cuts {
        &self.cuts
    }

    /// The model without the removed entries of its parameters. Parameters keep their identities and are leaves.
    ///
    /// Running statistics are shared between clones of a model; see [`unshare`].
    pub fn tensors<B: Backend, M: Module<B>>(&self, model: M) -> M {
        model.map(&mut Cut { cuts: &self.cuts })
    }

    /// Adjusts the numbers that follow from outputs, where `layer` holds one: for every layer of a walk over the model,
    /// before or after [`tensors`](Self::tensors). With `change` false it only checks.
    ///
    /// # Errors
    /// When no number fits what is left.
    pub fn number<B: Backend>(
        &self,
        at: &LayerPath,
        layer: LayerMut<'_, B>,
        change: bool,
    ) -> Result<(), RemovalError> {
        let (value, now) = match layer {
            LayerMut::Number(number) => {
                let count = number.counted(at);
                let Some((outputs, kept)) = self.outputs(&count.layer) else { return Ok(()) };
                let now = count.after(outputs, kept).map_err(|reason| RemovalError::Number {
                    path: count.path.clone(),
                    layer: count.layer.clone(),
                    reason,
                })?;
                (number.value, now)
            }
            LayerMut::Conv2d(conv) if conv.groups > 1 => {
                let Some((outputs, kept)) = self.outputs(at.path()) else { return Ok(()) };
                let now = groups_after(at.path(), conv.groups, outputs, kept)?;
                (&mut conv.groups, now)
            }
            _ => return Ok(()),
        };
        if change {
            *value = now;
        }
        Ok(())
    }

    /// How many outputs the layer at `path` had, and which are left; `None` where it loses none.
    fn outputs(&self, path: &str) -> Option<(usize, &[usize])> {
        let found = self.parameters.get(&format!("{path}.weight"))?;
        let axis = match found.kind? {
            LayerKind::Linear | LayerKind::Embedding => 1,
            LayerKind::Conv2d | LayerKind::BatchNorm => 0,
        };
        let cut = self.cuts.get(&found.id)?.iter().find(|cut| cut.axis == axis)?;
        Some((*found.shape.get(axis)?, &cut.kept))
    }
}

/// Groups of a convolution of whose outputs some are left: whole groups go, or the same number of outputs of each.
fn groups_after(path: &str, groups: usize, outputs: usize, kept: &[usize]) -> Result<usize, RemovalError> {
    let each = (outputs / groups).max(1);
    let mut left = vec![0; groups];
    for index in kept {
        left[(index / each).min(groups - 1)] += 1;
    }
    let stay: Vec<usize> = left.iter().copied().filter(|n| *n > 0).collect();
    match stay.iter().all(|n| *n == stay[0]) {
        true => Ok(stay.len()),
        false => Err(RemovalError::Groups { path: path.into(), groups, kept: left }),
    }
}

fn axis_cuts(path: &str, found: &Found, removal: &Removal) -> Result<Vec<AxisCut>, RemovalError> {
    let shape = &found.shape;
    removal
        .axes(path)
        .map(|(axis, gone)| {
            let length = shape.get(axis).copied().unwrap_or(0);
            if let Some(index) = gone.last().copied().filter(|last| *last >= length) {
                return Err(RemovalError::NoEntry { path: path.into(), axis, index, shape: shape.clone() });
            }
            let kept = removal.kept(path, axis, length);
            match kept.is_empty() {
                true => Err(RemovalError::Nothing { path: path.into(), axis }),
                false => Ok(AxisCut { axis, kept }),
            }
        })
        .collect()
}

/// Removes parts of a model and adjusts the numbers that follow from them. A user's clone of the model stays whole.
///
/// # Errors
/// When something is not there, nothing would be left, or a number does not fit what is left.
pub fn remove<B: Backend, M: Module<B> + Compressible<B>>(
    model: M,
    removal: &Removal,
) -> Result<(M, Cuts), RemovalError> {
    let removing = Removing::new(&model, removal)?;
    let mut model = model;
    for change in [false, true] {
        let mut problem = Ok(());
        visit_layers(&mut model, |at, layer| {
            if problem.is_ok() {
                problem = removing.number(at, layer, change);
            }
        });
        problem?;
    }
    unshare(&mut model);
    let model = removing.tensors(model);
    Ok((model, removing.cuts))
}

/// Gives the model running statistics of its own: burn's clones share them, and a mapper writes them for all.
pub fn unshare<B: Backend, M: Compressible<B>>(model: &mut M) {
    visit_layers(model, |_, layer| unshare_layer(layer));
}

/// [`unshare`] for one layer of a walk.
pub fn unshare_layer<B: Backend>(layer: LayerMut<'_, B>) {
    let own = |state: &RunningState<Tensor<B, 1>>| {
        // Takes in what other threads still hold.
        let record = Module::<B>::into_record(state.clone());
        RunningState::from_record(record)
    };
    if let LayerMut::BatchNorm(norm) = layer {
        norm.running_mean = own(&norm.running_mean);
        norm.running_var = own(&norm.running_var);
    }
}

struct Cut<'a> {
    cuts: &'a Cuts,
}

impl<B: Backend> ModuleMapper<B> for Cut<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let Some(cuts) = self.cuts.get(&param.id) else { return param };
        let trainable = param.is_require_grad();
        param.map(|tensor| cut(stop(tensor), cuts).set_require_grad(trainable))
    }
}

struct Look {
    at: Vec<(String, String)>,
    found: BTreeMap<String, Found>,
}

impl<B: Backend> ModuleVisitor<B> for Look {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.at.push((name.into(), container.into()));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let path = self.at.iter().map(|(field, _)| field.as_str()).collect::<Vec<_>>().join(".");
        let kind = self.at.last().and_then(|(_, c)| LayerKind::of_struct(c.strip_prefix("Struct:")?));
        self.found.insert(path, Found { id: param.id, shape: param.lazy_shape().to_vec(), kind });
    }
}
