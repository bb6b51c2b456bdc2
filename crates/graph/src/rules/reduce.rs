//! Operations along one axis.

use crate::axes::Plain;
use crate::walk::{Value, Walk};
use crate::why::Why;
use burn_ir::{ReduceDimOpIr, TensorIr};

impl Walk<'_> {
    /// A mean or a sum over an axis, which then has one entry.
    ///
    /// Over an axis whose entries may go, it is right for those that are left only if the layer is told which these
    /// are. Which layer that is, the scale or bias that follows along the same axis says.
    pub(super) fn average_dim(&mut self, op: &ReduceDimOpIr) {
        let mut value = self.value(&op.input);
        value.axes.tidy(&mut self.labels);
        if let Some(labels) = value.axes.line(op.axis).map(<[_]>::to_vec) {
            let number = self.average(&labels);
            value.averages.insert(number);
        } else {
            value.axes.collapse(op.axis, Why::Inner, &mut self.labels);
        }
        value.axes.blocks.retain(|b| b.axes != [op.axis]);
        value.axes.plain[op.axis] = Plain::Free;
        value.axes.shape[op.axis] = op.out.shape[op.axis];
        if let Some(sources) = &mut value.sources {
            sources[op.axis].clear();
        }
        self.put(&op.out, Value { zeroes: false, made_by: None, ..value });
    }

    /// An operation along an axis that takes all its entries: a maximum, a running sum.
    pub(super) fn mix(&mut self, input: &TensorIr, outs: &[&TensorIr], axis: usize) {
        let mut value = self.value(input);
        let why = Why::Mixed(self.at);
        value.axes.collapse(axis, why, &mut self.labels);
        for out in outs {
            let mut axes = value.axes.clone();
            axes.shape[axis] = out.shape[axis];
            axes.plain[axis] = if out.shape[axis] == 1 { Plain::Free } else { Plain::Fixed(why) };
            self.put(out, Value { axes, zeroes: false, made_by: None, ..value.clone() });
        }
    }
}
