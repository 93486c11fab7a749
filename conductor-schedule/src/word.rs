//! Keywords.

use conductor_core::nearest;

/// The error for an unknown keyword.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnknownWord(String);

/// Returns the value of a keyword, or an error with the nearest keyword and all keywords.
pub(crate) fn find<T: Copy>(
    given: &str,
    what: &str,
    words: &[(&str, T)],
) -> Result<T, UnknownWord> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == given) {
        return Ok(*value);
    }
    let nearest = nearest(given, words.iter().map(|(word, _)| *word));
    let known: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
    let known = known.join(", ");
    Err(UnknownWord(match nearest {
        Some(word) => {
            format!("`{given}` is no rule for {what} ({known}): did you mean `{word}`?")
        }
        None => format!("`{given}` is no rule for {what}: write one of {known}"),
    }))
}
