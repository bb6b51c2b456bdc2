//! Operations on each entry.

use crate::walk::{Sources, Value, Walk};
use briquette_core::Role;
use burn_ir::TensorIr;
use std::collections::BTreeSet;

/// What an operation makes of zeros and biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Add,
    Sub,
    Mul,
    Div,
    Other,
}

impl How {
    /// Whether the result is zero wherever the parameters are that the operands are made of.
    fn zeroes(self, values: &[Value]) -> bool {
        let made = |v: &Value| v.sources.iter().flatten().any(|s| !s.is_empty());
        match self {
            Self::Add | Self::Sub => values.iter().all(|v| v.zeroes),
            Self::Mul => values.iter().any(|v| v.zeroes),
            Self::Div => values[0].zeroes && !made(&values[1]),
            Self::Other => false,
        }
    }
}

impl Walk<'_> {
    /// A function of each entry of one tensor.
    pub(super) fn same(&mut self, input: &TensorIr, out: &TensorIr) {
        let value = self.value(input);
        self.put(out, Value { zeroes: false, made_by: None, ..value });
    }

    /// A function of each entry that is zero at zero.
    pub(super) fn scaled(&mut self, input: &TensorIr, out: &TensorIr) {
        let value = self.value(input);
        self.put(out, Value { made_by: None, ..value });
    }

    /// A function of the entries of several tensors at one place; axes of one entry are repeated.
    pub(super) fn elementwise(&mut self, inputs: &[&TensorIr], out: &TensorIr, how: How) {
        let values: Vec<Value> = inputs.iter().map(|t| self.value(t)).collect();
        let axes = self.combine(&out.shape, &values);
        let mut result = Value::activation(axes);
        result.averages = values.iter().flat_map(|v| v.averages.iter().copied()).collect();
        for value in values.iter().filter(|v| v.averages.is_empty()) {
            self.scaled_by(value, &mut result);
        }
        if values.iter().all(|v| v.sources.is_some()) {
            result.sources = Some((0..out.shape.len()).map(|axis| together(&values, axis)).collect());
            result.zeroes = how.zeroes(&values);
        } else {
            for value in values.iter().filter(|v| v.sources.is_some()) {
                self.applied(value, &values, how, &mut result);
            }
        }
        self.put(out, result);
    }

    /// A tensor made of parameters is applied to activations.
    fn applied(&mut self, parameter: &Value, all: &[Value], how: How, result: &mut Value) {
        // What a layer adds to its own product is its bias.
        let module = |number: usize| &self.trace.parameters[number].module;
        let maker = all.iter().find_map(|v| v.made_by);
        let same = |m: usize| parameter.maker().is_some_and(|number| module(m) == module(number));
        let bias = how == How::Add && maker.is_some_and(same);
        result.made_by = result.made_by.or(maker.filter(|_| bias));
        for (_, sources) in parameter.along(&result.axes.shape) {
            self.role(sources, if bias { Role::Produces } else { Role::Follows });
        }
    }

    /// Averages over the axes along which a parameter is applied are its layer's.
    fn scaled_by(&mut self, parameter: &Value, result: &mut Value) {
        let Some(number) = parameter.maker() else { return };
        for (axis, _) in parameter.along(&result.axes.shape) {
            if let Some(labels) = result.axes.line(axis) {
                self.followed(&mut result.averages, labels, number);
            }
        }
    }
}

impl Value {
    /// A parameter that this is made of.
    fn maker(&self) -> Option<usize> {
        self.sources.iter().flatten().flatten().next().map(|&(number, _)| number)
    }

    /// Axes of a result of this shape along which parameters run that this is made of, and which.
    fn along(&self, shape: &[usize]) -> Vec<(usize, &Sources)> {
        let more = shape.len() - self.axes.shape.len();
        let runs = |axis: &usize| self.axes.shape[*axis] == shape[axis + more];
        let axes = (0..self.axes.shape.len()).filter(runs);
        axes.filter_map(|axis| Some((axis + more, self.sources_along(axis)?))).collect()
    }
}

/// Axes of parameters that run along an axis of what combines these values.
fn together(values: &[Value], axis: usize) -> Sources {
    values.iter().filter_map(|v| v.sources_along(axis)).fold(BTreeSet::new(), |all, s| &all | s)
}
