use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgListener};
use tokio::sync::{Notify, OnceCell, broadcast, watch};
use uuid::Uuid;

use super::{ANSWER, Database, Ends, direct_way, pool_options};

/// A listener that has received nothing for this long is tested with a query, which must be answered within the same
/// time. If the network has lost the connection, nothing else reveals it.
const QUIET: Duration = Duration::from_secs(5);
/// The pause between two queries of the clock, however many notifications arrive.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// The most cancels that may be on their way to the workers.
const CANCELS: usize = 1024;

/// Listens on the channel `conductor` with a connection of its own, and wakes those concerned.
///
/// Any role that may connect can notify, so a message is only a hint: the database is then queried, and many messages
/// lead to one query.
///
/// If LISTEN is not available (behind a transaction pooler), there are no notifications and everything polls. After a
/// lost connection everything is woken, because messages may have been missed.
#[derive(Debug)]
pub struct Notifier {
    interests: Arc<Interests>,
    started: OnceCell<tokio::task::AbortHandle>,
}

#[derive(Debug)]
struct Interests {
    queues: Mutex<HashMap<i32, Arc<Notify>>>,
    ends: Arc<Ends>,
    cancels: broadcast::Sender<Uuid>,
    /// Changes when something may have been cancelled.
    cancel_hints: watch::Sender<()>,
    clock_shift_ms: watch::Sender<i64>,
    schedules: Arc<Notify>,
    events: Arc<Notify>,
    versions: Arc<Notify>,
}

impl Default for Notifier {
    fn default() -> Self {
        Self::new()
    }
}

impl Notifier {
    /// Creates a notifier that is not connected yet.
    pub fn new() -> Self {
        Self::with(Arc::default())
    }

    /// Returns a notifier for the orchestrator's own work. Both share the notifications of ends.
    pub fn apart(&self) -> Self {
        Self::with(Arc::clone(self.ends()))
    }

    fn with(ends: Arc<Ends>) -> Self {
        Self {
            interests: Arc::new(Interests {
                queues: Mutex::default(),
                ends,
                cancels: broadcast::channel(CANCELS).0,
                cancel_hints: watch::channel(()).0,
                clock_shift_ms: watch::channel(0).0,
                schedules: Arc::default(),
                events: Arc::default(),
                versions: Arc::default(),
            }),
            started: OnceCell::new(),
        }
    }

    /// Starts to listen, once. Returns when the server listens or has refused.
    pub async fn start(&self, database: &Database) {
        self.started
            .get_or_init(|| async {
                let interests = Arc::clone(&self.interests);
                // A pooler would accept LISTEN and forget it at the end of the transaction.
                let direct = direct_way();
                if direct.is_none() && database.is_through_pooler() {
                    return tokio::spawn(std::future::ready(())).abort_handle();
                }
                let database = database.clone();
                let way = move || direct.clone().unwrap_or_else(|| database.options());
                let listener = listen(&way(), &interests).await;
                if listener.is_none() {
                    tracing::warn!("the server does not LISTEN; new work is found by polling");
                }
                tokio::spawn(async move {
                    let mut listener = listener;
                    // Held also during a reconnect, so that no other listener starts meanwhile.
                    let mut listening = None;
                    loop {
                        match listener.take() {
                            Some(listener) => {
                                listening.get_or_insert_with(|| interests.ends.listening());
                                serve(listener, &interests).await;
                            }
                            None => tokio::time::sleep(Duration::from_secs(5)).await,
                        }
                        listener = listen(&way(), &interests).await;
                        interests.tell_all();
                    }
                })
                .abort_handle()
            })
            .await;
    }

    /// Returns what is notified when work may be due in this queue.
    pub fn queue(&self, id: i32) -> Arc<Notify> {
        Arc::clone(lock(&self.interests.queues).entry(id).or_default())
    }

    /// Starts to listen, unless another listener of this process receives ends.
    pub async fn start_for_ends(&self, database: &Database) {
        if !self.ends().is_told() {
            self.start(database).await;
        }
    }

    /// Returns the notifications of ends.
    pub fn ends(&self) -> &Arc<Ends> {
        &self.interests.ends
    }

    /// Returns a receiver for the ids of running executions that are cancelled.
    pub fn cancels(&self) -> broadcast::Receiver<Uuid> {
        self.interests.cancels.subscribe()
    }

    /// Returns a channel that changes when a running execution may have been cancelled.
    pub fn cancel_hints(&self) -> watch::Receiver<()> {
        self.interests.cancel_hints.subscribe()
    }

