//! Tensors that are combined entry by entry: what their axes make of each other.

use crate::axes::{Axes, Block, Plain, coordinates, flat_index};
use crate::labels::{Label, Labels};
use crate::why::Why;

/// A tensor that takes part, and for each of its axes the axis of the result that it runs along.
///
/// An axis that runs along none, or is shorter than the result's, is repeated: its entry stays.
pub(crate) struct Operand {
    pub(crate) axes: Axes,
    pub(crate) to: Vec<Option<usize>>,
}

impl Operand {
    /// An operand of the result's rank, whose axes are the result's.
    pub(crate) fn aligned(axes: Axes) -> Self {
        let to = (0..axes.shape.len()).map(Some).collect();
        Self { axes, to }
    }

    fn axis_along(&self, out: usize) -> Option<usize> {
        self.to.iter().position(|&to| to == Some(out))
    }

    fn collapse_along(&mut self, out: usize, why: Why, labels: &mut Labels) {
        if let Some(axis) = self.axis_along(out) {
            self.axes.collapse(axis, why, labels);
        }
    }

    /// The result's axes of each block, in the order of the block's axes.
    fn blocks_along(&self) -> impl Iterator<Item = (Vec<usize>, &Block)> {
        self.axes.blocks.iter().map(|b| (b.axes.iter().filter_map(|&axis| self.to[axis]).collect(), b))
    }
}

/// The axes of the result of this shape. Labels that meet are joined; a label that meets an axis that stays, stays;
/// an axis whose entry is repeated is collapsed because of `repeated`.
pub(crate) fn join(labels: &mut Labels, shape: &[usize], mut operands: Vec<Operand>, repeated: Why) -> Axes {
    let mut fixed = vec![None; shape.len()];
    for operand in &mut operands {
        for axis in 0..operand.to.len() {
            operand.to[axis] = operand.to[axis].filter(|&to| shape[to] == operand.axes.shape[axis]);
            let Some(to) = operand.to[axis] else {
                operand.axes.collapse(axis, repeated, labels);
                continue;
            };
            if operand.axes.block_at(axis).is_none()
                && let Plain::Fixed(why) = operand.axes.plain[axis]
            {
                fixed[to].get_or_insert(why);
            }
        }
    }
    let collapse = |operands: &mut [Operand], out, why, labels: &mut Labels| {
        operands.iter_mut().for_each(|operand| operand.collapse_along(out, why, labels));
    };
    for (out, why) in fixed.iter().enumerate() {
        why.iter().for_each(|&why| collapse(&mut operands, out, why, labels));
    }
    // Where one tensor has two axes apart that another has in one block, entries of the outer one go.
    for together in components(shape.len(), &operands) {
        if operands.iter().any(|o| o.blocks_along().filter(|(to, _)| together.contains(&to[0])).count() > 1) {
            for &out in &together[1..] {
                fixed[out] = Some(Why::Inner);
                collapse(&mut operands, out, Why::Inner, labels);
            }
        }
    }
    let mut result = Axes::free(shape);
    for (plain, why) in result.plain.iter_mut().zip(&fixed) {
        why.iter().for_each(|&why| *plain = Plain::Fixed(why));
    }
    result.blocks =
        components(shape.len(), &operands).iter().map(|c| merged(labels, shape, c, &operands)).collect();
    result.tidy(labels);
    result
}

/// Axes of the result that some operand's block connects, each list ascending; axes without a label are in none.
fn components(rank: usize, operands: &[Operand]) -> Vec<Vec<usize>> {
    let mut group: Vec<Option<usize>> = vec![None; rank];
    for (along, _) in operands.iter().flat_map(Operand::blocks_along) {
        let met: Vec<usize> = along.iter().filter_map(|&out| group[out]).collect();
        let to = along.iter().chain(&met).copied().min();
        let moves =
            |out: usize, g: &Option<usize>| along.contains(&out) || g.is_some_and(|g| met.contains(&g));
        for (out, g) in group.iter_mut().enumerate() {
            if moves(out, g) {
                *g = to;
            }
        }
    }
    let of = |root| (0..rank).filter(|&out| group[out] == Some(root)).collect::<Vec<_>>();
    (0..rank).map(of).filter(|list| !list.is_empty()).collect()
}

