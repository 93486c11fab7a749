//! The values `true` and `false`.

use syn::{Expr, ExprLit, Lit};

use super::peel;

/// Reads `true` or `false`.
pub(crate) fn boolean(expr: &Expr) -> syn::Result<bool> {
    match peel(expr) {
        Expr::Lit(ExprLit {
            lit: Lit::Bool(literal),
            ..
        }) => Ok(literal.value),
        other => Err(syn::Error::new_spanned(
            other,
            "this must be `true` or `false`",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_two_words_are_read() {
        assert!(!boolean(&syn::parse_quote!(false)).unwrap());
        assert!(boolean(&syn::parse_quote!((true))).unwrap());
        for other in [
            syn::parse_quote!("false"),
            syn::parse_quote!(0),
            syn::parse_quote!(no),
        ] {
            assert!(boolean(&other).is_err());
        }
    }
}
