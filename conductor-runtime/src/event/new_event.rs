use conductor_core::name_problem;
use conductor_postgres::store::events::{NewEvents, emit_many};
use sqlx::PgConnection;
use uuid::Uuid;

use super::Event;
use crate::codec;
use crate::error::{Error, Result};

/// An event whose payload is encoded.
#[derive(Debug, Clone)]
pub(crate) struct NewEvent {
    pub(crate) id: Uuid,
    name: String,
    payload: String,
}

impl NewEvent {
    pub(crate) fn of<E: Event>(event: &E) -> Result<Self> {
        let (payload, _) =
            codec::encode_readable(event).map_err(|reason| Error::event(E::NAME, reason))?;
        Self::encoded(E::NAME, payload)
    }

    /// Returns its JSON.
    pub(crate) fn payload(&self) -> &str {
        &self.payload
    }

    /// Returns an event with this JSON, which is not checked.
    pub(super) fn encoded(name: &str, payload: String) -> Result<Self> {
        if let Some(problem) = name_problem(name) {
            return Err(Error::event(name, problem));
        }
        Ok(Self {
            id: Uuid::now_v7(),
            name: name.to_owned(),
            payload,
        })
    }

    /// Returns approximately how many bytes it adds to a message.
    pub(super) fn bytes(&self) -> usize {
        64 + self.name.len() + self.payload.len()
    }
}

/// Runs the statement on any connection.
pub(crate) async fn write_events(
    connection: &mut PgConnection,
    events: &[NewEvent],
    in_transaction: bool,
) -> Result<(), sqlx::Error> {
    let new = NewEvents {
        ids: events.iter().map(|event| event.id).collect(),
        names: events.iter().map(|event| event.name.as_str()).collect(),
        payloads: events.iter().map(|event| event.payload.as_str()).collect(),
    };
    emit_many(connection, new, in_transaction).await
}
