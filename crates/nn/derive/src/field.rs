//! What the attributes of one field say.

use std::num::NonZeroUsize;
use syn::ext::IdentExt;
use syn::{Field, Ident, LitInt, LitStr, Type};

/// A named field and how it is to be visited.
#[derive(Debug)]
pub(crate) struct NamedField<'a> {
    /// The identifier in the struct.
    pub(crate) ident: &'a Ident,
    /// The declared type.
    pub(crate) ty: &'a Type,
    /// Its part of a layer's name.
    pub(crate) name: String,
    /// Whether its inside is left out.
    pub(crate) skip: bool,
    /// What it counts, for a number.
    pub(crate) count: Option<Count>,
}

/// What a number counts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Equal runs of a layer's outputs, in so many sections.
    Parts { layer: String, sections: usize },
    /// A layer's outputs before an index.
    Before { layer: String },
}

impl<'a> NamedField<'a> {
    /// Reads one field.
    ///
    /// # Errors
    /// When the field has no identifier, or an attribute is unknown, repeated or malformed.
    pub(crate) fn read(field: &'a Field) -> syn::Result<Self> {
        let ident =
            field.ident.as_ref().ok_or_else(|| syn::Error::new_spanned(field, "a field without a name"))?;
        let (mut name, mut skip) = (None, false);
        let (mut counts, mut before, mut sections) = (None, None, None);
        for attribute in field.attrs.iter().filter(|a| a.path().is_ident("compressible")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("skip") {
                    skip = true;
                } else if meta.path.is_ident("name") {
                    let text = check_name(&meta.value()?.parse::<LitStr>()?)?;
                    if name.replace(text).is_some() {
                        return Err(meta.error("the field already has a name"));
                    }
                } else if meta.path.is_ident("counts") {
                    counts = Some(check_name(&meta.value()?.parse::<LitStr>()?)?);
                } else if meta.path.is_ident("before") {
                    before = Some(check_name(&meta.value()?.parse::<LitStr>()?)?);
                } else if meta.path.is_ident("sections") {
                    sections = Some(meta.value()?.parse::<LitInt>()?.base10_parse::<NonZeroUsize>()?.get());
                } else {
                    return Err(meta.error(UNKNOWN));
                }
                Ok(())
            })?;
        }
        let count = count(ident, counts, before, sections, skip)?;
        Ok(Self { ident, ty: &field.ty, name: name.unwrap_or_else(|| default_name(ident)), skip, count })
    }
}

const UNKNOWN: &str = "unknown attribute; known are `name = \"..\"`, `skip` and, for numbers, `counts = \"..\"` with \
                       `sections = ..`, and `before = \"..\"`";

fn count(
    ident: &Ident,
    counts: Option<String>,
    before: Option<String>,
    sections: Option<usize>,
    skip: bool,
) -> syn::Result<Option<Count>> {
    let refuse = |text: &str| Err(syn::Error::new_spanned(ident, text));
    match (counts, before, sections) {
        (None, None, None) => Ok(None),
        _ if skip => refuse("a field that is left out counts nothing"),
        (Some(layer), None, sections) => Ok(Some(Count::Parts { layer, sections: sections.unwrap_or(1) })),
        (None, Some(layer), None) => Ok(Some(Count::Before { layer })),
        (Some(_), Some(_), _) => refuse("a number counts either parts or what is before it"),
        (None, _, Some(_)) => refuse("`sections` goes with `counts`"),
    }
}

fn check_name(text: &LitStr) -> syn::Result<String> {
    let name = text.value();
    let malformed = !name.is_empty() && name.split('.').any(str::is_empty);
    if malformed || name.contains(char::is_whitespace) {
        return Err(syn::Error::new_spanned(text, "a name is made of non-empty parts separated by dots"));
    }
    Ok(name)
}

fn default_name(ident: &Ident) -> String {
    let name = ident.unraw().to_string();
    name.strip_suffix('_').unwrap_or(&name).to_string()
}
