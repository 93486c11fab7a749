use std::fmt;
use std::str::FromStr;

use crate::word::{self, UnknownWord};

/// How to handle ticks that were missed because no worker was running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Missed {
    /// Runs none of them. A tick still runs if it is late by at most 5 s and at most half of the time to the next
    /// tick.
    Skip,
    /// Runs the latest one, in place of all.
    #[default]
    Once,
    /// Runs each of them.
    All,
}

const WORDS: [(&str, Missed); 3] = [
    ("skip", Missed::Skip),
    ("once", Missed::Once),
    ("all", Missed::All),
];

impl Missed {
    /// Returns the keyword as it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        }
    }
}

impl FromStr for Missed {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        word::find(text, "missed ticks", &WORDS)
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back() {
        for (word, missed) in WORDS {
            assert_eq!(word.parse(), Ok(missed));
            assert_eq!(missed.to_string(), word);
        }
        let problem = |text: &str| text.parse::<Missed>().map_err(|error| error.to_string());
        assert_eq!(
            problem("Skipp"),
            Err(
                "`Skipp` is no rule for missed ticks (`skip`, `once`, `all`): did you mean `skip`?"
                    .to_owned()
            )
        );
        assert_eq!(
            problem("run"),
            Err("`run` is no rule for missed ticks: write one of `skip`, `once`, `all`".to_owned())
        );
    }
}
