//! The generated implementation.

use crate::field::{Count, NamedField};
use proc_macro2::{TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{Data, DeriveInput, Fields, Generics, Ident, Type, parse_quote};

/// Expands the derive.
///
/// # Errors
/// When the item is no struct with named fields, or an attribute is wrong.
pub(crate) fn compressible(input: &DeriveInput) -> syn::Result<TokenStream> {
    refuse_container_attributes(input)?;
    let fields = named_fields(input)?;
    let name = &input.ident;
    let generics = bounded(&input.generics, &fields);
    let (impl_generics, _, where_clause) = generics.split_for_impl();
    let (_, type_generics, _) = input.generics.split_for_impl();
    let steps = fields.iter().map(step);
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics ::briquette_nn::Compressible<B> for #name #type_generics #where_clause {
            fn layers_mut(
                &mut self,
                at: &mut ::briquette_nn::LayerPath,
                visit: &mut dyn ::core::ops::FnMut(
                    &::briquette_nn::LayerPath,
                    ::briquette_nn::LayerMut<'_, B>,
                ),
            ) {
                visit(at, ::briquette_nn::LayerMut::Other);
                #(#steps)*
            }
        }
    })
}

fn refuse_container_attributes(input: &DeriveInput) -> syn::Result<()> {
    match input.attrs.iter().find(|a| a.path().is_ident("compressible")) {
        Some(attribute) => Err(syn::Error::new_spanned(
            attribute,
            "`compressible` is an attribute of fields: the name of a layer comes from the fields that lead to it",
        )),
        None => Ok(()),
    }
}

fn named_fields(input: &DeriveInput) -> syn::Result<Vec<NamedField<'_>>> {
    let refuse = |what: &str| {
        let text = format!(
            "`Compressible` can be derived for structs with named fields; {what} (implement `layers_mut` by hand)"
        );
        Err(syn::Error::new_spanned(&input.ident, text))
    };
    match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => fields.named.iter().map(NamedField::read).collect(),
            Fields::Unit => Ok(Vec::new()),
            Fields::Unnamed(_) => refuse("the fields of a tuple struct have no names to make layer names of"),
        },
        Data::Enum(_) => refuse("an enum has no fields of its own"),
        Data::Union(_) => refuse("which field of a union is alive is not known"),
    }
}

