use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::row::RowOp;

/// What started an execution; returned by `ctx.trigger()`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Trigger {
    /// An invoke by a client, by another task, or in SQL.
    #[default]
    Invoke,
    /// A tick of a schedule.
    Schedule {
        /// The schedule's name.
        name: String,
        /// The time of the tick; the execution starts at or after it.
        scheduled_at: DateTime<Utc>,
    },
    /// An event that the task is subscribed to.
    Event {
        /// The event's name.
        name: String,
        /// The event's id, as returned by `emit`.
        event_id: Uuid,
        /// When it was emitted.
        emitted_at: DateTime<Utc>,
    },
    /// A row change that the task listens to.
    Row {
        /// The table with its schema, quoted if necessary: `public.users`.
        table: String,
        /// The operation.
        op: RowOp,
    },
    /// A kind of trigger that this build does not know.
    #[serde(other)]
    Unknown,
}

impl Trigger {
    /// Parses the column `trigger`.
    pub(crate) fn read(json: Option<&str>) -> Self {
        json.map_or(Self::Invoke, |json| {
            serde_json::from_str(json).unwrap_or(Self::Unknown)
        })
    }

    /// Returns whether the payload of a tick could not be computed when the tick was due.
    pub(crate) fn lacks_payload(json: Option<&str>) -> bool {
        #[derive(Deserialize)]
        struct Made {
            #[serde(default)]
            unmade: bool,
        }
        json.and_then(|json| serde_json::from_str(json).ok())
            .is_some_and(|made: Made| made.unmade)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_yet_is_no_fault() {
        assert_eq!(Trigger::read(None), Trigger::Invoke);
        let tick = r#"{"kind":"schedule","name":"n","scheduled_at":"2026-01-01T01:00:00+01:00"}"#;
        let Trigger::Schedule { name, scheduled_at } = Trigger::read(Some(tick)) else {
            panic!("no schedule");
        };
        assert_eq!(
            (name.as_str(), scheduled_at.timestamp()),
            ("n", 1_767_225_600)
        );
        for other in [
            r#"{"kind":"comet","tail":1}"#,
            r#"{"kind":"schedule"}"#,
            "[]",
        ] {
            assert_eq!(Trigger::read(Some(other)), Trigger::Unknown, "{other}");
        }
        assert!(!Trigger::lacks_payload(None) && !Trigger::lacks_payload(Some(tick)));
        let unmade = tick.replace('}', r#","unmade":true}"#);
        assert!(Trigger::lacks_payload(Some(&unmade)));
        assert_eq!(Trigger::read(Some(&unmade)), Trigger::read(Some(tick)));
    }
}
