//! Which units stay, on the device: nothing is read back, so it can be done at every step.

use burn::prelude::*;

/// Comparisons at most that are held at a time.
const AT_A_TIME: usize = 1 << 24;

/// 1 for the `kept` highest of `scores` `[1, units]`, 0 for the others; of equal ones the first win.
///
/// Each unit is compared with each: a sort would read the scores back. So it is for the thousands of units of a group,
/// not for the millions of a weight.
pub fn highest<B: Backend>(scores: Tensor<B, 2>, kept: usize) -> Tensor<B, 2> {
    let [_, units] = scores.dims();
    let device = scores.device();
    let rows = (AT_A_TIME / units.max(1)).max(1);
    let index = |from: usize, to: usize| Tensor::<B, 1, Int>::arange(from as i64..to as i64, &device);
    let part = |from: usize| {
        let to = (from + rows).min(units);
        let own: Tensor<B, 2> = scores.clone().slice([0..1, from..to]).transpose().expand([to - from, units]);
        let all: Tensor<B, 2> = scores.clone().expand([to - from, units]);
        let own_index: Tensor<B, 2, Int> = index(from, to).reshape([to - from, 1]).expand([to - from, units]);
        let all_index: Tensor<B, 2, Int> = index(0, units).reshape([1, units]).expand([to - from, units]);
        let ahead = all.clone().greater(own.clone());
        let tie = all.equal(own).bool_and(all_index.lower(own_index));
        // A unit stays while fewer than `kept` are ahead of it.
        let place = ahead.bool_or(tie).int().sum_dim(1);
        place.lower_elem(kept as i64).float().transpose()
    };
    let parts: Vec<Tensor<B, 2>> = (0..units).step_by(rows).map(part).collect();
    Tensor::cat(parts, 1).cast(scores.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection;
    use briquette_core::host_floats;
    use burn::backend::Flex;
    use proptest::prelude::*;

    fn on_device(scores: &[f32], kept: usize) -> Vec<bool> {
        let data = TensorData::new(scores.to_vec(), [1, scores.len()]);
        let mask = highest(Tensor::<Flex, 2>::from_data(data, &Default::default()), kept);
        host_floats(mask).into_iter().map(|v| v == 1.0).collect()
    }

    #[test]
    fn many_units_are_compared_in_parts() {
        let scores: Vec<f32> = (0..5000).map(|i: i32| ((i * 7919) % 613) as f32).collect();
        assert_eq!(on_device(&scores, 1234), selection::highest(&scores, 1234));
    }

    proptest! {
        #[test]
        fn the_same_as_on_the_host(
            scores in prop::collection::vec((-4i8..4).prop_map(|v| f32::from(v) * 0.5), 1..60),
            kept in 0usize..70,
        ) {
            prop_assert_eq!(on_device(&scores, kept), selection::highest(&scores, kept));
        }
    }
}
