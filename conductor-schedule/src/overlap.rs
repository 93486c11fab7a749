use std::fmt;
use std::str::FromStr;

use crate::word::{self, UnknownWord};

/// How to handle a tick while the execution of the previous tick has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Overlap {
    /// Starts another execution.
    #[default]
    Allow,
    /// Starts no execution. Under [`Missed::All`](crate::Missed::All), missed ticks run one after another instead.
    Skip,
}

const WORDS: [(&str, Overlap); 2] = [("allow", Overlap::Allow), ("skip", Overlap::Skip)];

impl Overlap {
    /// Returns the keyword as it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Skip => "skip",
        }
    }
}

impl FromStr for Overlap {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        word::find(text, "overlapping ticks", &WORDS)
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back() {
        for (word, overlap) in WORDS {
            assert_eq!(word.parse(), Ok(overlap));
            assert_eq!(overlap.to_string(), word);
        }
        assert!("queue".parse::<Overlap>().is_err());
    }
}
