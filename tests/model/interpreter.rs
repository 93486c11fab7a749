use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use conductor::prelude::*;
use conductor::{Error, Tx};
use nix::sys::signal::{Signal, raise};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgExecutor, PgPool};
use uuid::Uuid;

use super::program::{Op, Program};

const SECOND: Duration = Duration::from_secs(1);
/// What a handler does not wait for.
const LONG: Duration = Duration::from_secs(48 * 60 * 60);
/// Longer than any run of short sleeps, backoffs and delays after crashes.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// What a handled outcome counts as.
pub const FAILED: i64 = 1001;
pub const CANCELLED: i64 = 1002;
pub const TIMED_OUT: i64 = 1003;

/// How many boundaries this process passes before it dies.
pub static BOUNDARIES: AtomicI64 = AtomicI64::new(i64::MAX);

/// What a handler has seen so far.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct Seen {
    /// Computed from what the operations gave; the oracle knows it.
    pub value: i64,
    /// Computed from the numbers of the effects; the same in each replay.
    pub trace: i64,
    /// The effects whose recorded numbers the handler was given.
    pub numbers: Vec<(String, i64)>,
}

impl Seen {
    fn effect(&mut self, name: String, number: i64) {
        self.value = folded(self.value, 1);
        self.trace = folded(self.trace, number);
        self.numbers.push((name, number));
    }

    fn value(&mut self, value: i64) {
        self.value = folded(self.value, value);
    }

    fn part(&mut self, part: &Seen) {
        self.value(part.value);
        self.trace = folded(self.trace, part.trace);
    }

