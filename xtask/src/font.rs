//! A font for pictures: a machine may have none.

use plotters::style::{FontStyle, register_font};

/// What text in pictures is written with.
pub(crate) const SANS: &str = "sans-serif";

/// Makes [`SANS`] known. Text is measured with it in pictures of pixels and of vectors alike.
pub(crate) fn register() -> Result<(), String> {
    let font = epaint_default_fonts::UBUNTU_LIGHT;
    register_font(SANS, FontStyle::Normal, font).map_err(|_| "the font cannot be read".into())
}
