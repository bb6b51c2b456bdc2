//! What the attributes of one field say.

use syn::ext::IdentExt;
use syn::{Field, Ident, LitStr, Type};

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
        for attribute in field.attrs.iter().filter(|a| a.path().is_ident("compressible")) {
            attribute.parse_nested_meta(|meta| {
                if meta.path.is_ident("skip") {
                    skip = true;
                } else if meta.path.is_ident("name") {
                    let text = check_name(&meta.value()?.parse::<LitStr>()?)?;
                    if name.replace(text).is_some() {
                        return Err(meta.error("the field already has a name"));
                    }
                } else {
                    return Err(meta.error("unknown attribute; known are `name = \"..\"` and `skip`"));
                }
                Ok(())
            })?;
        }
        Ok(Self { ident, ty: &field.ty, name: name.unwrap_or_else(|| default_name(ident)), skip })
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
