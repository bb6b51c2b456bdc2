//! Sums of products: linear layers, products of matrices, attention.

use crate::axes::Axes;
use crate::cost::Products;
use crate::join::{Operand, join};
use crate::walk::{Value, Walk};
use crate::why::Why;
use briquette_core::Role;
use burn_ir::{AttentionOpIr, LinearOpIr, MatmulOpIr, TensorIr};

/// A tensor of a sum of products, and for each of its axes the axis of the result that it runs along. The axis that is
/// summed over has the number after the result's last.
pub(super) type Factor = (Value, Vec<Option<usize>>);

impl Walk<'_> {
    /// `[.., m, k]` times `[.., k, n]`.
    pub(super) fn matmul(&mut self, op: &MatmulOpIr) {
        let rank = op.out.shape.len();
        let batch = || (0..rank - 2).map(Some);
        let left = batch().chain([Some(rank - 2), Some(rank)]).collect();
        let right = batch().chain([Some(rank), Some(rank - 1)]).collect();
        let factors = vec![(self.value(&op.lhs), left), (self.value(&op.rhs), right)];
        let sum = op.lhs.shape[rank - 1];
        let value = self.contract(factors, &op.out.shape, [sum, 1], Role::Produces);
        self.put(&op.out, value);
    }

    /// `[.., d_in]` times `[d_in, d_out]` plus `[d_out]`.
    pub(super) fn linear(&mut self, op: &LinearOpIr) {
        let rank = op.out.shape.len();
        let x = (0..rank - 1).map(Some).chain([Some(rank)]).collect();
        let mut factors =
            vec![(self.value(&op.x), x), (self.value(&op.weight), vec![Some(rank), Some(rank - 1)])];
        if let Some(bias) = &op.bias {
            factors.push((self.value(bias), vec![Some(rank - 1)]));
        }
        let value = self.contract(factors, &op.out.shape, [op.weight.shape[0], 1], Role::Produces);
        self.put(&op.out, value);
    }

    /// The axes of a sum of products over an axis of `sum` entries, of which there are `repeats` for each entry of the
    /// result. `role` is what the parameters' other axes do.
    ///
    /// Where one factor is a parameter, it can be zeroed along that axis, and entries may go; the last factor that is
    /// one has this part. Where two activations are multiplied, nothing could be zeroed.
    pub(super) fn contract(
        &mut self,
        mut factors: Vec<Factor>,
        shape: &[usize],
        [sum, repeats]: [usize; 2],
        role: Role,
    ) -> Value {
        let rank = shape.len();
        let summed = |to: &[Option<usize>]| to.iter().position(|&t| t == Some(rank));
        let weighs = |(value, to): &Factor| {
            value.zeroes && summed(to).is_some_and(|axis| value.sources_along(axis).is_some())
        };
        let weight = factors.iter().rposition(weighs);
        for (index, (value, to)) in factors.iter_mut().enumerate() {
            self.unfollowed(&value.averages);
            for (axis, to) in to.iter().enumerate() {
                let Some(sources) = value.sources_along(axis).cloned() else { continue };
                let consumes = *to == Some(rank) && weight == Some(index);
                self.role(&sources, if consumes { Role::Consumes } else { role });
            }
            if let (Some(axis), None) = (summed(to), weight) {
                value.axes.collapse(axis, Why::Product(self.at), &mut self.labels);
            }
        }
        let made_by = factors.iter().rev().find_map(|(value, _)| {
            let sources = value.sources.as_ref()?;
            sources.iter().flatten().next().map(|&(number, _)| number)
        });
        let whole: Vec<usize> = shape.iter().copied().chain([sum]).collect();
        let operands = factors.into_iter().map(|(value, to)| Operand { axes: value.axes, to }).collect();
        let mut axes = join(&mut self.labels, &whole, operands, Why::Broadcast(self.at));
        self.products.push(Products { at: self.at, layer: made_by, axes: axes.clone(), repeats });
        axes.consume(rank, &mut self.labels);
        axes.shape.pop();
        axes.plain.pop();
        Value { made_by, ..Value::activation(axes) }
    }

    /// `[batch, heads, seq, d_head]` thrice to `[batch, heads, seq, d_value]`: heads go together, and entries of the
    /// values' width may go.
    pub(super) fn attention(&mut self, op: &AttentionOpIr) {
        let why = Why::Product(self.at);
        let along = |kept: &[usize]| (0..4).map(|axis| kept.contains(&axis).then_some(axis)).collect();
        let mut factors: Vec<(Value, Vec<Option<usize>>)> = vec![
            (self.value(&op.query), along(&[0, 1])),
            (self.value(&op.key), along(&[0, 1])),
            (self.value(&op.value), along(&[0, 1, 3])),
        ];
        for tensor in op.mask.iter().chain(&op.attn_bias) {
            factors.push((self.value(tensor), along(&[0, 1])));
        }
        for (value, to) in &mut factors {
            self.unfollowed(&value.averages);
            let width = value.sources.iter().flatten().cloned().collect::<Vec<_>>();
            width.iter().for_each(|sources| self.role(sources, Role::Produces));
            for axis in (0..4).filter(|&axis| to[axis].is_none()) {
                value.axes.collapse(axis, why, &mut self.labels);
            }
        }
        let (keys, queries) = (op.key.shape[2], factors[0].0.axes.clone());
        let operands = factors.into_iter().map(|(value, to)| Operand { axes: value.axes, to }).collect();
        let axes = join(&mut self.labels, &op.out.shape, operands, Why::Broadcast(self.at));
        // Queries with keys over a head's width, then weights with values over the keys.
        for axes in [queries, axes.clone()] {
            self.products.push(Products { at: self.at, layer: None, axes, repeats: keys });
        }
        self.put(&op.out, Value::activation(axes));
    }

    /// Rows of a table, `[vocabulary, width]`, by their numbers `[batch, seq]`.
    pub(super) fn embedding(&mut self, op: &burn_ir::EmbeddingOpIr) {
        let mut table = self.value(&op.weights);
        table.axes.collapse(0, Why::LookedUp, &mut self.labels);
        let indices = self.value(&op.indices);
        let width = op.out.shape.len() - 1;
        if let Some(sources) = table.sources_along(1) {
            self.role(&sources.clone(), Role::Produces);
        }
        let operands = vec![
            Operand { axes: indices.axes, to: (0..width).map(Some).collect() },
            Operand { axes: table.axes, to: vec![None, Some(width)] },
        ];
        let axes = join(&mut self.labels, &op.out.shape, operands, Why::LookedUp);
        self.put(&op.out, Value { averages: table.averages, ..Value::activation(axes) });
    }
}

/// The axes of images with these spatial axes, which always stay.
pub(super) fn with_spatial(mut axes: Axes, out: &TensorIr) -> Axes {
    let rank = axes.shape.len();
    axes.shape.extend_from_slice(&out.shape[rank..]);
    axes.plain.resize(out.shape.len(), crate::axes::Plain::Fixed(Why::Data));
    axes
}
