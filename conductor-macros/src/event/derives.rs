//! The derives that an event needs and does not have.

use proc_macro2::TokenStream;
use quote::quote;
use syn::punctuated::Punctuated;
use syn::{Attribute, Path, Token};

use crate::task::tokens::path_literal;

/// The derives to add, and the position among the attributes.
pub(crate) struct Derives {
    has: Vec<String>,
    has_serde_crate: bool,
    has_schemars_crate: bool,
    /// The position: before helper attributes of derives, and after macros that rewrite the struct.
    pub(crate) index: usize,
}

impl Derives {
    pub(crate) fn read(attrs: &[Attribute]) -> Self {
        let mut has = Vec::new();
        for attr in attrs.iter().filter(|attr| attr.path().is_ident("derive")) {
            let paths = Punctuated::<Path, Token![,]>::parse_terminated;
            let paths = attr.parse_args_with(paths).unwrap_or_default();
            let names = paths.iter().filter_map(|path| path.segments.last());
            has.extend(names.map(|name| name.ident.to_string()));
        }
        let of_derives = ["derive", "serde", "schemars"];
        let index = attrs
            .iter()
            .position(|attr| of_derives.iter().any(|name| attr.path().is_ident(name)));
        Self {
            has,
            has_serde_crate: has_crate(attrs, "serde"),
            has_schemars_crate: has_crate(attrs, "schemars"),
            index: index.unwrap_or(attrs.len()),
        }
    }

    /// Returns the missing derives. Their code also compiles if the user's crate does not depend on serde or schemars.
    pub(crate) fn missing(&self, krate: &Path) -> TokenStream {
        let lacks = |name: &str| !self.has.iter().any(|has| has == name);
        let private = quote!(#krate::__private);
        let (serde, schemars) = (
            path_literal(krate, "serde"),
            path_literal(krate, "schemars"),
        );
        let mut derives = Vec::new();
        if lacks("Serialize") {
            derives.push(quote!(#private::serde::Serialize));
        }
        if lacks("Deserialize") {
            derives.push(quote!(#private::serde::Deserialize));
        }
        let serde = (!derives.is_empty() && !self.has_serde_crate)
            .then(|| quote!(#[serde(crate = #serde)]));
        let mut schema = None;
        if lacks("JsonSchema") {
            derives.push(quote!(#private::schemars::JsonSchema));
            schema = (!self.has_schemars_crate).then(|| quote!(#[schemars(crate = #schemars)]));
        }
        if lacks("Debug") {
            derives.push(quote!(::core::fmt::Debug));
        }
        if lacks("Clone") {
            derives.push(quote!(::core::clone::Clone));
        }
        if derives.is_empty() {
            return TokenStream::new();
        }
        quote!(#[derive(#(#derives),*)] #serde #schema)
    }
}

/// Whether the helper attributes of this derive contain `crate = "…"`.
fn has_crate(attrs: &[Attribute], owner: &str) -> bool {
    let mut found = false;
    for attr in attrs.iter().filter(|attr| attr.path().is_ident(owner)) {
        // The derive reports errors.
        let _ = attr.parse_nested_meta(|meta| {
            found |= meta.path.is_ident("crate");
            super::serde::skip_value(&meta)
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    fn missing(item: syn::ItemStruct) -> (String, usize) {
        let derives = Derives::read(&item.attrs);
        let missing = derives.missing(&parse_quote!(::conductor));
        (missing.to_string().replace(' ', ""), derives.index)
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let (all, index) = missing(parse_quote!(
            /// Docs.
            struct A;
        ));
        assert_eq!(index, 1);
        for name in ["Serialize", "Deserialize", "JsonSchema", "Debug", "Clone"] {
            assert!(all.contains(name), "{all}");
        }
        let (none, _) = missing(parse_quote!(
            #[derive(serde::Serialize, Deserialize, Debug, Clone, schemars::JsonSchema)]
            struct A;
        ));
        assert_eq!(none, "");
        let (some, index) = missing(parse_quote!(
            #[serde_as]
            #[derive(Debug, Serialize)]
            #[serde(crate = "serde")]
            struct A;
        ));
        assert_eq!(index, 1);
        assert!(
            some.contains("Deserialize") && !some.contains("Serialize,"),
            "{some}"
        );
        assert!(!some.contains("#[serde("), "{some}");
    }
}
