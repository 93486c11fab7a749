use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Instant;

use conductor_core::name_problem;
use conductor_postgres::store::events::{NewEvents, emit_many};
use conductor_postgres::{Batcher, Database, Fault, OUTAGE, Patience, fault, take_message};
use sqlx::PgConnection;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::Event;
use crate::client::{Conductor, Untyped};
use crate::codec;
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::unreadable::read;

/// The most events in one statement.
const MAX_ROWS: usize = 1000;

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

    /// Checks JSON from an outside source.
    pub(super) fn checked(registry: &Registry, name: &str, payload: &str) -> Result<Self> {
        let refuse = |reason: String| Error::event(name, reason);
        codec::check_storable(payload).map_err(refuse)?;
        match registry.get_event(name) {
            Some(event) => (event.check)(payload),
            None => read::<serde::de::IgnoredAny>(payload)
                .map(drop)
                .map_err(Into::into),
        }
        .map_err(refuse)?;
        Self::encoded(name, payload.to_owned())
    }

    fn encoded(name: &str, payload: String) -> Result<Self> {
        if let Some(problem) = name_problem(name) {
            return Err(Error::event(name, problem));
        }
        Ok(Self {
            id: Uuid::now_v7(),
            name: name.to_owned(),
            payload,
        })
    }

    fn bytes(&self) -> usize {
        64 + self.name.len() + self.payload.len()
    }
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
            .emit_new(NewEvent::checked(self.conductor.registry(), name, payload)?)
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

/// Writes the events of concurrent `emit` calls together.
#[derive(Debug)]
pub(crate) struct Emitter {
    database: Database,
    batcher: Batcher<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    new: NewEvent,
    since: Instant,
    done: oneshot::Sender<Result<()>>,
}

impl Emitter {
    pub(crate) fn new(database: Database) -> Self {
        Self {
            database,
            batcher: Batcher::new(),
        }
    }

    async fn emit(&self, new: NewEvent) -> Result<Uuid> {
        let id = new.id;
        let (done, outcome) = oneshot::channel();
        let database = self.database.clone();
        let since = Instant::now();
        self.batcher
            .add(Waiting { new, since, done }, take_batch, move |batch| {
                write(database.clone(), batch)
            });
        outcome
            .await
            .unwrap_or_else(|_| Err(Error::Database(sqlx::Error::WorkerCrashed)))?;
        Ok(id)
    }
}

fn take_batch(waiting: &mut Vec<Waiting>) -> Vec<Waiting> {
    take_message(waiting, MAX_ROWS, |waiting| waiting.new.bytes())
}

/// Writes all events in one statement, or, if that is refused, one by one, so that a bad event
/// fails alone.
async fn write(database: Database, batch: Vec<Waiting>) {
    let since = batch.iter().map(|waiting| waiting.since).min();
    let mut patience = Patience::since(since.unwrap_or_else(Instant::now), OUTAGE);
    let (events, callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.new, w.done)).unzip();
    match emit_again(&database, &events, &mut patience).await {
        Ok(()) => callers.into_iter().for_each(|caller| {
            let _ = caller.send(Ok(()));
        }),
        Err(error) if events.len() == 1 || fault(&error) == Fault::Passing => {
            let text = error.to_string();
            let mut first = Some(error);
            for caller in callers {
                let error = first
                    .take()
                    .unwrap_or_else(|| sqlx::Error::Protocol(text.clone()));
                let _ = caller.send(Err(patience.over(error).into()));
            }
        }
        Err(_) => {
            for (event, caller) in events.iter().zip(callers) {
                let mut patience = Patience::new(OUTAGE);
                let emitted =
                    emit_again(&database, std::slice::from_ref(event), &mut patience).await;
                let _ = caller.send(emitted.map_err(|error| patience.over(error).into()));
            }
        }
    }
}

/// Emits, and retries if the connection broke and the fate of the commit is unknown. The ids are
/// made here, so a retry emits nothing twice.
async fn emit_again(
    database: &Database,
    events: &[NewEvent],
    patience: &mut Patience,
) -> Result<(), sqlx::Error> {
    loop {
        let emit =
            async |connection: &mut PgConnection| write_events(connection, events, false).await;
        match patience.run(database, emit).await {
            Err(error) if patience.again(&error).await => {}
            other => return other,
        }
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
