use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::TaskContext;
use super::block::Block;
use super::lazy::Lazy;
use super::memo::{Child, Met, PART, WHOLE, Wait, Wake};
use crate::codec;
use crate::error::{Error, Result, too_long};
use crate::task::Task;
use crate::unreadable::{Unreadable, read};

const KIND: &str = "invoke";

/// A child that is being said; `.await` waits for its end.
#[must_use = "an invoke does nothing until it is awaited"]
pub struct InvokeChild<'c, T: Task> {
    ctx: &'c TaskContext,
    lazy: Lazy<'c, Options, Result<T::Output>>,
    task: PhantomData<fn() -> T>,
}

/// Several children of one task; `.await` waits for the end of all.
#[must_use = "an invoke does nothing until it is awaited"]
pub struct InvokeChildren<'c, T: Task> {
    ctx: &'c TaskContext,
    lazy: Lazy<'c, OptionsOfAll, Result<Vec<T::Output>>>,
    task: PhantomData<fn() -> T>,
}

struct Options {
    key: String,
    met: Met,
    payload: Result<String>,
    terms: Terms,
}

struct OptionsOfAll {
    key: String,
    met: Result<()>,
    children: Vec<(String, Met, Result<String>)>,
    terms: Terms,
}

#[derive(Clone, Copy, Default)]
struct Terms {
    timeout: Option<Duration>,
    detached: bool,
}

impl<'c, T: Task> InvokeChild<'c, T> {
    pub(super) fn new(ctx: &'c TaskContext, key: String, payload: &T::Payload) -> Self {
        let options = Options {
            met: ctx.memo.meet(&key, KIND),
            key,
            payload: codec::encode_payload::<T>(payload),
            terms: Terms::default(),
        };
        Self {
            ctx,
            lazy: Lazy::new(options),
            task: PhantomData,
        }
    }

    /// How long to wait, by the database's clock. A child that takes longer is cancelled, unless
    /// it is [detached](Self::detach), and the wait ends with [`Error::TimedOut`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.lazy
            .change(|options| options.terms.timeout = Some(timeout));
        self
    }

    /// The child is not cancelled with this execution, nor when the wait times out.
    pub fn detach(mut self) -> Self {
        self.lazy.change(|options| options.terms.detached = true);
        self
    }
}

impl<'c, T: Task> InvokeChildren<'c, T> {
    pub(super) fn new(
        ctx: &'c TaskContext,
        key: String,
        payloads: impl IntoIterator<Item = T::Payload>,
    ) -> Self {
        let met = ctx.memo.meet(&key, WHOLE).map(drop);
        // A refused key may be enormous.
        let payloads = met.is_ok().then_some(payloads).into_iter().flatten();
        let children = payloads.enumerate().map(|(n, payload)| {
            let part = format!("{key}{PART}{n}");
            let met = ctx.memo.meet_part(&part, KIND);
            (part, met, codec::encode_payload::<T>(&payload))
        });
        let children = children.collect();
        Self {
            ctx,
            lazy: Lazy::new(OptionsOfAll {
                key,
                met,
                children,
                terms: Terms::default(),
            }),
            task: PhantomData,
        }
    }

    /// As [`InvokeChild::timeout`], for each child.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.lazy
            .change(|options| options.terms.timeout = Some(timeout));
        self
    }

    /// As [`InvokeChild::detach`], for each child.
    pub fn detach(mut self) -> Self {
        self.lazy.change(|options| options.terms.detached = true);
        self
    }
}

impl<T: Task> Unpin for InvokeChild<'_, T> {}
impl<T: Task> Unpin for InvokeChildren<'_, T> {}

impl<'c, T: Task> Future for InvokeChild<'c, T> {
    type Output = Result<T::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ctx = this.ctx;
        this.lazy.poll_with(cx, |options| async move {
            if let Some(recorded) = options.met? {
                ctx.memo.give(&options.key);
                return outcome::<T>(ctx, &recorded).await;
            }
            let wait = wait::<T>(options.key.clone(), options.payload?, options.terms)?;
            ready_for::<T>(ctx).await?;
            match Block::on(&ctx.memo, vec![(options.key, wait)]).await {}
        })
    }
}

impl<'c, T: Task> Future for InvokeChildren<'c, T> {
    type Output = Result<Vec<T::Output>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ctx = this.ctx;
        this.lazy.poll_with(cx, |options| async move {
            options.met?;
            let (mut recorded, mut waits) = (Vec::new(), Vec::new());
            for (key, met, payload) in options.children {
                match met? {
                    Some(value) => {
                        ctx.memo.give(&key);
                        recorded.push(value);
                    }
                    None => {
                        let wait = wait::<T>(options.key.clone(), payload?, options.terms)?;
                        waits.push((key, wait));
                    }
                }
            }
            if waits.is_empty() {
                let mut outputs = Vec::with_capacity(recorded.len());
                for value in &recorded {
                    outputs.push(outcome::<T>(ctx, value).await?);
                }
                return Ok(outputs);
            }
            ready_for::<T>(ctx).await?;
            match Block::on(&ctx.memo, waits).await {}
        })
    }
}

fn wait<T: Task>(group: String, payload: String, terms: Terms) -> Result<Wait> {
    if let Some(error) = terms.timeout.and_then(too_long) {
        return Err(error);
    }
    Ok(Wait {
        kind: KIND,
        group,
        wake: terms.timeout.map(Wake::In),
        child: Some(Child {
            id: Uuid::now_v7(),
            task: T::NAME,
            payload,
            detached: terms.detached,
        }),
        event: None,
    })
}

/// Before a child is made: its task must be known to the database.
async fn ready_for<T: Task>(ctx: &TaskContext) -> Result<()> {
    ctx.go_on().await?;
    let _busy = ctx.memo.busy();
    ctx.conductor()?.ensure_declared(T::NAME).await
}

/// A child's end as its record has it.
#[derive(Deserialize)]
struct Ended<'r> {
    id: Uuid,
    state: &'r str,
    #[serde(borrow)]
    output: Option<&'r RawValue>,
    error: Option<String>,
}

async fn outcome<T: Task>(ctx: &TaskContext, recorded: &RawValue) -> Result<T::Output> {
    let ended: Ended<'_> = match serde_json::from_str(recorded.get()) {
        Ok(ended) => ended,
        Err(error) => {
            let what = format!("the end of a child of task {:?}", T::NAME);
            return ctx.leave(Unreadable::new(what, error.to_string())).await;
        }
    };
    let (id, task) = (ended.id, T::NAME.to_owned());
    let error = match ended.state {
        "completed" => {
            let json = ended.output.map_or("null", RawValue::get);
            let error = match read(json) {
                Ok(output) => return Ok(output),
                Err(error) => error,
            };
            let what = format!("the output of its child {id} of task {task:?}");
            return ctx.leave(Unreadable::new(what, error)).await;
        }
        "cancelled" => Error::Cancelled {
            id,
            task,
            reason: ended.error,
        },
        "timed_out" => Error::TimedOut { id, task },
        _ => Error::Failed {
            id,
            task,
            error: ended.error.unwrap_or_default(),
        },
    };
    ctx.memo.note_bad_end(&error);
    Err(error)
}
