use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use conductor_postgres::RetryBudget;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::TaskContext;
use super::block::Block;
use super::input::Input;
use super::lazy::Lazy;
use super::memo::{Awaited, Met, Recorded, Stands, Wait, Wake, Wanted};
use crate::codec;
use crate::error::{Error, Result, too_long};
use crate::event::{Event, Filter, NewEvent, write_events};
use crate::unreadable::{Unreadable, read};

const KIND: &str = "event";
const KIND_EMIT: &str = "emit";

/// A builder for a wait for an event, and its future. Does nothing until awaited.
///
/// `.await` returns the event.
#[must_use = "a wait does nothing until it is awaited"]
pub struct WaitForEvent<'c, E> {
    ctx: &'c TaskContext,
    lazy: Lazy<'c, Options<'c>, Result<E>>,
    of: PhantomData<fn() -> E>,
}

struct Options<'c> {
    key: String,
    met: Met,
    wanted: Wanted<'c>,
    filter: Option<serde_json::Value>,
    timeout: Option<Duration>,
}

impl TaskContext {
    /// Waits for an event. The worker's slot is free meanwhile.
    ///
    /// Configure it with `.when(…)` and `.timeout(…)`, then `.await` it. The wait sees every event
    /// of this type that was emitted since the execution was created, including those emitted
    /// before the handler reached this line or while no worker was running, as long as the event is
    /// kept, which is seven days. Further waits of the same execution return the events that
    /// follow, each once, in the order in which they were emitted. Any number of executions may
    /// wait for the same event.
    ///
    /// The event is recorded, so a replay returns the same one. A wait that is registered survives
    /// any crash.
    ///
    /// ```
    /// # use conductor::prelude::*;
    /// # use conductor::Field;
    /// # use std::time::{Duration, Instant};
    /// #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
    /// struct Paid { order: i64, cents: i64 }
    /// impl Event for Paid { const NAME: &'static str = "paid"; }
    /// const ORDER: Field<Paid, i64> = Field::new(&["order"]);
    ///
    /// #[task]
    /// async fn ship(ctx: &TaskContext, order: i64) -> anyhow::Result<i64> {
    ///     let paid = ctx
    ///         .wait_for_event::<Paid>("payment")
    ///         .when(ORDER.eq(order))
    ///         .timeout(Duration::from_secs(24 * 60 * 60))
    ///         .await?;
    ///     Ok(paid.cents)
    /// }
    /// ```
    ///
    /// # Errors
    /// - [`Error::NoEvent`] if none came within the timeout; this is recorded as well.
    /// - [`Error::Event`] if the filter cannot be stored, because it is too deep or compares with a
    ///   text that contains U+0000.
    ///
    /// If this build cannot read the event, the call does not return, and the execution waits for a
    /// build that can.
    pub fn wait_for_event<E: Event>(&self, key: impl Into<String>) -> WaitForEvent<'_, E> {
        let key = key.into();
        WaitForEvent {
            ctx: self,
            lazy: Lazy::new(Options {
                met: self.memo.meet(&key, KIND),
                wanted: Wanted::new(&self.memo, &key),
                key,
                filter: None,
                timeout: None,
            }),
            of: PhantomData,
        }
    }

    /// Emits an event once, and returns its id.
    ///
    /// The event and the step's record commit together, so neither a crash nor a replay emits it
    /// twice.
    ///
    /// ```
    /// # use conductor::prelude::*;
    /// #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
    /// struct Shipped { order: i64 }
    /// impl Event for Shipped { const NAME: &'static str = "shipped"; }
    ///
    /// #[task]
    /// async fn ship(ctx: &TaskContext, order: i64) -> anyhow::Result<()> {
    ///     ctx.emit("announce", Shipped { order }).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`Error::Event`] if the event cannot be stored.
    pub fn emit<E: Event>(
        &self,
        key: impl Into<String>,
        event: E,
    ) -> impl Future<Output = anyhow::Result<Uuid>> + Send {
        let key = key.into();
        let met = self.memo.meet(&key, KIND_EMIT);
        let new = NewEvent::of(&event);
        let payload = new.as_ref().ok().map(NewEvent::payload);
        let input = payload.and_then(|payload| Input::of(E::NAME, payload));
        async move {
            self.compare(&key, input);
            if let Some(recorded) = met? {
                return self.replayed(&key, KIND_EMIT, &recorded).await;
            }
            let new = new?;
            let mut budget = RetryBudget::new(Duration::MAX);
            loop {
                let new = new.clone();
                let emit =
                    self.transact(key.clone(), KIND_EMIT, Ok(None), input, async move |tx| {
                        write_events(tx, std::slice::from_ref(&new), true).await?;
                        Ok::<_, Error>(new.id)
                    });
                let error = match emit.await {
                    Ok(id) => return Ok(id),
                    Err(error) => error,
                };
                // The transaction was rolled back, so it is safe to retry.
                let _busy = self.memo.busy();
                match error.downcast_ref() {
                    Some(Error::Database(fault)) if budget.may_retry(fault).await => {}
                    _ => return Err(error),
                }
            }
        }
    }
}

