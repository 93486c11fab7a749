use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgListener};
use tokio::sync::{Notify, OnceCell, broadcast, watch};
use uuid::Uuid;

use super::{ANSWER, Database, Ends, direct_way, pool_options};

/// A listener that has heard nothing for so long is asked whether it lives, and must answer as soon: where
/// the network has forgotten its connection, nothing else tells.
const QUIET: Duration = Duration::from_secs(5);
/// Between two looks at the clock, however many notifications tell of it.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// Most cancels that are on their way to the workers.
const CANCELS: usize = 1024;

/// Listens on the channel "conductor" with one connection of its own and tells those concerned.
///
/// Anybody who may connect can notify, so a message is a hint to look and no more: what it tells of is
/// asked of the database, and many messages are one look.
///
/// Where LISTEN is not to be had (behind a transaction pooler), nothing is told and everybody
/// polls. After a lost connection everybody is told to look, as messages may have been missed.
#[derive(Debug)]
pub(crate) struct Notifier {
    interests: Arc<Interests>,
    started: OnceCell<tokio::task::AbortHandle>,
}

#[derive(Debug)]
struct Interests {
    queues: Mutex<HashMap<i32, Arc<Notify>>>,
    ends: Arc<Ends>,
    cancels: broadcast::Sender<Uuid>,
    /// Changes where something may have been cancelled.
    cancel_hints: watch::Sender<()>,
    clock_shift_ms: watch::Sender<i64>,
    schedules: Arc<Notify>,
    events: Arc<Notify>,
    versions: Arc<Notify>,
}

impl Notifier {
    pub(crate) fn new() -> Self {
        Self::with(Arc::default())
    }

    /// For the orchestrator's own work. Both tell of ends to those who wait at either.
    pub(crate) fn apart(&self) -> Self {
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

    /// Starts to listen, once; returns when the server listens or has refused to.
    pub(crate) async fn start(&self, database: &Database) {
        self.started
            .get_or_init(|| async {
                let interests = Arc::clone(&self.interests);
                // Without one it would take LISTEN, and forget it with the transaction.
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
                    // Also while the connection is made anew, so that nobody else takes one meanwhile.
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

    /// Is notified when work may be due in this queue.
    pub(crate) fn queue(&self, id: i32) -> Arc<Notify> {
        Arc::clone(lock(&self.interests.queues).entry(id).or_default())
    }

    /// Starts to listen, where nobody of this process tells of ends.
    pub(crate) async fn start_for_ends(&self, database: &Database) {
        if !self.ends().is_told() {
            self.start(database).await;
        }
    }

    /// Who waits for the ends of executions.
    pub(crate) fn ends(&self) -> &Arc<Ends> {
        &self.interests.ends
    }

    /// Receives the ids of running executions that somebody cancels.
    pub(crate) fn cancels(&self) -> broadcast::Receiver<Uuid> {
        self.interests.cancels.subscribe()
    }

    /// Changes where something that runs may have been cancelled.
    pub(crate) fn cancel_hints(&self) -> watch::Receiver<()> {
        self.interests.cancel_hints.subscribe()
    }

    /// Tells of cancels that were found in the database; telling twice is harmless.
    pub(crate) async fn pass_on_cancels(&self, ids: Vec<Uuid>) {
        const HALF: usize = CANCELS / 2;
        for portion in ids.chunks(HALF) {
            // The workers' loops take them on this very thread; what is missed all the same is asked for again.
            let mut looks = 0;
            while self.interests.cancels.len() > HALF && looks < 1000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                looks += 1;
            }
            for id in portion {
                // Nobody subscribed: no worker runs here.
                let _ = self.interests.cancels.send(*id);
            }
        }
    }

    /// Asks for all cancels anew, as some were missed.
    pub(crate) fn ask_for_cancels(&self) {
        self.interests.cancel_hints.send_replace(());
    }

    /// Is notified when a schedule may be due, or may have been changed.
    pub(crate) fn schedules(&self) -> Arc<Notify> {
        Arc::clone(&self.interests.schedules)
    }

    /// Is notified when events may have to be dispatched.
    pub(crate) fn events(&self) -> Arc<Notify> {
        Arc::clone(&self.interests.events)
    }

    /// Is notified when older processes are to end for a breaking migration.
    pub(crate) fn versions(&self) -> Arc<Notify> {
        Arc::clone(&self.interests.versions)
    }

    /// How far tests have moved the virtual clock, in milliseconds.
    pub(crate) fn clock_shift_ms(&self) -> watch::Receiver<i64> {
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
    /// Tells those concerned to look; true where the clock may have been moved.
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

    /// True where it is news.
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
        // A pool of one, so that the listener takes no connection from the work.
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

/// Takes over how far tests have moved the clock, and tells everybody where that is news.
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

/// Serves until the connection is lost.
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
