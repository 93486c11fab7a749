//! Keywords.

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
    let nearest = words
        .iter()
        .map(|(word, _)| (strsim::jaro_winkler(word, &given.to_lowercase()), word))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let known: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
    let known = known.join(", ");
    Err(UnknownWord(match nearest {
        Some((_, word)) => {
            format!("`{given}` is no rule for {what} ({known}): did you mean `{word}`?")
        }
        None => format!("`{given}` is no rule for {what}: write one of {known}"),
    }))
}
