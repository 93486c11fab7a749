//! Strings, paths and type names.

use syn::{Expr, ExprLit, Ident, Lit, LitStr, Path};

use super::peel;

/// Reads a string literal. `what` completes "expected … as a string literal".
pub(crate) fn string<'a>(expr: &'a Expr, what: &str) -> syn::Result<&'a LitStr> {
    match peel(expr) {
        Expr::Lit(ExprLit {
            lit: Lit::Str(literal),
            ..
        }) => Ok(literal),
        other => Err(syn::Error::new_spanned(
            other,
            format!("expected {what} as a string literal"),
        )),
    }
}

/// Reads a path in quotes, as in serde's `crate`.
pub(crate) fn path(expr: &Expr) -> syn::Result<Path> {
    let literal = string(expr, "a path")?;
    literal.parse_with(Path::parse_mod_style).map_err(|_| {
        let problem = "this is not a path: write it like `crate = \"::my_crate::conductor\"`";
        syn::Error::new(literal.span(), problem)
    })
}

/// Reads the name of a type to generate.
pub(crate) fn type_name(expr: &Expr) -> syn::Result<Ident> {
    if let Expr::Path(path) = peel(expr)
        && let Some(ident) = path.path.get_ident()
    {
        return Ok(ident.clone());
    }
    Err(syn::Error::new_spanned(
        expr,
        "expected the name of the type to make: `marker = Other`",
    ))
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::{path, type_name};

    #[test]
    fn a_path_may_be_absolute_or_relative() {
        assert!(path(&parse_quote!("::a::conductor")).is_ok());
        assert!(path(&parse_quote!("crate::reexport")).is_ok());
        assert!(path(&parse_quote!("a b")).is_err());
        assert!(path(&parse_quote!("")).is_err());
        assert!(path(&parse_quote!(conductor)).is_err());
    }

    #[test]
    fn a_type_name_is_one_identifier() {
        assert!(type_name(&parse_quote!(Other)).is_ok_and(|name| name == "Other"));
        assert!(type_name(&parse_quote!("Other")).is_err());
        assert!(type_name(&parse_quote!(a::Other)).is_err());
    }
}
