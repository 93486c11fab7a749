use chrono::{DateTime, Utc};
use conductor_core::nearest;
use conductor_postgres::store::events::{self, Logged};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::client::Inspect;
use crate::error::{Error, Result};

/// An event in the log.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct EventInfo {
    /// The id that `emit` returned.
    pub id: Uuid,
    /// The event's name.
    pub name: String,
    /// When it was emitted; if in a transaction, when an orchestrator wrote it to the log after the
    /// commit.
    pub emitted_at: DateTime<Utc>,
    /// The payload as JSON.
    pub payload: Box<RawValue>,
}

impl Inspect<'_> {
    /// Returns the latest events, newest first, of one name or of all names.
    ///
    /// An event older than its [`KEEP`](crate::event::Event::KEEP), seven days by default, is
    /// removed.
    pub async fn events(self, name: Option<&str>, limit: u32) -> Result<Vec<EventInfo>> {
        self.conductor.migrate().await?;
        let latest = events::latest(self.conductor.database(), name, i64::from(limit)).await?;
        let info = |event: Logged| {
            let payload = RawValue::from_string(event.payload)
                .map_err(|error| Error::event(&event.name, error))?;
            Ok(EventInfo {
                id: event.id,
                name: event.name,
                payload,
                emitted_at: event.emitted_at,
            })
        };
        latest.into_iter().map(info).collect()
    }

    /// Returns the JSON Schema of an event of this binary, or of another program's.
    ///
    /// # Errors
    /// [`Error::Event`] if no program has declared the event; it suggests the most similar known
    /// name.
    #[doc(hidden)]
    pub async fn event_schema(self, name: &str) -> Result<Value> {
        let registry = self.conductor.registry();
        if let Some(event) = registry.get_event(name) {
            return Ok(event.schema());
        }
        self.conductor.migrate().await?;
        let known = events::schemas(self.conductor.database()).await?;
        let names = || {
            let stored = known.iter().map(|(name, _)| name.as_str());
            registry.events().map(|event| event.name).chain(stored)
        };
        if let Some((_, schema)) = known.iter().find(|(stored, _)| stored == name) {
            return Ok(schema.clone());
        }
        let hint = match nearest(name, names()) {
            Some(near) => format!("; did you mean {near:?}?"),
            None => String::new(),
        };
        Err(Error::event(
            name,
            format!("no program has declared it{hint}"),
        ))
    }
}
