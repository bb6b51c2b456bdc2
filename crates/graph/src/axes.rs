//! The axes of a tensor and what is known of their entries.

use crate::labels::{Label, Labels};
use crate::why::Why;

/// An axis none of whose entries can be removed alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plain {
    /// Copies of one entry, or zeros: as long as it has to be.
    Free,
    /// It stays as it is.
    Fixed(Why),
}

/// Axes whose entries have labels together.
///
/// Mostly a block is one axis. An axis that was split, `[heads * d_head]` to `[heads, d_head]`, gives a block of two:
/// as yet nothing says whether heads go or the same part of every head. What follows does.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    /// The axes, ascending.
    pub(crate) axes: Vec<usize>,
    /// A label for each of their combined entries, row-major.
    pub(crate) labels: Vec<Label>,
}

/// Shape of a tensor and what is known of its axes. Blocks share no axis.
#[derive(Debug, Clone)]
pub(crate) struct Axes {
    pub(crate) shape: Vec<usize>,
    /// For each axis that is in no block.
    pub(crate) plain: Vec<Plain>,
    pub(crate) blocks: Vec<Block>,
}

/// Coordinates of the entry `flat` of a grid of this shape, row-major.
pub(crate) fn coordinates(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut at = vec![0; shape.len()];
    for (index, &size) in shape.iter().enumerate().rev() {
        at[index] = flat % size;
        flat /= size;
    }
    at
}

/// The inverse of [`coordinates`].
pub(crate) fn flat_index(at: impl IntoIterator<Item = usize>, shape: &[usize]) -> usize {
    at.into_iter().zip(shape).fold(0, |flat, (index, size)| flat * size + index)
}

impl Axes {
    /// Nothing can be removed.
    pub(crate) fn fixed(shape: &[usize], why: Why) -> Self {
        Self { shape: shape.to_vec(), plain: vec![Plain::Fixed(why); shape.len()], blocks: Vec::new() }
    }

    /// Copies of one number.
    pub(crate) fn free(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), plain: vec![Plain::Free; shape.len()], blocks: Vec::new() }
    }

    /// Labels for each axis that has some.
    pub(crate) fn labelled(shape: &[usize], labels: Vec<Option<Vec<Label>>>) -> Self {
        let mut axes = Self::fixed(shape, Why::Single);
        let blocks = labels.into_iter().enumerate();
        axes.blocks = blocks.filter_map(|(a, l)| Some(Block { axes: vec![a], labels: l? })).collect();
        axes
    }

    /// Which block has this axis.
    pub(crate) fn block_at(&self, axis: usize) -> Option<usize> {
        self.blocks.iter().position(|b| b.axes.contains(&axis))
    }

    /// The labels of an axis that is a block of its own.
    pub(crate) fn line(&self, axis: usize) -> Option<&[Label]> {
        let block = &self.blocks[self.block_at(axis)?];
        (block.axes.len() == 1).then_some(&block.labels[..])
    }

    /// Sizes of a block's axes.
    pub(crate) fn sizes(&self, block: &Block) -> Vec<usize> {
        block.axes.iter().map(|&axis| self.shape[axis]).collect()
    }

    /// States that no entry of this axis can go alone. Where the axis shares its labels with others, entries of these
    /// can still go; where it does not, all its entries stay.
    pub(crate) fn collapse(&mut self, axis: usize, why: Why, labels: &mut Labels) {
        let Some(index) = self.block_at(axis) else { return };
        self.plain[axis] = Plain::Fixed(why);
        let block = self.blocks.remove(index);
        if block.axes.len() == 1 {
            block.labels.iter().for_each(|&l| labels.freeze(l, why));
            return;
        }
        let sizes = self.sizes(&block);
        let place = block.axes.iter().position(|&a| a == axis).unwrap_or(0);
        let rest: Vec<usize> = without(&sizes, place);
        let mut kept = vec![Label::Free; rest.iter().product()];
        for (flat, &label) in block.labels.iter().enumerate() {
            let to = flat_index(without(&coordinates(flat, &sizes), place), &rest);
            kept[to] = labels.join(kept[to], label);
        }
        self.blocks.insert(index, Block { axes: without(&block.axes, place), labels: kept });
    }

    /// States that all entries stay.
    pub(crate) fn freeze(&self, why: Why, labels: &mut Labels) {
        self.blocks.iter().flat_map(|b| &b.labels).for_each(|&label| labels.freeze(label, why));
    }

    /// Sums over an axis with a parameter that can be zeroed where its entries are removed, so that they may go.
    pub(crate) fn consume(&mut self, axis: usize, labels: &mut Labels) {
        if let Some(index) = self.block_at(axis)
            && self.blocks[index].axes.len() == 1
        {
            self.blocks.remove(index);
            self.plain[axis] = Plain::Free;
        } else {
            self.collapse(axis, Why::Inner, labels);
        }
    }

    /// The axis becomes one of the entries `picks` of it; `None` for zeros.
    pub(crate) fn take(&mut self, axis: usize, picks: &[Option<usize>]) {
        let (old, new) = (self.shape[axis], picks.len());
        let Some(index) = self.block_at(axis) else {
            if let (Plain::Fixed(why), true) = (self.plain[axis], picks.contains(&None)) {
                let label = |p: &Option<usize>| if p.is_some() { Label::Fixed(why) } else { Label::Free };
                self.blocks.push(Block { axes: vec![axis], labels: picks.iter().map(label).collect() });
            }
            self.shape[axis] = new;
            return;
        };
        let block = &self.blocks[index];
        let place = block.axes.iter().position(|&a| a == axis).unwrap_or(0);
        let sizes = self.sizes(block);
        let mut taken = sizes.clone();
        taken[place] = new;
        debug_assert_eq!(sizes[place], old);
        let label = |flat| {
            let mut at = coordinates(flat, &taken);
            let Some(from) = picks[at[place]] else { return Label::Free };
            at[place] = from;
            block.labels[flat_index(at, &sizes)]
        };
        let labels = (0..taken.iter().product()).map(label).collect();
        self.blocks[index].labels = labels;
        self.shape[axis] = new;
    }

    /// Axis `j` of the result is axis `order[j]`.
    pub(crate) fn permute(&self, order: &[usize]) -> Self {
        let block = |block: &Block| {
            let from = self.sizes(block);
            // Places within the block, in the order of the result.
            let places: Vec<(usize, usize)> = order
                .iter()
                .enumerate()
                .filter_map(|(to, axis)| Some((to, block.axes.iter().position(|a| a == axis)?)))
                .collect();
            let sizes: Vec<usize> = places.iter().map(|&(_, place)| from[place]).collect();
            let label = |flat| {
                let mut at = vec![0; from.len()];
                let moved = coordinates(flat, &sizes);
                places.iter().zip(moved).for_each(|(&(_, place), index)| at[place] = index);
                block.labels[flat_index(at, &from)]
            };
            Block {
                axes: places.iter().map(|&(to, _)| to).collect(),
                labels: (0..block.labels.len()).map(label).collect(),
            }
        };
        Self {
            shape: order.iter().map(|&axis| self.shape[axis]).collect(),
            plain: order.iter().map(|&axis| self.plain[axis]).collect(),
            blocks: self.blocks.iter().map(block).collect(),
        }
    }

    /// Takes axes out of blocks along which the labels do not change, and blocks out that have none.
    pub(crate) fn tidy(&mut self, labels: &mut Labels) {
        for mut block in std::mem::take(&mut self.blocks) {
            block.labels.iter_mut().for_each(|l| *l = labels.canonical(*l));
            if !block.labels.iter().any(|l| matches!(l, Label::Of(_))) {
                let fixed = block.labels.iter().find_map(|l| match l {
                    Label::Fixed(why) => Some(Plain::Fixed(*why)),
                    _ => None,
                });
                block.axes.iter().for_each(|&axis| self.plain[axis] = fixed.unwrap_or(Plain::Free));
                continue;
            }
            self.factor(&mut block);
            self.blocks.push(block);
        }
    }

    fn factor(&mut self, block: &mut Block) {
        // Inner axes first, so that an outer one is left when all entries are of one class.
        let mut order: Vec<usize> = block.axes.iter().rev().copied().collect();
        order.sort_by_key(|&axis| self.shape[axis] != 1);
        for axis in order {
            let place = block.axes.iter().position(|&a| a == axis).unwrap_or(0);
            let sizes = self.sizes(block);
            let first = |flat: usize| {
                let mut at = coordinates(flat, &sizes);
                at[place] = 0;
                block.labels[flat_index(at, &sizes)]
            };
            let constant = |(flat, label): (usize, &Label)| *label == first(flat);
            if sizes.len() == 1 || !block.labels.iter().enumerate().all(constant) {
                continue;
            }
            let rest = without(&sizes, place);
            let label = |flat| {
                let mut at = coordinates(flat, &rest);
                at.insert(place, 0);
                block.labels[flat_index(at, &sizes)]
            };
            block.labels = (0..rest.iter().product()).map(label).collect();
            block.axes.remove(place);
            self.plain[axis] = Plain::Fixed(Why::Inner);
        }
    }
}

