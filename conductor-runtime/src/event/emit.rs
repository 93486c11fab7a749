use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;

use sqlx::PgConnection;
use uuid::Uuid;

use super::Event;
use super::new_event::{NewEvent, write_events};
use crate::client::{Conductor, Untyped};
use crate::codec;
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::unreadable::read;

/// A builder for an emit. Does nothing until awaited.
///
/// `.await` emits the event and returns its id.
#[must_use = "an emit does nothing until it is awaited"]
pub struct Emit<'c, E> {
    conductor: &'c Conductor,
    new: Result<NewEvent>,
    of: PhantomData<fn() -> E>,
}

/// An [`Emit`] within the caller's transaction. Does nothing until awaited.
#[must_use = "an emit does nothing until it is awaited"]
pub struct EmitInTransaction<'t> {
    conductor: &'t Conductor,
    new: Result<NewEvent>,
    connection: &'t mut PgConnection,
}

/// Checks JSON from an outside source.
pub(super) fn checked(registry: &Registry, name: &str, payload: &str) -> Result<NewEvent> {
    let refuse = |reason: String| Error::event(name, reason);
    codec::check_storable(payload).map_err(refuse)?;
    match registry.get_event(name) {
        Some(event) => (event.check)(payload),
        None => read::<serde::de::IgnoredAny>(payload)
            .map(drop)
            .map_err(Into::into),
    }
    .map_err(refuse)?;
    NewEvent::encoded(name, payload.to_owned())
}

impl Conductor {
    /// Emits an event, which starts subscribed tasks and wakes waiting executions.
    ///
    /// `.await` returns the event's id; `.in_transaction(…)` makes it part of the caller's
    /// transaction. Once the call returns `Ok`, the event is committed and will be processed,
    /// whatever crashes. Concurrent calls are written together. The event is kept for
    /// [`Event::KEEP`], seven days by default.
    ///
    /// ```no_run
    /// # use conductor::prelude::*;
    /// #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
    /// struct UserSignedUp { user_id: i64 }
    /// impl Event for UserSignedUp { const NAME: &'static str = "user_signed_up"; }
    ///
    /// # async fn f(conductor: Conductor) -> anyhow::Result<()> {
    /// let id = conductor.emit(UserSignedUp { user_id: 7 }).await?;
    ///
    /// let mut tx = conductor.pool().begin().await?;
    /// sqlx::query("insert into users (id) values (8)").execute(&mut *tx).await?;
    /// conductor.emit(UserSignedUp { user_id: 8 }).in_transaction(&mut tx).await?;
    /// tx.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Event`] if it cannot be stored: it is too large or too deep, or a text contains
    /// U+0000.
    pub fn emit<E: Event>(&self, event: E) -> Emit<'_, E> {
        Emit {
            conductor: self,
            new: NewEvent::of(&event),
            of: PhantomData,
        }
    }

    pub(super) async fn emit_new(&self, new: NewEvent) -> Result<Uuid> {
        self.migrate().await?;
        self.emitter().emit(new).await
    }
}

impl Untyped<'_> {
    /// Emits an event by name, from a payload that is already JSON.
    ///
    /// # Errors
    /// [`Error::Event`] if it cannot be stored, or if this binary has an event of this name and the
    /// JSON does not fit its struct.
    pub async fn emit(self, name: &str, payload: &str) -> Result<Uuid> {
        self.conductor
            .emit_new(checked(self.conductor.registry(), name, payload)?)
            .await
    }
}

impl<'c, E: Event> Emit<'c, E> {
    /// Emits within the caller's transaction: the event commits or rolls back with it.
    ///
    /// The event counts as emitted when an orchestrator writes it to the log, usually right after
    /// the commit.
    pub fn in_transaction<'t>(self, connection: &'t mut PgConnection) -> EmitInTransaction<'t>
    where
        'c: 't,
    {
        EmitInTransaction {
            conductor: self.conductor,
            new: self.new,
            connection,
        }
    }
}

impl<'c, E: Event> IntoFuture for Emit<'c, E> {
    type Output = Result<Uuid>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'c>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.conductor.emit_new(self.new?).await })
    }
}

impl<'t> IntoFuture for EmitInTransaction<'t> {
    type Output = Result<Uuid>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 't>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let new = self.new?;
            self.conductor.migrate().await?;
            write_events(self.connection, std::slice::from_ref(&new), true).await?;
            Ok(new.id)
        })
    }
}
