use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use conductor_postgres::store::schedules;
use conductor_schedule::{Missed, Overlap};

use super::TaskContext;
use super::input::Input;
use super::lazy::Lazy;
use super::memo::Met;
use crate::client::{Rule, check_schedule_name};
use crate::codec;
use crate::error::Result;
use crate::task::Task;

const KIND: &str = "schedule";
const KIND_END: &str = "unschedule";

/// A builder for a schedule that a handler creates, and its future. Does nothing until awaited.
#[must_use = "a schedule does nothing until it is awaited"]
pub struct ScheduleStep<'c> {
    ctx: &'c TaskContext,
    lazy: Lazy<'c, Options, anyhow::Result<()>>,
}

struct Options {
    key: String,
    met: Met,
    input: Option<Input>,
    rule: Result<Rule>,
}

impl TaskContext {
    /// Creates a schedule, or replaces the one of that name.
    ///
    /// Works as [`Conductor::schedule`](crate::client::Conductor::schedule) does.
    ///
    /// The schedule and the step's record commit together, so a replay does not restore a schedule
    /// that was removed since.
    ///
    /// ```
    /// # use conductor::prelude::*;
    /// # #[task]
    /// # async fn report(ctx: &TaskContext, kind: String) -> anyhow::Result<()> { Ok(()) }
    /// #[task]
    /// async fn sign_up(ctx: &TaskContext, kind: String) -> anyhow::Result<()> {
    ///     ctx.schedule::<Report>("daily-reports", "0 9 * * *", Report { kind })
    ///         .timezone("Europe/Berlin")
    ///         .await?;
    ///     Ok(())
    /// }
    ///
    /// #[task]
    /// async fn sign_off(ctx: &TaskContext) -> anyhow::Result<bool> {
    ///     Ok(ctx.unschedule::<Report>("daily-reports").await?)
    /// }
    /// ```
    pub fn schedule<T: Task>(
        &self,
        name: impl Into<String>,
        cron: impl AsRef<str>,
        payload: T::Payload,
    ) -> ScheduleStep<'_> {
        let name = name.into();
        let (key, met) = self
            .memo
            .meet_unnamed(format!("schedule {} {}", T::NAME, shortened(&name)), KIND);
        let payload = codec::encode_payload::<T>(&payload);
        let given = payload.as_deref().ok();
        let input = given.and_then(|payload| Input::of(cron.as_ref(), payload));
        let rule = payload.and_then(|payload| Rule::new(T::NAME, name, cron.as_ref(), payload));
        ScheduleStep {
            ctx: self,
            lazy: Lazy::new(Options {
                key,
                met,
                input,
                rule,
            }),
        }
    }

    /// Removes a dynamic schedule. Returns false if there is none.
    ///
    /// Executions that it has started continue. The removal and the step's record commit together.
    pub fn unschedule<T: Task>(
        &self,
        name: impl Into<String>,
    ) -> impl Future<Output = anyhow::Result<bool>> + Send {
        let name = name.into();
        let base = format!("unschedule {} {}", T::NAME, shortened(&name));
        let (key, met) = self.memo.meet_unnamed(base, KIND_END);
        self.transact(key, KIND_END, met, None, async move |tx| {
            match check_schedule_name(&name) {
                Ok(()) => schedules::remove(tx, T::NAME, &name).await,
                // No schedule can have an invalid name.
                Err(_) => Ok(false),
            }
        })
    }
}

/// Returns the part of a name that fits into a key.
fn shortened(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(60).collect()
}

impl ScheduleStep<'_> {
    /// Sets the time zone of the rule, such as `Europe/Berlin`. Default: `UTC`.
    pub fn timezone(mut self, name: &str) -> Self {
        self.lazy.change(|options| {
            if let Ok(rule) = &mut options.rule
                && let Err(error) = rule.set_timezone(name)
            {
                options.rule = Err(error);
            }
        });
        self
    }

    /// Sets how to handle ticks that were due while no worker could run them.
    ///
    /// Default: one execution for all of them.
    pub fn missed(mut self, missed: Missed) -> Self {
        self.change(|rule| rule.set_missed(missed));
        self
    }

    /// Sets what a tick does while the execution of the previous tick has not ended.
    ///
    /// Default: it creates its own execution all the same.
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        self.change(|rule| rule.set_overlap(overlap));
        self
    }

    fn change(&mut self, change: impl FnOnce(&mut Rule)) {
        self.lazy.change(|options| {
            if let Ok(rule) = &mut options.rule {
                change(rule);
            }
        });
    }
}

impl Future for ScheduleStep<'_> {
    type Output = anyhow::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ctx = this.ctx;
        this.lazy.poll_with(cx, |options| run(ctx, options))
    }
}

async fn run(ctx: &TaskContext, options: Options) -> anyhow::Result<()> {
    let rule = options.rule?;
    ctx.compare(&options.key, options.input);
    if let Ok(None) = &options.met {
        let _busy = ctx.memo.busy();
        let conductor = ctx.conductor()?;
        conductor.ensure_declared(rule.task()).await?;
        rule.refuse_past(conductor).await?;
    }
    ctx.transact(
        options.key,
        KIND,
        options.met,
        options.input,
        async move |tx| rule.store(tx).await,
    )
    .await
}