    /// Sends cancels that were found in the database; sending one twice is harmless.
    pub async fn pass_on_cancels(&self, ids: Vec<Uuid>) {
        const HALF: usize = CANCELS / 2;
        for portion in ids.chunks(HALF) {
            // Workers receive them on this same thread; what they miss they will request again.
            let mut looks = 0;
            while self.interests.cancels.len() > HALF && looks < 1000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                looks += 1;
            }
            for id in portion {
                // No subscriber means that no worker runs here.
                let _ = self.interests.cancels.send(*id);
            }
        }
    }

    /// Requests all cancels again, because some were missed.
    pub fn ask_for_cancels(&self) {
        self.interests.cancel_hints.send_replace(());
    }

    /// Returns what is notified when a schedule may be due, or may have been changed.
    pub fn schedules(&self) -> Arc<Notify> {
        Arc::clone(&self.interests.schedules)
    }

    /// Returns what is notified when events may have to be dispatched.
    pub fn events(&self) -> Arc<Notify> {
        Arc::clone(&self.interests.events)
    }

    /// Returns what is notified when older processes must end for a breaking migration.
    pub fn versions(&self) -> Arc<Notify> {
        Arc::clone(&self.interests.versions)
    }

    /// Notes the shift of the clock, as read from the database.
    pub fn note_clock_shift(&self, shift_ms: i64) {
        self.interests.clock_shift_ms.send_if_modified(|known| {
            let is_new = *known != shift_ms;
            *known = shift_ms;
            is_new
        });
    }

    /// Returns how far tests have moved the virtual clock, in milliseconds.
    pub fn clock_shift_ms(&self) -> watch::Receiver<i64> {
        self.interests.clock_shift_ms.subscribe()
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if let Some(task) = self.started.get() {
            task.abort();
        }
    }
}

impl Interests {
    /// Wakes those concerned; returns true if the clock may have been moved.
    fn tell(&self, message: &str) -> bool {
        let Some((kind, value)) = message.split_once(':') else {
            return false;
        };
        match kind {
            "queue" => {
                if let Ok(id) = value.parse()
                    && let Some(notify) = lock(&self.queues).get(&id)
                {
                    notify.notify_one();
                }
            }
            "done" => {
                if let Ok(id) = value.parse() {
                    self.ends.tell(id);
                }
            }
            "cancel" => {
                self.cancel_hints.send_replace(());
            }
            "schedules" => self.schedules.notify_one(),
            "events" => self.events.notify_one(),
            "version" => self.versions.notify_one(),
            "clock" => return true,
            _ => tracing::debug!(message, "unknown notification"),
        }
        false
    }

    /// Returns true if the value is new.
    fn set_clock(&self, shift_ms: i64) -> bool {
        self.clock_shift_ms.send_replace(shift_ms) != shift_ms
    }

    fn tell_all(&self) {
        self.schedules.notify_one();
        self.events.notify_one();
        self.versions.notify_one();
        for notify in lock(&self.queues).values() {
            notify.notify_one();
        }
        self.ends.tell_all();
    }
}

async fn listen(options: &PgConnectOptions, interests: &Interests) -> Option<PgListener> {
    let attempt = async {
        // A pool of one, so that the listener takes no connection from the other pools.
        let pool = pool_options()
            .max_connections(1)
            .connect_with(options.clone())
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen("conductor").await?;
        look_at_clock(&mut listener, interests).await?;
        Ok::<_, sqlx::Error>(listener)
    };
    match tokio::time::timeout(ANSWER, attempt).await {
        Ok(Ok(listener)) => Some(listener),
        Ok(Err(error)) => {
            tracing::debug!(%error, "cannot listen");
            None
        }
        Err(_) => None,
    }
}

/// Reads how far tests have moved the clock, and wakes everything if that is new.
async fn look_at_clock(
    listener: &mut PgListener,
    interests: &Interests,
) -> Result<(), sqlx::Error> {
    let shift = sqlx::query_scalar(
        "select floor(extract(epoch from shift) * 1000)::bigint from conductor.clock",
    )
    .fetch_optional(&mut *listener)
    .await;
    match shift {
        Ok(shift) => {
            if interests.set_clock(shift.unwrap_or_default()) {
                interests.tell_all();
            }
            Ok(())
        }
        Err(error @ sqlx::Error::Database(_)) => {
            tracing::debug!(%error, "the clock's shift cannot be read");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Handles notifications until the connection is lost.
async fn serve(mut listener: PgListener, interests: &Interests) {
    let mut look_due = false;
    let mut looked = Instant::now();
    loop {
        let wait = if look_due {
            BETWEEN_LOOKS.saturating_sub(looked.elapsed())
        } else {
            QUIET
        };
        if wait.is_zero() {
            let look = look_at_clock(&mut listener, interests);
            if !matches!(tokio::time::timeout(QUIET, look).await, Ok(Ok(()))) {
                tracing::debug!("the listener's connection does not tell the time");
                return;
            }
            look_due = false;
            looked = Instant::now();
            continue;
        }
        match tokio::time::timeout(wait, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => look_due |= interests.tell(notification.payload()),
            Ok(Ok(None)) => return,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the listener lost its connection");
                return;
            }
            Err(_) if look_due => {}
            Err(_) => {
                let asked = sqlx::query("select 1").execute(&mut listener);
                if !matches!(tokio::time::timeout(QUIET, asked).await, Ok(Ok(_))) {
                    tracing::debug!("the listener's connection says nothing any more");
                    return;
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn cancels_by_the_thousand_are_all_heard() {
        let notifier = Notifier::new();
        let mut cancels = notifier.cancels();
        let sent: Vec<Uuid> = (0..3000).map(|_| Uuid::now_v7()).collect();
        let most = sent.len();
        let heard = tokio::spawn(async move {
            let mut heard = Vec::new();
            while heard.len() < most {
                heard.push(cancels.recv().await.unwrap());
            }
            heard
        });
        notifier.pass_on_cancels(sent.clone()).await;
        assert_eq!(heard.await.unwrap(), sent);
    }
}
