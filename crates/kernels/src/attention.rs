//! Scaled dot-product attention.

use crate::portable;
use crate::registry::lookup;
use burn::prelude::*;

/// `softmax(q k^T * scale + mask) v` (Vaswani et al. 2017, arXiv 1706.03762, equation 1).
///
/// `q: [batch, heads, seq_q, d_head]`, `k: [batch, heads, seq_k, d_head]`,
/// `v: [batch, heads, seq_k, d_value]` -> `[batch, heads, seq_q, d_value]`. `mask` is added to the
/// scores; each of its axes is either 1 or that of the scores `[batch, heads, seq_q, seq_k]`.
/// `causal` lets query `i` see the keys up to `i + seq_k - seq_q`.
///
/// Minus infinity in the mask counts as a very low score: a row that is masked everywhere averages
/// over the keys it may see causally, and stays finite.
///
/// # Panics
/// When the shapes do not fit, or when `causal` is asked for with more queries than keys.
pub fn attention<B: Backend>(
    q: Tensor<B, 4>,
    k: Tensor<B, 4>,
    v: Tensor<B, 4>,
    mask: Option<Tensor<B, 4>>,
    causal: bool,
    scale: f64,
) -> Tensor<B, 4> {
    check(q.dims(), k.dims(), v.dims(), mask.as_ref().map(Tensor::dims), causal);
    match lookup::<B>() {
        Some(ops) => (ops.attention)(q, k, v, mask, causal, scale),
        None => portable::attention(q, k, v, mask, causal, scale),
    }
}

fn check(q: [usize; 4], k: [usize; 4], v: [usize; 4], mask: Option<[usize; 4]>, causal: bool) {
    assert!(q[..2] == k[..2] && q[3] == k[3], "queries {q:?} do not fit keys {k:?}");
    assert_eq!(k[..3], v[..3], "keys {k:?} do not fit values {v:?}");
    assert!(!causal || q[2] <= k[2], "causal attention of {} queries over {} keys", q[2], k[2]);
    if let Some(mask) = mask {
        let scores = [q[0], q[1], q[2], k[2]];
        let fits = mask.iter().zip(&scores).all(|(m, s)| m == s || *m == 1);
        assert!(fits, "mask {mask:?} does not fit scores {scores:?}");
    }
}
