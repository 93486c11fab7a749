//! The annotated struct: its valid parts, and its errors.

use proc_macro2::TokenStream;
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Fields, GenericParam};

use super::field::Handle;
use super::serde::Container;
use crate::errors::Errors;

/// The valid parts of a struct.
pub(crate) struct Item {
    /// The default name of the event, from the name of the struct. The key `name` overrides it.
    pub(crate) name: String,
    pub(crate) handles: Vec<Handle>,
}

/// Reads the item; the error says which items are accepted.
pub(crate) fn parse(tokens: TokenStream) -> syn::Result<DeriveInput> {
    syn::parse2(tokens).map_err(|error| {
        let is_no_type = error.to_string().starts_with("expected one of");
        match is_no_type {
            true => syn::Error::new(error.span(), "`#[event]` stands on a struct"),
            false => error,
        }
    })
}

impl Item {
    pub(crate) fn read(input: &DeriveInput, errors: &mut Errors) -> Self {
        let name = snake_case(&input.ident.unraw().to_string());
        if let Some(problem) = conductor_core::name_problem(&name) {
            let message = format!(
                "this name cannot be used: {problem}; give the event its own with `name = \"…\"`"
            );
            errors.at(&input.ident, message);
        }
        for param in &input.generics.params {
            let message = match param {
                GenericParam::Lifetime(_) => "an event is stored, so it must own its data",
                _ => "an event is stored under one name, so it cannot be generic: name the type",
            };
            errors.at(param, message);
        }
        let container = Container::read(&input.attrs, errors);
        let mut handles = Vec::new();
        match &input.data {
            Data::Struct(data) => match &data.fields {
                Fields::Named(fields) => {
                    for field in &fields.named {
                        handles.extend(Handle::read(field, &container, errors));
                    }
                }
                Fields::Unit => {}
                Fields::Unnamed(fields) => errors.add(syn::Error::new(
                    fields.paren_token.span.join(),
                    "filters name an event's fields, so each has a name: \
                     write `struct Name { field: Type }`",
                )),
            },
            Data::Enum(data) => errors.add(syn::Error::new(
                data.enum_token.span(),
                "an event is a struct: make each variant an event of its own, \
                 or put the enum into a field",
            )),
            Data::Union(data) => errors.add(syn::Error::new(
                data.union_token.span(),
                "an event is a struct, as a union cannot be stored",
            )),
        }
        Self { name, handles }
    }
}

/// Converts `UserSignedUp` into `user_signed_up`.
fn snake_case(camel: &str) -> String {
    let chars: Vec<char> = camel.chars().collect();
    let mut snake = String::with_capacity(camel.len() + 4);
    for (index, &char) in chars.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| chars[before]);
        let ends_acronym = before.is_some_and(char::is_uppercase)
            && chars.get(index + 1).is_some_and(|next| next.is_lowercase());
        let begins_word = before.is_some_and(|c| c.is_lowercase() || c.is_numeric());
        if char.is_uppercase() && (begins_word || ends_acronym) {
            snake.push('_');
        }
        snake.extend(char.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::snake_case;

    #[test]
    fn upper_camel_case_becomes_snake_case() {
        for (camel, snake) in [
            ("UserSignedUp", "user_signed_up"),
            ("Ping", "ping"),
            ("HTTPRequestDone", "http_request_done"),
            ("UserV2", "user_v2"),
            ("S3Uploaded", "s3_uploaded"),
            ("GrößeGemessen", "größe_gemessen"),
            ("already_snake", "already_snake"),
        ] {
            assert_eq!(snake_case(camel), snake);
        }
    }
}
