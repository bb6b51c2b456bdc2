//! `#[derive(Compressible)]` for models of `briquette-nn`.
//!
//! Documentation and examples are with the trait, `briquette_nn::Compressible`.

mod expand;
mod field;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Derives `briquette_nn::Compressible` for a struct with named fields.
///
/// The fields are visited in their order. A layer's name is made of the names of the fields that
/// lead to it; a field's name is its identifier without a trailing underscore (a field cannot be
/// called `self`, so it is written `self_`), unless an attribute says otherwise:
///
/// - `#[compressible(name = "LayerNorm")]`: the field's part of the name. It may hold dots; an empty
///   one adds nothing.
/// - `#[compressible(skip)]`: nothing inside the field is visited, and its type need not implement
///   the trait. It is still named.
/// - `#[compressible(counts = "query")]`, with `sections = 3` where it is so, and
///   `#[compressible(before = "conv2")]`: a number that changes when outputs of a layer are removed.
#[proc_macro_derive(Compressible, attributes(compressible))]
pub fn derive_compressible(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand::compressible(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
