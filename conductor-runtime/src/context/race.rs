use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::TaskContext;
use super::lazy::Lazy;
use super::memo::{Given, Met, Micros};
use super::step::encoded;
use crate::error::Error;
use crate::task::HandlerError;
use crate::unreadable::Unreadable;

const KIND: &str = "race";

type Branch<'c, T> = Pin<Box<dyn Future<Output = anyhow::Result<T>> + Send + 'c>>;

/// A builder for a race, and its future. Does nothing until awaited.
///
/// `.await` returns what the first branch to end returned.
#[must_use = "a race does nothing until it is awaited"]
pub struct Race<'c, T> {
    ctx: &'c TaskContext,
    lazy: Lazy<'c, Options<'c, T>, anyhow::Result<T>>,
}

struct Options<'c, T> {
    key: String,
    met: Met,
    branches: Vec<Branch<'c, T>>,
}

impl TaskContext {
    /// Returns the result of the first of several branches to end, and records which one.
    ///
    /// A replay takes the same branch, even if another would be ready first; `tokio::select!` cannot guarantee this.
    ///
    /// If several branches have ended by the time the handler runs, for example because no worker ran for a while,
    /// the branch that ended first by the database's clock wins: a sleep ends at its time, an event when it was
    /// emitted, a row change when it was made, a child when it ended, a step when it was recorded. Among branches
    /// that ended at the same time, the one added first wins.
    ///
    /// A branch ends when all of its code has run, so process an event or a row after the race, where no deadline
    /// cuts it short. An error wins like a value. The losing branches are dropped: their waits are withdrawn, events
    /// and row changes that arrived for them go to the next wait, and the body of a step is cut short. A child that
    /// was started continues; give it a `.timeout(…)`, or cancel it.
    ///
    /// ```
    /// # use conductor::prelude::*;
    /// # use std::time::Duration;
    /// # #[task]
    /// # async fn approve(ctx: &TaskContext, order: i64) -> anyhow::Result<bool> { Ok(true) }
    /// #[task]
    /// async fn order(ctx: &TaskContext, order: i64) -> anyhow::Result<String> {
    ///     ctx.race("approved or late")
    ///         .branch(async {
    ///             let yes = ctx.invoke::<Approve>("approve", Approve { order }).await?;
    ///             anyhow::Ok(format!("approved: {yes}"))
    ///         })
    ///         .branch(async {
    ///             ctx.sleep("late", Duration::from_secs(86_400)).await?;
    ///             anyhow::Ok("late".to_owned())
    ///         })
    ///         .await
    /// }
    /// ```
    pub fn race<T>(&self, key: impl Into<String>) -> Race<'_, T> {
        let key = key.into();
        let met = self.memo.meet(&key, KIND);
        Race {
            ctx: self,
            lazy: Lazy::new(Options {
                key,
                met,
                branches: Vec::new(),
            }),
        }
    }
}

impl<'c, T> Race<'c, T> {
    /// Adds a branch. All branches return the same type; use an enum to tell them apart.
    pub fn branch<E, Fut>(mut self, branch: Fut) -> Self
    where
        Fut: Future<Output = Result<T, E>> + Send + 'c,
        E: HandlerError,
    {
        let branch = Box::pin(async move { branch.await.map_err(Into::into) });
        self.lazy.change(|options| options.branches.push(branch));
        self
    }
}

impl<T> Unpin for Race<'_, T> {}

impl<'c, T: Send + 'c> Future for Race<'c, T> {
    type Output = anyhow::Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let ctx = this.ctx;
        this.lazy.poll_with(cx, |options| run(ctx, options))
    }
}

async fn run<T: Send>(ctx: &TaskContext, options: Options<'_, T>) -> anyhow::Result<T> {
    let Options {
        key,
        met,
        mut branches,
    } = options;
    if let Some(recorded) = met? {
        let winner: usize = ctx.replayed(&key, KIND, &recorded).await?;
        if winner >= branches.len() {
            let known = branches.len();
            let reason = format!("branch {winner} had won; this build has {known} branches");
            let what = format!("what its race {key:?} has recorded");
            return ctx.leave(Unreadable::new(what, reason)).await;
        }
        // The other branches may have ended since; they must not be polled.
        let winner = branches.swap_remove(winner);
        drop(branches);
        let given = winner.await;
        return given.inspect_err(|error| ctx.memo.fail_again(&key, error));
    }
    if branches.is_empty() {
        let reason = "it has no branches, so it would never end".to_owned();
        return Err(crate::verdict::permanent(
            Error::Step { key, reason }.into(),
        ));
    }
    let mut field = Field::new(ctx, branches);
    let (winner, result) = poll_fn(|cx| field.poll(cx)).await;
    drop(field);
    // If this race is a branch of another one that only looks, nothing may begin yet.
    ctx.memo.looked().await;
    let _busy = ctx.memo.busy();
    let decided = ctx.memo.decided();
    let (value, _) = encoded(ctx, &key, &winner)?;
    match result {
        Ok(given) => {
            // A replay polls the winner again, and it must take the same path.
            ctx.record_errors().await?;
            ctx.record_with(&key, KIND, value, decided).await?;
            Ok(given)
        }
        Err(error) => {
            ctx.memo.fail(&key, KIND, value, decided, &error);
            Err(error)
        }
    }
}

/// The branches of a race in progress.
struct Field<'c, T> {
    ctx: &'c TaskContext,
    branches: Vec<(Branch<'c, T>, Given)>,
    begun: bool,
}

impl<'c, T> Field<'c, T> {
    fn new(ctx: &'c TaskContext, branches: Vec<Branch<'c, T>>) -> Self {
        let branches = branches.into_iter();
        Self {
            ctx,
            branches: branches.map(|branch| (branch, Given::default())).collect(),
            begun: false,
        }
    }

    /// In the first round, branches may only return what has already ended: a branch that has lost must not begin
    /// anything.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(usize, anyhow::Result<T>)> {
        if !self.begun {
            self.begun = true;
            if let Some(won) = self.round(cx, true) {
                return Poll::Ready(won);
            }
        }
        match self.round(cx, false) {
            Some(won) => Poll::Ready(won),
            None => Poll::Pending,
        }
    }

    /// Polls all branches. After the first one that has ended, the others may only return what has already ended as
    /// well. Of those that have ended, the earliest wins.
    fn round(
        &mut self,
        cx: &mut Context<'_>,
        mut looking: bool,
    ) -> Option<(usize, anyhow::Result<T>)> {
        let memo = &self.ctx.memo;
        let (mut over, mut looked) = (Vec::new(), Vec::new());
        for (n, (branch, given)) in self.branches.iter_mut().enumerate() {
            let polled = memo.poll_branch(given, looking, || branch.as_mut().poll(cx));
            if looking {
                looked.push(n);
            }
            if let Poll::Ready(result) = polled {
                over.push((n, result));
                looking = true;
            }
        }
        // A branch without a time has ended now.
        let at = |n: usize| self.branches.get(n).and_then(|(_, given)| given.at);
        let first = (over.iter()).enumerate();
        let (place, _) = first.min_by_key(|(_, (n, _))| (at(*n).unwrap_or(Micros::MAX), *n))?;
        let won = over.swap_remove(place);
        // One that has ended in this round, and lost, has not acted on what it received either: its value is dropped.
        looked.extend(over.iter().map(|(n, _)| *n));
        for n in looked.into_iter().filter(|n| *n != won.0) {
            if let Some((_, given)) = self.branches.get(n) {
                memo.take_back(given);
            }
        }
        Some(won)
    }
}

impl<T> fmt::Debug for Race<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Race").finish_non_exhaustive()
    }
}
