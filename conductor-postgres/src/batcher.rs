use std::future::Future;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use super::barrier::Barrier;

/// How often the writer yields to other tasks between two batches.
const YIELDS: usize = 3;
/// The largest message in bytes, unless a single item is larger; driver and server hold copies of
/// it.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Batches the items of concurrent callers: while one batch is being written, the next one gathers.
/// There is no timer, so a single item is written at once.
#[derive(Debug)]
pub struct Batcher<T> {
    gathered: Arc<Mutex<Gathered<T>>>,
    runtimes: Option<Runtimes>,
}

/// The runtime that writes, if it is not the caller's, and the runtime of the callers.
#[derive(Debug, Clone)]
struct Runtimes {
    writer: Handle,
    callers: Handle,
}

#[derive(Debug)]
struct Gathered<T> {
    waiting: Vec<T>,
    writing: bool,
}

impl<T: Send + 'static> Default for Batcher<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Send + 'static> Batcher<T> {
    /// Creates a batcher that writes on the runtime of its callers.
    pub fn new() -> Self {
        Self {
            gathered: Arc::new(Mutex::new(Gathered {
                waiting: Vec::new(),
                writing: false,
            })),
            runtimes: None,
        }
    }

    /// Creates a batcher that writes on this runtime, for callers on the runtime in which this is
    /// called.
    pub fn on(writer: Handle) -> Self {
        let callers = Handle::current();
        Self {
            runtimes: Some(Runtimes { writer, callers }),
            ..Self::new()
        }
    }

    /// Adds an item, and starts a writer if none is running. `take` chooses the next batch, at
    /// least one item; `write` writes it. The writer is an async task of its own, because a caller
    /// that is dropped must not take the others' batch along.
    pub fn add<W, F>(&self, item: T, take: fn(&mut Vec<T>) -> Vec<T>, write: W)
    where
        W: Fn(Vec<T>) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut gathered = lock(&self.gathered);
        gathered.waiting.push(item);
        if !mem::replace(&mut gathered.writing, true) {
            // A runtime that has ended drops the writer right here, which takes the lock.
            drop(gathered);
            let writing = Writing(Some(Arc::clone(&self.gathered)));
            match self.runtimes.clone() {
                Some(Runtimes { writer, callers }) => {
                    writer.spawn(write_all(writing, take, write, Some(callers)));
                }
                None => drop(tokio::spawn(write_all(writing, take, write, None))),
            }
        }
    }
}

impl<T> Clone for Batcher<T> {
    fn clone(&self) -> Self {
        Self {
            gathered: Arc::clone(&self.gathered),
            runtimes: self.runtimes.clone(),
        }
    }
}

/// Takes items for one statement from the front; see [`message_length`].
pub fn take_message<T>(
    waiting: &mut Vec<T>,
    most: usize,
    bytes_of: impl Fn(&T) -> usize,
) -> Vec<T> {
    let rest = waiting.split_off(message_length(waiting, most, bytes_of));
    mem::replace(waiting, rest)
}

/// Returns how many items go into one statement: at most `most`, and at most 16 MiB unless a single
/// one is larger. Postgres refuses a message of 1 GiB.
pub fn message_length<T>(waiting: &[T], most: usize, bytes_of: impl Fn(&T) -> usize) -> usize {
    let mut bytes = 0;
    waiting
        .iter()
        .take(most)
        .take_while(|item| {
            bytes += bytes_of(item);
            bytes <= MOST_BYTES
        })
        .count()
        .max(1)
        .min(waiting.len())
}

/// A guard that exists while a writer runs. If the writer ends early, by a panic or with its
/// runtime, waiting items are dropped, so that their callers get an error, and the next item starts
/// another writer.
struct Writing<T>(Option<Arc<Mutex<Gathered<T>>>>);

impl<T> Writing<T> {
    /// Returns the next batch, or `None` if nothing waits.
    fn next(&mut self, take: fn(&mut Vec<T>) -> Vec<T>) -> Option<Vec<T>> {
        let shared = self.0.take()?;
        let mut gathered = lock(&shared);
        if gathered.waiting.is_empty() {
            gathered.writing = false;
            return None;
        }
        let batch = take(&mut gathered.waiting);
        drop(gathered);
        self.0 = Some(shared);
        Some(batch)
    }
}

impl<T> Drop for Writing<T> {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            let mut gathered = lock(shared);
            gathered.writing = false;
            gathered.waiting.clear();
        }
    }
}

async fn write_all<T, W, F>(
    mut writing: Writing<T>,
    take: fn(&mut Vec<T>) -> Vec<T>,
    write: W,
    callers: Option<Handle>,
) where
    W: Fn(Vec<T>) -> F,
    F: Future<Output = ()>,
{
    while let Some(batch) = writing.next(take) {
        write(batch).await;
        // Callers that were just answered may add their next item at once. Waiting for them makes
        // the next batch whole, instead of half.
        if let Some(callers) = &callers {
            Barrier::behind(callers).over().await;
            continue;
        }
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_writer_that_panics_leaves_nobody_waiting() {
        let batcher: Batcher<oneshot::Sender<()>> = Batcher::new();
        let (first, answer) = oneshot::channel();
        batcher.add(first, mem::take, |_| async {
            panic!("a fault of the writer")
        });
        assert!(answer.await.is_err());
        // The guard may be dropped after the batch of the task that panicked.
        while lock(&batcher.gathered).writing {
            tokio::task::yield_now().await;
        }
        let (second, answer) = oneshot::channel();
        batcher.add(second, mem::take, |batch| async {
            for caller in batch {
                let _ = caller.send(());
            }
        });
        assert!(answer.await.is_ok());
    }
}
