use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

use super::plan::next_tick;

/// The pause between two rounds of one process; each reads a portion.
const EVERY: Duration = Duration::from_secs(5);
const PORTION: i32 = 200;

/// Finds schedules whose next tick is later than their rule allows, because the server's clock was ahead when it was
/// written. They would not tick until then.
#[derive(Debug, Default)]
pub(super) struct Far {
    looked: Option<Instant>,
    /// How far the portions have come, beginning at the latest tick.
    before: Option<DateTime<Utc>>,
}

#[derive(Debug, FromRow)]
struct Planned {
    id: i64,
    version: i64,
    task: String,
    name: String,
    cron: String,
    timezone: String,
    next_at: DateTime<Utc>,
    now: DateTime<Utc>,
}

impl Far {
    /// Checks the next portion, if it is time to.
    pub(super) async fn look(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.looked.is_some_and(|at| at.elapsed() < EVERY) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        let planned: Vec<Planned> = sqlx::query_as(
            "select id, version, task, name, cron, timezone, next_at, now from conductor.far_schedules($1, $2)",
        )
        .bind(self.before)
        .bind(PORTION)
        .fetch_all(&mut *connection)
        .await?;
        let is_last = i32::try_from(planned.len()).is_ok_and(|count| count < PORTION);
        self.before = planned.last().map(|last| last.next_at).filter(|_| !is_last);
        let far: Vec<&Planned> = planned.iter().filter(|planned| planned.is_far()).collect();
        if far.is_empty() {
            return Ok(());
        }
        for planned in &far {
            tracing::warn!(
                task = planned.task, schedule = planned.name, next = %planned.next_at,
                "the next tick lies further ahead than the rule says, as the server's clock was ahead; it is planned anew"
            );
        }
        let ids: Vec<i64> = far.iter().map(|planned| planned.id).collect();
        let versions: Vec<i64> = far.iter().map(|planned| planned.version).collect();
        sqlx::query("select conductor.replan($1, $2)")
            .bind(ids)
            .bind(versions)
            .execute(connection)
            .await
            .map(drop)
    }
}

impl Planned {
    /// Returns false if the rule has no further tick or cannot be parsed; the tick itself reports that.
    fn is_far(&self) -> bool {
        next_tick(&self.cron, &self.timezone, self.now).is_some_and(|next| self.next_at > next)
    }
}
