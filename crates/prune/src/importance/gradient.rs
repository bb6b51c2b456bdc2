//! What the loss would change by without a weight, to first order, `|w dL/dw|`, over past steps.
//!
//! A removed weight has no gradient: it computes nothing.

use crate::axis::UnitAxis;
use crate::pattern::Grid;
use burn::prelude::*;

/// What `snip_momentum` keeps of the past at each step, as neural_compressor.
pub const MOMENTUM: f64 = 0.9;

/// `0.9 past + mean of |w dL/dw|` in each block, before each optimizer step (neural_compressor; of the score of Lee et
/// al. 2019, SNIP, arXiv 1810.02340). All of the [scores'](Grid::scores) shape.
pub fn snip_momentum<B: Backend>(grid: &Grid, past: Tensor<B, 2>, change: Tensor<B, 2>) -> Tensor<B, 2> {
    past * MOMENTUM + grid.mean(change)
}

/// `past + mean of |w dL/dw|` in each block (Molchanov et al. 2019, arXiv 1906.10771, equation 8, with magnitudes
/// instead of squares). All of the [scores'](Grid::scores) shape.
pub fn taylor<B: Backend>(grid: &Grid, past: Tensor<B, 2>, change: Tensor<B, 2>) -> Tensor<B, 2> {
    past + grid.mean(change)
}

/// [`taylor`] of units, which are summed: `[1, units]`.
pub fn taylor_of_units<B: Backend>(
    axis: &UnitAxis,
    past: Tensor<B, 2>,
    change: Tensor<B, 2>,
) -> Tensor<B, 2> {
    past + axis.sum(change)
}

/// `|w dL/dw|`.
pub fn change<B: Backend>(weight: Tensor<B, 2>, gradient: Tensor<B, 2>) -> Tensor<B, 2> {
    (weight * gradient).abs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;
    use briquette_core::host_floats;
    use burn::backend::Flex;

    #[test]
    fn recurrences_by_hand() {
        let d = Default::default();
        let grid = Pattern::read("2x1").expect("a pattern").on([2, 2]).expect("it divides");
        let tensor = |values: [[f32; 2]; 2]| Tensor::<Flex, 2>::from_floats(values, &d);
        let of = change(tensor([[1.0, -2.0], [0.5, 4.0]]), tensor([[2.0, 1.0], [-4.0, 0.0]]));
        assert_eq!(host_floats(of.clone()), [2.0, 2.0, 2.0, 0.0]);
        let past = || Tensor::<Flex, 2>::from_floats([[10.0, 20.0]], &d);
        assert_eq!(host_floats(snip_momentum(&grid, past(), of.clone())), [11.0, 19.0]);
        assert_eq!(host_floats(taylor(&grid, past(), of)), [12.0, 21.0]);
    }
}
