//! What a model's forward pass does, written down.

use crate::backend::{Recording, Tracing, start_recording, stop_recording, tensor_id};
use crate::error::TraceError;
use crate::groups::dependencies;
use briquette_core::{Dependencies, ModelView, NameTable, materialize};
use burn::module::{ModuleVisitor, Param, ParamId};
use burn::prelude::*;
use burn_ir::{TensorId, TensorIr};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Tensors that a forward pass shows.
#[derive(Debug, Default)]
pub struct OutputList(Vec<TensorIr>);

/// What a forward pass may return: a tensor, or several in a tuple, an `Option` or a `Vec`.
///
/// A struct of one's own shows its tensors one after another.
pub trait Outputs {
    /// Adds the tensors to the list.
    fn show(self, list: &mut OutputList);
}

impl<const D: usize> Outputs for Tensor<Tracing, D> {
    fn show(self, list: &mut OutputList) {
        list.0.push(self.into_primitive().tensor().into_ir());
    }
}

impl<O: Outputs> Outputs for Vec<O> {
    fn show(self, list: &mut OutputList) {
        self.into_iter().for_each(|output| output.show(list));
    }
}

impl<O: Outputs> Outputs for Option<O> {
    fn show(self, list: &mut OutputList) {
        self.into_iter().for_each(|output| output.show(list));
    }
}

impl<A: Outputs, B: Outputs> Outputs for (A, B) {
    fn show(self, list: &mut OutputList) {
        self.0.show(list);
        self.1.show(list);
    }
}

impl<A: Outputs, B: Outputs, C: Outputs> Outputs for (A, B, C) {
    fn show(self, list: &mut OutputList) {
        self.0.show(list);
        (self.1, self.2).show(list);
    }
}

/// One parameter, by however many names.
#[derive(Debug)]
pub(crate) struct TracedParameter {
    /// Where it is in the view's parameters; several places for a shared one.
    pub(crate) places: Vec<usize>,
    pub(crate) shape: Vec<usize>,
    /// Its tensors; a shared one may have several.
    pub(crate) tensors: Vec<TensorId>,
    /// Field path of its layer.
    pub(crate) module: String,
}

/// A forward pass: its operations, and which tensors are parameters and outputs.
#[derive(Debug)]
pub struct Trace {
    pub(crate) view: ModelView,
    pub(crate) parameters: Vec<TracedParameter>,
    pub(crate) recording: Recording,
    pub(crate) outputs: Vec<TensorIr>,
}

/// Writes down what `forward` does with `model`, whose layers are called as `names` says, and with an `input`.
///
/// Nothing is computed, so the size of the model does not matter. The input should be small but ordinary: more than one
/// example, more than one position. Every tensor that is no parameter and was there before is taken for an input, and
/// nothing that goes with its axes can be removed; tensors of zeros and ones that `forward` makes are taken to be as
/// large as they have to be. Trace the plain model, without fake quantization: the largest magnitude of a row of
/// activations takes all of them.
///
/// # Errors
/// When the forward pass panics (the panic's message also goes to the standard error, as always), or reads a tensor
/// back to the host.
pub fn trace<M: Module<Tracing>, I, O: Outputs>(
    model: &M,
    names: &NameTable,
    input: I,
    forward: impl FnOnce(&M, I) -> O,
) -> Result<Trace, TraceError> {
    materialize(model);
    let view = ModelView::with_names(model, names);
    let parameters = parameters(model, &view);
    let before = start_recording();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut list = OutputList::default();
        forward(model, input).show(&mut list);
        list.0
    }));
    let recording = stop_recording(before);
    if let Some(shape) = recording.read {
        return Err(TraceError::ReadsValues { shape });
    }
    let outputs = result.map_err(|panic| TraceError::Panicked { message: message(&*panic) })?;
    Ok(Trace { view, parameters, recording, outputs })
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

impl Trace {
    /// Which parts of the parameters can only be removed together.
    pub fn dependencies(&self) -> Dependencies {
        dependencies(self)
    }

    /// Names of the operations in their order, such as `linear` or `mean_dim`.
    pub fn operations(&self) -> impl Iterator<Item = String> {
        (0..self.recording.ops.len()).map(|at| self.operation(at))
    }

    /// The name of the operation at this place.
    pub(crate) fn operation(&self, at: usize) -> String {
        // "NumericFloat(F32, MeanDim(ReduceDimOpIr { .."
        let text = self.recording.ops.get(at).map(|op| format!("{op:?}")).unwrap_or_default();
        let head = text.split('{').next().unwrap_or_default();
        let parts: Vec<&str> = head.split(['(', ',']).map(str::trim).collect();
        snake_case(parts.iter().rev().nth(1).or(parts.first()).unwrap_or(&""))
    }
}

fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for (index, letter) in name.chars().enumerate() {
        if letter.is_uppercase() && index > 0 {
            text.push('_');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

fn parameters<M: Module<Tracing>>(model: &M, view: &ModelView) -> Vec<TracedParameter> {
    let mut look = Look { view, place: 0, numbers: HashMap::new(), found: Vec::new() };
    model.visit(&mut look);
    look.found
}

/// Visits parameters in the order in which a [`ModelView`] lists them.
struct Look<'a> {
    view: &'a ModelView,
    place: usize,
    numbers: HashMap<ParamId, usize>,
    found: Vec<TracedParameter>,
}

impl ModuleVisitor<Tracing> for Look<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Tracing, D>>) {
        let place = self.place;
        self.place += 1;
        let tensor = tensor_id(param.val());
        if let Some(&number) = self.numbers.get(&param.id) {
            self.found[number].places.push(place);
            self.found[number].tensors.push(tensor);
            return;
        }
        self.numbers.insert(param.id, self.found.len());
        let parameter = &self.view.parameters[place];
        let module = parameter.path.rsplit_once('.').map_or("", |(module, _)| module);
        self.found.push(TracedParameter {
            places: vec![place],
            shape: parameter.shape.clone(),
            tensors: vec![tensor],
            module: module.into(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_have_names_one_can_look_up() {
        let device = Default::default();
        let model = burn::nn::LinearConfig::new(2, 3).init::<Tracing>(&device);
        let x = Tensor::<_, 2>::ones([4, 2], &device);
        let trace = trace(&model, &NameTable::default(), x, |m, x| m.forward(x).mean_dim(1).tanh())
            .expect("an ordinary layer");
        assert_eq!(trace.operations().collect::<Vec<_>>(), ["linear", "mean_dim", "tanh"]);
    }
}