    /// A child's outcome; an error is a value where it is handled.
    fn outcome(
        &mut self,
        outcome: conductor::Result<Vec<Seen>>,
        handled: bool,
    ) -> anyhow::Result<()> {
        match outcome {
            Ok(parts) => parts.iter().for_each(|part| self.part(part)),
            Err(Error::Failed { .. }) if handled => self.value(FAILED),
            Err(Error::Cancelled { .. }) if handled => self.value(CANCELLED),
            Err(Error::TimedOut { .. }) if handled => self.value(TIMED_OUT),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

pub fn folded(value: i64, next: i64) -> i64 {
    value.wrapping_mul(31).wrapping_add(next)
}

type Running<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Seen>> + Send + 'a>>;

/// Runs a program; children run theirs by the same task.
#[task(
    name = "model.run",
    retry(max_attempts = 3, backoff = "1s..2s"),
    keep(completed = "1000d", failed = "1000d")
)]
pub async fn model_run(ctx: &TaskContext, path: String, program: Program) -> anyhow::Result<Seen> {
    boundary();
    let seen = block(ctx, path, &program, Seen::default()).await?;
    boundary();
    Ok(seen)
}

/// A place where the process may be told to die.
fn boundary() {
    if BOUNDARIES.fetch_sub(1, SeqCst) == 0 {
        raise(Signal::SIGKILL).unwrap();
    }
}

/// Makes the effect seen in the database; gives its number.
async fn effect(to: impl PgExecutor<'_>, name: &str, trace: i64) -> anyhow::Result<i64> {
    boundary();
    let number =
        sqlx::query_scalar("insert into effects (name, trace) values ($1, $2) returning number")
            .bind(name)
            .bind(trace)
            .fetch_one(to)
            .await?;
    boundary();
    Ok(number)
}

fn block<'a>(ctx: &'a TaskContext, path: String, program: &'a [Op], seen: Seen) -> Running<'a> {
    Box::pin(async move {
        let mut seen = seen;
        for (n, op) in program.iter().enumerate() {
            run(ctx, format!("{path}.{n}"), op, &mut seen).await?;
            boundary();
        }
        Ok(seen)
    })
}

async fn run(ctx: &TaskContext, name: String, op: &Op, seen: &mut Seen) -> anyhow::Result<()> {
    let pool = ctx.state::<PgPool>();
    let trace = seen.trace;
    match op {
        Op::Step => {
            let number = ctx.step(&name, || effect(pool, &name, trace)).await?;
            seen.effect(name, number);
        }
        Op::Transaction => {
            let number = ctx
                .transaction(&name, async |tx| effect(tx, &name, trace).await)
                .await?;
            seen.effect(name, number);
        }
        Op::Sleep { seconds } => {
            ctx.sleep(name, Duration::from_secs((*seconds).into()))
                .await?
        }
        Op::Checkpoint => ctx.checkpoint().await?,
        Op::Caught => {
            let body = || async {
                effect(pool, &name, trace).await?;
                anyhow::bail!("caught")
            };
            let caught: anyhow::Result<()> = ctx.step(&name, body).await;
            anyhow::ensure!(caught.is_err(), "a failed step is {caught:?}");
        }
        Op::RolledBack => {
            let body = async |tx: &mut Tx| {
                effect(tx, &name, trace).await?;
                anyhow::bail!("rolled back")
            };
            let caught: anyhow::Result<()> = ctx.transaction(&name, body).await;
            anyhow::ensure!(caught.is_err(), "a failed transaction is {caught:?}");
        }
        Op::Flaky { failures } => {
            let body = || async {
                let number = effect(pool, &name, trace).await?;
                let failed: i32 = sqlx::query_scalar(
                    "select failures from conductor.live_executions where id = $1",
                )
                .bind(ctx.execution_id())
                .fetch_one(pool)
                .await?;
                anyhow::ensure!(failed.unsigned_abs() >= *failures, "flaky {name}");
                Ok(number)
            };
            let number = ctx.step(&name, body).await?;
            seen.effect(name, number);
        }
        Op::Fail { permanent } => {
            return failure(&name, *permanent);
        }
        Op::Child {
            program,
            handled,
            detached,
        } => {
            let mut child = ctx.invoke::<ModelRun>(&name, payload(name.clone(), program));
            if *detached {
                child = child.detach();
            }
            if *handled {
                // Never reached; the other half waits without one.
                child = child.timeout(LONG * 100);
            }
            let outcome = child.await;
            seen.outcome(outcome.map(|child| vec![child]), *handled)?;
        }
        Op::All { programs, handled } => {
            let payloads = programs
                .iter()
                .enumerate()
                .map(|(n, program)| payload(format!("{name}#{n}"), program));
            let outcome = ctx.invoke_all::<ModelRun>(&name, payloads).await;
            seen.outcome(outcome, *handled)?;
        }
        Op::Join(branches) => {
            let branches = branches.iter().enumerate().map(|(n, branch)| {
                let seen = Seen {
                    numbers: Vec::new(),
                    ..*seen
                };
                block(ctx, format!("{name}:{n}"), branch, seen)
            });
            for branch in join_all(branches.collect()).await {
                let mut branch = branch?;
                seen.part(&branch);
                seen.numbers.append(&mut branch.numbers);
            }
        }
        Op::TimedOut { late, detached } => {
            let mut child = ctx.invoke::<ModelRun>(&name, payload(name.clone(), late));
            if *detached {
                child = child.detach();
            }
            let outcome = child.timeout(PATIENCE).await;
            seen.outcome(outcome.map(|child| vec![child]), true)?;
        }
        Op::Rivals { late, by_sibling } => {
            let (victim, killer) = (format!("{name}v"), format!("{name}k"));
            let late = ctx.invoke::<ModelRun>(&victim, payload(victim.clone(), late));
            let kill = async {
                if *by_sibling {
                    let program = vec![Op::CancelSibling];
                    ctx.invoke::<ModelRun>(&killer, payload(killer.clone(), &program))
                        .await?;
                    return anyhow::Ok(());
                }
                ctx.sleep(&killer, PATIENCE).await?;
                cancel(ctx, &victim).await
            };
            let (outcome, killed) = tokio::join!(late, kill);
            killed?;
            seen.outcome(outcome.map(|child| vec![child]), true)?;
        }
        Op::Abandoned { late, permanent } => {
            let child = ctx.invoke::<ModelRun>(&name, payload(name.clone(), late));
            let child = async { anyhow::Ok(child.await?) };
            let fails = async {
                ctx.sleep(format!("{name}s"), SECOND).await?;
                failure(&name, *permanent)
            };
            tokio::try_join!(child, fails)?;
        }
        Op::CancelSibling => {
            ctx.sleep(&name, PATIENCE).await?;
            let (family, _) = name.rsplit_once('k').unwrap_or_default();
            cancel(ctx, &format!("{family}v")).await?;
        }
        Op::CancelSelf => {
            ctx.cancel(ctx.execution_id()).await?;
        }
        Op::LongSleep => ctx.sleep(name, LONG).await?,
    }
    Ok(())
}

fn failure(name: &str, permanent: bool) -> anyhow::Result<()> {
    let failure = Err(anyhow::anyhow!("fails at {name}"));
    if permanent {
        return failure.permanent();
    }
    failure
}

fn payload(path: String, program: &[Op]) -> ModelRun {
    ModelRun {
        path,
        program: program.to_vec(),
    }
}

/// Cancels the execution of this path, if it has not ended.
async fn cancel(ctx: &TaskContext, path: &str) -> anyhow::Result<()> {
    boundary();
    let found = async {
        sqlx::query_scalar("select id from conductor.live_executions where payload ->> 'path' = $1")
            .bind(path)
            .fetch_optional(ctx.state::<PgPool>())
            .await
    };
    // An await outside a step is cut short where the handler's other branches wait.
    let id: Option<Uuid> = ctx.step(format!("{path} is found"), || found).await?;
    if let Some(id) = id {
        ctx.cancel(id).reason("by its rival").await?;
    }
    boundary();
    Ok(())
}

/// Polls all until each has ended.
async fn join_all(mut branches: Vec<Running<'_>>) -> Vec<anyhow::Result<Seen>> {
    let mut ended: Vec<_> = branches.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (branch, ended) in branches.iter_mut().zip(&mut ended) {
            if ended.is_none()
                && let Poll::Ready(result) = branch.as_mut().poll(cx)
            {
                *ended = Some(result);
            }
        }
        if ended.iter().any(Option::is_none) {
            return Poll::Pending;
        }
        Poll::Ready(ended.drain(..).flatten().collect())
    })
    .await
}
