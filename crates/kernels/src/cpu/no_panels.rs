//! Stands in for the panel kernel where its instructions do not exist.

use super::dot::{ByteMatrix, Piece};
use std::convert::Infallible;

/// Outputs of a panel.
pub(crate) const WIDTH: usize = 32;

/// Input rows of a tile.
pub(crate) const HEIGHT: usize = 6;

/// Never made.
pub(crate) struct Panels<'a>(Infallible, std::marker::PhantomData<&'a ()>);

impl<'a> Panels<'a> {
    /// Always `None`.
    pub(crate) fn new(_w: ByteMatrix<'_, u8>, _scales: &[f32], _pieces: &'a [Piece]) -> Option<Self> {
        None
    }

    /// Never called.
    pub(crate) fn tile(
        &self,
        _x: ByteMatrix<'_, i8>,
        _corrections: &[i32],
        _rows: [usize; 2],
        _panel: usize,
    ) -> [[f32; WIDTH]; HEIGHT] {
        match self.0 {}
    }
}
