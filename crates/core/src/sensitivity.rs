//! How much a model's output changes when one group of units loses some.

use crate::cost::Cost;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What was measured with one group made smaller, everything else as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SensitivityCurve {
    /// [`DimensionGroup::name`](crate::DimensionGroup::name).
    pub group: String,
    /// Number of its units.
    pub units: usize,
    /// Numbers of units that stayed, in any order, each with the error of the output.
    pub points: Vec<(usize, f64)>,
}

impl SensitivityCurve {
    /// The error for each number of removed units, from none to all: the largest convex curve that starts at zero and
    /// is nowhere above a measured point, straight between points and beyond the last.
    ///
    /// Convex, because where the units that matter least go first, each further one should cost more than the one
    /// before; what measurements say against it is noise.
    pub fn errors(&self) -> Vec<f64> {
        let removed = |(kept, error): &(usize, f64)| {
            (
                self.units.saturating_sub(*kept) as f64,
                if error.is_finite() { error.max(0.0) } else { f64::MAX },
            )
        };
        let mut left: Vec<(f64, f64)> = self.points.iter().map(removed).filter(|p| p.0 > 0.0).collect();
        left.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut hull = vec![(0.0, 0.0)];
        while let Some((x, y)) = hull.last().copied() {
            left.retain(|point| point.0 > x);
            let slope = |point: &(f64, f64)| (point.1 - y) / (point.0 - x);
            let Some(next) = left.iter().copied().min_by(|a, b| slope(a).total_cmp(&slope(b))) else { break };
            hull.push(next);
        }
        (0..=self.units).map(|gone| interpolated(&hull, gone as f64)).collect()
    }
}

/// The height at `x` of the straight lines through these points, the last of which goes on.
fn interpolated(points: &[(f64, f64)], x: f64) -> f64 {
    let Some(end) = points.iter().position(|p| p.0 >= x).or(points.len().checked_sub(1)) else { return 0.0 };
    let (to, from) = (points[end], points[end.saturating_sub(1)]);
    if to.0 == from.0 {
        return to.1;
    }
    from.1 + (to.1 - from.1) * (x - from.0) / (to.0 - from.0)
}

/// A budget that a group loses units for, together with others.
#[derive(Debug, Clone, PartialEq)]
pub struct Within {
    /// What the whole model costs.
    pub cost: Arc<Cost>,
    /// Whether measured sensitivities decide how much of the group goes, and what they are.
    pub curve: Curve,
}

/// Whether a measured sensitivity decides how many units of a group go.
#[derive(Debug, Clone, PartialEq)]
pub enum Curve {
    /// It does not.
    Unused,
    /// It does, and is still to be measured: until then nothing is chosen.
    Open,
    /// It does.
    Measured(Arc<SensitivityCurve>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(points: &[(usize, f64)]) -> Vec<f64> {
        SensitivityCurve { group: "g".into(), units: 8, points: points.to_vec() }.errors()
    }

    #[test]
    fn errors_are_convex_and_go_through_the_lowest_points() {
        assert_eq!(errors(&[(2, 3.0), (6, 0.5), (4, 1.0)]), [0.0, 0.25, 0.5, 0.75, 1.0, 2.0, 3.0, 4.0, 5.0]);
        // The point in the middle is above the line between its neighbours.
        assert_eq!(errors(&[(6, 0.5), (4, 2.5), (2, 1.5)])[4], 1.0);
        assert_eq!(errors(&[(4, 2.0)])[8], 4.0);
        assert_eq!(errors(&[]), [0.0; 9]);
        assert_eq!(errors(&[(8, 1.0)]), [0.0; 9], "nothing was removed");
        assert!(errors(&[(4, f64::NAN), (2, 0.6)]).iter().all(|e| e.is_finite()));
    }
}
