//! A compression method of one's own, in a crate of one's own.
//!
//! [`OutlierClipping`] is what a third party would publish: a type that implements
//! [`CompressionMethod`](briquette_core::CompressionMethod) and reads its settings with serde.
//! [`registry`] puts it beside the methods of the library. From then on a recipe can name it, together
//! with any other method, and it is planned, ordered, trained through, reported and written into the
//! manifest like all of them.

mod outlier_clipping;

pub use outlier_clipping::{OutlierClipping, clip_rows};

use briquette_composer::{NameTaken, Registry};
use burn::prelude::*;

/// The methods of the library and [`OutlierClipping`].
///
/// # Errors
/// When the library has a method of that name.
pub fn registry<B: Backend>() -> Result<Registry<B>, NameTaken> {
    let mut registry = Registry::builtin();
    registry.register::<OutlierClipping>(OutlierClipping::NAME)?;
    Ok(registry)
}
