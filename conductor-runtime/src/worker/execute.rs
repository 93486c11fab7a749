use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use conductor_postgres::Timed;
use conductor_postgres::store::Claimed;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::control::Control;
use super::outcome::End;
use super::pulse::Pulse;
use super::window::Windows;
use crate::codec::MAX_RECORDS_BYTES;
use crate::context::{
    Blocked, Durable, MayFail, Memo, Stop, TaskContext, Unloadable, Wait, Waiting, size,
};
use crate::event::SubscriptionDefinition;
use crate::failure::Failure;
use crate::orchestrator::computed;
use crate::panics::Panicked;
use crate::row::RowTriggerDefinition;
use crate::task::{CronTick, ErasedFuture, RunSingle, States, TaskDefinition, Trigger};
use crate::unreadable::Unreadable;
use crate::verdict::{Verdict, noting, verdict};

/// What all attempts of a worker share.
#[derive(Debug, Clone)]
pub(super) struct AttemptEnv {
    pub(super) states: Arc<States>,
    pub(super) windows: Windows,
    pub(super) durable: Arc<Durable>,
}

/// Runs one attempt to its end, and returns how it ended and how long it took; no end if the claim was lost. The
/// caller catches panics.
pub(super) async fn attempt(
    task: &'static TaskDefinition,
    run_single: RunSingle,
    mut claimed: Claimed,
    cancel: CancellationToken,
    env: AttemptEnv,
) -> (Option<End>, Duration) {
    let started = Instant::now();
    let durable = Arc::clone(&env.durable);
    let clock = durable.clock.clone();
    if let Some(reason) = &claimed.unreadable {
        return (Some(unreadable(reason)), started.elapsed());
    }
    // The text is dropped here, because the memo has copies of its values.
    let memo = match Memo::load(claimed.memo.take().as_deref()) {
        Ok(memo) => memo,
        Err(Unloadable::TooMany(reason)) => {
            return (Some(End::permanent(&reason)), started.elapsed());
        }
        Err(Unloadable::Unreadable(reason)) => {
            let unreadable = Unreadable::new("its records", reason);
            return (Some(End::unreadable(&unreadable)), started.elapsed());
        }
    };
    let trigger = Trigger::read(claimed.trigger.as_deref());
    let payload = match converted(task, &trigger, claimed.trigger.as_deref(), &claimed.payload) {
        Ok(payload) => payload.unwrap_or(claimed.payload),
        Err(error) => return (Some(not_converted(error)), started.elapsed()),
    };
    let context = TaskContext {
        execution_id: claimed.id,
        task: task.name,
        claim: claimed.claim,
        attempt: u32::try_from(claimed.attempt).unwrap_or(1),
        origin: claimed.origin,
        states: env.states,
        trigger,
        window: env.windows.get(claimed.task_id),
        cancel,
        memo,
        durable: Some(Arc::clone(&durable)),
    };
    let handler = run_single(&context, &payload);
    let attend = || {
        let standing = durable.standing.clone();
        standing.attend(&context.memo, context.execution_id, context.claim)
    };
    let handler = noting(run(handler, &context.memo, claimed.id, attend));
    let end = match task.timeout {
        None => handler.await,
        Some(timeout) => match clock.deadline(timeout).bound(handler).await {
            Timed::InTime(end) => end,
            Timed::Late(end) => end.map(|end| end.late(timeout)),
            Timed::Over => Some(match context.memo.stopped() {
                Some(Stop::Unreadable(unreadable)) => End::unreadable(&unreadable),
                _ => End::timed_out(timeout),
            }),
        },
    };
    context.record_new_input().await;
    (end, started.elapsed())
}

/// Returns the end of an execution whose payload cannot be read for the key of its limit.
pub(super) fn unreadable(reason: &str) -> End {
    End::permanent(&format!(
        "it was not run: Postgres cannot read its payload, and so not the key of the task's limit ({reason}); \
         `show` has the payload: invoke the task again with one that is mended"
    ))
}

/// Polls an attempt while its lease is held. Returns `None` if the lease was lost, for example while the process was
/// stopped: others may already run the execution, so nothing may begin.
pub(super) async fn while_held<T>(
    (control, orchestrator): (watch::Receiver<Control>, Option<i64>),
    pulse: Arc<Pulse>,
    attempt: impl Future<Output = T>,
) -> Option<Result<T, Panicked>> {
    let mut attempt = pin!(caught(attempt));
    poll_fn(|cx| {
        // `borrow` holds a lock, so it must not last while the handler runs.
        let held = control.borrow().holder() == orchestrator;
        if !held || !pulse.begin() {
            return Poll::Ready(None);
        }
        let polled = attempt.as_mut().poll(cx).map(Some);
        pulse.rest();
        polled
    })
    .await
}

/// Returns the future's value, or its panic.
pub(super) async fn caught<T>(future: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut future = pin!(future);
    poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Err(panic) => Poll::Ready(Err(Panicked::of(panic))),
        },
    )
    .await
}

