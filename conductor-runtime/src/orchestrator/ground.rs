//! The thread and the connections of an orchestrator's own work.

use std::future::Future;
use std::pin::Pin;

use super::side::Side;
use crate::client::Conductor;
use crate::error::Result;

/// A thread and connections that one orchestrator after the other uses. A test that drains often would otherwise
/// open connections each time, and each would plan every statement anew.
#[derive(Debug)]
pub(crate) struct Kept {
    work: Side,
    inner: Conductor,
}

impl Kept {
    /// Starts a thread for the orchestrators of this client. They have as few connections as one with one worker:
    /// what is saved is the plans of each, and nothing else runs beside a test.
    #[cfg(feature = "testing")]
    pub(crate) async fn start(conductor: &Conductor) -> Result<Self> {
        let work = Side::start("conductor")?;
        let inner = work.run(open(conductor.clone(), 1)).await?;
        Ok(Self { work, inner })
    }
}

/// Where an orchestrator's own work runs.
pub(super) enum Ground<'k> {
    /// On a thread that ends with it.
    Own {
        work: Side,
        opening: Pin<Box<dyn Future<Output = Result<Conductor>> + Send>>,
    },
    /// On a thread that stays.
    Kept(&'k Kept),
}

impl<'k> Ground<'k> {
    /// Starts a thread if none is kept, and begins to open connections.
    pub(super) fn begin(
        kept: Option<&'k Kept>,
        conductor: &Conductor,
        workers: usize,
    ) -> Result<Self> {
        if let Some(kept) = kept {
            return Ok(Self::Kept(kept));
        }
        let work = Side::start("conductor")?;
        let opening = Box::pin(work.run(open(conductor.clone(), workers)));
        Ok(Self::Own { work, opening })
    }

    /// Waits for the client for the orchestrator's own work.
    pub(super) async fn inner(&mut self) -> Result<Conductor> {
        match self {
            Self::Own { opening, .. } => opening.await,
            Self::Kept(kept) => Ok(kept.inner.clone()),
        }
    }

    pub(super) fn work(&self) -> &Side {
        match self {
            Self::Own { work, .. } => work,
            Self::Kept(kept) => &kept.work,
        }
    }

    /// Returns the thread that ends with the orchestrator, if there is one.
    pub(super) fn into_own(self) -> Option<Side> {
        match self {
            Self::Own { work, .. } => Some(work),
            Self::Kept(_) => None,
        }
    }
}

/// Returns how many connections the orchestrator's own work may have: two for each worker, and four for records,
/// chores, schedules and events. At most as many as the application's pool has.
fn most_connections(workers: usize) -> u32 {
    u32::try_from(workers)
        .unwrap_or(u32::MAX)
        .saturating_mul(2)
        .saturating_add(4)
}

/// Returns the client for the orchestrator's own work. It listens, and opens a connection for the first claim.
async fn open(conductor: Conductor, workers: usize) -> Conductor {
    let inner = conductor.apart(most_connections(workers));
    let database = inner.database().clone();
    // Not awaited: the first query reports an error, if there is one.
    tokio::spawn(async move { database.connection().await.is_ok() });
    inner.notifier().start(inner.database()).await;
    inner
}
