//! Names of tasks and queues.

use syn::Expr;

use super::string;

/// The maximum length in bytes, which the database also checks.
const MAX_BYTES: usize = 100;

/// Reads the name of a task or queue.
pub(crate) fn name(expr: &Expr) -> syn::Result<String> {
    let literal = string(expr, "a name")?;
    let name = literal.value();
    match problem(&name) {
        None => Ok(name),
        Some(problem) => Err(syn::Error::new(literal.span(), problem)),
    }
}

/// Returns why a name is invalid. Every name that people can read and type is valid.
pub(crate) fn problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("a name cannot be empty".to_owned());
    }
    if name.len() > MAX_BYTES {
        return Some(format!(
            "this name has {} bytes, and at most {MAX_BYTES} are allowed",
            name.len()
        ));
    }
    if let Some(control) = name.chars().find(|c| c.is_control()) {
        return Some(format!(
            "a name cannot hold control characters, and this one holds U+{:04X}",
            u32::from(control)
        ));
    }
    let trimmed = name.trim();
    if trimmed.is_empty() {
        return Some("a name needs more than white space".to_owned());
    }
    (trimmed.len() < name.len())
        .then(|| format!("a name cannot begin or end with white space: write {trimmed:?}"))
}

#[cfg(test)]
mod tests {
    use super::problem;

    #[test]
    fn names_that_can_be_typed_are_allowed() {
        let longest = "x".repeat(100);
        for name in [
            "a",
            "resize-image",
            "a::b",
            "it's \"so\"",
            "Größe",
            "日本",
            "two words",
            &longest,
        ] {
            assert_eq!(problem(name), None, "{name}");
        }
    }

    #[test]
    fn length_counts_bytes() {
        assert!(problem(&"x".repeat(101)).is_some_and(|p| p.contains("101 bytes")));
        assert!(problem(&"ß".repeat(51)).is_some_and(|p| p.contains("102 bytes")));
    }

    #[test]
    fn empty_controls_and_outer_white_space_are_refused() {
        assert!(problem("").is_some_and(|p| p.contains("empty")));
        assert!(problem("a\nb").is_some_and(|p| p.contains("U+000A")));
        assert!(problem("a\0").is_some_and(|p| p.contains("U+0000")));
        assert!(problem(" fast").is_some_and(|p| p.ends_with("write \"fast\"")));
        assert!(problem("fast\u{a0}").is_some_and(|p| p.ends_with("write \"fast\"")));
        assert!(problem("  ").is_some_and(|p| p.contains("more than white space")));
    }
}
