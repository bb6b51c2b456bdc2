//! The canonical view of a weight, and values off the graph.

use crate::model_view::LayerKind;
use burn::prelude::*;

/// Canonical shape `[out, in]` of a weight with burn's own shape `native`.
///
/// Linear: `[in, out]` becomes `[out, in]`. Embedding: `[vocabulary, width]` stays. Conv2d:
/// `[out, in/groups, kh, kw]` becomes `[out, in/groups * kh * kw]`. `None` for anything else.
pub fn canonical_shape(kind: LayerKind, native: &[usize]) -> Option<[usize; 2]> {
    match (kind, native) {
        (LayerKind::Linear, [i, o]) => Some([*o, *i]),
        (LayerKind::Embedding, [n, d]) => Some([*n, *d]),
        (LayerKind::Conv2d, [o, i, h, w]) => Some([*o, i * h * w]),
        _ => None,
    }
}

/// A weight as burn holds it, in the canonical view `[out, in]`.
pub fn to_canonical<B: Backend, const D: usize>(kind: LayerKind, weight: Tensor<B, D>) -> Tensor<B, 2> {
    let dims = weight.dims();
    match (kind, D) {
        (LayerKind::Linear, 2) => weight.reshape([dims[0], dims[1]]).transpose(),
        _ => {
            let rows = dims[0];
            let columns = dims[1..].iter().product::<usize>();
            weight.reshape([rows, columns])
        }
    }
}

/// The inverse of [`to_canonical`]: `native` is burn's shape.
pub fn from_canonical<B: Backend, const D: usize>(
    kind: LayerKind,
    weight: Tensor<B, 2>,
    native: [usize; D],
) -> Tensor<B, D> {
    match (kind, D) {
        (LayerKind::Linear, 2) => weight.transpose().reshape(native),
        _ => weight.reshape(native),
    }
}

/// Off the graph on any backend, leaf or not. (`detach()` keeps `require_grad` on a leaf.)
pub fn stop<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Tensor<B, D> {
    tensor.set_require_grad(false)
}

/// The values on the host, row-major, as `f32`.
///
/// # Panics
/// When the device fails to hand the tensor over.
pub fn host_floats<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    // What a GPU hands over of nothing points nowhere in particular, and may not be aligned.
    if tensor.shape().num_elements() == 0 {
        return Vec::new();
    }
    tensor.into_data().convert::<f32>().into_vec().expect("converted to f32 above")
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::backend::Flex;

    #[test]
    fn canonical_round_trip() {
        let d = Default::default();
        let w = Tensor::<Flex, 1, Int>::arange(0..6, &d).float().reshape([2, 3]);
        let c = to_canonical(LayerKind::Linear, w.clone());
        assert_eq!(c.dims(), [3, 2]);
        assert_eq!(from_canonical(LayerKind::Linear, c, [2, 3]).into_data(), w.into_data());
        let w = Tensor::<Flex, 1, Int>::arange(0..24, &d).float().reshape([2, 3, 2, 2]);
        let c = to_canonical(LayerKind::Conv2d, w.clone());
        assert_eq!(c.dims(), [2, 12]);
        assert_eq!(from_canonical(LayerKind::Conv2d, c, [2, 3, 2, 2]).into_data(), w.into_data());
    }
}
