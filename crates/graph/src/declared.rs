//! Dependencies stated by hand, for models that cannot be traced.

use crate::error::DeclareError;
use briquette_core::{Dependencies, DimensionGroup, LayerKind, Member, ModelView, Parameter, Role, nearest};
use std::collections::BTreeSet;

/// States groups of dimensions member by member, checked against a model.
///
/// ```
/// use briquette_core::ModelView;
/// use briquette_graph::DependenciesBuilder;
/// use burn::nn::{Linear, LinearConfig};
///
/// let device = Default::default();
/// let layers: Vec<Linear<burn::backend::Flex>> =
///     vec![LinearConfig::new(4, 16).init(&device), LinearConfig::new(16, 3).init(&device)];
/// let dependencies = DependenciesBuilder::new(&ModelView::of(&layers))
///     .group(16)
///     .produces("0.weight")
///     .produces("0.bias")
///     .consumes("1.weight")
///     .build()?;
/// assert_eq!(dependencies.groups[0].name, "0");
/// # Ok::<(), briquette_graph::DeclareError>(())
/// ```
#[derive(Debug)]
pub struct DependenciesBuilder<'a> {
    view: &'a ModelView,
    groups: Vec<DimensionGroup>,
    error: Option<DeclareError>,
}

impl<'a> DependenciesBuilder<'a> {
    /// No group yet.
    pub fn new(view: &'a ModelView) -> Self {
        Self { view, groups: Vec::new(), error: None }
    }

    /// Starts a group of so many units; what is stated next belongs to it.
    #[must_use]
    pub fn group(mut self, units: usize) -> Self {
        let (name, members, averaged_by) = (String::new(), Vec::new(), Vec::new());
        self.groups.push(DimensionGroup { name, units, members, averaged_by });
        self
    }

    /// The layer's outputs are the values: rows of a weight, width of an embedding, a bias. `name` is the parameter's,
    /// `fc1.weight`. Units are runs of equal length: with 4 units of 8 rows, unit 1 is rows 2 and 3.
    #[must_use]
    pub fn produces(self, name: &str) -> Self {
        self.whole(name, Role::Produces)
    }

    /// A parameter with one axis that is applied to the values one by one: scale, bias and running statistics of a
    /// normalization.
    #[must_use]
    pub fn follows(self, name: &str) -> Self {
        self.whole(name, Role::Follows)
    }

    /// The layer's inputs are the values: columns of a weight, the width of an embedding that is the output layer.
    #[must_use]
    pub fn consumes(self, name: &str) -> Self {
        self.whole(name, Role::Consumes)
    }

    /// Any entries of any axis, in the layout burn holds the parameter in; `units[u]` are those of unit `u`.
    #[must_use]
    pub fn member(self, name: &str, axis: usize, role: Role, units: Vec<Vec<usize>>) -> Self {
        self.add(|at, group, view| {
            let parameter = find(view, at, name)?;
            let size = *parameter.shape.get(axis).ok_or_else(|| DeclareError::NoSuchAxis {
                group: at,
                name: name.into(),
                axis,
                rank: parameter.shape.len(),
            })?;
            check_entries(&units, at, name, axis, size)?;
            if units.len() != group.units {
                let (found, units) = (units.len(), group.units);
                return Err(DeclareError::OtherUnits { group: at, name: name.into(), found, units });
            }
            group.members.push(member(parameter, axis, role, units));
            Ok(())
        })
    }

    /// The layer of this name averages over the values, as layer normalizations do.
    #[must_use]
    pub fn averaged_by(self, layer: &str) -> Self {
        self.add(|at, group, view| {
            let of = |name: &str| name.rsplit_once('.').map_or(String::new(), |(layer, _)| layer.to_string());
            let Some(parameter) = view.parameters.iter().find(|p| of(&p.name) == layer) else {
                let layers: Vec<String> = view.parameters.iter().map(|p| of(&p.name)).collect();
                let nearest = nearest(layer, layers.iter().map(String::as_str));
                return Err(DeclareError::UnknownLayer { group: at, name: layer.into(), nearest });
            };
            group.averaged_by.push(of(&parameter.path));
            Ok(())
        })
    }

