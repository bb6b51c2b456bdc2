//! Reductions over groups.

use burn::prelude::*;

/// Groups longer than this are reduced in two steps: a GPU gives a row to one workgroup, however long it is.
const LONG: usize = 8192;

/// Largest magnitude of each row `[groups, length]`, `[groups, 1]`.
pub(super) fn max_abs<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    in_steps(x, |x| x.max_abs_dim(1), |x| x.max_dim(1))
}

/// Largest value of each row, `[groups, 1]`.
pub(super) fn max<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    in_steps(x, |x| x.max_dim(1), |x| x.max_dim(1))
}

/// Smallest value of each row, `[groups, 1]`.
pub(super) fn min<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    in_steps(x, |x| x.min_dim(1), |x| x.min_dim(1))
}

/// Sum of each row, `[groups, 1]`.
pub(super) fn sum<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    in_steps(x, |x| x.sum_dim(1), |x| x.sum_dim(1))
}

/// Mean of each row, `[groups, 1]`.
pub(super) fn mean<B: Backend>(x: Tensor<B, 2>) -> Tensor<B, 2> {
    let length = x.dims()[1];
    sum(x) / length as f32
}

fn in_steps<B: Backend>(
    x: Tensor<B, 2>,
    first: impl Fn(Tensor<B, 2>) -> Tensor<B, 2>,
    then: impl Fn(Tensor<B, 2>) -> Tensor<B, 2>,
) -> Tensor<B, 2> {
    let [groups, length] = x.dims();
    let parts = parts(length);
    if parts == 1 {
        return first(x);
    }
    then(first(x.reshape([groups * parts, length / parts])).reshape([groups, parts]))
}

/// Into how many parts of equal length a row is cut: the largest divisor up to its square root.
fn parts(length: usize) -> usize {
    if length <= LONG {
        return 1;
    }
    (1..=length.isqrt()).rev().find(|d| length.is_multiple_of(*d)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use briquette_core::host_floats;
    use burn::backend::Flex;

    #[test]
    fn two_steps_give_what_one_gives() {
        assert_eq!(parts(8192), 1);
        assert_eq!(parts(10_000), 100);
        // Whole numbers, so that sums are exact in any order.
        let x = Tensor::<Flex, 1, Int>::arange(0..20_000, &Default::default()).float().reshape([2, 10_000])
            - 7000.0;
        assert_eq!(host_floats(max_abs(x.clone())), [7000.0, 12_999.0]);
        assert_eq!(host_floats(max(x.clone())), [2999.0, 12_999.0]);
        assert_eq!(host_floats(min(x.clone())), [-7000.0, 3000.0]);
        let folded = x.clone() - x.mean_dim(1);
        assert!(host_floats(mean(folded)).iter().all(|m| m.abs() < 1.0));
        let ones = Tensor::<Flex, 2>::ones([3, 10_007], &Default::default());
        assert_eq!(host_floats(sum(ones)), [10_007.0; 3]);
    }
}
