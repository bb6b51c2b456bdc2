//! Which parts of a model's parameters are removed for good.

use crate::dependencies::{Dependencies, DimensionGroup};
use crate::model_view::{ModelView, Parameter, Site};
use crate::weight::canonical_shape;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The units of one group that stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptUnits {
    /// [`DimensionGroup::name`].
    pub group: String,
    /// How many units there were.
    pub of: usize,
    /// Which of them stay, ascending, counted from 0.
    pub units: Vec<usize>,
}

/// Units that cannot be removed because the model has no such group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{group}` with {units} units is no group of the model's dimensions")]
pub struct UnknownGroup {
    /// The group's name.
    pub group: String,
    /// Number of its units.
    pub units: usize,
}

/// Which entries of which axes of which parameters are removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    // By the parameter's field path, then by its axis.
    axes: BTreeMap<String, BTreeMap<usize, BTreeSet<usize>>>,
}

impl Removal {
    /// For groups of which only some units stay. Units that are named but not there are passed over.
    pub fn new<'a>(cuts: impl IntoIterator<Item = (&'a DimensionGroup, &'a [usize])>) -> Self {
        let mut removal = Self::default();
        for (group, kept) in cuts {
            let kept: BTreeSet<usize> = kept.iter().copied().collect();
            removal.cut(group, |unit| kept.contains(&unit));
        }
        removal
    }

    fn cut(&mut self, group: &DimensionGroup, stays: impl Fn(usize) -> bool) {
        for member in &group.members {
            let gone = member.units.iter().enumerate().filter(|(unit, _)| !stays(*unit));
            let gone: Vec<usize> = gone.flat_map(|(_, indices)| indices.iter().copied()).collect();
            if !gone.is_empty() {
                let axes = self.axes.entry(member.path.clone()).or_default();
                axes.entry(member.axis).or_default().extend(gone);
            }
        }
    }

    /// Whether nothing is removed.
    pub fn is_empty(&self) -> bool {
        self.axes.is_empty()
    }

    /// Field paths of the parameters that lose something, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.axes.keys().map(String::as_str)
    }

    /// Axes of the parameter at `path` that lose something, each with the indices that go.
    pub fn axes(&self, path: &str) -> impl Iterator<Item = (usize, &BTreeSet<usize>)> {
        self.axes.get(path).into_iter().flatten().map(|(axis, gone)| (*axis, gone))
    }

    /// Indices that stay of an axis with `length` entries, ascending.
    pub fn kept(&self, path: &str, axis: usize, length: usize) -> Vec<usize> {
        let gone = self.axes.get(path).and_then(|axes| axes.get(&axis));
        (0..length).filter(|i| gone.is_none_or(|gone| !gone.contains(i))).collect()
    }

    /// The shape that is left of a parameter.
    pub fn shape(&self, path: &str, shape: &[usize]) -> Vec<usize> {
        let gone =
            |axis: usize| self.axes.get(path).and_then(|axes| axes.get(&axis)).map_or(0, BTreeSet::len);
        shape.iter().enumerate().map(|(axis, length)| length.saturating_sub(gone(axis))).collect()
    }
}

impl Dependencies {
    /// What goes when of each named group only these units stay.
    ///
    /// # Errors
    /// When there is no group of that name with that many units.
    pub fn removal(&self, kept: &[KeptUnits]) -> Result<Removal, UnknownGroup> {
        let cut = |k: &KeptUnits| {
            let group = self.groups.iter().find(|g| g.name == k.group && g.units == k.of);
            group.ok_or_else(|| UnknownGroup { group: k.group.clone(), units: k.of })
        };
        let groups = kept.iter().map(cut).collect::<Result<Vec<_>, _>>()?;
        Ok(Removal::new(groups.into_iter().zip(kept.iter().map(|k| k.units.as_slice()))))
    }
}

impl ModelView {
    /// The view of the model after `removal`. What it says of dependencies is left out: it was made for the whole
    /// model.
    #[must_use]
    pub fn without(&self, removal: &Removal) -> Self {
        let parameter = |p: &Parameter| Parameter { shape: removal.shape(&p.path, &p.shape), ..p.clone() };
        Self {
            sites: self.sites.iter().map(|site| site.without(removal)).collect(),
            parameters: self.parameters.iter().map(parameter).collect(),
            dependencies: None,
            ..self.clone()
        }
    }
}

impl Site {
    /// The layer after `removal`.
    #[must_use]
    pub fn without(&self, removal: &Removal) -> Self {
        let native = removal.shape(&format!("{}.weight", self.path), &self.native);
        let shape = canonical_shape(self.kind, &native).unwrap_or(self.shape);
        Self { shape, native, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Member, Role};

    fn member(path: &str, axis: usize, role: Role, units: Vec<Vec<usize>>) -> Member {
        Member { name: path.into(), path: path.into(), axis, role, units }
    }

    fn group(name: &str, members: Vec<Member>) -> DimensionGroup {
        DimensionGroup { name: name.into(), units: members[0].units.len(), members, averaged_by: Vec::new() }
    }

    #[test]
    fn what_goes_is_the_union_over_groups_and_the_rest_always_stays() {
        let single = |range: std::ops::Range<usize>| range.map(|i| vec![i]).collect::<Vec<_>>();
        let heads = vec![vec![0, 1, 6, 7], vec![2, 3, 8, 9], vec![]];
        let first = group("a", vec![member("qkv.weight", 1, Role::Produces, heads)]);
        let second = group("b", vec![member("qkv.weight", 1, Role::Produces, single(10..12))]);
        let third = group("c", vec![member("qkv.weight", 0, Role::Consumes, single(0..3))]);
        let cuts: [(&DimensionGroup, &[usize]); 3] = [(&first, &[1]), (&second, &[0, 1]), (&third, &[2, 0])];
        let removal = Removal::new(cuts);
        assert_eq!(removal.kept("qkv.weight", 1, 12), [2, 3, 4, 5, 8, 9, 10, 11], "4 and 5 are in no unit");
        assert_eq!(removal.kept("qkv.weight", 0, 3), [0, 2]);
        assert_eq!(removal.kept("other", 0, 2), [0, 1]);
        assert_eq!(removal.shape("qkv.weight", &[3, 12]), [2, 8]);
        assert_eq!(removal.paths().collect::<Vec<_>>(), ["qkv.weight"]);
        assert!(Removal::new([(&second, [0, 1].as_slice())]).is_empty());
    }

    #[test]
    fn groups_are_found_by_name_and_size() {
        let units = vec![vec![0], vec![1]];
        let groups = vec![group("a", vec![member("w", 0, Role::Produces, units)])];
        let dependencies = Dependencies { groups, ..Dependencies::default() };
        let kept = |group: &str, of| vec![KeptUnits { group: group.into(), of, units: vec![1] }];
        let removal = dependencies.removal(&kept("a", 2)).expect("a group");
        assert_eq!(removal.kept("w", 0, 2), [1]);
        let text = dependencies.removal(&kept("a", 3)).expect_err("another size").to_string();
        assert_eq!(text, "`a` with 3 units is no group of the model's dimensions");
    }
}
