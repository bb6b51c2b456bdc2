//! What must be removed together when a model loses a part of one axis.

use crate::cost::Cost;
use serde::{Deserialize, Serialize};

/// How a parameter's axis takes part in a [`DimensionGroup`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Its entries make the values: rows of a weight, entries of its bias, filters of a convolution.
    Produces,
    /// Its entries are applied to the values one by one: scale and bias of a normalization, running statistics.
    Follows,
    /// Its entries are multiplied with the values and summed: columns of the next weight. Where these are zero, the
    /// values do not matter.
    Consumes,
}

/// One axis of one parameter in a [`DimensionGroup`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Name of the parameter in a checkpoint: `bert.encoder.layer.0.intermediate.dense.weight`.
    pub name: String,
    /// Its field path in the Rust model, parameter included.
    pub path: String,
    /// The axis, in the layout burn holds the parameter in (a Linear's weight is `[in, out]`).
    pub axis: usize,
    /// What it does there. An axis that makes values and consumes them too (a word embedding that is the output layer)
    /// is listed for both, with the same indices; it is removed once.
    pub role: Role,
    /// For each unit of the group the indices of the axis that go with it, in ascending order; empty where this
    /// parameter has no part in the unit. No index is in two units; those in none always stay, unless a member of
    /// another group has them: where outputs are concatenated, the next layer's columns belong to several groups.
    pub units: Vec<Vec<usize>>,
}

/// Parts of parameters that can only be removed together.
///
/// A group has a number of units, and a unit is the smallest part that can go: a neuron of a feed-forward layer (its
/// row, its bias, the next layer's column), a head of an attention, a channel, an entry of the hidden width.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DimensionGroup {
    /// Name of the first layer that produces the values, without `.weight`; what the group is called in messages.
    pub name: String,
    /// Number of units.
    pub units: usize,
    /// The parameters' axes, in the model's order.
    pub members: Vec<Member>,
    /// Field paths of the layers that average over this axis, such as layer normalizations: they must be told which
    /// units count while the others are only masked.
    pub averaged_by: Vec<String>,
}

impl DimensionGroup {
    /// The member for an axis of the parameter at `path` with this role.
    pub fn member(&self, path: &str, role: Role) -> Option<&Member> {
        self.members.iter().find(|m| m.path == path && m.role == role)
    }

    /// Members with this role.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |m| m.role == role)
    }
}

/// An axis of a parameter of which at least a part can never be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixed {
    /// Name of the parameter in a checkpoint.
    pub name: String,
    /// Its field path in the Rust model, parameter included.
    pub path: String,
    /// The axis, in the layout burn holds the parameter in.
    pub axis: usize,
    /// Why, as the second half of a sentence: "it is an output of the model".
    pub why: String,
}

/// All groups of a model, in the order of the first parameter of each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependencies {
    /// The groups.
    pub groups: Vec<DimensionGroup>,
    /// What is in no group, and why, in the model's order; what is said to whoever asks for it.
    #[serde(default)]
    pub fixed: Vec<Fixed>,
    /// What the model costs as a function of the units that stay, where it was traced.
    #[serde(default)]
    pub cost: Option<Cost>,
}

impl Dependencies {
    /// The group in which the layer of this name (without `.weight`) has `role` with its weight.
    pub fn group_of(&self, layer: &str, role: Role) -> Option<&DimensionGroup> {
        let weight = format!("{layer}.weight");
        self.groups.iter().find(|g| g.members.iter().any(|m| m.name == weight && m.role == role))
    }

    /// Why the axis of the parameter of this name, or a part of it, stays as it is.
    pub fn why_fixed(&self, name: &str, axis: usize) -> Option<&str> {
        self.fixed.iter().find(|f| f.name == name && f.axis == axis).map(|f| f.why.as_str())
    }
}
