//! Size of the weights: what is small does little (Han et al. 2015, arXiv 1506.02626; for filters Li et al. 2017,
//! arXiv 1608.08710).

use super::Importance;
use crate::axis::UnitAxis;
use crate::pattern::Grid;
use burn::prelude::*;

/// Mean magnitude in each block, of the [scores'](Grid::scores) shape.
pub fn of_blocks<B: Backend>(grid: &Grid, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    grid.mean(weight.abs())
}

/// The norm of each unit over several weights together, `[1, units]`: the sum of magnitudes or, for
/// [`L2`](Importance::L2), the root of the sum of squares. `None` for no weights.
pub fn of_units<B: Backend>(
    importance: Importance,
    weights: impl IntoIterator<Item = (UnitAxis, Tensor<B, 2>)>,
) -> Option<Tensor<B, 2>> {
    let squares = importance == Importance::L2;
    let part = |(axis, weight): (UnitAxis, Tensor<B, 2>)| {
        axis.sum(if squares { weight.square() } else { weight.abs() })
    };
    let sum = weights.into_iter().map(part).reduce(|a, b| a + b)?;
    Some(if squares { sum.sqrt() } else { sum })
}
