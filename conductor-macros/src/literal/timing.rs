//! Texts that the crate `conductor-schedule` parses. Its errors suggest a fix.

use std::fmt::Display;
use std::str::FromStr;

use conductor_schedule::Tz;
use syn::{Expr, LitStr};

use super::string;

/// Reads a keyword or a rule. `what` completes "expected … as a string literal".
pub(crate) fn parsed<T>(expr: &Expr, what: &str) -> syn::Result<T>
where
    T: FromStr<Err: Display>,
{
    let literal = string(expr, what)?;
    at(literal, literal.value().parse())
}

/// Reads the name of a time zone.
pub(crate) fn zone(expr: &Expr) -> syn::Result<Tz> {
    let literal = string(expr, "a time zone such as `\"Europe/Berlin\"`")?;
    at(literal, conductor_schedule::zone(&literal.value()))
}

fn at<T>(literal: &LitStr, result: Result<T, impl Display>) -> syn::Result<T> {
    result.map_err(|problem| syn::Error::new(literal.span(), problem))
}