fn without(list: &[usize], place: usize) -> Vec<usize> {
    let mut list = list.to_vec();
    list.remove(place);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[2, 3]` as one block with labels 0 to 5.
    fn grid() -> (Axes, Labels) {
        let mut labels = Labels::default();
        let ids = labels.fresh(6).map(Label::Of).collect();
        let mut axes = Axes::fixed(&[2, 3], Why::Data);
        axes.blocks.push(Block { axes: vec![0, 1], labels: ids });
        (axes, labels)
    }

    #[test]
    fn collapsing_an_axis_joins_along_it_and_the_last_one_freezes() {
        let (mut axes, mut labels) = grid();
        axes.collapse(1, Why::Inner, &mut labels);
        assert_eq!([1, 2, 4].map(|i| labels.class(i)), [0, 0, 3]);
        assert_eq!(axes.blocks[0].axes, [0]);
        assert_eq!(labels.frozen(0), None);
        axes.collapse(0, Why::Data, &mut labels);
        assert_eq!(labels.frozen(5), Some(Why::Data));
        assert!(axes.blocks.is_empty());
    }

    #[test]
    fn permuting_and_taking_move_labels() {
        let (axes, _) = grid();
        let mut turned = axes.permute(&[1, 0]);
        assert_eq!(turned.shape, [3, 2]);
        let ids = |axes: &Axes| axes.blocks[0].labels.clone();
        assert_eq!(ids(&turned), [0, 3, 1, 4, 2, 5].map(Label::Of));
        turned.take(0, &[Some(2), None]);
        assert_eq!(ids(&turned), [Label::Of(2), Label::Of(5), Label::Free, Label::Free]);
    }

    #[test]
    fn axes_along_which_nothing_changes_leave_the_block() {
        let (mut axes, mut labels) = grid();
        for (a, b) in [(0, 3), (1, 4), (2, 5)] {
            labels.join(Label::Of(a), Label::Of(b));
        }
        axes.tidy(&mut labels);
        assert_eq!(axes.blocks[0].axes, [1]);
        assert_eq!(axes.blocks[0].labels, [0, 1, 2].map(Label::Of));
        assert_eq!(axes.plain[0], Plain::Fixed(Why::Inner));
    }
}
