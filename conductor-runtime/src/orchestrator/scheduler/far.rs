//! Ticks that lie too far ahead.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use conductor_postgres::store::ticks::{self, Planned};
use sqlx::PgConnection;

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

impl Far {
    /// Checks the next portion, if it is time to.
    pub(super) async fn look(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.looked.is_some_and(|at| at.elapsed() < EVERY) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        let planned = ticks::far(connection, self.before, PORTION).await?;
        let is_last = i32::try_from(planned.len()).is_ok_and(|count| count < PORTION);
        self.before = planned.last().map(|last| last.next_at).filter(|_| !is_last);
        let far: Vec<&Planned> = planned.iter().filter(|planned| is_far(planned)).collect();
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
        ticks::replan(connection, &ids, &versions).await
    }
}

/// Returns false if the rule has no further tick or cannot be parsed; the tick itself reports that.
fn is_far(planned: &Planned) -> bool {
    next_tick(&planned.cron, &planned.timezone, planned.now)
        .is_some_and(|next| planned.next_at > next)
}
