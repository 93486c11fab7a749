//! Tokens with other spans, names that clash with nothing, and paths as text.

use proc_macro2::{Group, Ident, Span, TokenStream, TokenTree};
use quote::format_ident;
use syn::{LitStr, Path};

/// Returns the tokens with the location of `place` for errors. Name resolution does not change.
pub(crate) fn place_at(tokens: TokenStream, place: Span) -> TokenStream {
    let moved = |token: TokenTree| match token {
        TokenTree::Group(group) => {
            let inner = place_at(group.stream(), place);
            let mut group = Group::new(group.delimiter(), inner);
            group.set_span(place);
            TokenTree::Group(group)
        }
        mut other => {
            other.set_span(other.span().located_at(place));
            other
        }
    };
    tokens.into_iter().map(moved).collect()
}

/// Returns a variable name that does not clash with user code; hygiene does not cover constants.
pub(crate) fn local(name: &str) -> Ident {
    format_ident!("__conductor_{name}", span = Span::mixed_site())
}

/// Returns the path of a module of `__private` as a literal, for serde's `crate`.
pub(crate) fn path_literal(krate: &Path, module: &str) -> LitStr {
    let mut path = String::new();
    for (index, segment) in krate.segments.iter().enumerate() {
        if index > 0 || krate.leading_colon.is_some() {
            path.push_str("::");
        }
        path.push_str(&segment.ident.to_string());
    }
    LitStr::new(&format!("{path}::__private::{module}"), Span::call_site())
}
