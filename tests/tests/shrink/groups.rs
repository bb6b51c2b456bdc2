//! Groups of dimensions by hand.

use briquette_core::{Dependencies, DimensionGroup, Member, ModelView, Role};

/// Makes the groups of one model.
pub(crate) struct Groups<'a> {
    view: &'a ModelView,
    groups: Vec<DimensionGroup>,
}

impl<'a> Groups<'a> {
    pub(crate) fn of(view: &'a ModelView) -> Self {
        Self { view, groups: Vec::new() }
    }

    /// Begins a group; members are added to the last one.
    pub(crate) fn group(mut self, name: &str, units: usize) -> Self {
        self.groups.push(DimensionGroup { name: name.into(), units, members: vec![], averaged_by: vec![] });
        self
    }

    /// An axis of the parameter of this name; `indices` of each unit.
    pub(crate) fn member(
        mut self,
        name: &str,
        axis: usize,
        role: Role,
        indices: impl Fn(usize) -> Vec<usize>,
    ) -> Self {
        let parameter = self.view.parameters.iter().find(|p| p.name == name);
        let parameter = parameter.unwrap_or_else(|| panic!("no parameter {name}"));
        let group = self.groups.last_mut().unwrap();
        let units: Vec<Vec<usize>> = (0..group.units).map(indices).collect();
        assert!(units.iter().flatten().all(|i| *i < parameter.shape[axis]), "{name}");
        let (name, path) = (name.to_string(), parameter.path.clone());
        group.members.push(Member { name, path, axis, role, units });
        self
    }

    /// Weight and bias of a linear layer whose outputs are the units' values.
    pub(crate) fn outputs(self, layer: &str, indices: impl Fn(usize) -> Vec<usize>) -> Self {
        let weight = format!("{layer}.weight");
        self.member(&weight, 1, Role::Produces, &indices).member(
            &format!("{layer}.bias"),
            0,
            Role::Produces,
            &indices,
        )
    }

    /// Weight of a linear layer that reads the values.
    pub(crate) fn inputs(self, layer: &str, indices: impl Fn(usize) -> Vec<usize>) -> Self {
        self.member(&format!("{layer}.weight"), 0, Role::Consumes, indices)
    }

    /// A convolution that reads the values.
    pub(crate) fn channels(self, conv: &str, indices: impl Fn(usize) -> Vec<usize>) -> Self {
        self.member(&format!("{conv}.weight"), 1, Role::Consumes, indices)
    }

    /// A layer that averages over the axis and cannot leave entries out.
    pub(crate) fn averaged_at(mut self, path: &str) -> Self {
        self.groups.last_mut().unwrap().averaged_by.push(path.into());
        self
    }

    pub(crate) fn finish(self) -> Dependencies {
        Dependencies { groups: self.groups, ..Dependencies::default() }
    }
}

/// A unit is one entry.
pub(crate) fn one(unit: usize) -> Vec<usize> {
    vec![unit]
}

/// A unit is a run of `length` entries.
pub(crate) fn run(length: usize) -> impl Fn(usize) -> Vec<usize> {
    move |unit| (unit * length..(unit + 1) * length).collect()
}
