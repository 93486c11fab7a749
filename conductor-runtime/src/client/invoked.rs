use std::fmt;

use serde::Serialize;

/// The effect of an invoke.
///
/// ```no_run
/// use conductor::Invoked;
/// use conductor::prelude::*;
///
/// #[task]
/// async fn sync(ctx: &TaskContext, user: i64) -> anyhow::Result<()> { Ok(()) }
///
/// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
/// let run = conductor.invoke::<Sync>(Sync { user: 7 }).dedupe_key("user-7").await?;
/// if run.came_of() == Invoked::Existing {
///     println!("{} is at it already", run.id());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Invoked {
    /// A new execution was created. Always so without `dedupe_key`, `throttle` and `debounce`.
    Created,
    /// An execution that had not started took the new payload and kept its id.
    Replaced,
    /// The execution had started and was left unchanged.
    Existing,
    /// The throttle's slot was taken. The handle is that of the execution that has it, ended or
    /// not.
    Throttled,
}

impl Invoked {
    /// Returns the name in lower case, as the command line prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Invoked::Created => "created",
            Invoked::Replaced => "replaced",
            Invoked::Existing => "existing",
            Invoked::Throttled => "throttled",
        }
    }

    /// Parses the name that the database uses.
    pub(super) fn read(word: &str) -> Result<Self, sqlx::Error> {
        [
            Invoked::Created,
            Invoked::Replaced,
            Invoked::Existing,
            Invoked::Throttled,
        ]
        .into_iter()
        .find(|invoked| invoked.as_str() == word)
        .ok_or_else(|| sqlx::Error::Decode(format!("an invoke came to {word:?}").into()))
    }
}

impl fmt::Display for Invoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
