use std::any::Any;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fetch::Claimed;
use super::outcome::End;
use crate::context::{Blocked, Durable, Memo, Stop, TaskContext};
use crate::task::{ErasedFuture, States, TaskDefinition};

/// What every attempt of a worker is given.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    pub(super) states: Arc<States>,
    pub(super) clock_shift_ms: watch::Receiver<i64>,
    pub(super) durable: Durable,
}

/// Runs one attempt to its end; no end where the claim was lost. A panic is the caller's to catch,
/// by the task that it spawns.
pub(super) async fn attempt(
    task: &'static TaskDefinition,
    claimed: Claimed,
    cancel: CancellationToken,
    surroundings: Surroundings,
) -> (Option<End>, Duration) {
    let started = Instant::now();
    let memo = match Memo::load(claimed.memo.as_deref()) {
        Ok(memo) => memo,
        Err(error) => {
            let end = End::permanent(&format!("the recorded steps cannot be read: {error}"));
            return (Some(end), started.elapsed());
        }
    };
    let context = TaskContext {
        execution_id: claimed.id,
        task: task.name,
        claim: claimed.claim,
        attempt: u32::try_from(claimed.attempt).unwrap_or(1),
        origin: claimed.origin,
        states: surroundings.states,
        cancel,
        memo,
        durable: Some(surroundings.durable),
    };
    let handler = (task.run)(&context, &claimed.payload);
    let handler = run(handler, &context.memo);
    let end = match task.timeout {
        None => handler.await,
        Some(timeout) => tokio::select! {
            biased;
            end = handler => end,
            () = elapsed(timeout, surroundings.clock_shift_ms) => Some(End::failed(&format!(
                "timed out after {}",
                humantime::format_duration(timeout)
            ))),
        },
    };
    (end, started.elapsed())
}

/// Polls the handler until it ends, until each of its branches waits, or until it must not go on.
async fn run(mut handler: ErasedFuture<'_>, memo: &Memo) -> Option<End> {
    poll_fn(|cx| match handler.as_mut().poll(cx) {
        // A handler may have dropped the branch that must not go on, or swallowed its error.
        Poll::Ready(result) => Poll::Ready(match memo.stopped() {
            None => Some(End::of(result)),
            Some(stop) => stopped(stop),
        }),
        Poll::Pending => match memo.blocked() {
            None => Poll::Pending,
            Some(Blocked::Waiting(waits)) => Poll::Ready(Some(End::Suspended(waits))),
            Some(Blocked::Stopped(stop)) => Poll::Ready(stopped(stop)),
        },
    })
    .await
}

fn stopped(stop: Stop) -> Option<End> {
    match stop {
        Stop::Fatal(text) => Some(End::permanent(&text)),
        Stop::Released => Some(End::Released),
        Stop::Lost => None,
    }
}

/// Ends when `timeout` has passed, by the running clock and what tests have moved it meanwhile.
async fn elapsed(timeout: Duration, mut shift_ms: watch::Receiver<i64>) {
    let started = Instant::now();
    let shift_then = *shift_ms.borrow_and_update();
    loop {
        let shift = *shift_ms.borrow_and_update() - shift_then;
        let passed = started.elapsed() + Duration::from_millis(u64::try_from(shift).unwrap_or(0));
        let Some(left) = timeout.checked_sub(passed).filter(|left| !left.is_zero()) else {
            return;
        };
        tokio::select! {
            () = tokio::time::sleep(left) => {}
            changed = shift_ms.changed() => {
                if changed.is_err() {
                    tokio::time::sleep(left).await;
                }
            }
        }
    }
}

/// The text of a panic.
pub(super) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    match text {
        Some(text) => format!("panicked: {text}"),
        None => "panicked".to_owned(),
    }
}
