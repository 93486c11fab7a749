use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::insert::{Waiting, take_batch, write};
use crate::db::Database;

/// Connections that wait for locks at once; the others are for those who need not wait.
const TRIES: usize = 4;
/// Between tries, which wait themselves for a while.
const PAUSE: Duration = Duration::from_millis(100);

/// What may be locked: a task's dedupe key, or slot, of debounced calls or others.
type Key = (String, Option<String>, bool);

fn key(waiting: &Waiting) -> Key {
    let new = &waiting.new;
    let debounced = new.debounce_ms.is_some();
    (new.task.clone(), new.dedupe_key.clone(), debounced)
}

/// Keyed invokes behind somebody's open transaction: the calls of one key are tried again together, apart
/// from those of other keys.
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

    /// Takes over a call whose key is known to be held up; gives back any other.
    pub(super) fn attract(&self, waiting: Waiting) -> Option<Waiting> {
        let mut keys = self.lock();
        // Mostly none is, and no key is made to look for it.
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

/// Somebody who brings the calls of one key. With it the key goes, should it end before its work: by a
/// panic, or with the runtime that it ran on. What waits is dropped then, which tells the callers.
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

    /// As many as one message may bring. None when nobody waits any more; from then on the key is as any other.
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

    /// In front of those that came meanwhile, as the last call of a key counts.
    fn put_back(&self, mut calls: Vec<Waiting>) {
        let mut keys = self.held_up.lock();
        let others = keys.entry(self.key.clone()).or_default();
        calls.append(others);
        *others = calls;
    }
}

impl Drop for Tries {
    fn drop(&mut self) {
        // Behind one that has ended by itself another may be there already.
        if !self.done {
            self.held_up.lock().remove(&self.key);
        }
    }
}