    /// The dependencies.
    ///
    /// # Errors
    /// At the first mistake: a parameter that is not there, an axis that does not fit, a group without producer or
    /// consumer.
    pub fn build(self) -> Result<Dependencies, DeclareError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let place = |m: &Member| {
            let place = self.view.parameters.iter().position(|p| p.path == m.path);
            (place, m.axis, m.role)
        };
        let mut groups = self.groups;
        for (at, group) in groups.iter_mut().enumerate() {
            for role in [Role::Produces, Role::Consumes] {
                if group.with_role(role).next().is_none() {
                    return Err(DeclareError::Lacks { group: at, role });
                }
            }
            group.members.sort_by_key(place);
            let first = group.with_role(Role::Produces).next().map(|m| m.name.clone()).unwrap_or_default();
            group.name = first.strip_suffix(".weight").unwrap_or(&first).to_string();
        }
        groups.sort_by_key(|group| group.members.first().map(place));
        Ok(Dependencies { groups, ..Dependencies::default() })
    }

    /// Adds to the current group, or to a first one without units if there is none; keeps the first error.
    fn add(
        mut self,
        add: impl FnOnce(usize, &mut DimensionGroup, &ModelView) -> Result<(), DeclareError>,
    ) -> Self {
        if self.groups.is_empty() {
            self = self.group(0);
        }
        let at = self.groups.len() - 1;
        if self.error.is_none() {
            self.error = add(at, &mut self.groups[at], self.view).err();
        }
        self
    }

    fn whole(self, name: &str, role: Role) -> Self {
        self.add(|at, group, view| {
            let parameter = find(view, at, name)?;
            let axis = axis(view, parameter, role).ok_or_else(|| DeclareError::UnclearAxis {
                group: at,
                name: name.into(),
                role,
            })?;
            let (size, units) = (parameter.shape[axis], group.units);
            if units == 0 || size % units != 0 {
                return Err(DeclareError::DoesNotDivide { group: at, name: name.into(), axis, size, units });
            }
            let run = size / units;
            let runs = (0..units).map(|unit| (unit * run..(unit + 1) * run).collect()).collect();
            group.members.push(member(parameter, axis, role, runs));
            Ok(())
        })
    }
}

fn find<'v>(view: &'v ModelView, group: usize, name: &str) -> Result<&'v Parameter, DeclareError> {
    view.parameters.iter().find(|p| p.name == name).ok_or_else(|| {
        let nearest = nearest(name, view.parameters.iter().map(|p| p.name.as_str()));
        DeclareError::UnknownParameter { group, name: name.into(), nearest }
    })
}

/// The axis on which a layer of a known kind does this.
fn axis(view: &ModelView, parameter: &Parameter, role: Role) -> Option<usize> {
    if parameter.shape.len() == 1 {
        return (role != Role::Consumes).then_some(0);
    }
    let site = view.sites.iter().find(|s| parameter.path == format!("{}.weight", s.path))?;
    match (site.kind, role) {
        (_, Role::Follows) => None,
        (LayerKind::Linear, Role::Produces) | (LayerKind::Conv2d, Role::Consumes) => Some(1),
        (LayerKind::Linear, Role::Consumes) | (LayerKind::Conv2d, Role::Produces) => Some(0),
        (LayerKind::Embedding, _) => Some(1),
        (LayerKind::BatchNorm, _) => None,
    }
}

fn member(parameter: &Parameter, axis: usize, role: Role, units: Vec<Vec<usize>>) -> Member {
    let (name, path) = (parameter.name.clone(), parameter.path.clone());
    let units = units.into_iter().map(sorted).collect();
    Member { name, path, axis, role, units }
}

fn sorted(mut indices: Vec<usize>) -> Vec<usize> {
    indices.sort_unstable();
    indices
}

fn check_entries(
    units: &[Vec<usize>],
    group: usize,
    name: &str,
    axis: usize,
    size: usize,
) -> Result<(), DeclareError> {
    let mut seen = BTreeSet::new();
    for &index in units.iter().flatten() {
        if index >= size {
            return Err(DeclareError::NoSuchEntry { group, name: name.into(), axis, index, size });
        }
        if !seen.insert(index) {
            return Err(DeclareError::Twice { group, name: name.into(), axis, index });
        }
    }
    Ok(())
}
