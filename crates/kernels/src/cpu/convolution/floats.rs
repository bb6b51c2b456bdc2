//! Convolutions of floats.

use super::super::tile::{FloatPanel, ScatteredPanel, Tile, Unit, WIDTH};
use super::{Pixels, Weight};

/// `[channels_out, depth]`.
pub(super) struct FloatWeight<'a> {
    pub(super) unit: Unit,
    pub(super) values: &'a [f32],
    pub(super) depth: usize,
}

impl Weight for FloatWeight<'_> {
    type Pixel = f32;

    const OUTSIDE: f32 = 0.0;

    fn gathers(&self) -> bool {
        !self.unit.scatters()
    }

    fn multiply(&self, pixels: Pixels<'_, f32>, _image: usize, channel: usize, m: usize, to: &mut Tile<f32>) {
        let depth = self.depth;
        let weight = (&self.values[channel * depth..][..m * depth], depth);
        let to = (to.as_flattened_mut(), WIDTH);
        match pixels {
            Pixels::Gathered(data) => {
                self.unit.floats(FloatPanel { data, stride: WIDTH, depth }, weight, m, to);
            }
            Pixels::Scattered(data, starts) => {
                self.unit.floats(ScatteredPanel { data, starts }, weight, m, to);
            }
        }
    }
}
