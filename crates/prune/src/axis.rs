//! Where the units of a group lie in a weight.

use briquette_core::{LayerKind, Member, Site};
use burn::prelude::*;
use burn::tensor::IndexingUpdateOp;

/// An axis of the canonical view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Along {
    /// `out`.
    Rows,
    /// `in`.
    Columns,
}

/// Where the units of a group lie along one axis of a weight `[out, in]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitAxis {
    /// The axis.
    pub along: Along,
    /// Length of the axis.
    pub length: usize,
    /// Number of units.
    pub units: usize,
    layout: Layout,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Layout {
    /// One after the other, `each` entries from `from` on: nearly always.
    Even { from: usize, each: usize },
    /// The unit of each entry, the number of units where it is in none.
    Listed(Vec<usize>),
}

impl UnitAxis {
    /// For a member that is the weight of `site`, with burn's axes and indices.
    ///
    /// # Errors
    /// In words, when the member's indices are not within the axis, as for a convolution in groups.
    pub fn of(site: &Site, member: &Member) -> Result<Self, String> {
        let (along, length, each) = match (site.kind, member.axis) {
            (LayerKind::Linear, 0) => (Along::Columns, site.shape[1], 1),
            (LayerKind::Linear, 1) | (LayerKind::Conv2d | LayerKind::Embedding, 0) => {
                (Along::Rows, site.shape[0], 1)
            }
            (LayerKind::Embedding, 1) => (Along::Columns, site.shape[1], 1),
            // A channel has an entry for each position of the kernel.
            (LayerKind::Conv2d, 1) => (Along::Columns, site.shape[1], site.native[2..].iter().product()),
            (kind, axis) => return Err(format!("axis {axis} of {kind} has no units")),
        };
        let entries = |unit: &Vec<usize>| unit.iter().flat_map(|i| i * each..(i + 1) * each).collect();
        let units: Vec<Vec<usize>> = member.units.iter().map(entries).collect();
        if let Some(beyond) = units.iter().flatten().find(|i| **i >= length) {
            let text =
                format!("entry {} is beyond its {} entries", beyond / each.max(1), length / each.max(1));
            let groups = if site.kind == LayerKind::Conv2d { ": a convolution in groups" } else { "" };
            return Err(text + groups);
        }
        Ok(Self { along, length, units: units.len(), layout: layout(&units, length) })
    }

    /// All columns of a weight `[out, columns]`, in `units` equal parts.
    pub fn even_columns(columns: usize, units: usize) -> Self {
        let layout = Layout::Even { from: 0, each: columns / units.max(1) };
        Self { along: Along::Columns, length: columns, units, layout }
    }

    /// Whether it is the axis of a weight of this shape `[out, in]`.
    pub fn fits(&self, shape: [usize; 2]) -> bool {
        shape[usize::from(self.along == Along::Columns)] == self.length
    }

    /// Entries of the axis in all units.
    pub fn covered(&self) -> usize {
        match &self.layout {
            Layout::Even { each, .. } => each * self.units,
            Layout::Listed(of) => of.iter().filter(|u| **u < self.units).count(),
        }
    }

    /// The entries of each unit, ascending.
    pub fn entries(&self) -> Vec<Vec<usize>> {
        let mut entries = vec![Vec::new(); self.units];
        for entry in 0..self.length {
            if let Some(unit) = entries.get_mut(self.unit_of(entry)) {
                unit.push(entry);
            }
        }
        entries
    }

    /// What stands for each unit, `[1, units]`, for each entry of the axis: `[1, in]` for columns, `[out, 1]` for rows.
    /// Entries in no unit get 1. Gradients add up over the entries of a unit.
    pub fn spread<B: Backend>(&self, units: Tensor<B, 2>) -> Tensor<B, 2> {
        let entries = match &self.layout {
            Layout::Even { from, each } => {
                let inner: Tensor<B, 2> = units.transpose().expand([self.units, *each]);
                let inner = inner.reshape([1, self.units * each]);
                self.fill(inner, *from)
            }
            Layout::Listed(of) => {
                let one = units.clone().slice([0..1, 0..1]).ones_like();
                let index = self.index(of, &units.device());
                Tensor::cat(vec![units, one], 1).select(1, index)
            }
        };
        match self.along {
            Along::Rows => entries.transpose(),
            Along::Columns => entries,
        }
    }

