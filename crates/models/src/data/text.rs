//! Running text for language models.

use super::DataError;
use std::path::Path;

/// The text, which must not be empty.
pub(super) fn check(text: String, file: &Path) -> Result<String, DataError> {
    if text.is_empty() { Err(DataError::Empty { file: file.into() }) } else { Ok(text) }
}
