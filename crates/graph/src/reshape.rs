//! Axes that are split and merged.
//!
//! Both shapes are cut into the same finer axes, their atoms: `[2, 6]` and `[3, 4]` have none, `[2, 12]` and `[6, 4]`
//! have `[2, 3, 4]`. A labelled axis becomes a block of its atoms; a block over atoms becomes one over the axes that
//! have them.

use crate::axes::{Axes, Block, Plain, coordinates, flat_index};
use crate::labels::{Label, Labels};
use crate::why::Why;
use std::ops::Range;

/// The same entries, row-major, under another shape; and for each axis of the result the axes that it came from.
///
/// `merged` is the reason why entries stay whose axis cannot be told from another one in the result.
pub(crate) fn reshape(
    axes: &Axes,
    shape: &[usize],
    merged: Why,
    labels: &mut Labels,
) -> (Axes, Vec<Vec<usize>>) {
    let mut from = axes.clone();
    if shape.contains(&0) || from.shape.contains(&0) {
        from.freeze(merged, labels);
        return (Axes::fixed(shape, merged), vec![Vec::new(); shape.len()]);
    }
    from.tidy(labels);
    // A single entry cannot be followed through a shape; a group of one is of no use either.
    for axis in 0..from.shape.len() {
        if from.shape[axis] == 1 && from.line(axis).is_some() {
            from.collapse(axis, Why::Single, labels);
        }
    }
    let atoms = Atoms::new(&from.shape, shape);
    for (axis, _) in atoms.from.iter().enumerate().filter(|(_, range)| range.is_none()) {
        from.collapse(axis, merged, labels);
    }
    let lineage = atoms.to.iter().zip(shape).map(|(to, &size)| atoms.sources(to, size)).collect();
    let mut fine = split(&from, &atoms);
    fine.tidy(labels);
    let mut result = merge(fine, &atoms, shape, merged, labels);
    for (axis, _) in atoms.to.iter().enumerate().filter(|(_, range)| range.is_none()) {
        result.plain[axis] = Plain::Fixed(merged);
    }
    result.tidy(labels);
    (result, lineage)
}

/// The finer axes of two shapes; an axis that has no finer ones in common with the other shape has `None`.
struct Atoms {
    sizes: Vec<usize>,
    from: Vec<Option<Range<usize>>>,
    to: Vec<Option<Range<usize>>>,
    /// Axes of the first shape in each uncut part.
    uncut: Vec<usize>,
}

impl Atoms {
    fn new(from: &[usize], to: &[usize]) -> Self {
        let (mut i, mut j) = (0, 0);
        let mut atoms = Self { sizes: Vec::new(), from: Vec::new(), to: Vec::new(), uncut: Vec::new() };
        while i < from.len() || j < to.len() {
            let (i0, j0) = (i, j);
            let (mut left, mut right) = (1, 1);
            let advance = |list: &[usize], at: &mut usize, product: &mut usize| {
                *product *= list.get(*at).copied().unwrap_or(1);
                *at = (*at + 1).min(list.len());
            };
            advance(from, &mut i, &mut left);
            advance(to, &mut j, &mut right);
            while left != right && (i < from.len() || j < to.len()) {
                if (left < right && i < from.len()) || j == to.len() {
                    advance(from, &mut i, &mut left);
                } else {
                    advance(to, &mut j, &mut right);
                }
            }
            atoms.segment(&from[i0..i], &to[j0..j], i0);
        }
        atoms
    }

