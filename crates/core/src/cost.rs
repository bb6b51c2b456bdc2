//! What a model costs, as a function of the units that stay.

use crate::removal::KeptUnits;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Floating-point operations of one example: two for each multiplication of a sum of products (linear layers,
    /// convolutions, products of activations), one for itself and one for its addition. Normalizations, activation
    /// functions and sums are left out: they are few, and go with the same units.
    Flops,
    /// Entries of all parameters, running statistics included.
    Parameters,
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flops => "FLOPs",
            Self::Parameters => "parameters",
        })
    }
}

/// A group of units that lengths depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CostGroup {
    /// [`DimensionGroup::name`](crate::DimensionGroup::name).
    pub name: String,
    /// Number of its units.
    pub units: usize,
}

/// What one unit of a group adds to a length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LengthPart {
    /// Place of the group in [`Cost::groups`].
    pub group: usize,
    /// For each unit the entries that it adds.
    pub entries: Vec<u64>,
}

/// A length: of an axis, or of several that go together such as heads and their width.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Length {
    /// Entries that always stay.
    pub fixed: u64,
    /// Entries that go with units. Where outputs are concatenated, these are of several groups.
    pub parts: Vec<LengthPart>,
}

impl Length {
    /// The length with the units for which `stays` answers yes.
    pub fn of(&self, stays: &dyn Fn(usize, usize) -> bool) -> u64 {
        let part = |part: &LengthPart| -> u64 {
            let entries = part.entries.iter().enumerate();
            entries.filter(|(unit, _)| stays(part.group, *unit)).map(|(_, n)| n).sum()
        };
        self.fixed + self.parts.iter().map(part).sum::<u64>()
    }
}

/// One operation or parameter: a product of lengths, times a constant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CostTerm {
    /// The layer or parameter; the operation's name where no layer does it.
    pub name: String,
    /// Everything that does not depend on units: examples, positions, kernels.
    pub factor: u64,
    /// The lengths that do.
    pub lengths: Vec<Length>,
}

impl CostTerm {
    /// The product with the units for which `stays`, asked for a group's place and a unit, answers yes.
    pub fn of(&self, stays: &dyn Fn(usize, usize) -> bool) -> u64 {
        self.lengths.iter().fold(self.factor, |product, length| product.saturating_mul(length.of(stays)))
    }
}

/// What a model costs: a sum of products of lengths, each of which depends on the units that stay.
///
/// How many units stay is not enough to tell: in a residual network whose stages grow wider, a channel of the stream
/// that begins in the first stage runs through all of them, and one that begins in the last through that only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// The groups that lengths speak of.
    pub groups: Vec<CostGroup>,
    /// Examples of the input whose multiplications are counted.
    pub examples: u64,
    /// Multiplications of every sum of products, for an input of [`examples`](Self::examples).
    pub multiplications: Vec<CostTerm>,
    /// Entries of every parameter.
    pub parameters: Vec<CostTerm>,
}

impl Cost {
    /// The same for an input that is known to hold so many examples.
    #[must_use]
    pub fn of_examples(self, examples: usize) -> Self {
        Self { examples: examples.max(1) as u64, ..self }
    }

    /// What a measure adds up, and the divisor and factor of the sum.
    pub fn terms(&self, measure: Measure) -> (&[CostTerm], f64) {
        match measure {
            Measure::Flops => (&self.multiplications, 2.0 / self.examples.max(1) as f64),
            Measure::Parameters => (&self.parameters, 1.0),
        }
    }

    /// The cost with the units for which `stays`, asked for a group's place and a unit, answers yes.
    pub fn with(&self, measure: Measure, stays: &dyn Fn(usize, usize) -> bool) -> f64 {
        let (terms, factor) = self.terms(measure);
        terms.iter().map(|term| term.of(stays)).sum::<u64>() as f64 * factor
    }

    /// The cost of the whole model.
    pub fn whole(&self, measure: Measure) -> f64 {
        self.with(measure, &|_, _| true)
    }

    /// The cost where of each named group only these units stay. Groups that are not named stay whole.
    pub fn left(&self, measure: Measure, kept: &[KeptUnits]) -> f64 {
        let mut masks: Vec<Option<Vec<bool>>> = vec![None; self.groups.len()];
        for kept in kept {
            if let Some(at) = self.place_of(&kept.group, kept.of) {
                let mut mask = vec![false; kept.of];
                kept.units.iter().filter(|unit| **unit < kept.of).for_each(|unit| mask[*unit] = true);
                masks[at] = Some(mask);
            }
        }
        self.with(measure, &|group, unit| masks[group].as_ref().is_none_or(|mask| mask[unit]))
    }

    /// What would be saved if the group at this place were gone: the part of the cost that it has to do with. Parts
    /// of groups overlap, as a weight has an input and an output.
    pub fn accounted(&self, measure: Measure, group: usize) -> f64 {
        self.whole(measure) - self.with(measure, &|at, _| at != group)
    }

    /// The place of a group.
    pub fn place_of(&self, name: &str, units: usize) -> Option<usize> {
        self.groups.iter().position(|group| group.name == name && group.units == units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `x: [2, 3]` times `[3, 4]` times `[4, 5]` with the four in a group, one of whose units counts twice.
    fn cost() -> Cost {
        let fixed = |n| Length { fixed: n, parts: Vec::new() };
        let inner = || Length { fixed: 0, parts: vec![LengthPart { group: 0, entries: vec![2, 1, 1] }] };
        let term = |name: &str, factor, lengths| CostTerm { name: name.into(), factor, lengths };
        Cost {
            groups: vec![CostGroup { name: "up".into(), units: 3 }],
            examples: 2,
            multiplications: vec![
                term("up", 2 * 3, vec![inner()]),
                term("down", 2, vec![inner(), fixed(5)]),
                term("other", 7, vec![]),
            ],
            parameters: vec![term("up.weight", 1, vec![fixed(3), inner()])],
        }
    }

    #[test]
    fn a_cost_is_a_sum_of_products() {
        let cost = cost();
        // 24 + 40 + 7 multiplications for two examples, two operations each.
        assert_eq!(cost.whole(Measure::Flops), 71.0);
        assert_eq!(cost.whole(Measure::Parameters), 12.0);
        let kept = |units: &[usize]| vec![KeptUnits { group: "up".into(), of: 3, units: units.to_vec() }];
        assert_eq!(cost.left(Measure::Flops, &kept(&[1, 2])), 39.0);
        assert_eq!(cost.left(Measure::Flops, &kept(&[0])), 39.0);
        assert_eq!(cost.left(Measure::Parameters, &kept(&[2])), 3.0);
        assert_eq!(cost.left(Measure::Flops, &[]), 71.0);
        assert_eq!(cost.accounted(Measure::Flops, 0), 64.0);
        let more = KeptUnits { group: "up".into(), of: 4, units: vec![] };
        assert_eq!(cost.left(Measure::Flops, &[more]), 71.0, "a group of another size is another group");
        assert_eq!(cost.of_examples(1).whole(Measure::Flops), 142.0);
    }
}
