//! Integers and fractions.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use syn::{Expr, ExprLit, Lit, UnOp};

use super::peel;

/// Reads an integer within the range.
pub(crate) fn integer<T>(expr: &Expr, range: RangeInclusive<T>) -> syn::Result<T>
where
    T: FromStr + PartialOrd + Display,
{
    digits(expr)
        .and_then(|digits| digits.parse().ok())
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            let (from, to) = (range.start(), range.end());
            syn::Error::new_spanned(expr, format!("expected a whole number from {from} to {to}"))
        })
}

/// Reads a fraction: a number from 0 to 1.
pub(crate) fn share(expr: &Expr) -> syn::Result<f64> {
    digits(expr)
        .and_then(|digits| digits.parse().ok())
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| syn::Error::new_spanned(expr, "expected a share from 0 to 1, such as `0.2`"))
}

/// Returns the decimal digits of a literal with an optional minus; `None` for other expressions, also if they have a
/// type suffix.
fn digits(expr: &Expr) -> Option<String> {
    match peel(expr) {
        Expr::Unary(unary) if matches!(unary.op, UnOp::Neg(_)) => {
            digits(&unary.expr).map(|digits| format!("-{digits}"))
        }
        Expr::Lit(ExprLit {
            lit: Lit::Int(int), ..
        }) => int.suffix().is_empty().then(|| int.base10_digits().into()),
        Expr::Lit(ExprLit {
            lit: Lit::Float(float),
            ..
        }) => (float.suffix().is_empty()).then(|| float.base10_digits().into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use syn::parse_quote;

    use super::{integer, share};

    #[test]
    fn integers_keep_to_their_range() {
        let any = i32::MIN..=i32::MAX;
        assert!(integer(&parse_quote!(10), any.clone()).is_ok_and(|n| n == 10));
        assert!(integer(&parse_quote!(-10), any.clone()).is_ok_and(|n| n == -10));
        assert!(integer(&parse_quote!(-2_147_483_648), any.clone()).is_ok_and(|n| n == i32::MIN));
        assert!(integer(&parse_quote!(0x10), any.clone()).is_ok_and(|n| n == 16));
        assert!(integer(&parse_quote!(2147483648), any.clone()).is_err());
        assert!(integer(&parse_quote!(1.5), any.clone()).is_err());
        assert!(integer(&parse_quote!("1"), any).is_err());
        assert!(integer(&parse_quote!(0), 1..=1000).is_err());
        assert!(integer(&parse_quote!(1000), 1..=1000).is_ok());
        assert!(integer(&parse_quote!(1001), 1..=1000).is_err());
    }

    #[test]
    fn shares_are_from_zero_to_one() {
        assert!(share(&parse_quote!(0)).is_ok_and(|s| s == 0.0));
        assert!(share(&parse_quote!(0.25)).is_ok_and(|s| s == 0.25));
        assert!(share(&parse_quote!(1.0)).is_ok_and(|s| s == 1.0));
        assert!(share(&parse_quote!(-0.1)).is_err());
        assert!(share(&parse_quote!(1.1)).is_err());
        assert!(share(&parse_quote!("0.1")).is_err());
    }
}
