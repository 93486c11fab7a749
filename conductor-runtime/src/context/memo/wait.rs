//! What an execution waits for.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::context::input::Input;

/// What an execution waits for when it is suspended, and what it no longer waits for.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) waits: BTreeMap<String, Wait>,
    pub(crate) withdrawn: Vec<String>,
    /// The keys of results that arrived during the run and that the handler has received.
    pub(crate) had: Vec<String>,
    /// How many records the run has used.
    pub(crate) met: usize,
    /// The key of an earlier result that the run did not ask for, if it waits for something new.
    pub(crate) astray: Option<String>,
}

/// One wait of an execution.
#[derive(Debug, Clone)]
pub(crate) struct Wait {
    pub(crate) kind: &'static str,
    /// Waits of one group are useful only together.
    pub(crate) group: String,
    pub(crate) wake: Option<Wake>,
    pub(crate) child: Option<Child>,
    pub(crate) event: Option<Awaited>,
    /// When the handler first waited for it.
    pub(crate) since: Instant,
    /// What the call was given.
    pub(crate) input: Option<Input>,
    pub(crate) stands: Stands,
}

/// Whether the database knows a wait while its handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stands {
    No,
    /// It is being sent.
    Asked,
    Yes,
    /// The database refused it; it is sent again when the execution is suspended.
    Refused,
}

impl Wait {
    /// Returns when it ends; from a duration, the time since the handler's first wait is subtracted.
    pub(crate) fn wake(&self) -> Option<Wake> {
        match self.wake {
            Some(Wake::In(duration)) => {
                Some(Wake::In(duration.saturating_sub(self.since.elapsed())))
            }
            wake => wake,
        }
    }

    /// Returns approximately how many bytes it adds to a message.
    pub(crate) fn bytes(&self) -> usize {
        let child = self.child.as_ref().map_or(0, |child| child.payload.len());
        let filter = self.event.as_ref().and_then(|event| event.filter.as_ref());
        64 + self.group.len() + child + filter.map_or(0, String::len)
    }
}

/// When a wait ends, by the database's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wake {
    In(Duration),
    At(DateTime<Utc>),
}

/// A child to be created.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    pub(crate) id: Uuid,
    pub(crate) task: &'static str,
    pub(crate) payload: String,
    pub(crate) detached: bool,
}

/// An event to wait for.
#[derive(Debug, Clone)]
pub(crate) struct Awaited {
    pub(crate) name: Cow<'static, str>,
    /// The filter as JSON that `conductor.matches` reads; `None` for every event of the name.
    pub(crate) filter: Option<String>,
}
