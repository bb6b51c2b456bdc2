//! A model on the tracing backend with the shapes of another one.

use crate::backend::Tracing;
use crate::error::TraceError;
use briquette_core::ModelView;
use burn::module::{ModuleMapper, Param};
use burn::prelude::*;

/// The model with each parameter as large as the view says.
///
/// A trace needs shapes only. Make the model on [`Tracing`] from its configuration, which costs nothing, and where it
/// lost rows or channels since, fit it to [`ModelView::of`] the real one. No number is moved. What is no parameter, such
/// as a number of heads, is the caller's.
///
/// # Errors
/// When the view lacks a parameter of the model, or has it with another rank.
pub fn fitted<M: Module<Tracing>>(model: M, view: &ModelView) -> Result<M, TraceError> {
    let mut fit = Fit { at: Vec::new(), view, error: None };
    let model = model.map(&mut fit);
    match fit.error {
        Some(error) => Err(error),
        None => Ok(model),
    }
}

struct Fit<'a> {
    at: Vec<String>,
    view: &'a ModelView,
    error: Option<TraceError>,
}

impl ModuleMapper<Tracing> for Fit<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.at.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.at.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<Tracing, D>>) -> Param<Tensor<Tracing, D>> {
        let path = self.at.join(".");
        let parameter = self.view.parameters.iter().find(|p| p.path == path);
        let expected = parameter.map(|p| p.shape.clone()).unwrap_or_default();
        let Ok(shape) = <[usize; D]>::try_from(expected.as_slice()) else {
            let found = param.lazy_shape().to_vec();
            self.error.get_or_insert(TraceError::OtherModel { path, found, expected });
            return param;
        };
        Param::initialized(param.id, Tensor::empty(shape, &Default::default()))
    }
}
