//! Float panels from matrices in memory.

use super::sparse_transpose::transpose;
use super::tile::WIDTH;

/// Columns `first ..+ width` of a matrix with the element `[k, j]` at `k * strides[0] + j * strides[1]`, into
/// `to: [rows, WIDTH]`, padded with zeros.
pub(crate) fn panel(data: &[f32], strides: [usize; 2], first: usize, width: usize, to: &mut [f32]) {
    if strides[1] == 1 && width == WIDTH {
        for (k, to) in to.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
            *to = *data[k * strides[0] + first..].first_chunk().expect("a row of the matrix");
        }
        return;
    }
    if strides[1] == 1 {
        for (k, to) in to.chunks_exact_mut(WIDTH).enumerate() {
            let row = &data[k * strides[0] + first..][..width];
            to[..width].copy_from_slice(row);
            to[width..].fill(0.0);
        }
        return;
    }
    if strides[0] == 1 {
        let from = &data[first * strides[1]..];
        transpose(from, strides[1], to, WIDTH, [width, to.len() / WIDTH]);
        if width < WIDTH {
            to.chunks_exact_mut(WIDTH).for_each(|to| to[width..].fill(0.0));
        }
        return;
    }
    for (k, to) in to.chunks_exact_mut(WIDTH).enumerate() {
        for (j, to) in to.iter_mut().enumerate() {
            *to = if j < width { data[k * strides[0] + (first + j) * strides[1]] } else { 0.0 };
        }
    }
}
