//! Float panels from matrices in memory.

use super::tile::WIDTH;

/// Rows that are gathered together where columns are contiguous.
const ROWS: usize = 16;

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
    // A few rows at a time: what is written stays in the cache while each column passes by.
    for (block, to) in to.chunks_mut(ROWS * WIDTH).enumerate() {
        if width < WIDTH {
            to.fill(0.0);
        }
        for j in 0..width {
            let column = &data[(first + j) * strides[1] + block * ROWS * strides[0]..];
            for (k, to) in to[j..].iter_mut().step_by(WIDTH).enumerate() {
                *to = column[k * strides[0]];
            }
        }
    }
}
