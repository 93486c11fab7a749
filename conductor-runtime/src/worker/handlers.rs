use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::stream::{AbortHandle, AbortRegistration, Abortable};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::execute::caught;
use crate::panics::{Panicked, note_places};

/// Identifies a handler of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct HandlerId(pub(super) u64);

/// Handlers that run on another runtime than their worker. Starts and ends are transferred in groups, because each
/// hop between threads costs as much as a small handler.
pub(super) struct Handlers<E> {
    runtime: Handle,
    /// Handlers that were added and not started. In a mutex because `Handlers` must be `Sync` and these futures are
    /// not.
    starting: Mutex<Vec<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    ends: Arc<Ends<E>>,
}

/// Collects how handlers have ended.
struct Ends<E> {
    ended: Mutex<Vec<(HandlerId, Option<E>)>>,
    some: Notify,
}

/// Aborts its handler at the next `.await`, on request or when dropped.
#[derive(Debug)]
pub(super) struct Abort(AbortHandle);

impl Abort {
    pub(super) fn now(&self) {
        self.0.abort();
    }
}

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reports the end of a handler, even if it is dropped with its runtime; `None` if it did not end by itself.
struct Ending<E> {
    handler: HandlerId,
    ends: Arc<Ends<E>>,
    end: Option<E>,
}

impl<E> Drop for Ending<E> {
    fn drop(&mut self) {
        let mut ended = self.ends.lock();
        ended.push((self.handler, self.end.take()));
        if ended.len() == 1 {
            self.ends.some.notify_one();
        }
    }
}

impl<E> Ends<E> {
    fn lock(&self) -> MutexGuard<'_, Vec<(HandlerId, Option<E>)>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Send + 'static> Handlers<E> {
    pub(super) fn on(runtime: Handle) -> Self {
        note_places();
        Self {
            runtime,
            starting: Mutex::default(),
            ends: Arc::new(Ends {
                ended: Mutex::default(),
                some: Notify::new(),
            }),
        }
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Adds a handler, which starts with the next `start`. `panicked` converts a panic to an end.
    pub(super) fn add(
        &mut self,
        id: HandlerId,
        handler: impl Future<Output = E> + Send + 'static,
        panicked: fn(Panicked) -> E,
    ) -> Abort {
        let (abort, aborted) = AbortHandle::new_pair();
        let ending = Ending {
            handler: id,
            ends: Arc::clone(&self.ends),
            end: None,
        };
        let starting = self.starting.get_mut();
        let starting = starting.unwrap_or_else(PoisonError::into_inner);
        starting.push(Box::pin(run(handler, aborted, ending, panicked)));
        Abort(abort)
    }

    /// Starts what was added.
    pub(super) fn start(&mut self) {
        let starting = self.starting.get_mut();
        let mut starting = std::mem::take(starting.unwrap_or_else(PoisonError::into_inner));
        if starting.len() > 1 {
            // Spawned from a thread of that runtime, so that they start without a hop each.
            self.runtime.spawn(async move {
                for handler in starting {
                    tokio::spawn(handler);
                }
            });
        } else if let Some(handler) = starting.pop() {
            self.runtime.spawn(handler);
        }
    }

    /// Waits until handlers have ended, and returns those that have; at least one.
    pub(super) async fn ended(&mut self) -> Vec<(HandlerId, Option<E>)> {
        loop {
            let ended = std::mem::take(&mut *self.ends.lock());
            if !ended.is_empty() {
                return ended;
            }
            self.ends.some.notified().await;
        }
    }
}

async fn run<E>(
    handler: impl Future<Output = E>,
    aborted: AbortRegistration,
    mut ending: Ending<E>,
    panicked: fn(Panicked) -> E,
) {
    let mut handler = pin!(Some(handler));
    let polled = poll_fn(|cx| match handler.as_mut().as_pin_mut() {
        Some(handler) => handler.poll(cx),
        None => Poll::Pending,
    });
    let end = match caught(Abortable::new(polled, aborted)).await {
        Ok(end) => end.ok(),
        Err(panic) => Some(panicked(panic)),
    };
    // Dropping what the handler holds may panic as well.
    let dropped = catch_unwind(AssertUnwindSafe(|| handler.set(None)));
    ending.end = match dropped {
        Ok(()) => end,
        Err(panic) => Some(panicked(Panicked::of(panic))),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panicked(panicked: Panicked) -> String {
        panicked.text
    }

    struct Panics;

    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("in its drop");
        }
    }

    async fn next(handlers: &mut Handlers<String>) -> (HandlerId, Option<String>) {
        let mut ended = handlers.ended().await;
        assert_eq!(ended.len(), 1);
        ended.remove(0)
    }

    const ONE: HandlerId = HandlerId(1);

    #[tokio::test]
    async fn each_end_comes_back() {
        let mut handlers = Handlers::on(Handle::current());
        let _alive = handlers.add(ONE, async { "done".to_owned() }, panicked);
        handlers.start();
        assert_eq!(next(&mut handlers).await, (ONE, Some("done".to_owned())));

        let broken = async { panic!("broken") };
        let _alive = handlers.add(ONE, broken, panicked);
        handlers.start();
        let place = format!("{}:{}:30", file!(), line!() - 3);
        let end = Some(format!("panicked at {place}: broken"));
        assert_eq!(next(&mut handlers).await, (ONE, end));
    }

    #[tokio::test]
    async fn several_start_together() {
        let mut handlers = Handlers::on(Handle::current());
        let _alive: Vec<_> = (0..3)
            .map(|n| handlers.add(HandlerId(n), async move { n.to_string() }, panicked))
            .collect();
        handlers.start();
        let mut ended = Vec::new();
        while ended.len() < 3 {
            ended.extend(handlers.ended().await);
        }
        for n in 0..3 {
            let end = (HandlerId(n), Some(n.to_string()));
            assert!(ended.contains(&end), "{ended:?}");
        }
    }

    #[tokio::test]
    async fn one_that_is_aborted_has_no_end_of_its_own() {
        let mut handlers = Handlers::on(Handle::current());
        let abort = handlers.add(ONE, std::future::pending(), panicked);
        handlers.start();
        abort.now();
        assert_eq!(next(&mut handlers).await, (ONE, None));

        let abort = handlers.add(ONE, std::future::pending(), panicked);
        handlers.start();
        drop(abort);
        assert_eq!(next(&mut handlers).await, (ONE, None));

        let panics = Panics;
        let holds = async move {
            let _panics = panics;
            std::future::pending().await
        };
        let abort = handlers.add(ONE, holds, panicked);
        handlers.start();
        abort.now();
        let (one, end) = next(&mut handlers).await;
        assert_eq!(one, ONE);
        assert!(end.is_some_and(|end| end.ends_with(": in its drop")));
    }

    #[test]
    fn one_whose_runtime_is_gone_has_no_end_of_its_own() {
        let one_thread = || tokio::runtime::Builder::new_current_thread().build();
        let (Ok(here), Ok(there)) = (one_thread(), one_thread()) else {
            panic!("no runtime");
        };
        let mut handlers = Handlers::on(there.handle().clone());
        let _one = handlers.add(HandlerId(1), std::future::pending(), panicked);
        let _two = handlers.add(HandlerId(2), std::future::pending(), panicked);
        handlers.start();
        drop(there);
        let _three = handlers.add(HandlerId(3), std::future::pending(), panicked);
        handlers.start();
        let mut ended = Vec::new();
        while ended.len() < 3 {
            ended.extend(here.block_on(handlers.ended()));
        }
        for id in 1..=3 {
            assert!(ended.contains(&(HandlerId(id), None)));
        }
    }
}
