//! What an orchestrator does in rounds, beside its workers.

use std::future::Future;
use std::time::Duration;

use conductor_postgres::{Outage, Session};
use tokio::sync::watch;
use tokio::time::error::Elapsed;

use crate::worker::{Control, Phase};

/// Until when a service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Until a shutdown begins: from then on, other processes do the same.
    Shutdown,
    /// Until the orchestrator has ended.
    End,
}

/// Work that is done in rounds, with pauses between them.
pub(super) trait Service: Send + 'static {
    /// Until when it runs.
    const UNTIL: Until;

    /// Returns the pause before the first round; by default there is none.
    fn first(&self) -> Option<Duration> {
        None
    }

    /// Runs one round, and returns the pause before the next one. `holder` is the orchestrator's id,
    /// `None` while its lease is in doubt.
    fn round(&mut self, holder: Option<i64>) -> impl Future<Output = Duration> + Send;

    /// Waits for something that ends the pause early; by default nothing does.
    fn hint(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

/// Runs a service.
pub(super) async fn keep<S: Service>(mut service: S, mut control: watch::Receiver<Control>) {
    let mut pause = service.first();
    loop {
        if let Some(pause) = pause {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = service.hint() => {}
                () = stopping(&mut control), if S::UNTIL == Until::Shutdown => {
                    // If this returned, it would be taken for a fault.
                    return std::future::pending().await;
                }
            }
        }
        let holder = control.borrow().orchestrator;
        pause = Some(service.round(holder).await);
    }
}

async fn stopping(control: &mut watch::Receiver<Control>) {
    // Without a sender the orchestrator is gone, and this future with it.
    let _ = control
        .wait_for(|control| control.phase != Phase::Working)
        .await;
}

/// The failed rounds of a service, of which only the first of a series is logged.
#[derive(Debug, Default)]
pub(super) struct Failures {
    failed: bool,
}

impl Failures {
    /// Notes how a round has ended. `text` is for the log.
    pub(super) fn note<T>(
        &mut self,
        outage: &Outage,
        done: &Result<T, sqlx::Error>,
        text: &'static str,
    ) {
        if let Err(error) = done
            && !outage.met(error)
            && !self.failed
        {
            tracing::warn!(%error, "{text}");
        }
        self.failed = done.is_err();
    }
}

/// Settles a session after work that had a time limit.
pub(super) async fn settled<T>(
    mut session: Session,
    done: Result<Result<T, sqlx::Error>, Elapsed>,
    limit: Duration,
) -> Result<T, sqlx::Error> {
    match done {
        Ok(done) => session.settle(done).await,
        Err(_) => {
            // The statement may still be running, so this connection must not be used again.
            session.close_on_drop();
            Err(sqlx::Error::Protocol(format!("no answer within {limit:?}")))
        }
    }
}

/// Waits for a change of a value; forever if its sender is gone.
pub(super) async fn changed<T>(value: &mut watch::Receiver<T>) {
    if value.changed().await.is_err() {
        std::future::pending().await
    }
}