    /// `inner` between ones, `[1, length]`.
    fn fill<B: Backend>(&self, inner: Tensor<B, 2>, from: usize) -> Tensor<B, 2> {
        let width = inner.dims()[1];
        let ones = |count: usize| {
            let one = inner.clone().slice([0..1, 0..1]).ones_like();
            (count > 0).then(|| one.expand([1, count]))
        };
        let (before, after) = (ones(from), ones(self.length - from - width));
        if before.is_none() && after.is_none() {
            return inner;
        }
        let parts = [before, Some(inner), after].into_iter().flatten().collect();
        Tensor::cat(parts, 1)
    }

    /// The sum of `values` `[out, in]` over each unit, `[1, units]`.
    pub fn sum<B: Backend>(&self, values: Tensor<B, 2>) -> Tensor<B, 2> {
        let entries = match self.along {
            Along::Rows => values.sum_dim(1).transpose(),
            Along::Columns => values.sum_dim(0),
        };
        match &self.layout {
            Layout::Even { from, each } => {
                let inner = entries.slice([0..1, *from..from + self.units * each]);
                inner.reshape([self.units, *each]).sum_dim(1).transpose()
            }
            Layout::Listed(of) => {
                let zero = entries.clone().slice([0..1, 0..1]).zeros_like();
                let index = self.index(of, &entries.device());
                let sums = zero.expand([1, self.units + 1]);
                let sums = sums.select_assign(1, index, entries, IndexingUpdateOp::Add);
                sums.slice([0..1, 0..self.units])
            }
        }
    }

    fn index<B: Backend>(&self, of: &[usize], device: &B::Device) -> Tensor<B, 1, Int> {
        let of: Vec<i32> = of.iter().map(|u| i32::try_from(*u).unwrap_or(i32::MAX)).collect();
        Tensor::from_data(TensorData::new(of, [self.length]), device)
    }

    /// The units on what is left when only these entries of the axis stay, ascending.
    #[must_use]
    pub fn cut(&self, kept: &[usize]) -> Self {
        let mut units: Vec<Vec<usize>> = vec![Vec::new(); self.units];
        for (at, entry) in kept.iter().enumerate() {
            if let Some(unit) = units.get_mut(self.unit_of(*entry)) {
                unit.push(at);
            }
        }
        let layout = layout(&units, kept.len());
        Self { length: kept.len(), layout, ..*self }
    }

    fn unit_of(&self, entry: usize) -> usize {
        match &self.layout {
            Layout::Even { from, each } => {
                entry.checked_sub(*from).map_or(self.units, |i| (i / (*each).max(1)).min(self.units))
            }
            Layout::Listed(of) => of[entry],
        }
    }
}

