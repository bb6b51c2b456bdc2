//! What a weight's quantization is: bits, granularity, arithmetic.

use crate::rounding::Rounding;
use briquette_core::{LayerKind, Problem, ScaleRule};
use serde::{Deserialize, Serialize};

/// Which weights share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// One scale for the whole weight.
    Tensor,
    /// One scale for each output row.
    Channel,
    /// This many equal runs of the row-major weight (DeepSpeed's `quantize_groups`): whole rows
    /// share a scale where there are fewer groups than rows.
    Groups(usize),
    /// Runs of this many input columns within each row.
    GroupSize(usize),
}

/// How a weight `[out, in]` is cut: `count` runs of `length` consecutive values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Groups {
    /// Number of groups.
    pub count: usize,
    /// Values in each.
    pub length: usize,
}

impl Groups {
    /// Columns that share a scale in the packed form, which keeps scales per row:
    /// the greatest common divisor of the group's length and the row's.
    pub fn columns(&self, row: usize) -> usize {
        let (mut a, mut b) = (self.length, row);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    }
}

impl Granularity {
    /// The groups of a weight of this kind and canonical shape.
    ///
    /// An embedding is quantized token-wise, one group for each row, whatever is asked, unless a
    /// group size within the row is given.
    ///
    /// # Errors
    /// The problem to report where the groups do not divide the weight evenly.
    pub fn groups(&self, kind: LayerKind, [out, columns]: [usize; 2]) -> Result<Groups, Problem> {
        let total = out * columns;
        let count = match (self, kind) {
            (Granularity::GroupSize(size), _) => {
                return match columns.checked_rem(*size) {
                    Some(0) => Ok(Groups { count: total / size, length: *size }),
                    _ => Err(not_divisible("columns a group", *size, columns)),
                };
            }
            (_, LayerKind::Embedding) | (Granularity::Channel, _) => out,
            (Granularity::Tensor, _) => 1,
            (Granularity::Groups(n), _) => *n,
        };
        match total.checked_rem(count) {
            Some(0) => Ok(Groups { count, length: total / count }),
            _ => Err(not_divisible("groups", count, total)),
        }
    }
}

fn not_divisible(what: &str, by: usize, size: usize) -> Problem {
    Problem::NotDivisible { what: what.into(), by, size }
}

/// How the range of a group is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleSearch {
    /// From the largest magnitude.
    Max,
    /// The fraction of the largest magnitude, among 1.00, 0.98 ... 0.50, with the smallest mean
    /// squared error in the group.
    Mse,
}

/// A weight's quantization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WeightScheme {
    /// Bit width: 3 to 8 uniform, 2 ternary, 1 binary.
    pub bits: u32,
    /// Whether zero is the middle code; ternary and binary weights are always symmetric.
    pub symmetric: bool,
    /// Which weights share a scale.
    pub granularity: Granularity,
    /// How ranges become scales.
    pub rule: ScaleRule,
    /// How values become codes.
    pub rounding: Rounding,
    /// How ranges are chosen.
    pub search: ScaleSearch,
}

impl WeightScheme {
    /// Name of the code for people: `int8`, `uint4`, `ternary`, `binary`.
    pub fn code_name(&self) -> String {
        match (self.bits, self.symmetric) {
            (1, _) => "binary".into(),
            (2, _) => "ternary".into(),
            (b, true) => format!("int{b}"),
            (b, false) => format!("uint{b}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(g: Granularity, kind: LayerKind, shape: [usize; 2]) -> Option<(usize, usize)> {
        g.groups(kind, shape).ok().map(|g| (g.count, g.length))
    }

    #[test]
    fn groups_of_every_granularity() {
        let linear = LayerKind::Linear;
        assert_eq!(groups(Granularity::Tensor, linear, [4, 6]), Some((1, 24)));
        assert_eq!(groups(Granularity::Channel, linear, [4, 6]), Some((4, 6)));
        assert_eq!(groups(Granularity::Groups(2), linear, [4, 6]), Some((2, 12)));
        assert_eq!(groups(Granularity::Groups(8), linear, [4, 6]), Some((8, 3)));
        assert_eq!(groups(Granularity::Groups(5), linear, [4, 6]), None);
        assert_eq!(groups(Granularity::Groups(0), linear, [4, 6]), None);
        assert_eq!(groups(Granularity::GroupSize(3), linear, [4, 6]), Some((8, 3)));
        assert_eq!(groups(Granularity::GroupSize(4), linear, [4, 6]), None);
        assert_eq!(groups(Granularity::Groups(5), LayerKind::Embedding, [4, 6]), Some((4, 6)));
    }

    #[test]
    fn packed_groups_stay_within_a_row() {
        assert_eq!(Groups { count: 2, length: 12 }.columns(6), 6);
        assert_eq!(Groups { count: 8, length: 3 }.columns(6), 3);
        assert_eq!(Groups { count: 3, length: 8 }.columns(6), 2);
    }
}
