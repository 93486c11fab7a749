//! The advice of an error, and its text on one line.

use std::borrow::Cow;

use conductor_core::one_line;

use super::Error;

/// The advice of [`Error::Unavailable`].
pub(super) const UNAVAILABLE: &str = "It is not known whether the call took effect. Try it again when the database is back; with a dedupe_key nothing is made twice, unless the first one has ended by then.";
/// The advice of [`Error::Connect`].
pub(super) const CONNECT: &str =
    "Set DATABASE_URL to a reachable Postgres 14 or later, or unset it to use the embedded one.";
/// The advice of [`Error::KeyUsedTwice`].
pub(super) const KEY_USED_TWICE: &str = "each step of an execution needs a key of its own";
/// The advice of [`Error::KeyChanged`].
pub(super) const KEY_CHANGED: &str = "give the new one another key";

impl Error {
    /// Returns advice on what to do about the error, on one line, or `None` if there is none.
    ///
    /// The command line prints it as a line of its own. `Display` contains it, too, after what
    /// failed and why.
    ///
    /// ```
    /// # async fn f() {
    /// if let Err(error) = conductor::Conductor::connect().await {
    ///     eprintln!("error: {error}");
    ///     if let Some(help) = error.help() {
    ///         eprintln!("help: {help}");
    ///     }
    /// }
    /// # }
    /// ```
    pub fn help(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Unavailable { .. } => Some(UNAVAILABLE.into()),
            Self::Connect { .. } => Some(CONNECT.into()),
            Self::Schema(text) | Self::UnknownTask { hint: text, .. } => {
                let (_, help) = text.split_once('\n')?;
                Some(one_line(help))
            }
            #[cfg(feature = "embedded")]
            Self::Embedded(error) => {
                let error: &crate::embedded::EmbeddedError = error.downcast_ref()?;
                error.help().map(Cow::Borrowed)
            }
            Self::KeyUsedTwice { .. } => Some(KEY_USED_TWICE.into()),
            Self::KeyChanged { .. } => Some(KEY_CHANGED.into()),
            Self::Nested { within, .. } => Some(say_it_elsewhere(within).into()),
            _ => None,
        }
    }

    /// Returns `Display` without the advice of [`help`](Self::help).
    #[doc(hidden)]
    pub fn without_help(&self) -> String {
        let mut text = self.to_string();
        if let Some(help) = self.help()
            && let Some(rest) = text.strip_suffix(help.as_ref())
        {
            let length = rest.trim_end_matches([' ', ';']).len();
            text.truncate(length);
        }
        text
    }
}

/// Returns the advice of [`Error::Nested`].
pub(super) fn say_it_elsewhere(within: &str) -> String {
    format!("say it before or after the {within}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::error::Error as _;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn advice_is_a_part_of_one_line_and_can_be_had_alone() {
        let schema = Error::Schema("nothing was applied: 2.\n  Stop them\n  or wait".to_owned());
        let unavailable = Error::Unavailable {
            waited: Duration::from_millis(30_400),
            reason: "no answer".to_owned(),
            source: Arc::new(sqlx::Error::PoolTimedOut),
        };
        let nested = Error::Nested {
            key: "k".to_owned(),
            kind: "sleep",
            within: "step",
        };
        let unknown = Error::UnknownTask {
            name: "gret".to_owned(),
            hint: "; did you mean \"greet\"?\n  Known tasks: greet".to_owned(),
        };
        for (error, what, help) in [
            (
                schema,
                "schema: nothing was applied: 2.",
                "Stop them or wait",
            ),
            (
                unavailable,
                "the database has not answered for 30s: no answer.",
                UNAVAILABLE,
            ),
            (
                nested,
                "the sleep \"k\" is inside the body of a step, where it could not end",
                "say it before or after the step",
            ),
            (
                unknown,
                "unknown task \"gret\"; did you mean \"greet\"?",
                "Known tasks: greet",
            ),
        ] {
            assert_eq!(error.without_help(), what);
            assert_eq!(error.help().as_deref(), Some(help));
            let line = error.to_string();
            assert!(line.starts_with(what) && line.ends_with(help), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
        let refused = Error::Refused(vec!["one".to_owned(), "two:\n  three".to_owned()]);
        assert_eq!(refused.to_string(), "cannot start: one; two: three");
        assert_eq!(refused.help(), None);
        assert_eq!(refused.without_help(), refused.to_string());
    }

    #[test]
    fn the_drivers_error_is_the_source() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = Error::Connect {
            url: "postgres://host".to_owned(),
            reason: refused.to_string(),
            source: Some(refused.into()),
        };
        let source = error.source().unwrap().downcast_ref::<sqlx::Error>();
        assert!(matches!(source, Some(sqlx::Error::Io(_))), "{source:?}");
        let error = Error::Unavailable {
            waited: Duration::ZERO,
            reason: String::new(),
            source: Arc::new(sqlx::Error::PoolTimedOut),
        };
        assert!(
            error
                .source()
                .unwrap()
                .to_string()
                .contains("pool timed out")
        );
    }
}
