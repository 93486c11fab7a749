use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use conductor_schedule::{Missed, Overlap};

use super::TaskContext;
use super::lazy::Lazy;
use super::memo::Met;
use crate::client::{Rule, check_schedule_name, remove_schedule};
use crate::codec;
use crate::error::Result;
use crate::task::Task;

const KIND: &str = "schedule";
const KIND_END: &str = "unschedule";

/// A schedule that a handler makes; `.await` makes it.
#[must_use = "a schedule does nothing until it is awaited"]
pub struct ScheduleStep<'c> {
    ctx: &'c TaskContext,
    lazy: Lazy<'c, Options, anyhow::Result<()>>,
}

struct Options {
    key: String,
    met: Met,
    rule: Result<Rule>,
}

impl TaskContext {
    /// Makes a schedule, or replaces the one of that name, as
    /// [`Conductor::schedule`](crate::client::Conductor::schedule) does. Recorded in the same
    /// commit: a replay does not bring back a schedule that was removed since.
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
        let rule = codec::encode_payload::<T>(&payload)
            .and_then(|payload| Rule::new(T::NAME, name, cron.as_ref(), payload));
        ScheduleStep {
            ctx: self,
            lazy: Lazy::new(Options { key, met, rule }),
        }
    }

    /// Removes a schedule that was made at run time; what it has started goes on. False where there
    /// is none. Recorded in the same commit.
    pub fn unschedule<T: Task>(
        &self,
        name: impl Into<String>,
    ) -> impl Future<Output = anyhow::Result<bool>> + Send {
        let name = name.into();
        let base = format!("unschedule {} {}", T::NAME, shortened(&name));
        let (key, met) = self.memo.meet_unnamed(base, KIND_END);
        self.transact(key, KIND_END, met, async move |tx| {
            match check_schedule_name(&name) {
                Ok(()) => remove_schedule(tx, T::NAME, &name).await,
                // There is no such schedule.
                Err(_) => Ok(false),
            }
        })
    }
}

/// The part of a name that a key can hold.
fn shortened(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(60).collect()
}

impl ScheduleStep<'_> {
    /// The zone whose clock the rule means, such as `Europe/Berlin`. Default `UTC`.
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

    /// What becomes of ticks that came while nothing could run them. Default: one execution makes
    /// up for all.
    pub fn missed(mut self, missed: Missed) -> Self {
        self.change(|rule| rule.set_missed(missed));
        self
    }

    /// What a tick does while the execution of the tick before has not ended. Default: it makes its
    /// own all the same.
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
    if let Ok(None) = &options.met {
        let _busy = ctx.memo.busy();
        let conductor = ctx.conductor()?;
        conductor.ensure_declared(rule.task()).await?;
        rule.refuse_past(conductor).await?;
    }
    ctx.transact(options.key, KIND, options.met, async move |tx| {
        rule.store(tx).await
    })
    .await
}
