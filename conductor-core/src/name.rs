//! Names of tasks, queues, events and schedules.

/// The maximum length in bytes, which the database also checks.
const MAX_BYTES: usize = 100;

/// Returns why a name is invalid, or `None` if it can be used.
///
/// Every name that people can read and type is valid, and distinct: `a-b` is not `a_b`.
///
/// ```
/// assert_eq!(conductor_core::name_problem("it's \"x\"::y"), None);
/// assert!(conductor_core::name_problem(" fast").is_some());
/// ```
pub fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("it has 0 bytes, and a name cannot be empty".to_owned());
    }
    if name.len() > MAX_BYTES {
        let bytes = name.len();
        return Some(format!(
            "it has {bytes} bytes; at most {MAX_BYTES} are allowed"
        ));
    }
    if let Some(control) = name.chars().find(|c| c.is_control()) {
        let code = u32::from(control);
        return Some(format!("it contains a control character, U+{code:04X}"));
    }
    let trimmed = name.trim();
    if trimmed.is_empty() {
        return Some("it has only white space".to_owned());
    }
    (trimmed.len() < name.len())
        .then(|| format!("it begins or ends with white space: write {trimmed:?}"))
}

#[cfg(test)]
mod tests {
    use super::name_problem as problem;

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
        assert!(problem("  ").is_some_and(|p| p.contains("only white space")));
    }
}
