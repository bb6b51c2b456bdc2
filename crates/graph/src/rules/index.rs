//! Entries chosen by index.

use crate::join::{Operand, join};
use crate::walk::{Value, Walk};
use crate::why::Why;
use briquette_core::Role;
use burn_ir::{GatherOpIr, SelectOpIr};

impl Walk<'_> {
    /// Slices of an axis by their numbers: known ones take their labels along, others make all entries stay.
    ///
    /// Rows of a table that are looked up while the model runs, as embeddings are, depend on its input.
    pub(super) fn select(&mut self, op: &SelectOpIr) {
        let mut value = self.value(&op.tensor);
        let size = op.tensor.shape[op.dim];
        let known = self.known_indices(&op.indices).filter(|list| list.iter().all(|&i| i < size));
        match known {
            Some(list) => value.axes.take(op.dim, &list.into_iter().map(Some).collect::<Vec<_>>()),
            None => {
                value.axes.collapse(op.dim, Why::LookedUp, &mut self.labels);
                value.axes.shape[op.dim] = op.out.shape[op.dim];
                for sources in value.sources.take().iter().flatten() {
                    self.role(sources, Role::Produces);
                }
            }
        }
        self.put(&op.out, value);
    }

    /// An entry of an axis for each place of the other axes.
    pub(super) fn gather(&mut self, op: &GatherOpIr) {
        let mut value = self.value(&op.tensor);
        let indices = self.value(&op.indices);
        value.axes.collapse(op.dim, Why::LookedUp, &mut self.labels);
        let to = (0..op.out.shape.len()).map(|axis| (axis != op.dim).then_some(axis)).collect();
        let operands = vec![Operand { axes: value.axes, to }, Operand::aligned(indices.axes)];
        let axes = join(&mut self.labels, &op.out.shape, operands, Why::LookedUp);
        self.put(&op.out, Value { averages: value.averages, ..Value::activation(axes) });
    }
}
