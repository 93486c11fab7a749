use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The longest time that a poll of a handler takes if it does not block.
const ONE_POLL: Duration = Duration::from_millis(50);

/// A point in time by the clock that tests move.
#[derive(Debug)]
pub struct Deadline {
    shift_ms: watch::Receiver<i64>,
    started: Instant,
    shift_then: i64,
    duration: Duration,
}

/// How work with a deadline ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Timed<T> {
    /// The future was ready before the deadline.
    InTime(T),
    /// It ended after its deadline, because it held its thread until then.
    Late(T),
    /// It had not ended, and was dropped.
    Over,
}

impl Deadline {
    /// Creates a deadline `duration` from now.
    pub(crate) fn new(shift_ms: watch::Receiver<i64>, duration: Duration) -> Self {
        let shift_then = *shift_ms.borrow();
        Self {
            shift_ms,
            started: Instant::now(),
            shift_then,
            duration,
        }
    }

    /// Runs the work at most until the deadline.
    ///
    /// Work is late if it ends in a poll that began before the deadline and continued after it. A poll that begins
    /// after the deadline was delayed by other work on this thread: what is ready then may have been ready in time.
    /// Work that ends in the poll in which its time runs out, for example with a timeout of 0, is in time.
    pub async fn bound<T>(self, work: impl Future<Output = T>) -> Timed<T> {
        let mut work = pin!(work);
        let mut passed = pin!(self.passed());
        poll_fn(|cx| {
            let began_late = self.has_passed();
            if let Poll::Ready(value) = work.as_mut().poll(cx) {
                let held = !began_late && self.elapsed() > self.duration.saturating_add(ONE_POLL);
                return Poll::Ready(match held {
                    true => Timed::Late(value),
                    false => Timed::InTime(value),
                });
            }
            // The timer may not have fired yet for the time that this poll took.
            if self.has_passed() || passed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Timed::Over);
            }
            Poll::Pending
        })
        .await
    }

    fn has_passed(&self) -> bool {
        self.elapsed() >= self.duration
    }

    fn elapsed(&self) -> Duration {
        self.elapsed_by(*self.shift_ms.borrow())
    }

    fn elapsed_by(&self, shift_ms: i64) -> Duration {
        let shift = u64::try_from(shift_ms - self.shift_then).unwrap_or(0);
        self.started.elapsed() + Duration::from_millis(shift)
    }

    /// Waits until the deadline has passed.
    pub async fn passed(&self) {
        let mut shift_ms = self.shift_ms.clone();
        loop {
            let shift = *shift_ms.borrow_and_update();
            let left = self.duration.saturating_sub(self.elapsed_by(shift));
            if left.is_zero() {
                return;
            }
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
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::sync::oneshot;

    use super::*;

    const TIME: Duration = Duration::from_millis(200);
    const LONGER: Duration = Duration::from_millis(500);

    fn soon() -> Deadline {
        Deadline::new(watch::channel(0).1, TIME)
    }

    #[tokio::test]
    async fn what_a_neighbour_holds_up_is_in_time() {
        let (answer, answered) = oneshot::channel();
        let work = tokio::spawn(soon().bound(answered));
        tokio::task::yield_now().await;
        answer.send(7).unwrap();
        // Another future holds the only thread.
        std::thread::sleep(LONGER);
        assert_eq!(work.await.unwrap(), Timed::InTime(Ok(7)));
    }

    #[tokio::test]
    async fn what_holds_its_own_thread_is_late() {
        let blocks = async { std::thread::sleep(LONGER) };
        assert_eq!(soon().bound(blocks).await, Timed::Late(()));
        let blocks_and_waits = async {
            std::thread::sleep(LONGER);
            tokio::task::yield_now().await;
        };
        assert_eq!(soon().bound(blocks_and_waits).await, Timed::Over);
    }

    #[tokio::test]
    async fn what_never_ends_is_over_and_no_time_is_enough_for_what_waits_for_nothing() {
        assert_eq!(
            soon().bound(std::future::pending::<()>()).await,
            Timed::Over
        );
        for time in [Duration::ZERO, Duration::MAX] {
            let deadline = Deadline::new(watch::channel(0).1, time);
            assert_eq!(deadline.bound(async { 7 }).await, Timed::InTime(7));
        }
    }
}
