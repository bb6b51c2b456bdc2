//! Where a walk over a model stands.

/// The way from a model's root to one of its layers, in two spellings that are kept together: the
/// path of Rust fields, as burn's visitors see it, and the name in checkpoints and recipes.
///
/// ```
/// # use briquette_nn::LayerPath;
/// let mut at = LayerPath::root();
/// at.push("attention", "attention");
/// at.push("self_", "self");
/// assert_eq!((at.path(), at.name()), ("attention.self_", "attention.self"));
/// at.pop();
/// assert_eq!(at.path(), "attention");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerPath {
    path: String,
    name: String,
    /// Lengths of both strings before each push.
    marks: Vec<(usize, usize)>,
}

impl LayerPath {
    /// The root, where both spellings are empty.
    pub fn root() -> Self {
        Self::default()
    }

    /// Goes into a field. `field` is its identifier, `name` its part of the layer's name; an empty
    /// `name` adds nothing to it.
    pub fn push(&mut self, field: &str, name: &str) {
        self.marks.push((self.path.len(), self.name.len()));
        join(&mut self.path, field);
        join(&mut self.name, name);
    }

    /// Goes into an element of a list.
    pub fn push_index(&mut self, index: usize) {
        let index = index.to_string();
        self.push(&index, &index);
    }

    /// Goes back to where the walk stood before the last push. Nothing happens at the root.
    pub fn pop(&mut self) {
        if let Some((path, name)) = self.marks.pop() {
            self.path.truncate(path);
            self.name.truncate(name);
        }
    }

    /// The fields that lead here, joined by dots: `encoder.layer.0.attention.self_`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The name of the layer here: `encoder.layer.0.attention.self`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn join(to: &mut String, component: &str) {
    if !to.is_empty() && !component.is_empty() {
        to.push('.');
    }
    to.push_str(component);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_name_adds_nothing() {
        let mut at = LayerPath::root();
        at.push("inner", "");
        at.push("block", "h");
        at.push_index(3);
        assert_eq!((at.path(), at.name()), ("inner.block.3", "h.3"));
        (0..4).for_each(|_| at.pop());
        assert_eq!(at, LayerPath::root());
    }
}
