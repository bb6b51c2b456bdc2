//! The eigenvalue of largest magnitude.

use super::{Eigenvalue, Vectors};
use burn::prelude::*;

/// The eigenvalue of largest magnitude of a symmetric matrix of which only products with vectors are known: from a
/// random vector in the shapes of `like`, `v <- H v / (|H v| + stability)` until `v H v` changes by less than the
/// share `tol` or `max_iter` products are computed. What is infinite or not a number counts as zero, as in
/// DeepSpeed. Deterministic in `seed`.
pub fn power_iteration<B: Backend>(
    like: &Vectors<B>,
    seed: u64,
    settings: &Eigenvalue,
    mut product: impl FnMut(&Vectors<B>) -> Vectors<B>,
) -> f64 {
    let mut v = normalized(&Vectors::random(like, seed), settings.stability);
    let (mut now, mut before) = (1.0f64, 0.0f64);
    for _ in 0..settings.max_iter {
        if now == 0.0 || ((now - before) / now).abs() < settings.tol {
            break;
        }
        before = now;
        let next = product(&v).finite();
        now = next.dot(&v);
        if !now.is_finite() {
            return 0.0;
        }
        v = normalized(&next, settings.stability);
    }
    now
}

fn normalized<B: Backend>(v: &Vectors<B>, stability: f64) -> Vectors<B> {
    let norm = v.norm() + stability;
    if norm > 0.0 && norm.is_finite() { v.scaled(1.0 / norm).finite() } else { v.scaled(0.0).finite() }
}

/// Eigenvalues as shares of the largest magnitude, 0 to 1. Where none could be computed (zero, or no number) a block
/// counts as the most sensitive one, as in DeepSpeed.
pub fn relative(eigenvalues: &[f64]) -> Vec<f64> {
    let size = |v: &f64| if v.is_finite() { v.abs() } else { 0.0 };
    let largest = eigenvalues.iter().map(size).fold(0.0, f64::max);
    eigenvalues.iter().map(|v| if size(v) == 0.0 { 1.0 } else { size(v) / largest }).collect()
}
