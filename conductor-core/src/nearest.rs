//! The known name that is most similar to a mistyped one.

/// How similar a name must be to be proposed, from 0 to 1 (Jaro-Winkler).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// For a name of a few that are known: any slip of the finger.
    Similar,
    /// For words that are short, so that two letters decide.
    Close,
    /// For a name of many hundreds, of which one is always a little similar.
    VeryClose,
}

impl Likeness {
    fn least(self) -> f64 {
        match self {
            Likeness::Similar => 0.75,
            Likeness::Close => 0.8,
            Likeness::VeryClose => 0.85,
        }
    }
}

/// Returns the known name that is most similar to a mistyped one, if any is similar enough.
///
/// ```
/// assert_eq!(conductor_core::nearest("gret", ["greet", "report"]), Some("greet"));
/// assert_eq!(conductor_core::nearest("zzz", ["greet", "report"]), None);
/// ```
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let known = known.into_iter().map(|name| (name, name));
    nearest_of(Likeness::Similar, given, known)
}

/// Returns the value whose name is most similar to a mistyped one, if any is at least so similar.
pub fn nearest_of<'a, T>(
    likeness: Likeness,
    given: &str,
    known: impl IntoIterator<Item = (&'a str, T)>,
) -> Option<T> {
    let given = given.to_lowercase();
    known
        .into_iter()
        .map(|(name, value)| {
            let score = strsim::jaro_winkler(&name.to_lowercase(), &given);
            (score, value)
        })
        .filter(|(score, _)| *score > likeness.least())
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_the_name() {
        let known = ["greet", "resize-image", "report"];
        assert_eq!(nearest("gret", known), Some("greet"));
        assert_eq!(nearest("Resize_Image", known), Some("resize-image"));
        assert_eq!(nearest("zzz", known), None);
    }

    #[test]
    fn a_name_of_many_must_be_more_similar() {
        let found = |likeness| nearest_of(likeness, "sleep", [("slope", 1)]);
        assert_eq!(found(Likeness::Similar), Some(1));
        assert_eq!(found(Likeness::VeryClose), None);
    }
}
