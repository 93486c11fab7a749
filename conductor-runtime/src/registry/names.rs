/// Returns the known name that is most similar to a mistyped one, if any is similar enough.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| {
            let score = strsim::jaro_winkler(&lower, &candidate.to_lowercase());
            (score, candidate)
        })
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Checks that a text can be the name of a task or queue.
///
/// It must have 1 to 100 bytes, no control characters, and no white space at the ends. Everything
/// else is allowed and distinct: `a-b` is not `a_b`.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 100 {
        return Err(format!("it has {} bytes; 1 to 100 are allowed", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err("it contains a control character".to_owned());
    }
    if name.trim() != name {
        return Err("it begins or ends with white space".to_owned());
    }
    Ok(())
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
    fn odd_names_are_fine_and_unusable_ones_are_not() {
        for name in ["a b", "Größe", "it's \"x\"::y", "a-b", "a_b"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", " a", "a\n", "a\0b", &"x".repeat(101)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
