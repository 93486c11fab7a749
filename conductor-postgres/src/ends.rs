use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use uuid::Uuid;

/// How many ends are remembered for callers that ask slightly too late. At 70,000 ends a second, this is 14 ms.
const REMEMBERED: usize = 1024;

/// Notifies callers that wait for ends of executions. A client shares it with its orchestrators: an end that one of
/// them receives or writes is reported to all.
///
/// A notification is only a hint to query the database.
#[derive(Debug, Default)]
pub struct Ends {
    waiting: Mutex<HashMap<Uuid, Waiting>>,
    here: Mutex<Here>,
    /// How many listeners currently receive ends from the database.
    listeners: AtomicUsize,
}

/// The waiting callers of one execution.
#[derive(Debug, Default)]
struct Waiting {
    notify: Arc<Notify>,
    count: usize,
}

/// What the workers of this process do.
#[derive(Debug, Default)]
struct Here {
    /// The tasks that they serve; a task is listed once for each orchestrator.
    tasks: Vec<&'static str>,
    /// The executions that ended here most recently.
    ended: VecDeque<Uuid>,
}

/// Receives notifications of one execution's end while it is held.
#[derive(Debug)]
pub struct EndInterest {
    id: Uuid,
    notify: Arc<Notify>,
    ends: Arc<Ends>,
}

/// Held while a listener receives ends.
#[derive(Debug)]
pub(crate) struct Listening(Arc<Ends>);

/// Held while an orchestrator serves these tasks.
#[derive(Debug)]
pub struct Serving {
    tasks: Vec<&'static str>,
    ends: Arc<Ends>,
}

impl Ends {
    /// Returns an interest that is notified when this execution may have ended.
    pub fn of(self: &Arc<Self>, id: Uuid) -> EndInterest {
        let mut waiting = lock(&self.waiting);
        let those = waiting.entry(id).or_default();
        those.count += 1;
        EndInterest {
            id,
            notify: Arc::clone(&those.notify),
            ends: Arc::clone(self),
        }
    }

    pub(crate) fn tell(&self, id: Uuid) {
        if let Some(those) = lock(&self.waiting).get(&id) {
            those.notify.notify_waiters();
        }
    }

    pub(crate) fn tell_all(&self) {
        for those in lock(&self.waiting).values() {
            those.notify.notify_waiters();
        }
    }

    /// Notifies callers of ends that this process has written.
    pub fn written(&self, ids: impl Iterator<Item = Uuid> + Clone) {
        let mut here = lock(&self.here);
        here.ended.extend(ids.clone());
        let surplus = here.ended.len().saturating_sub(REMEMBERED);
        here.ended.drain(..surplus);
        drop(here);
        let waiting = lock(&self.waiting);
        if !waiting.is_empty() {
            for those in ids.filter_map(|id| waiting.get(&id)) {
                those.notify.notify_waiters();
            }
        }
    }

    /// Returns whether a worker of this process serves the task.
    pub fn is_served(&self, task: &str) -> bool {
        lock(&self.here).tasks.contains(&task)
    }

    /// Returns whether this process has just written the execution's end.
    pub fn has_just_ended(&self, id: Uuid) -> bool {
        lock(&self.here).ended.contains(&id)
    }

    /// Notes that this process runs these tasks, until the result is dropped.
    pub fn serving(self: &Arc<Self>, tasks: Vec<&'static str>) -> Serving {
        lock(&self.here).tasks.extend(&tasks);
        Serving {
            tasks,
            ends: Arc::clone(self),
        }
    }

    /// Returns whether a listener receives ends from the database.
    pub(crate) fn is_told(&self) -> bool {
        self.listeners.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn listening(self: &Arc<Self>) -> Listening {
        self.listeners.fetch_add(1, Ordering::Relaxed);
        Listening(Arc::clone(self))
    }
}

impl EndInterest {
    /// Waits for the next notification after this call. Must be called before the query, whose result may be outdated
    /// when it is read.
    pub fn notified(&self) -> Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for EndInterest {
    fn drop(&mut self) {
        let mut waiting = lock(&self.ends.waiting);
        if let Some(those) = waiting.get_mut(&self.id) {
            those.count -= 1;
            if those.count == 0 {
                waiting.remove(&self.id);
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::Relaxed);
        // Waiting callers query now, and start a listener themselves.
        self.0.tell_all();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let mut here = lock(&self.ends.here);
        for task in &self.tasks {
            if let Some(place) = here.tasks.iter().position(|other| other == task) {
                here.tasks.swap_remove(place);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_remembered_until_many_have_come_after_it() {
        let ends = Ends::default();
        let ids: Vec<Uuid> = (0..=REMEMBERED).map(|_| Uuid::now_v7()).collect();
        ends.written(ids[..1].iter().copied());
        assert!(ends.has_just_ended(ids[0]));
        ends.written(ids[1..].iter().copied());
        assert!(
            !ends.has_just_ended(ids[0]),
            "of the oldest nothing is kept"
        );
        assert!(ids[1..].iter().all(|id| ends.has_just_ended(*id)));
    }

    #[tokio::test]
    async fn whoever_waits_is_told_of_what_is_written_here() {
        let ends = Arc::new(Ends::default());
        let (id, other) = (Uuid::now_v7(), Uuid::now_v7());
        let interest = ends.of(id);
        let mut told = Box::pin(interest.notified());
        ends.written([other].into_iter());
        assert!(!told.as_mut().enable(), "nobody asked for that one");
        ends.written([id].into_iter());
        told.await;
        drop(interest);
        assert!(
            lock(&ends.waiting).is_empty(),
            "nothing stays of those who have gone"
        );
    }

    #[test]
    fn a_task_is_served_until_the_last_orchestrator_ends() {
        let ends = Arc::new(Ends::default());
        let one = ends.serving(vec!["a", "b"]);
        let two = ends.serving(vec!["a"]);
        drop(one);
        assert!(ends.is_served("a") && !ends.is_served("b"));
        drop(two);
        assert!(!ends.is_served("a"));
    }

    #[tokio::test]
    async fn with_the_listener_the_waiters_are_told_to_look() {
        let ends = Arc::new(Ends::default());
        let interest = ends.of(Uuid::now_v7());
        let listening = ends.listening();
        assert!(ends.is_told());
        let told = interest.notified();
        drop(listening);
        assert!(!ends.is_told());
        told.await;
    }
}