fn step(field: &NamedField<'_>) -> TokenStream {
    let (ident, name) = (field.ident, &field.name);
    // burn's own derive uses the identifier's text for the field path, `r#` included.
    let path = ident.to_string();
    let inside = match &field.count {
        Some(count) => number(ident, count),
        None if field.skip => quote! { visit(at, ::briquette_nn::LayerMut::Other); },
        None => quote! { ::briquette_nn::Compressible::<B>::layers_mut(&mut self.#ident, at, visit); },
    };
    quote! {
        at.push(#path, #name);
        #inside
        at.pop();
    }
}

fn number(ident: &Ident, count: &Count) -> TokenStream {
    let (layer, counts) = match count {
        Count::Parts { layer, sections } => (layer, quote! { Parts { sections: #sections } }),
        Count::Before { layer } => (layer, quote! { Before }),
    };
    quote! {
        visit(at, ::briquette_nn::LayerMut::Number(::briquette_nn::Number {
            value: &mut self.#ident,
            layer: #layer,
            counts: ::briquette_nn::export::Counts::#counts,
        }));
    }
}

/// The struct's generics with `B: Backend`, and `Compressible<B>` for each field type that depends
/// on another type parameter.
fn bounded(generics: &Generics, fields: &[NamedField<'_>]) -> Generics {
    let others: Vec<Ident> =
        generics.type_params().map(|p| p.ident.clone()).filter(|ident| ident != "B").collect();
    let mut out = generics.clone();
    if generics.type_params().all(|p| p.ident != "B") {
        out.params.push(parse_quote!(B));
    }
    let clause = out.make_where_clause();
    clause.predicates.push(parse_quote!(B: ::briquette_nn::export::Backend));
    for field in fields.iter().filter(|f| !f.skip && mentions(f.ty, &others)) {
        let ty = field.ty.to_token_stream();
        clause.predicates.push(parse_quote!(#ty: ::briquette_nn::Compressible<B>));
    }
    out
}

fn mentions(ty: &Type, parameters: &[Ident]) -> bool {
    !parameters.is_empty() && holds(ty.to_token_stream(), parameters)
}

fn holds(tokens: TokenStream, parameters: &[Ident]) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => parameters.contains(&ident),
        TokenTree::Group(group) => holds(group.stream(), parameters),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(input: DeriveInput) -> String {
        compressible(&input).expect_err("refused").to_string()
    }

    fn expansion(input: DeriveInput) -> String {
        let tokens = compressible(&input).expect("accepted").to_string();
        tokens.split_whitespace().collect::<Vec<_>>().join("")
    }

    #[test]
    fn other_items_are_refused_with_the_reason() {
        let text = error(parse_quote! { enum Either<B: Backend> { Left(Linear<B>), Right } });
        assert!(text.contains("an enum has no fields of its own") && text.contains("by hand"), "{text}");
        let text = error(parse_quote! { struct Pair<B: Backend>(Linear<B>, Linear<B>); });
        assert!(text.contains("the fields of a tuple struct have no names"), "{text}");
        let text = error(parse_quote! { union Bits { a: u32, b: f32 } });
        assert!(text.contains("union"), "{text}");
    }

    #[test]
    fn wrong_attributes_are_refused_with_the_reason() {
        let text =
            error(parse_quote! { struct Net<B: Backend> { #[compressible(rename = "x")] a: Linear<B> } });
        assert!(text.starts_with("unknown attribute; known are `name = \"..\"`, `skip`"), "{text}");
        let text = error(
            parse_quote! { struct Net<B: Backend> { #[compressible(name = "x", name = "y")] a: Linear<B> } },
        );
        assert_eq!(text, "the field already has a name");
        for name in ["a..b", ".a", "a b"] {
            let text =
                error(parse_quote! { struct Net<B: Backend> { #[compressible(name = #name)] a: Linear<B> } });
            assert_eq!(text, "a name is made of non-empty parts separated by dots");
        }
        let text = error(parse_quote! { #[compressible(skip)] struct Net<B: Backend> { a: Linear<B> } });
        assert!(text.starts_with("`compressible` is an attribute of fields"), "{text}");
    }

    #[test]
    fn a_number_counts_one_thing() {
        let text = expansion(parse_quote! {
            struct Net<B: Backend> { #[compressible(counts = "qkv", sections = 3)] n: usize }
        });
        assert!(
            text.contains(r#"layer:"qkv",counts:::briquette_nn::export::Counts::Parts{sections:3usize}"#)
        );
        let text =
            expansion(parse_quote! { struct Net<B: Backend> { #[compressible(before = "a.b")] n: usize } });
        assert!(text.contains(r#"layer:"a.b",counts:::briquette_nn::export::Counts::Before"#), "{text}");
        let text =
            error(parse_quote! { struct Net<B: Backend> { #[compressible(counts = "a", skip)] n: usize } });
        assert_eq!(text, "a field that is left out counts nothing");
        let text = error(
            parse_quote! { struct Net<B: Backend> { #[compressible(counts = "a", before = "b")] n: usize } },
        );
        assert_eq!(text, "a number counts either parts or what is before it");
        let text = error(parse_quote! { struct Net<B: Backend> { #[compressible(sections = 2)] n: usize } });
        assert_eq!(text, "`sections` goes with `counts`");
    }

    #[test]
    fn bounds_are_added_for_field_types_with_other_parameters_only() {
        let text = expansion(parse_quote! {
            struct Net<B: Backend, M: Module<B>> { blocks: Vec<M>, head: Linear<B>, n: usize }
        });
        assert!(
            text.contains("whereB:::briquette_nn::export::Backend,Vec<M>:::briquette_nn::Compressible<B>{")
        );
        let text = expansion(parse_quote! { struct Settings { width: usize } });
        assert!(text.contains("impl<B>::briquette_nn::Compressible<B>forSettingswhereB:"), "{text}");
    }

    #[test]
    fn names_drop_one_trailing_underscore_and_raw_markers() {
        let text = expansion(parse_quote! {
            struct Net<B: Backend> { self_: Linear<B>, r#type: Linear<B>, #[compressible(name = "x.y")] a: Linear<B> }
        });
        assert!(text.contains(r#"at.push("self_","self")"#), "{text}");
        assert!(text.contains(r##"at.push("r#type","type")"##), "{text}");
        assert!(text.contains(r#"at.push("a","x.y")"#), "{text}");
    }
}
