use std::time::{Duration, Instant};

use futures_util::{Stream, TryStreamExt as _};
use sqlx::postgres::{PgHasArrayType, PgRow, Postgres};
use sqlx::{Decode, Row, Type};
use std::sync::Arc;
use uuid::Uuid;

use super::claim::Claim;
use super::claim_request::Seen;

/// An execution that a worker has claimed.
#[derive(Debug)]
pub struct Claimed {
    /// Its id.
    pub id: Uuid,
    /// Its task.
    pub task_id: i32,
    /// The right to run it.
    pub claim: Claim,
    /// The number of the attempt.
    pub attempt: i32,
    /// The payload as JSON.
    pub payload: String,
    /// Why Postgres cannot read the payload, which the key of the task's limit needs. It must not run then.
    pub unreadable: Option<Box<str>>,
    /// Its records as JSON, if it was claimed before.
    pub memo: Option<String>,
    /// The first original if this execution is a repeat, otherwise its own id.
    pub origin: Uuid,
    /// The parent that waits for its end.
    pub parent: Option<Uuid>,
    /// What started it, as JSON; `None` if it was invoked.
    pub trigger: Option<String>,
    /// The lanes whose slots it needs.
    pub lanes: Vec<i32>,
    /// When it may start, if a rate limit sets a time.
    pub start_at: Option<Instant>,
    /// When the worker received it.
    pub since: Instant,
}

impl Claimed {
    /// Returns approximately how many bytes it holds in memory.
    pub fn bytes(&self) -> usize {
        self.payload.len() + self.memo.as_ref().map_or(0, String::len)
    }
}

/// The slots that a worker has in a lane.
#[derive(Debug)]
pub struct Slots {
    /// The lane.
    pub lane: i32,
    /// How many executions may run there at once.
    pub slots: i32,
    /// The limit and the key, if the worker may not know them.
    pub of: Option<(i32, Arc<str>)>,
}

/// The result of a claim.
#[derive(Debug, Default)]
pub struct ClaimResponse {
    /// What was claimed.
    pub claimed: Vec<Claimed>,
    /// How long until something is due, if nothing is due now.
    pub next_due: Option<Duration>,
    /// The slots of the lanes in the request, and of others.
    pub slots: Vec<Slots>,
    /// Where the next scan begins.
    pub seen: Seen,
}

impl ClaimResponse {
    /// Reads the rows of a claim: one for each execution, and one without an id for the rest.
    pub(super) async fn read(
        mut rows: impl Stream<Item = Result<PgRow, sqlx::Error>> + Unpin,
        orchestrator: i64,
    ) -> Result<Self, sqlx::Error> {
        // Row by row, so that the answer is not held twice in memory.
        let mut response = Self::default();
        while let Some(row) = rows.try_next().await? {
            match claimed(&row, orchestrator)? {
                Some(claimed) => response.claimed.push(claimed),
                None => {
                    response.slots = slots(&row)?;
                    response.seen = seen(&row)?;
                    let millis: Option<i64> = row.try_get(14)?;
                    response.next_due = millis
                        .and_then(|millis| u64::try_from(millis).ok())
                        .map(Duration::from_millis);
                }
            }
        }
        Ok(response)
    }
}

fn claimed(row: &PgRow, orchestrator: i64) -> Result<Option<Claimed>, sqlx::Error> {
    let Some(id) = row.try_get(0)? else {
        return Ok(None);
    };
    let payload: Option<String> = row.try_get(4)?;
    let memo: Option<String> = row.try_get(5)?;
    // Without a payload, the column `memo` has the reason.
    let (payload, memo, unreadable) = match payload {
        Some(payload) => (payload, memo, None),
        None => (String::new(), None, Some(memo.unwrap_or_default().into())),
    };
    Ok(Some(Claimed {
        id,
        task_id: row.try_get(1)?,
        claim: Claim {
            number: row.try_get(2)?,
            orchestrator,
        },
        attempt: row.try_get(3)?,
        payload,
        unreadable,
        memo,
        origin: row.try_get(6)?,
        parent: row.try_get(7)?,
        trigger: row.try_get(8)?,
        lanes: row.try_get::<Option<_>, _>(9)?.unwrap_or_default(),
        start_at: row.try_get::<Option<i32>, _>(13)?.and_then(start_at),
        since: Instant::now(),
    }))
}

fn slots(row: &PgRow) -> Result<Vec<Slots>, sqlx::Error> {
    fn column<T: for<'r> Decode<'r, Postgres> + Type<Postgres> + PgHasArrayType>(
        row: &PgRow,
        index: usize,
    ) -> Result<Vec<T>, sqlx::Error> {
        Ok(row.try_get::<Option<Vec<T>>, _>(index)?.unwrap_or_default())
    }
    // Lanes whose limit and key the worker may not know come first.
    let of = column::<i32>(row, 11)?
        .into_iter()
        .zip(column::<String>(row, 12)?);
    let of = of
        .map(|(limit, key)| Some((limit, key.into())))
        .chain(std::iter::repeat(None));
    let slots = column::<i32>(row, 9)?
        .into_iter()
        .zip(column::<i32>(row, 10)?);
    let slots = slots.zip(of);
    Ok(slots
        .map(|((lane, slots), of)| Slots { lane, slots, of })
        .collect())
}

fn seen(row: &PgRow) -> Result<Seen, sqlx::Error> {
    Ok(Seen {
        priorities: row.try_get::<Option<_>, _>(15)?.unwrap_or_default(),
        from: row.try_get::<Option<_>, _>(16)?.unwrap_or_default(),
    })
}

fn start_at(millis: i32) -> Option<Instant> {
    let millis = u64::try_from(millis).ok().filter(|millis| *millis > 0)?;
    Some(Instant::now() + Duration::from_millis(millis))
}
