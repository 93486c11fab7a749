use std::fmt;

use serde::Serialize;

use crate::context::PART;

/// The key of a step or a wait.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub struct StepKey {
    /// As the handler named it.
    pub name: String,
    /// The index of the part, in an `invoke_all`.
    pub part: Option<u64>,
}

impl StepKey {
    pub(super) fn read(stored: &str) -> Self {
        let part = |text: &str| text.parse().ok();
        match stored.split_once(PART) {
            Some((name, number)) => Self {
                name: name.to_owned(),
                part: part(number),
            },
            None => Self {
                name: stored.to_owned(),
                part: None,
            },
        }
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.part.map_or(Ok(()), |part| write!(f, "[{part}]"))
    }
}