impl<E: Event> WaitForEvent<'_, E> {
    /// Waits only for events that match the filter. Several filters are combined with AND.
    pub fn when(mut self, filter: Filter<E>) -> Self {
        self.lazy.change(|options| {
            let filter = filter.to_json();
            options.filter = Some(match options.filter.take() {
                Some(first) => serde_json::json!({"op": "and", "of": [first, filter]}),
                None => filter,
            });
        });
        self
    }

    /// Limits how long to wait, by the database's clock. Default: no limit.
    ///
    /// The time counts from when the handler first waits.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.lazy.change(|options| options.timeout = Some(timeout));
        self
    }
}

impl<E> Unpin for WaitForEvent<'_, E> {}

impl<E: Event> Future for WaitForEvent<'_, E> {
    type Output = Result<E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ctx = this.ctx;
        this.lazy.poll_with(cx, |options| async move {
            let filter = options.filter.map(|filter| filter.to_string());
            let input = Input::of(E::NAME, filter.as_deref().unwrap_or("null"));
            ctx.compare(&options.key, input);
            if let Some(recorded) = options.met? {
                options.wanted.had();
                return came_to::<E>(ctx, options.key, &recorded).await;
            }
            if let Some(error) = options.timeout.and_then(too_long) {
                return Err(error);
            }
            if let Some(Err(reason)) = filter.as_deref().map(codec::check_storable) {
                let reason = format!("its filter cannot be stored: {reason}");
                return Err(Error::event(E::NAME, reason));
            }
            let wait = Wait {
                kind: KIND,
                group: options.key.clone(),
                wake: options.timeout.map(Wake::In),
                child: None,
                event: Some(Awaited {
                    name: E::NAME.into(),
                    filter,
                }),
                since: Instant::now(),
                input,
                stands: Stands::No,
            };
            ctx.durable()?;
            ctx.go_on().await?;
            let waits = vec![(options.key.clone(), wait)];
            let came = Block::on(&ctx.memo, waits).await;
            options.wanted.had();
            match came.first() {
                Some(recorded) => came_to::<E>(ctx, options.key, recorded).await,
                None => std::future::pending().await,
            }
        })
    }
}

/// The recorded result of a wait; without an event if none came in time.
#[derive(Deserialize)]
struct Came<'r> {
    event: Option<Uuid>,
    #[serde(borrow)]
    payload: Option<&'r RawValue>,
}

async fn came_to<E: Event>(ctx: &TaskContext, key: String, recorded: &Recorded) -> Result<E> {
    let came: Came<'_> = match read(recorded.get()) {
        Ok(came) => came,
        Err(error) => {
            let what = format!("what the wait {key:?} has recorded");
            return ctx.leave(Unreadable::new(what, error)).await;
        }
    };
    if came.event.is_none() {
        return Err(Error::NoEvent {
            event: E::NAME.to_owned(),
            key,
        });
    }
    let json = came.payload.map_or("null", RawValue::get);
    let error = match read(json) {
        Ok(event) => return Ok(event),
        Err(error) => error,
    };
    let what = format!("the event {:?} that came for the wait {key:?}", E::NAME);
    ctx.leave(Unreadable::new(what, error)).await
}
