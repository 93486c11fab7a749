//! Texts on one line.

use std::borrow::Cow;

/// Returns a text with a space for each line break and the white space around it.
///
/// ```
/// assert_eq!(conductor_core::one_line("no such table\n  did you mean `orders`?"), "no such table did you mean `orders`?");
/// ```
pub fn one_line(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    if !text.contains('\n') {
        return Cow::Borrowed(text);
    }
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Cow::Owned(lines.collect::<Vec<_>>().join(" "))
}
