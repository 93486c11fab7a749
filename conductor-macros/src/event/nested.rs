//! The derive `EventFields`: handles for the fields of a struct that is nested in events.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Fields, parse_quote};

use super::field::Handle;
use super::serde::Container;
use crate::errors::Errors;

/// Returns the handles and the impl, or the errors.
pub(crate) fn expand(input: &DeriveInput) -> TokenStream {
    let mut errors = Errors::default();
    let mut handles = Vec::new();
    let container = Container::read(&input.attrs, &mut errors);
    match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => {
                for field in &fields.named {
                    handles.extend(Handle::read(field, &container, &mut errors));
                }
            }
            Fields::Unit | Fields::Unnamed(_) => errors.at(
                &input.ident,
                "filters name fields by their names, and this struct has none",
            ),
        },
        Data::Enum(data) => errors.add(syn::Error::new(
            data.enum_token.span(),
            "filters name the fields of structs: an enum is compared as a whole, \
             by an impl of `conductor::Operand`",
        )),
        Data::Union(data) => errors.add(syn::Error::new(
            data.union_token.span(),
            "filters name the fields of structs, as a union cannot be stored",
        )),
    }
    let errors = errors.into_compile_errors();
    let krate: syn::Path = parse_quote!(::conductor);
    let subject = &input.ident;
    let (generics, arguments, bounds) = input.generics.split_for_impl();
    let constants = handles.iter().map(|handle| handle.constant(&krate));
    let names = handles.iter().map(|handle| {
        let (field, stored) = (handle.ident.unraw().to_string(), &handle.stored);
        let conditions = &handle.conditions;
        quote!(#(#conditions)* (#field, #stored))
    });
    quote! {
        #errors

        #[allow(non_upper_case_globals, dead_code, unreachable_pub, deprecated)]
        #[automatically_derived]
        impl #generics #subject #arguments #bounds { #(#constants)* }

        #[automatically_derived]
        impl #generics #krate::EventFields for #subject #arguments #bounds {
            const STORED: &'static [(&'static ::core::primitive::str, &'static ::core::primitive::str)] =
                &[#(#names),*];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(input: DeriveInput) -> String {
        expand(&input).to_string().replace(' ', "")
    }

    #[test]
    fn fields_are_named_as_serde_stores_them() {
        let made = made(parse_quote!(
            #[serde(rename_all = "camelCase")]
            pub struct Address {
                pub post_code: String,
                #[serde(rename = "town")]
                city: String,
                #[serde(skip)]
                cache: u8,
            }
        ));
        assert!(!made.contains("compile_error"), "{made}");
        assert!(
            made.contains("&[(\"post_code\",\"postCode\"),(\"city\",\"town\")]"),
            "{made}"
        );
        assert!(made.contains("Field::new(&[\"town\"])"), "{made}");
        assert!(made.contains("pubconstpost_code:"), "{made}");
    }

    #[test]
    fn what_has_no_named_fields_is_refused() {
        for input in [
            parse_quote!(
                enum A {
                    B,
                }
            ),
            parse_quote!(
                struct A(i64);
            ),
            parse_quote!(union A { b: i64 }),
        ] {
            assert_eq!(made(input).matches("compile_error").count(), 1);
        }
    }
}