fn layout(units: &[Vec<usize>], length: usize) -> Layout {
    let first = units.first();
    if let Some((from, each)) = first.and_then(|unit| Some((*unit.first()?, unit.len())))
        && units.iter().flatten().copied().eq(from..from + each * units.len())
        && units.iter().all(|unit| unit.len() == each)
    {
        return Layout::Even { from, each };
    }
    let mut of = vec![units.len(); length];
    for (number, unit) in units.iter().enumerate() {
        unit.iter().for_each(|entry| of[*entry] = number);
    }
    Layout::Listed(of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use briquette_core::{Role, host_floats};
    use burn::backend::{Autodiff, Flex};

    fn site(kind: LayerKind, shape: [usize; 2], native: Vec<usize>) -> Site {
        Site {
            name: "l".into(),
            path: "l".into(),
            kind,
            shape,
            native,
            trainable: true,
            tied: vec![],
            drop_in: true,
        }
    }

    fn member(axis: usize, units: Vec<Vec<usize>>) -> Member {
        Member { name: "l.weight".into(), path: "l.weight".into(), axis, role: Role::Consumes, units }
    }

    fn units(values: &[f32]) -> Tensor<Flex, 2> {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len()]), &Default::default())
    }

    fn counting(shape: [usize; 2]) -> Tensor<Flex, 2> {
        Tensor::<Flex, 1, Int>::arange(0..(shape[0] * shape[1]) as i64, &Default::default())
            .float()
            .reshape(shape)
    }

    #[test]
    fn heads_of_a_linear_layer() {
        let linear = site(LayerKind::Linear, [2, 6], vec![6, 2]);
        let axis =
            UnitAxis::of(&linear, &member(0, vec![vec![0, 1, 2], vec![3, 4, 5]])).expect("within the axis");
        assert_eq!(axis, UnitAxis::even_columns(6, 2));
        assert_eq!(axis.covered(), 6);
        assert_eq!(axis.entries(), [[0, 1, 2], [3, 4, 5]]);
        let spread = axis.spread(units(&[7.0, 8.0]));
        assert_eq!((spread.dims(), host_floats(spread)), ([1, 6], vec![7., 7., 7., 8., 8., 8.]));
        assert_eq!(host_floats(axis.sum(counting([2, 6]))), [24.0, 42.0]);
        let rows = UnitAxis::of(&linear, &member(1, vec![vec![0], vec![1]])).expect("within the axis");
        let spread = rows.spread(units(&[7.0, 8.0]));
        assert_eq!((spread.dims(), host_floats(spread)), ([2, 1], vec![7., 8.]));
        assert_eq!(host_floats(rows.sum(counting([2, 6]))), [15.0, 51.0]);
    }

    #[test]
    fn channels_of_a_convolution() {
        let conv = site(LayerKind::Conv2d, [3, 8], vec![3, 4, 1, 2]);
        let second_half = member(1, vec![vec![2], vec![3]]);
        let axis = UnitAxis::of(&conv, &second_half).expect("within the axis");
        assert_eq!(host_floats(axis.spread(units(&[0.0, 5.0]))), [1., 1., 1., 1., 0., 0., 5., 5.]);
        assert_eq!(host_floats(axis.sum(counting([3, 8]))), [75.0, 87.0]);
        let beyond = UnitAxis::of(&conv, &member(1, vec![vec![3], vec![4]])).expect_err("4 channels");
        assert_eq!(beyond, "entry 4 is beyond its 4 entries: a convolution in groups");
    }

    #[test]
    fn fused_heads_lie_apart() {
        // Rows of two heads of size 1 in a fused query, key and value, and a row that always stays.
        let fused = site(LayerKind::Linear, [7, 2], vec![2, 7]);
        let axis =
            UnitAxis::of(&fused, &member(1, vec![vec![0, 2, 4], vec![1, 3, 5]])).expect("within the axis");
        assert_eq!(axis.covered(), 6);
        assert_eq!(axis.entries(), [[0, 2, 4], [1, 3, 5]]);
        assert_eq!(host_floats(axis.spread(units(&[0.0, 3.0]))), [0., 3., 0., 3., 0., 3., 1.]);
        assert_eq!(host_floats(axis.sum(counting([7, 2]))), [1. + 9. + 17., 5. + 13. + 21.]);
        let cut = axis.cut(&[1, 3, 5, 6]);
        assert_eq!(host_floats(cut.spread(units(&[9.0, 2.0]))), [2., 2., 2., 1.]);
    }

    #[test]
    fn what_is_left_of_an_axis() {
        let axis = UnitAxis::even_columns(6, 3);
        let cut = axis.cut(&[0, 1, 4, 5]);
        assert_eq!(host_floats(cut.spread(units(&[7.0, 8.0, 9.0]))), [7., 7., 9., 9.]);
        assert_eq!(host_floats(cut.sum(counting([1, 4]))), [1.0, 0.0, 5.0]);
    }

    #[test]
    fn gradients_add_up_over_a_unit() {
        type A = Autodiff<Flex>;
        let d = Default::default();
        let fused = site(LayerKind::Linear, [2, 4], vec![4, 2]);
        for list in [vec![vec![0, 1], vec![2, 3]], vec![vec![0, 2], vec![1, 3]]] {
            let axis = UnitAxis::of(&fused, &member(0, list.clone())).expect("within the axis");
            let scores = Tensor::<A, 2>::from_floats([[1.0, 1.0]], &d).require_grad();
            let factors = Tensor::<A, 2>::from_floats([[1.0, 10.0, 100.0, 1000.0]], &d);
            let gradients = (axis.spread(scores.clone()) * factors).sum().backward();
            let expected: Vec<f32> =
                list.iter().map(|unit| unit.iter().map(|i| 10f32.powi(*i as i32)).sum()).collect();
            assert_eq!(host_floats(scores.grad(&gradients).expect("a gradient")), expected);
        }
    }
}
