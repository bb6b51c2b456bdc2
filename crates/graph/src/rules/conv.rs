//! Convolutions and pooling.
//!
//! Channels are looked at as `[groups, channels of a group]`. A filter of an ordinary convolution sees all channels of
//! its group: channels go position by position, the same in each group, so that groups stay alike. In a depthwise
//! convolution each group has one channel of the input: whole groups go, its filters follow the channels.

use super::matmul::with_spatial;
use crate::axes::Axes;
use crate::reshape::reshape;
use crate::walk::{Value, Walk};
use crate::why::Why;
use briquette_core::Role;
use burn_ir::TensorIr;

impl Walk<'_> {
    /// Weight `[out, in / groups, kernel..]`.
    pub(super) fn conv(
        &mut self,
        x: &TensorIr,
        weight: &TensorIr,
        bias: Option<&TensorIr>,
        out: &TensorIr,
        groups: usize,
    ) {
        let value = self.value(weight);
        let (filters, inner) = (weight.shape[0] / groups.max(1), weight.shape[1]);
        let kernel = &weight.shape[2..];
        let weight = self.viewed(&value, &[&[groups, filters, inner], kernel].concat());
        self.convolve(x, weight, bias, out, [groups, filters, inner], out);
    }

    /// Weight `[in, out / groups, kernel..]`.
    pub(super) fn conv_transpose(
        &mut self,
        x: &TensorIr,
        weight: &TensorIr,
        bias: Option<&TensorIr>,
        out: &TensorIr,
        groups: usize,
    ) {
        let value = self.value(weight);
        let (inner, filters) = (weight.shape[0] / groups.max(1), weight.shape[1]);
        let kernel = &weight.shape[2..];
        let weight = self.viewed(&value, &[&[groups, inner, filters], kernel].concat());
        let order: Vec<usize> = [0, 2, 1].into_iter().chain(3..weight.axes.shape.len()).collect();
        let turned =
            weight.viewed(weight.axes.permute(&order), &order.iter().map(|&a| vec![a]).collect::<Vec<_>>());
        self.convolve(x, turned, bias, out, [groups, filters, inner], x);
    }

    /// `weight: [groups, filters, inner, kernel..]`, for each group. The kernel is multiplied at each position of
    /// `positions`.
    fn convolve(
        &mut self,
        x: &TensorIr,
        mut weight: Value,
        bias: Option<&TensorIr>,
        out: &TensorIr,
        [groups, filters, inner]: [usize; 3],
        positions: &TensorIr,
    ) {
        let kernel = &weight.axes.shape[3..];
        let repeats = kernel.iter().chain(&positions.shape[2..]).product();
        let value = self.value(x);
        let mut x = self.viewed(&value, &[&[x.shape[0], groups, inner], &x.shape[2..]].concat());
        let value = bias.map(|bias| self.value(bias));
        let mut bias = value.map(|value| self.viewed(&value, &[groups, filters]));
        let labels = &mut self.labels;
        (3..x.axes.shape.len()).for_each(|a| x.axes.collapse(a, Why::Mixed(self.at), labels));
        (3..weight.axes.shape.len()).for_each(|a| weight.axes.collapse(a, Why::Kernel, labels));
        let depthwise = groups > 1 && inner == 1;
        // The axis of [groups, filters, inner] within which nothing goes alone, for each of the three.
        let (of_x, of_weight, of_bias) = if depthwise { (2, 1, 1) } else { (1, 0, 0) };
        x.axes.collapse(of_x, Why::Inner, labels);
        weight.axes.collapse(of_weight, Why::Inner, labels);
        bias.iter_mut().for_each(|b| b.axes.collapse(of_bias, Why::Inner, labels));
        let along =
            |first: &[usize], rank: usize| (0..rank).map(|axis| first.get(axis).copied()).collect::<Vec<_>>();
        let (x_rank, weight_rank) = (x.axes.shape.len(), weight.axes.shape.len());
        let mut factors = vec![(x, along(&[0, 1, 3], x_rank)), (weight, along(&[1, 2, 3], weight_rank))];
        factors.extend(bias.map(|bias| (bias, along(&[1, 2], 2))));
        let role = if depthwise { Role::Follows } else { Role::Produces };
        let value = self.contract(factors, &[out.shape[0], groups, filters], [inner, repeats], role);
        let merged = Why::Merged(self.at);
        let (channels, _) = reshape(&value.axes, &out.shape[..2], merged, &mut self.labels);
        self.put(out, Value { axes: with_spatial(channels, out), ..value });
    }

    /// A tensor under another shape.
    fn viewed(&mut self, value: &Value, shape: &[usize]) -> Value {
        let (axes, lineage) = reshape(&value.axes, shape, Why::Merged(self.at), &mut self.labels);
        value.viewed(axes, &lineage)
    }

    /// Pooling and resizing: channels stay what they are, `[batch, channels, spatial..]`.
    pub(super) fn spatial(&mut self, x: &TensorIr, outs: &[&TensorIr]) {
        let mut value = self.value(x);
        let why = Why::Mixed(self.at);
        (2..x.shape.len()).for_each(|axis| value.axes.collapse(axis, why, &mut self.labels));
        for out in outs {
            let axes = Axes { shape: out.shape.to_vec(), ..value.axes.clone() };
            let sources = None;
            self.put(out, Value { axes, sources, zeroes: false, made_by: None, ..value.clone() });
        }
    }
}
