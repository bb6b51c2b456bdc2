//! Where a walk through a module stands.

use super::weighted;
use briquette_core::LayerKind;

/// Field names and kinds of the structs around them, from the root on.
#[derive(Default)]
pub(super) struct FieldPath(Vec<(String, String)>);

impl FieldPath {
    pub(super) fn enter(&mut self, field: &str, container: &str) {
        self.0.push((field.into(), container.into()));
    }

    pub(super) fn leave(&mut self) {
        self.0.pop();
    }

    /// Path and kind of the layer whose weight stands here, if one does.
    pub(super) fn weight(&self) -> Option<(String, LayerKind)> {
        let ((field, container), up) = self.0.split_last()?;
        let kind = LayerKind::of_struct(container.strip_prefix("Struct:")?)?;
        let path = up.iter().map(|(f, _)| f.as_str()).collect::<Vec<_>>().join(".");
        (field == "weight" && weighted(kind)).then_some((path, kind))
    }
}