    /// Cuts two runs of axes of as many entries.
    fn segment(&mut self, from: &[usize], to: &[usize], first: usize) {
        let mut cuts: Vec<usize> = [1].into_iter().chain(suffixes(from)).chain(suffixes(to)).collect();
        cuts.sort_unstable();
        cuts.dedup();
        if cuts.windows(2).any(|pair| pair[1] % pair[0] != 0) {
            self.from.extend(from.iter().map(|_| None));
            self.to.extend(to.iter().map(|_| None));
            self.uncut.extend(first..first + from.len());
            return;
        }
        let start = self.sizes.len();
        self.sizes.extend(cuts.windows(2).rev().map(|pair| pair[1] / pair[0]));
        let place = |product: usize| start + cuts.iter().rev().position(|&c| c == product).unwrap_or(0);
        let ranges = |list: &[usize]| -> Vec<Option<Range<usize>>> {
            let ends: Vec<usize> = suffixes(list).collect::<Vec<_>>().into_iter().rev().collect();
            let range = |(&outer, &size): (&usize, &usize)| Some(place(outer)..place(outer / size));
            ends.iter().zip(list).map(range).collect()
        };
        self.from.extend(ranges(from));
        self.to.extend(ranges(to));
    }

    /// Axes of the first shape that share atoms with an axis of the second one.
    fn sources(&self, to: &Option<Range<usize>>, size: usize) -> Vec<usize> {
        let Some(to) = to else { return if size == 1 { Vec::new() } else { self.uncut.clone() } };
        let meets = |from: &Option<Range<usize>>| {
            from.as_ref().is_some_and(|from| from.start < to.end && to.start < from.end)
        };
        (0..self.from.len()).filter(|&axis| meets(&self.from[axis])).collect()
    }
}

/// Products of the last axes, from the innermost on.
fn suffixes(list: &[usize]) -> impl Iterator<Item = usize> {
    list.iter().rev().scan(1, |product, size| {
        *product *= size;
        Some(*product)
    })
}

fn split(axes: &Axes, atoms: &Atoms) -> Axes {
    let mut fine = Axes::free(&atoms.sizes);
    for (axis, range) in atoms.from.iter().enumerate() {
        range.iter().flat_map(Range::clone).for_each(|atom| fine.plain[atom] = axes.plain[axis]);
    }
    let of = |&axis: &usize| atoms.from[axis].clone().unwrap_or(0..0);
    let block = |b: &Block| Block { axes: b.axes.iter().flat_map(of).collect(), labels: b.labels.clone() };
    fine.blocks = axes.blocks.iter().map(block).collect();
    fine
}

fn merge(mut fine: Axes, atoms: &Atoms, shape: &[usize], merged: Why, labels: &mut Labels) -> Axes {
    for range in atoms.to.iter().flatten() {
        // One of several labelled axes that become one can keep its labels: the outermost.
        let first = range.clone().find_map(|atom| fine.block_at(atom).map(|b| fine.blocks[b].axes[0]));
        for atom in range.clone() {
            let block = fine.block_at(atom).map(|b| fine.blocks[b].axes[0]);
            if block.is_some() && block != first {
                fine.collapse(atom, merged, labels);
            }
        }
    }
    let mut result = Axes::free(shape);
    for (plain, range) in result.plain.iter_mut().zip(&atoms.to) {
        let fixed = range.clone().unwrap_or(0..0).find_map(|atom| match fine.plain[atom] {
            Plain::Fixed(why) => Some(why),
            Plain::Free => None,
        });
        fixed.into_iter().for_each(|why| *plain = Plain::Fixed(why));
    }
    result.blocks = fine.blocks.iter().map(|block| coarse(&fine, block, atoms, shape)).collect();
    result
}

