//! Names of tasks and queues.

use conductor_core::name_problem;
use syn::Expr;

use super::string;

/// Reads the name of a task or queue.
pub(crate) fn name(expr: &Expr) -> syn::Result<String> {
    let literal = string(expr, "a name")?;
    let name = literal.value();
    match name_problem(&name) {
        None => Ok(name),
        Some(problem) => Err(syn::Error::new(
            literal.span(),
            format!("this name cannot be used: {problem}"),
        )),
    }
}
