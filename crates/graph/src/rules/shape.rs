//! Operations that move entries by the shape alone.

use crate::axes::Plain;
use crate::reshape::reshape;
use crate::walk::{Value, Walk};
use crate::why::Why;
use briquette_core::Role;
use burn_ir::{CatOpIr, FlipOpIr, RepeatDimOpIr, SliceAssignOpIr, SliceOpIr, SwapDimsOpIr, TensorIr};
use burn_std::Slice;

impl Walk<'_> {
    /// The same entries in the same order under another shape.
    pub(super) fn reshape(&mut self, input: &TensorIr, out: &TensorIr) {
        let value = self.value(input);
        let (axes, lineage) = reshape(&value.axes, &out.shape, Why::Merged(self.at), &mut self.labels);
        self.put(out, value.viewed(axes, &lineage));
    }

    pub(super) fn swap_dims(&mut self, op: &SwapDimsOpIr) {
        let mut order: Vec<usize> = (0..op.out.shape.len()).collect();
        order.swap(op.dim1, op.dim2);
        self.permute(&op.input, &op.out, &order);
    }

    /// Axis `j` of the result is axis `order[j]`.
    pub(super) fn permute(&mut self, input: &TensorIr, out: &TensorIr, order: &[usize]) {
        let value = self.value(input);
        let lineage: Vec<Vec<usize>> = order.iter().map(|&axis| vec![axis]).collect();
        self.put(out, value.viewed(value.axes.permute(order), &lineage));
    }

    pub(super) fn flip(&mut self, op: &FlipOpIr) {
        let mut value = self.value(&op.input);
        for &axis in &op.axes {
            let picks: Vec<_> = (0..op.input.shape[axis]).rev().map(Some).collect();
            value.axes.take(axis, &picks);
        }
        self.put(&op.out, value);
    }

    /// Axes of one entry are repeated; there may be new axes in front.
    pub(super) fn expand(&mut self, input: &TensorIr, out: &TensorIr) {
        let value = self.value(input);
        let more = out.shape.len() - input.shape.len();
        let shape: Vec<usize> = vec![1; more].into_iter().chain(input.shape.iter().copied()).collect();
        let (axes, mut lineage) = reshape(&value.axes, &shape, Why::Merged(self.at), &mut self.labels);
        // Axes of one entry have no part in a reshape.
        (0..input.shape.len()).for_each(|axis| lineage[axis + more] = vec![axis]);
        let mut value = value.viewed(axes, &lineage);
        for (axis, &size) in out.shape.iter().enumerate() {
            if shape[axis] != size {
                self.repeat(&mut value, axis, size);
            }
        }
        self.put(out, value);
    }

    pub(super) fn repeat_dim(&mut self, op: &RepeatDimOpIr) {
        let mut value = self.value(&op.tensor);
        let size = op.tensor.shape[op.dim];
        if size == 1 {
            self.repeat(&mut value, op.dim, op.times);
        } else {
            let picks: Vec<_> = (0..size * op.times).map(|i| Some(i % size)).collect();
            value.axes.take(op.dim, &picks);
        }
        self.put(&op.out, value);
    }

    /// An axis of one entry becomes one of `size` copies of it.
    fn repeat(&mut self, value: &mut Value, axis: usize, size: usize) {
        value.axes.collapse(axis, Why::Broadcast(self.at), &mut self.labels);
        value.axes.plain[axis] = Plain::Free;
        value.axes.shape[axis] = size;
        if let Some(sources) = &mut value.sources {
            sources[axis].clear();
        }
    }

    pub(super) fn slice(&mut self, op: &SliceOpIr) {
        let mut value = self.value(&op.tensor);
        for (axis, slice) in op.ranges.iter().enumerate() {
            let picks: Vec<_> = picked(slice, op.tensor.shape[axis]).into_iter().map(Some).collect();
            value.axes.take(axis, &picks);
        }
        self.put(&op.out, value);
    }

    /// Entries within the ranges are those of another tensor; those outside go with nothing new.
    pub(super) fn slice_assign(&mut self, op: &SliceAssignOpIr) {
        let mut value = self.value(&op.value);
        for (axis, slice) in op.ranges.iter().enumerate() {
            let mut picks = vec![None; op.out.shape[axis]];
            let places = picked(slice, op.out.shape[axis]);
            places.into_iter().enumerate().for_each(|(from, to)| picks[to] = Some(from));
            if picks.iter().enumerate().any(|(to, from)| *from != Some(to)) {
                value.axes.take(axis, &picks);
            }
        }
        let values = [self.value(&op.tensor), value];
        self.side_by_side(values.to_vec(), &op.out);
    }

    /// Tensors one after another along an axis: labels of each, then of the next.
    pub(super) fn cat(&mut self, op: &CatOpIr) {
        let (mut start, size) = (0, op.out.shape[op.dim]);
        let mut values = Vec::new();
        for tensor in &op.tensors {
            let mut value = self.value(tensor);
            let own = tensor.shape[op.dim];
            let inside = |to: usize| to.checked_sub(start).filter(|&from| from < own);
            value.axes.take(op.dim, &(0..size).map(inside).collect::<Vec<_>>());
            start += own;
            values.push(value);
        }
        self.side_by_side(values, &op.out);
    }

    /// Tensors of the result's shape that are there in different places, and zero elsewhere.
    fn side_by_side(&mut self, values: Vec<Value>, out: &TensorIr) {
        let axes = self.combine(&out.shape, &values);
        let mut result = Value::activation(axes);
        result.averages = values.iter().flat_map(|v| v.averages.iter().copied()).collect();
        let all: Option<Vec<_>> = values.iter().map(|v| v.sources.clone()).collect();
        match all {
            Some(all) => {
                let along = |axis: usize| all.iter().flat_map(|s| s[axis].iter().copied()).collect();
                result.sources = Some((0..out.shape.len()).map(along).collect());
                result.zeroes = values.iter().all(|v| v.zeroes);
            }
            // Parameters that stand beside activations are values themselves.
            None => values.iter().filter_map(|v| v.sources.as_ref()).flatten().for_each(|sources| {
                self.role(sources, Role::Produces);
            }),
        }
        self.put(out, result);
    }
}

/// The entries of an axis that a slice takes, in its order.
fn picked(slice: &Slice, size: usize) -> Vec<usize> {
    let (range, step) = slice.to_range_and_step(size);
    let every = step.unsigned_abs().max(1);
    if step < 0 { range.rev().step_by(every).collect() } else { range.step_by(every).collect() }
}
