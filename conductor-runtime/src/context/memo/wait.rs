//! What an execution waits for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// What an execution waits for when it is suspended, and what it waits for no longer.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) waits: BTreeMap<String, Wait>,
    pub(crate) withdrawn: Vec<String>,
    /// What came to the handler while it ran and what it has had.
    pub(crate) had: Vec<String>,
    /// How many records the run has met.
    pub(crate) met: usize,
    /// The key of something that came and that the run has not asked for, while it waits for something new.
    pub(crate) astray: Option<String>,
}

/// What an execution waits for.
#[derive(Debug, Clone)]
pub(crate) struct Wait {
    pub(crate) kind: &'static str,
    /// Waits of one group are of use only together.
    pub(crate) group: String,
    pub(crate) wake: Option<Wake>,
    pub(crate) child: Option<Child>,
    pub(crate) event: Option<Awaited>,
    /// When the handler first waited.
    pub(crate) since: Instant,
    pub(crate) stands: Stands,
}

/// Whether the database knows of a wait while the handler goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stands {
    No,
    /// It is being told.
    Asked,
    Yes,
    /// It was refused, and is told when the execution is suspended.
    Refused,
}

impl Wait {
    /// When it is over; a time that is counted from the handler's wait has run since.
    pub(crate) fn wake(&self) -> Option<Wake> {
        match self.wake {
            Some(Wake::In(duration)) => {
                Some(Wake::In(duration.saturating_sub(self.since.elapsed())))
            }
            wake => wake,
        }
    }

    /// About how much it adds to a message.
    pub(crate) fn bytes(&self) -> usize {
        let child = self.child.as_ref().map_or(0, |child| child.payload.len());
        let filter = self.event.as_ref().and_then(|event| event.filter.as_ref());
        64 + self.group.len() + child + filter.map_or(0, String::len)
    }
}

/// When a wait is over, by the database's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wake {
    In(Duration),
    At(DateTime<Utc>),
}

/// A child that is to be made.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    pub(crate) id: Uuid,
    pub(crate) task: &'static str,
    pub(crate) payload: String,
    pub(crate) detached: bool,
}

/// An event that is to come.
#[derive(Debug, Clone)]
pub(crate) struct Awaited {
    pub(crate) name: Cow<'static, str>,
    /// JSON, as `conductor.matches` reads it; none for every event of the name.
    pub(crate) filter: Option<String>,
}