/// The block over these axes of the result, made of the blocks that the operands have there.
fn merged(labels: &mut Labels, shape: &[usize], over: &[usize], operands: &[Operand]) -> Block {
    let sizes: Vec<usize> = over.iter().map(|&out| shape[out]).collect();
    let mut result = vec![Label::Free; sizes.iter().product()];
    for operand in operands {
        for (along, block) in operand.blocks_along().filter(|(along, _)| over.contains(&along[0])) {
            if along == over {
                result.iter_mut().zip(&block.labels).for_each(|(entry, &l)| *entry = labels.join(*entry, l));
                continue;
            }
            let own: Vec<usize> = along.iter().map(|&out| shape[out]).collect();
            let places: Vec<usize> =
                along.iter().filter_map(|out| over.iter().position(|o| o == out)).collect();
            for (flat, entry) in result.iter_mut().enumerate() {
                let at = coordinates(flat, &sizes);
                let from = flat_index(places.iter().map(|&p| at[p]), &own);
                *entry = labels.join(*entry, block.labels[from]);
            }
        }
    }
    Block { axes: over.to_vec(), labels: result }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(labels: &mut Labels, count: usize) -> Vec<Label> {
        labels.fresh(count).map(Label::Of).collect()
    }

    fn block(shape: &[usize], axes: &[usize], labels: Vec<Label>) -> Axes {
        let mut made = Axes::fixed(shape, Why::Data);
        made.blocks.push(Block { axes: axes.to_vec(), labels });
        made
    }

    #[test]
    fn heads_meet_heads_that_are_split_from_a_width() {
        let mut labels = Labels::default();
        let (heads, width) = (fresh(&mut labels, 2), fresh(&mut labels, 6));
        let mut scores = block(&[2, 3], &[0], heads);
        scores.plain[1] = Plain::Free;
        let values = block(&[2, 3], &[0, 1], width);
        let operands = vec![Operand::aligned(scores), Operand::aligned(values)];
        let out = join(&mut labels, &[2, 3], operands, Why::Output);
        assert_eq!(out.blocks.len(), 1);
        assert_eq!(out.line(0), Some(&[Label::Of(0), Label::Of(1)][..]));
        assert_eq!([2, 4, 5, 7].map(|i| labels.class(i)), [0, 0, 1, 1]);
    }

    #[test]
    fn a_table_of_sines_leaves_the_heads() {
        let mut labels = Labels::default();
        let width = fresh(&mut labels, 6);
        let operands = vec![
            Operand::aligned(block(&[2, 3], &[0, 1], width)),
            Operand::aligned(Axes::fixed(&[1, 3], Why::Data)),
        ];
        let out = join(&mut labels, &[2, 3], operands, Why::Output);
        assert_eq!(out.line(0), Some(&[Label::Of(0), Label::Of(3)][..]));
        assert_eq!(labels.frozen(0), None);
        assert_eq!(out.plain[1], Plain::Fixed(Why::Data));
    }

    #[test]
    fn two_axes_apart_meet_a_split_one_at_the_outer() {
        let mut labels = Labels::default();
        let (outer, inner, both) = (fresh(&mut labels, 2), fresh(&mut labels, 2), fresh(&mut labels, 4));
        let mut apart = block(&[2, 2], &[0], outer);
        apart.blocks.push(Block { axes: vec![1], labels: inner });
        let operands = vec![Operand::aligned(apart), Operand::aligned(block(&[2, 2], &[0, 1], both))];
        let out = join(&mut labels, &[2, 2], operands, Why::Output);
        assert_eq!(out.line(0), Some(&[Label::Of(0), Label::Of(1)][..]));
        assert_eq!(labels.frozen(2), Some(Why::Inner));
        assert_eq!([4, 5, 6, 7].map(|i| labels.class(i)), [0, 0, 1, 1]);
    }
}
