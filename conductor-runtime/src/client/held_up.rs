use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conductor_postgres::Database;
use tokio::sync::Semaphore;

use super::insert::{Waiting, take_batch, write};

/// The number of connections that may wait for locks at the same time; the others stay free for calls that need not
/// wait.
const TRIES: usize = 4;
/// The pause between tries. A try itself waits for the lock for a while.
const PAUSE: Duration = Duration::from_millis(100);

/// What may be locked: a task, its dedupe key or throttle slot, and whether the call is debounced.
type Key = (String, Option<String>, bool);

fn key(waiting: &Waiting) -> Key {
    let new = &waiting.new;
    let debounced = new.debounce_ms.is_some();
    (new.task.clone(), new.dedupe_key.clone(), debounced)
}

/// Keyed invokes that wait for another transaction's lock on their key. The calls of one key are tried again
/// together, separately from those of other keys.
#[derive(Debug, Clone)]
pub(super) struct HeldUp(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    keys: Mutex<HashMap<Key, Vec<Waiting>>>,
    tries: Semaphore,
}

impl HeldUp {
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared {
            keys: Mutex::default(),
            tries: Semaphore::new(TRIES),
        }))
    }

    /// Takes over a call if its key is known to be locked; returns any other call.
    pub(super) fn attract(&self, waiting: Waiting) -> Option<Waiting> {
        let mut keys = self.lock();
        // Usually no key is locked; this saves building one to look it up.
        if keys.is_empty() {
            return Some(waiting);
        }
        match keys.get_mut(&key(&waiting)) {
            Some(others) => {
                others.push(waiting);
                None
            }
            None => Some(waiting),
        }
    }

    pub(super) fn add(&self, database: &Database, waiting: Waiting) {
        let key = key(&waiting);
        let mut keys = self.lock();
        let calls = keys.entry(key.clone());
        let is_new = matches!(calls, Entry::Vacant(_));
        calls.or_default().push(waiting);
        if is_new {
            let tries = Tries {
                held_up: self.clone(),
                key,
                done: false,
            };
            tokio::spawn(tries.go_on(database.clone()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Vec<Waiting>>> {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Retries the calls of one key. If it ends early, by a panic or with its runtime, `Drop` removes the key and its
/// waiting calls; the callers then receive an error.
struct Tries {
    held_up: HeldUp,
    key: Key,
    done: bool,
}

impl Tries {
    async fn go_on(mut self, database: Database) {
        while let Some(calls) = self.next() {
            let permit = self.held_up.0.tries.acquire().await;
            let locked = write(&database, calls).await;
            drop(permit);
            if !locked.is_empty() {
                self.put_back(locked);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Takes at most as many calls as fit into one message. Returns `None` if no call waits any more; the key is then
    /// no longer listed.
    fn next(&mut self) -> Option<Vec<Waiting>> {
        let mut keys = self.held_up.lock();
        let calls = keys.get_mut(&self.key).map(take_batch).unwrap_or_default();
        if calls.is_empty() {
            keys.remove(&self.key);
            self.done = true;
            return None;
        }
        Some(calls)
    }

    /// Puts calls back in front of those that arrived meanwhile, because the last call of a key wins.
    fn put_back(&self, mut calls: Vec<Waiting>) {
        let mut keys = self.held_up.lock();
        let others = keys.entry(self.key.clone()).or_default();
        calls.append(others);
        *others = calls;
    }
}

impl Drop for Tries {
    fn drop(&mut self) {
        // After a regular end, the key may already belong to a new one.
        if !self.done {
            self.held_up.lock().remove(&self.key);
        }
    }
}
