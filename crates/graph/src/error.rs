//! What can go wrong.

use briquette_core::Role;

/// Why a model could not be traced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// The forward pass panicked: the input does not fit, or an operation is not there on the tracing backend.
    #[error("the forward pass panicked while it was traced: {message}")]
    Panicked {
        /// What it said.
        message: String,
    },
    /// The forward pass looks at numbers that were never computed, so what it would do is not known.
    #[error(
        "the forward pass reads a tensor of shape {shape:?} back to the host, so it cannot be traced; state its \
         dependencies by hand (DependenciesBuilder)"
    )]
    ReadsValues {
        /// Shape of the tensor.
        shape: Vec<usize>,
    },
    /// The model on the tracing backend has not the parameters of the one it stands for.
    #[error("parameter `{path}` has shape {found:?} in the model to trace, and {expected:?} in the view")]
    OtherModel {
        /// Field path of the parameter.
        path: String,
        /// Its shape in the model.
        found: Vec<usize>,
        /// Its shape in the view; empty where the view does not have it.
        expected: Vec<usize>,
    },
}

/// A mistake in dependencies that were stated by hand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclareError {
    /// No parameter of this name.
    #[error("group {group}: the model has no parameter `{name}`{}", suggestion(.nearest))]
    UnknownParameter {
        /// Number of the group, from 0.
        group: usize,
        /// The name.
        name: String,
        /// A name of the model that looks like it.
        nearest: Option<String>,
    },
    /// Which axis is meant does not follow from the layer's kind.
    #[error("group {group}: which axis of `{name}` {role:?} means is not clear; state it with `member`")]
    UnclearAxis {
        /// Number of the group, from 0.
        group: usize,
        /// The parameter.
        name: String,
        /// The role.
        role: Role,
    },
    /// The axis is not there.
    #[error("group {group}: `{name}` has {rank} axes, there is no axis {axis}")]
    NoSuchAxis {
        /// Number of the group, from 0.
        group: usize,
        /// The parameter.
        name: String,
        /// The axis.
        axis: usize,
        /// How many there are.
        rank: usize,
    },
    /// An axis cannot be cut into so many units.
    #[error("group {group}: axis {axis} of `{name}` has {size} entries, which {units} units do not divide")]
    DoesNotDivide {
        /// Number of the group, from 0.
        group: usize,
        /// The parameter.
        name: String,
        /// The axis.
        axis: usize,
        /// Its size.
        size: usize,
        /// Units of the group.
        units: usize,
    },
    /// A member states another number of units than its group has.
    #[error("group {group}: `{name}` states entries of {found} units, the group has {units}")]
    OtherUnits {
        /// Number of the group, from 0.
        group: usize,
        /// The parameter.
        name: String,
        /// How many it states.
        found: usize,
        /// Units of the group.
        units: usize,
    },
    /// An index beyond the axis.
    #[error("group {group}: axis {axis} of `{name}` has {size} entries, there is no entry {index}")]
    NoSuchEntry {
        /// Number of the group, from 0.
        group: usize,
        /// The parameter.
        name: String,
        /// The axis.
        axis: usize,
        /// The index.
        index: usize,
        /// The axis' size.
        size: usize,
    },
    /// An index in two units.
    #[error("group {group}: entry {index} of axis {axis} of `{name}` is stated twice")]
    Twice {
        /// Number of the group, from 0.
        group: usize,
        /// The parameter.
        name: String,
        /// The axis.
        axis: usize,
        /// The index.
        index: usize,
    },
    /// A group that lacks what makes its values or what takes them.
    #[error("group {group}: no member {role:?} its values, so nothing can be removed")]
    Lacks {
        /// Number of the group, from 0.
        group: usize,
        /// What is lacking.
        role: Role,
    },
    /// A layer that averages is not in the model.
    #[error("group {group}: the model has no layer `{name}`{}", suggestion(.nearest))]
    UnknownLayer {
        /// Number of the group, from 0.
        group: usize,
        /// The name.
        name: String,
        /// A name of the model that looks like it.
        nearest: Option<String>,
    },
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}
