//! Checks whether a type can be stored: it must be named in full and own its data.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::visit::Visit;
use syn::{Lifetime, Type, TypeImplTrait, TypeInfer, TypeReference};

use crate::errors::Errors;

/// Reports the parts of an argument or result type that cannot be stored; returns true if there are none.
pub(crate) fn check(ty: &Type, what: &str, errors: &mut Errors) -> bool {
    let before = errors.count();
    Check { what, errors }.visit_type(ty);
    errors.count() == before
}

/// Returns the last segment of a type's path, and whether it has generic arguments.
pub(crate) fn last_segment(ty: &Type) -> Option<(&syn::Ident, bool)> {
    match peel(ty) {
        Type::Path(path) => {
            let segment = path.path.segments.last()?;
            Some((&segment.ident, !segment.arguments.is_empty()))
        }
        _ => None,
    }
}

/// Returns the type without parentheses and without the invisible groups of `macro_rules!`.
pub(crate) fn peel(mut ty: &Type) -> &Type {
    loop {
        ty = match ty {
            Type::Group(group) => &group.elem,
            Type::Paren(paren) => &paren.elem,
            other => return other,
        };
    }
}

struct Check<'a> {
    what: &'a str,
    errors: &'a mut Errors,
}

impl Visit<'_> for Check<'_> {
    fn visit_type_reference(&mut self, ty: &TypeReference) {
        let what = self.what;
        let message = match owned(&ty.elem) {
            Some(owned) => format!(
                "{what} is stored, so it must be owned: use `{}` instead of `{}`",
                show(&owned),
                show(ty)
            ),
            None => format!("{what} is stored, so it must be owned, and this is a reference"),
        };
        self.errors.at(ty, message);
    }

    fn visit_lifetime(&mut self, lifetime: &Lifetime) {
        if lifetime.ident != "static" {
            let what = self.what;
            let message = format!(
                "{what} is stored, so it must own its data: it cannot borrow for `{lifetime}`"
            );
            self.errors.at(lifetime, message);
        }
    }

    fn visit_type_impl_trait(&mut self, ty: &TypeImplTrait) {
        let message = format!(
            "{} is stored as one type: name that type instead of `{}`",
            self.what,
            show(ty)
        );
        self.errors.at(ty, message);
    }

    fn visit_type_infer(&mut self, ty: &TypeInfer) {
        self.errors
            .at(ty, format!("{} is stored as one type: name it", self.what));
    }

    // Lifetimes in a function pointer are not borrows. The compiler reports that serde cannot store it.
    fn visit_type_bare_fn(&mut self, _: &syn::TypeBareFn) {}
}

/// Returns the owned type to use instead of a reference to this one.
fn owned(borrowed: &Type) -> Option<TokenStream> {
    match peel(borrowed) {
        Type::Path(path) if path.path.is_ident("str") => Some(quote!(String)),
        Type::Slice(slice) => {
            let item = &slice.elem;
            Some(quote!(Vec<#item>))
        }
        Type::TraitObject(_) | Type::ImplTrait(_) => None,
        other => Some(other.to_token_stream()),
    }
}

/// Formats a type as it would be written by hand.
pub(crate) fn show(ty: &impl ToTokens) -> String {
    let mut text = ty.to_token_stream().to_string();
    for (from, to) in [
        (" :: ", "::"),
        (":: ", "::"),
        (" < ", "<"),
        ("< ", "<"),
        (" >", ">"),
        ("& ", "&"),
        (" ,", ","),
        ("[ ", "["),
        (" ]", "]"),
        ("( ", "("),
        (" )", ")"),
    ] {
        text = text.replace(from, to);
    }
    text
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::*;

    fn problems(ty: &Type) -> String {
        let mut errors = Errors::default();
        check(ty, "a payload", &mut errors);
        errors.into_compile_errors().to_string()
    }

    #[test]
    fn owned_types_pass() {
        for ty in [
            parse_quote!(String),
            parse_quote!(Vec<(u8, Option<a::B<C>>)>),
            parse_quote!(std::borrow::Cow<'static, str>),
            parse_quote!([u8; 4]),
        ] {
            assert_eq!(problems(&ty), "");
        }
    }

    #[test]
    fn references_are_told_what_to_be() {
        assert!(problems(&parse_quote!(&str)).contains("use `String` instead of `&str`"));
        assert!(problems(&parse_quote!(&'a [u8])).contains("use `Vec<u8>` instead of `&'a [u8]`"));
        assert!(problems(&parse_quote!(&a::B<C>)).contains("use `a::B<C>` instead of `&a::B<C>`"));
        assert!(problems(&parse_quote!(Option<&str>)).contains("use `String` instead of `&str`"));
        assert!(problems(&parse_quote!(&dyn A)).contains("this is a reference"));
    }

    #[test]
    fn types_without_a_name_are_refused() {
        assert!(problems(&parse_quote!(impl Into<String>)).contains("`impl Into<String>`"));
        assert!(problems(&parse_quote!(Vec<_>)).contains("name it"));
        assert!(problems(&parse_quote!(Cow<'_, str>)).contains("own its data"));
    }
}
