//! The values of keys: each kind is read from an expression, and errors point at that expression.

mod boolean;
mod duration;
mod name;
mod number;
mod text;
mod timing;

pub(crate) use boolean::boolean;
pub(crate) use duration::{backoff, millis, millis_or_zero, rate};
pub(crate) use name::name;
pub(crate) use number::{integer, share};
pub(crate) use text::{path, string, type_name};
pub(crate) use timing::{parsed, zone};

use syn::Expr;

/// Returns the expression without the invisible groups that `macro_rules!` puts around variables.
pub(crate) fn peel(mut expr: &Expr) -> &Expr {
    loop {
        expr = match expr {
            Expr::Group(group) => &group.expr,
            Expr::Paren(paren) => &paren.expr,
            other => return other,
        };
    }
}