/// Returns the JSON that the handler reads instead of the stored payload, if any. For an event or a row change, it is
/// what the task makes of it; if the code no longer subscribes, the handler reads the stored event or change. For a
/// tick whose payload could not be computed, it is computed now.
pub(crate) fn converted(
    task: &TaskDefinition,
    trigger: &Trigger,
    stored_trigger: Option<&str>,
    payload: &str,
) -> anyhow::Result<Option<String>> {
    match trigger {
        Trigger::Event { name, .. } => SubscriptionDefinition::of_event(task.subscriptions, name)
            .map(|subscription| (subscription.convert)(payload))
            .transpose(),
        Trigger::Schedule { name, scheduled_at } if Trigger::lacks_payload(stored_trigger) => {
            let Some(cron) = task.crons.iter().find(|cron| cron.name == name) else {
                let what = format!("the tick of the schedule {name:?}");
                let reason = "its code, which makes the payload, has no such schedule";
                return Err(Unreadable::new(what, reason).into());
            };
            let made = computed(cron, CronTick::new(name, *scheduled_at));
            made.map(Some).map_err(|reason| {
                anyhow::anyhow!("schedule {name:?} makes no payload of this tick: {reason}")
            })
        }
        Trigger::Row { table, op } => {
            RowTriggerDefinition::of_change(task.row_triggers, *op, table)
                .map(|trigger| (trigger.convert)(payload))
                .transpose()
        }
        _ => Ok(None),
    }
}

/// Returns the end of an execution whose payload could not be converted.
pub(super) fn not_converted(error: anyhow::Error) -> End {
    match error.downcast_ref() {
        Some(unreadable) => End::unreadable(unreadable),
        None => End::of(Err(error)),
    }
}

/// Polls the handler until it ends, until every branch waits, or until it must not continue. Meanwhile, begins what
/// waits while a step runs.
async fn run<A: Future<Output = Infallible>>(
    mut handler: ErasedFuture<'_>,
    memo: &Memo,
    id: Uuid,
    attend: impl Fn() -> A,
) -> Option<End> {
    // Created only if needed, because few handlers have such waits.
    let mut attending = None;
    poll_fn(|cx| match handler.as_mut().poll(cx) {
        // A handler may have dropped the branch that must not continue, or ignored its error.
        Poll::Ready(result) => Poll::Ready(match memo.stopped() {
            None => Some(match result {
                Err(error) => failed(&error, memo),
                completed => End::of(completed),
            }),
            Some(stop) => stopped(stop),
        }),
        Poll::Pending => match memo.blocked() {
            None => {
                if memo.waits_beside() {
                    let attending = attending.get_or_insert_with(|| Box::pin(attend()));
                    if let Poll::Ready(never) = attending.as_mut().poll(cx) {
                        match never {}
                    }
                }
                Poll::Pending
            }
            Some(Blocked::Waiting(waiting)) => Poll::Ready(Some(suspended(waiting, id))),
            Some(Blocked::Stopped(stop)) => Poll::Ready(stopped(stop)),
        },
    })
    .await
}

/// Returns the end of an attempt whose handler returned an error.
fn failed(error: &anyhow::Error, memo: &Memo) -> End {
    let verdict = match verdict(error) {
        // Another attempt would receive the same recorded outcome.
        Verdict::Policy if memo.is_recorded(error) => Verdict::Permanent,
        verdict => verdict,
    };
    let of_child = error.failure_in(memo);
    let failure = of_child.unwrap_or_else(|| Failure::of(error));
    let replayed = verdict == Verdict::Policy && memo.only_replayed();
    End::of_error(error, verdict, &failure).forgetting(memo.ended_with(error), replayed)
}

/// Returns the end of an attempt whose branches all wait, unless what it must write is too large: the payloads of all
/// new children are in one message.
fn suspended(waiting: Waiting, id: Uuid) -> End {
    // Not for a child that was started in a losing branch: such a child is not asked for either, but is no withdrawn
    // wait.
    if let Some(key) = (waiting.astray.as_ref()).filter(|key| waiting.withdrawn.contains(key)) {
        tracing::warn!(execution = %id, key,
            "what it waited for came, and the code does not ask for it and waits for something new; a key must be the \
             same in each run");
    }
    let waits = &waiting.waits;
    let bytes: usize = waits.values().map(Wait::bytes).sum();
    if bytes > MAX_RECORDS_BYTES {
        return End::permanent(&format!(
            "the {} children and waits that it is to begin have {} of payloads and filters together, and one \
             suspension may have {}. Invoke fewer at once, or store the data elsewhere and pass a reference",
            waits.len(),
            size(bytes),
            size(MAX_RECORDS_BYTES)
        ));
    }
    End::Suspended(waiting)
}

fn stopped(stop: Stop) -> Option<End> {
    match stop {
        Stop::Fatal(text) => Some(End::permanent(&text)),
        Stop::Released => Some(End::Released),
        Stop::Unreadable(unreadable) => Some(End::unreadable(&unreadable)),
        Stop::Closed(until) => Some(End::Postponed(until)),
        Stop::Lost => None,
    }
}
