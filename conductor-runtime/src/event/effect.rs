use std::time::Duration;

use conductor_postgres::store::{events, executions};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::emit::checked;
use crate::client::Untyped;
use crate::error::Result;

/// The pause between two queries; it doubles each time, up to `LONGEST_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// What an emitted event has done so far.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct EventEffect {
    /// The event's id.
    pub id: Uuid,
    /// Whether everything that it matches has been processed. If false, an orchestrator does the
    /// rest.
    ///
    /// That is, the event is in the log, and everything that waited for it then has been processed.
    pub complete: bool,
    /// The executions that it started.
    pub started: Vec<Affected>,
    /// The executions that waited for it and were woken.
    pub woken: Vec<Affected>,
}

/// An execution that an event has started or woken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Affected {
    /// Its id.
    pub execution_id: Uuid,
    /// Its task's name.
    pub task: String,
}

impl Untyped<'_> {
    /// Emits an event as [`emit`](Self::emit) does, and returns what it has done.
    ///
    /// Waits until every subscription and wait has been processed, and at most for `budget`.
    /// Meant for interactive use: an event whose effect is tracked is emitted more slowly than
    /// others.
    ///
    /// # Errors
    /// Those of [`emit`](Self::emit).
    pub async fn emit_watched(
        self,
        name: &str,
        payload: &str,
        budget: Duration,
    ) -> Result<EventEffect> {
        let new = checked(self.conductor.registry(), name, payload)?;
        let id = new.id;
        self.conductor.migrate().await?;
        events::watch(self.conductor.database(), id).await?;
        self.conductor.emit_new(new).await?;
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        let effect = loop {
            let effect = events::effect(self.conductor.database(), id).await?;
            let left = budget.saturating_sub(began.elapsed());
            if effect.done || left.is_zero() {
                break effect;
            }
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        Ok(EventEffect {
            id,
            complete: effect.done,
            started: self.affected(&effect.started).await?,
            woken: self.affected(&effect.woken).await?,
        })
    }

    /// Adds the names of the tasks; ordered by id.
    async fn affected(self, ids: &[Uuid]) -> Result<Vec<Affected>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let tasks = executions::tasks_of(self.conductor.database(), ids).await?;
        let affected = tasks
            .into_iter()
            .map(|(execution_id, task)| Affected { execution_id, task });
        Ok(affected.collect())
    }
}
