use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::TaskContext;
use super::block::Block;
use super::input::Input;
use super::lazy::Lazy;
use super::memo::{Child, Met, PART, Recorded, Stands, WHOLE, Wait, Wake};
use crate::codec;
use crate::error::{Error, Result, too_long};
use crate::failure::Failure;
use crate::task::Task;
use crate::unreadable::{Unreadable, read};

const KIND: &str = "invoke";

/// A builder for a child, and its future. Does nothing until awaited.
///
/// `.await` waits until the child ends, and returns its output.
#[must_use = "an invoke does nothing until it is awaited"]
pub struct InvokeChild<'c, T: Task> {
    ctx: &'c TaskContext,
    lazy: Lazy<'c, Options, Result<T::Output>>,
    task: PhantomData<fn() -> T>,
}

/// A builder for several children of one task, and its future. Does nothing until awaited.
///
/// `.await` waits until all have ended, and returns their outputs or the first error.
#[must_use = "an invoke does nothing until it is awaited"]
pub struct InvokeChildren<'c, T: Task> {
    ctx: &'c TaskContext,
    lazy: Lazy<'c, OptionsOfAll, Result<Vec<Result<T::Output>>>>,
    task: PhantomData<fn() -> T>,
}

/// A builder for several children of one task, and its future. Does nothing until awaited.
///
/// `.await` waits until all have ended, and returns a result for each.
#[must_use = "an invoke does nothing until it is awaited"]
pub struct SettleChildren<'c, T: Task>(InvokeChildren<'c, T>);

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
    /// Whether all results are wanted, even if a child has failed.
    settle: bool,
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

    /// Limits how long to wait, by the database's clock. Default: no limit.
    ///
    /// The time counts from when the handler first waits.
    ///
    /// A child that takes longer is cancelled, unless it is [detached](Self::detach), and the wait
    /// returns [`Error::TimedOut`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.lazy
            .change(|options| options.terms.timeout = Some(timeout));
        self
    }

    /// Keeps the child running if this execution is cancelled or the wait times out.
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
        // With a refused key, the payloads are not used, and encoding them might be expensive.
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
                settle: false,
            }),
            task: PhantomData,
        }
    }

    /// Limits how long to wait for each child; see [`InvokeChild::timeout`].
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.lazy
            .change(|options| options.terms.timeout = Some(timeout));
        self
    }

    /// Keeps the children running; see [`InvokeChild::detach`].
    pub fn detach(mut self) -> Self {
        self.lazy.change(|options| options.terms.detached = true);
        self
    }
}

impl<'c, T: Task> InvokeChildren<'c, T> {
    /// Returns a result for each child, in the order of the payloads, instead of the first error.
    ///
    /// ```
    /// # use conductor::prelude::*;
    /// #[task]
    /// async fn mail(ctx: &TaskContext, to: String) -> anyhow::Result<()> { Ok(()) }
    ///
    /// #[task]
    /// async fn letter(ctx: &TaskContext, to: Vec<String>) -> anyhow::Result<usize> {
    ///     let mails = to.into_iter().map(|to| Mail { to });
    ///     let sent = ctx.invoke_all::<Mail>("mails", mails).settle().await?;
    ///     Ok(sent.iter().filter(|sent| sent.is_ok()).count())
    /// }
    /// ```
    pub fn settle(mut self) -> SettleChildren<'c, T> {
        self.lazy.change(|options| options.settle = true);
        SettleChildren(self)
    }

    fn poll_ends(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<Result<T::Output>>>> {
        let ctx = self.ctx;
        self.lazy
            .poll_with(cx, |options| all_ends::<T>(ctx, options))
    }
}

impl<T: Task> SettleChildren<'_, T> {
    /// Limits how long to wait for each child; see [`InvokeChild::timeout`].
    pub fn timeout(self, timeout: Duration) -> Self {
        Self(self.0.timeout(timeout))
    }

    /// Keeps the children running; see [`InvokeChild::detach`].
    pub fn detach(self) -> Self {
        Self(self.0.detach())
    }
}

impl<T: Task> Unpin for InvokeChild<'_, T> {}
impl<T: Task> Unpin for InvokeChildren<'_, T> {}
impl<T: Task> Unpin for SettleChildren<'_, T> {}