/// A block over atoms as one over the axes that have them.
fn coarse(fine: &Axes, block: &Block, atoms: &Atoms, shape: &[usize]) -> Block {
    let range = |axis: usize| atoms.to[axis].clone().unwrap_or(0..0);
    let axes: Vec<usize> =
        (0..shape.len()).filter(|&axis| block.axes.iter().any(|atom| range(axis).contains(atom))).collect();
    let sizes: Vec<usize> = axes.iter().map(|&axis| shape[axis]).collect();
    let label = |flat| {
        let mut at = vec![0; atoms.sizes.len()];
        for (&axis, index) in axes.iter().zip(coordinates(flat, &sizes)) {
            let within = range(axis);
            at[within.clone()].copy_from_slice(&coordinates(index, &atoms.sizes[within]));
        }
        block.labels[flat_index(block.axes.iter().map(|&atom| at[atom]), &fine.sizes(block))]
    };
    let labels: Vec<Label> = (0..sizes.iter().product()).map(label).collect();
    Block { axes, labels }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn width(labels: &mut Labels, shape: &[usize], axis: usize) -> Axes {
        let ids = labels.fresh(shape[axis]).map(Label::Of).collect();
        let mut axes = Axes::fixed(shape, Why::Data);
        axes.blocks.push(Block { axes: vec![axis], labels: ids });
        axes
    }

    fn atoms(from: &[usize], to: &[usize]) -> Vec<usize> {
        Atoms::new(from, to).sizes
    }

    #[test]
    fn shapes_are_cut_finely_enough_and_no_finer() {
        assert_eq!(atoms(&[2, 12], &[6, 4]), [2, 3, 4]);
        assert_eq!(atoms(&[2, 3, 4], &[2, 12]), [2, 3, 4]);
        assert_eq!(atoms(&[5, 6], &[5, 1, 6, 1]), [5, 6]);
        assert_eq!(atoms(&[1], &[1, 1]), [0; 0]);
        let uncut = Atoms::new(&[7, 2, 6], &[7, 3, 4]);
        assert_eq!((uncut.sizes.as_slice(), uncut.uncut.as_slice()), (&[7][..], &[1, 2][..]));
    }

    #[test]
    fn a_width_is_split_into_heads_and_merged_again() {
        let mut labels = Labels::default();
        let x = width(&mut labels, &[2, 5, 6], 2);
        let (heads, lineage) = reshape(&x, &[2, 5, 3, 2], Why::Output, &mut labels);
        assert_eq!(heads.blocks[0].axes, [2, 3]);
        assert_eq!(lineage, [vec![0], vec![1], vec![2], vec![2]]);
        let (whole, _) = reshape(&heads, &[10, 6], Why::Output, &mut labels);
        assert_eq!(whole.line(1), x.line(2));
        assert_eq!((0..6).map(|i| labels.class(i)).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn flattened_channels_repeat_their_label_for_each_pixel() {
        let mut labels = Labels::default();
        let x = width(&mut labels, &[2, 3, 2, 2], 1);
        let (flat, lineage) = reshape(&x, &[2, 12], Why::Output, &mut labels);
        let ids: Vec<Label> = (0..12).map(|i| Label::Of(i / 4)).collect();
        assert_eq!(flat.line(1), Some(&ids[..]));
        assert_eq!(lineage[1], [1, 2, 3]);
        let (back, _) = reshape(&flat, &[2, 3, 4], Why::Output, &mut labels);
        assert_eq!(back.line(1), x.line(1));
    }

    #[test]
    fn of_two_labelled_axes_that_merge_the_outer_keeps_its_labels() {
        let mut labels = Labels::default();
        let mut x = width(&mut labels, &[2, 3], 0);
        x.blocks.push(Block { axes: vec![1], labels: labels.fresh(3).map(Label::Of).collect() });
        let (flat, _) = reshape(&x, &[6], Why::Merged(1), &mut labels);
        assert_eq!(flat.line(0).map(|l| l[3]), Some(Label::Of(1)));
        assert_eq!(labels.frozen(2), Some(Why::Merged(1)));
        assert_eq!(labels.frozen(0), None);
    }

    #[test]
    fn shapes_without_common_atoms_and_empty_ones_freeze() {
        for (from, to) in [(vec![2, 6], vec![3, 4]), (vec![0, 3], vec![3, 0])] {
            let mut labels = Labels::default();
            let x = width(&mut labels, &from, 1);
            let (out, _) = reshape(&x, &to, Why::Merged(3), &mut labels);
            assert!(out.blocks.is_empty());
            assert_eq!(labels.frozen(0), Some(Why::Merged(3)));
        }
    }
}
