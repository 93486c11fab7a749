use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::TaskContext;
use super::lazy::Lazy;
use super::memo::{Given, Met, Micros};
use super::step::encoded;
use crate::error::Error;
use crate::unreadable::Unreadable;

const KIND: &str = "race";

type Branch<'c, T> = Pin<Box<dyn Future<Output = anyhow::Result<T>> + Send + 'c>>;

/// A race that is being said; `.await` gives what the first branch to end gave.
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
    /// The first of several branches to end, with the winner recorded: a replay takes the same one,
    /// even where another would be ready first by now. That is what `tokio::select!` cannot promise.
    ///
    /// Where several are over when the handler looks, as no worker was there for a while, the one wins that was over
    /// first by the database's clock: a sleep at its time, an event when it was emitted, a row when it was changed, a
    /// child when it ended, a step when it was recorded; of what is over at the same time, the branch that was
    /// added first. A branch is over when all of it is: what is to be done about an event or a row stands best behind the
    /// race, where no deadline ends it. An error wins like a value. The losers are dropped: their waits are withdrawn, what came to
    /// them is there for the next wait, a step's body is cut short, and a child that was started goes on
    /// (give it a `.timeout(…)`, or cancel it).
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
    /// Adds a branch. All branches give the same type; an enum tells them apart where they must be.
    pub fn branch<E, Fut>(mut self, branch: Fut) -> Self
    where
        Fut: Future<Output = Result<T, E>> + Send + 'c,
        E: Into<anyhow::Error>,
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
        // The losers, which may have come to their ends since, must not be polled.
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
    // A race around this one may only look.
    ctx.memo.looked().await;
    let _busy = ctx.memo.busy();
    let decided = ctx.memo.decided();
    let (value, _) = encoded(ctx, &key, &winner)?;
    match result {
        Ok(given) => {
            // A replay polls the winner again, which is to go the same way.
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

/// The branches of a race that is under way.
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

    /// The first round only looks at what is over already, as a branch that has lost must not begin anything.
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

    /// Polls all branches; behind the first that is over, the others only give what is over as well. Of these the
    /// earliest wins.
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
        // What has no time is over now.
        let at = |n: usize| self.branches.get(n).and_then(|(_, given)| given.at);
        let first = (over.iter()).enumerate();
        let (place, _) = first.min_by_key(|(_, (n, _))| (at(*n).unwrap_or(Micros::MAX), *n))?;
        let won = over.swap_remove(place);
        for (n, (_, given)) in self.branches.iter().enumerate() {
            if n != won.0 && looked.contains(&n) {
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