impl<'c, T: Task> Future for InvokeChild<'c, T> {
    type Output = Result<T::Output>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ctx = this.ctx;
        this.lazy.poll_with(cx, |options| async move {
            let input = input::<T>(&options.payload);
            ctx.compare(&options.key, input);
            if let Some(recorded) = options.met? {
                ctx.memo.give(&options.key);
                return outcome::<T>(ctx, &recorded).await;
            }
            let wait = wait::<T>(options.key.clone(), options.payload?, input, options.terms)?;
            ready_for::<T>(ctx).await?;
            let waits = vec![(options.key.clone(), wait)];
            let came = Block::on(&ctx.memo, waits).await;
            ctx.memo.give(&options.key);
            match came.first() {
                Some(recorded) => outcome::<T>(ctx, recorded).await,
                None => std::future::pending().await,
            }
        })
    }
}

impl<'c, T: Task> Future for InvokeChildren<'c, T> {
    type Output = Result<Vec<T::Output>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ends = self.get_mut().poll_ends(cx);
        ends.map(|ends| ends?.into_iter().collect())
    }
}

impl<'c, T: Task> Future for SettleChildren<'c, T> {
    type Output = Result<Vec<Result<T::Output>>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.poll_ends(cx)
    }
}

/// Returns the outcomes once all children have ended: all of them if `settle` is set, otherwise up
/// to the first error.
async fn all_ends<T: Task>(
    ctx: &TaskContext,
    options: OptionsOfAll,
) -> Result<Vec<Result<T::Output>>> {
    options.met?;
    // In the order of the payloads; results that are still missing are filled in below.
    let (mut recorded, mut waits) = (Vec::new(), Vec::new());
    for (key, met, payload) in options.children {
        let input = input::<T>(&payload);
        ctx.compare(&key, input);
        match met? {
            Some(value) => {
                ctx.memo.give(&key);
                recorded.push(Some(value));
            }
            None => {
                let wait = wait::<T>(options.key.clone(), payload?, input, options.terms)?;
                waits.push((key, wait));
                recorded.push(None);
            }
        }
    }
    if !waits.is_empty() {
        ready_for::<T>(ctx).await?;
        let keys: Vec<String> = waits.iter().map(|(key, _)| key.clone()).collect();
        let mut came = Block::on(&ctx.memo, waits).await.into_iter();
        keys.iter().for_each(|key| ctx.memo.give(key));
        for missing in recorded.iter_mut().filter(|recorded| recorded.is_none()) {
            *missing = came.next();
        }
    }
    let mut ends = Vec::with_capacity(recorded.len());
    for value in recorded.iter().flatten() {
        let end = outcome::<T>(ctx, value).await;
        let last = end.is_err() && !options.settle;
        ends.push(end);
        if last {
            break;
        }
    }
    Ok(ends)
}

fn input<T: Task>(payload: &Result<String>) -> Option<Input> {
    Input::of(T::NAME, payload.as_deref().ok()?)
}

fn wait<T: Task>(
    group: String,
    payload: String,
    input: Option<Input>,
    terms: Terms,
) -> Result<Wait> {
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
        since: Instant::now(),
        input,
        stands: Stands::No,
    })
}

/// Prepares the creation of a child, whose task the database must know.
async fn ready_for<T: Task>(ctx: &TaskContext) -> Result<()> {
    ctx.go_on().await?;
    let _busy = ctx.memo.busy();
    ctx.conductor()?.ensure_declared(T::NAME).await
}

/// The recorded end of a child.
#[derive(Deserialize)]
struct Ended<'r> {
    id: Uuid,
    state: &'r str,
    #[serde(borrow)]
    output: Option<&'r RawValue>,
    error: Option<String>,
}

async fn outcome<T: Task>(ctx: &TaskContext, recorded: &Recorded) -> Result<T::Output> {
    let ended: Ended<'_> = match read(recorded.get()) {
        Ok(ended) => ended,
        Err(error) => {
            let what = format!("the end of a child of task {:?}", T::NAME);
            return ctx.leave(Unreadable::new(what, error)).await;
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
        _ => {
            let error = ended.error.unwrap_or_default();
            let failure = Failure::from_end(&error, ended.output.map(RawValue::get));
            ctx.memo.note_child(id, failure);
            Error::Failed { id, task, error }
        }
    };
    ctx.memo.note_bad_end(&error);
    Err(error)
}
