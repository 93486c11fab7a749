use std::future::Future;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use super::barrier::Barrier;

/// How often the writer lets others go first between two batches.
const YIELDS: usize = 3;
/// Of a message, unless one item alone has more; the driver and the server hold copies of it.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Lets what concurrent callers write travel together: while one batch is under way, the next one
/// gathers by itself. No timer, so a lone item is written at once.
#[derive(Debug)]
pub(crate) struct Batcher<T> {
    gathered: Arc<Mutex<Gathered<T>>>,
    runtimes: Option<Runtimes>,
}

/// Where it is written, if not on the runtime of who calls, and where the callers are.
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

impl<T: Send + 'static> Batcher<T> {
    pub(crate) fn new() -> Self {
        Self {
            gathered: Arc::new(Mutex::new(Gathered {
                waiting: Vec::new(),
                writing: false,
            })),
            runtimes: None,
        }
    }

    /// One that writes on this runtime, for callers on the one in which this is called.
    pub(crate) fn on(writer: Handle) -> Self {
        let callers = Handle::current();
        Self {
            runtimes: Some(Runtimes { writer, callers }),
            ..Self::new()
        }
    }

    /// Adds an item. Where nobody writes, a writer is started, with `take` for what goes into the
    /// next batch (at least one item) and `write` for the batch. The writer is a task of its own:
    /// a caller that is dropped must not take the others' batch along.
    pub(crate) fn add<W, F>(&self, item: T, take: fn(&mut Vec<T>) -> Vec<T>, write: W)
    where
        W: Fn(Vec<T>) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut gathered = lock(&self.gathered);
        gathered.waiting.push(item);
        if !mem::replace(&mut gathered.writing, true) {
            // A runtime that has ended drops the writer here, which takes the lock.
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

/// Takes from the front what one statement may bring, as [`message_length`] says.
pub(crate) fn take_message<T>(
    waiting: &mut Vec<T>,
    most: usize,
    bytes_of: impl Fn(&T) -> usize,
) -> Vec<T> {
    let rest = waiting.split_off(message_length(waiting, most, bytes_of));
    mem::replace(waiting, rest)
}

/// How many of these one statement may bring: at most so many items, and at most 16 MiB unless a
/// single one is larger. Postgres refuses a message of a gigabyte.
pub(crate) fn message_length<T>(
    waiting: &[T],
    most: usize,
    bytes_of: impl Fn(&T) -> usize,
) -> usize {
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

/// While it lives somebody writes. Should the writer end before its work, by a panic or with the
/// runtime that it ran on, what waits is dropped, which tells the callers, and the next item starts
/// another.
struct Writing<T>(Option<Arc<Mutex<Gathered<T>>>>);

impl<T> Writing<T> {
    /// The next batch, or none when the work is done.
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
        // The callers that have just been answered may have their next item ready at once; with
        // them the next batch is whole instead of every second one being half.
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
        // The panicked task's guard may be dropped after its batch.
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
