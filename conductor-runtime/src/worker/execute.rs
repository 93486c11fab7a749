use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fetch::Claimed;
use super::outcome::End;
use crate::context::TaskContext;
use crate::task::{States, TaskDefinition};

/// What every attempt of a worker is given.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    pub(super) states: Arc<States>,
    pub(super) clock_shift_ms: watch::Receiver<i64>,
}

/// Runs one attempt to its end. A panic is the caller's to catch, by the task that it spawns.
pub(super) async fn attempt(
    task: &'static TaskDefinition,
    claimed: Claimed,
    cancel: CancellationToken,
    surroundings: Surroundings,
) -> (End, Duration) {
    let started = Instant::now();
    let context = TaskContext::new(
        claimed.id,
        u32::try_from(claimed.attempt).unwrap_or(1),
        surroundings.states,
        cancel,
    );
    let handler = (task.run)(&context, &claimed.payload);
    let end = match task.timeout {
        None => End::of(handler.await),
        Some(timeout) => tokio::select! {
            biased;
            result = handler => End::of(result),
            () = elapsed(timeout, surroundings.clock_shift_ms) => End::failed(&format!(
                "timed out after {}",
                humantime::format_duration(timeout)
            )),
        },
    };
    (end, started.elapsed())
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
