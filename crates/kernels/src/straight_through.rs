//! Gradients of what has none.

use crate::registry::lookup;
use burn::prelude::*;
use burn::tensor::TensorPrimitive;

/// The values of `quantized`, whose gradient goes to `x` unchanged: the straight-through estimator (Bengio et al. 2013,
/// arXiv 1308.3432). Both have the same shape; `quantized` has no gradient. The values are exact: what is simulated while
/// training equals what is packed, bit for bit.
///
/// Backends whose own operations are [registered](crate::register) do no work for it. Elsewhere it is `quantized + (x - x)`,
/// which is no number where `x` is not finite.
pub fn straight_through<B: Backend, const D: usize>(
    x: Tensor<B, D>,
    quantized: Tensor<B, D>,
) -> Tensor<B, D> {
    if !x.is_require_grad() && !B::ad_enabled(&x.device()) {
        return quantized;
    }
    match lookup::<B>() {
        Some(ops) if x.dtype() == quantized.dtype() => {
            let [x, quantized] = [x, quantized].map(|t| t.into_primitive().tensor());
            Tensor::from_primitive(TensorPrimitive::Float((ops.straight_through)(x, quantized)))
        }
        // In this order the value is exact.
        _ => quantized.set_require_grad(false) + (x.clone() - x.set_require_grad(false)),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails where something is missing")]
mod tests {
    use super::*;
    use burn::backend::{Autodiff, Flex};

    type A = Autodiff<Flex>;

    #[test]
    fn the_value_is_exactly_the_quantized_one_and_the_gradient_passes() {
        let device = Default::default();
        let w = Tensor::<A, 1>::from_floats([0.1, 1e-3, f32::INFINITY], &device).require_grad();
        let q = Tensor::<A, 1>::from_floats([0.3, 0.7, -0.1], &device);
        let y = straight_through(w.clone(), q.clone());
        assert_eq!(y.to_data(), q.to_data());
        let gradients = (y * 3.0).sum().backward();
        assert_eq!(w.grad(&gradients).unwrap().to_data(), TensorData::from([3.0f32, 3.0, 3.0]));
    }

    #[test]
    fn gradients_pass_through_what_is_no_leaf() {
        let device = Default::default();
        let w = Tensor::<A, 2>::from_floats([[1.0, 2.0], [3.0, 4.0]], &device).require_grad();
        let y = straight_through(w.clone().transpose() * 2.0, Tensor::<A, 2>::ones([2, 2], &device));
        let gradients = (y * Tensor::from_floats([[1.0, 2.0], [3.0, 4.0]], &device)).sum().backward();
        let expected = TensorData::from([[2.0f32, 6.0], [4.0, 8.0]]);
        assert_eq!(w.grad(&gradients).unwrap().to_data(), expected);
    }

    #[test]
    fn backends_without_gradients_get_the_values() {
        let device = Default::default();
        let [w, q] = [[1.0], [2.0]].map(|v| Tensor::<Flex, 1>::from_floats(v, &device));
        assert_eq!(straight_through(w, q).to_data(), TensorData::from([2.0f32]));
    }
}
