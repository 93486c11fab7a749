use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use sqlx::postgres::{PgHasArrayType, PgRow, Postgres};
use sqlx::{Connection as _, Decode, PgConnection, Row, Type};
use uuid::Uuid;

use super::claim::{Claim, ClaimColumns};
use super::flush::Columns;
use super::outcome::Outcome;
use super::window::WindowColumns;
use crate::db::Session;

/// An execution that this worker may run, under this claim number.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) id: Uuid,
    pub(super) task_id: i32,
    pub(super) claim: Claim,
    pub(super) attempt: i32,
    pub(super) payload: String,
    /// Why Postgres cannot read the payload, and with it the key of the task's limit: it must not run.
    pub(super) unreadable: Option<Box<str>>,
    /// What is recorded of it, where it was claimed before.
    pub(super) memo: Option<String>,
    /// The first execution where this one repeats another, else its own id.
    pub(super) origin: Uuid,
    /// Who waits for its end.
    pub(super) parent: Option<Uuid>,
    /// What started it, as JSON; none where it was invoked.
    pub(super) trigger: Option<String>,
    /// The lanes whose slots it needs to run.
    pub(super) lanes: Vec<i32>,
    /// Its start, where a rate gives it one.
    pub(super) start_at: Option<Instant>,
    /// When the worker heard of it.
    pub(super) since: Instant,
}

impl Claimed {
    /// About what it holds in memory.
    pub(super) fn bytes(&self) -> usize {
        self.payload.len() + self.memo.as_ref().map_or(0, String::len)
    }
}

#[cfg(test)]
impl Claimed {
    /// One of this task that needs slots of these lanes.
    pub(super) fn example(task_id: i32, lanes: &[i32]) -> Self {
        Self {
            id: Uuid::nil(),
            task_id,
            claim: Claim {
                number: 1,
                orchestrator: 1,
            },
            attempt: 1,
            payload: String::new(),
            unreadable: None,
            memo: None,
            origin: Uuid::nil(),
            parent: None,
            trigger: None,
            lanes: lanes.to_vec(),
            start_at: None,
            since: Instant::now(),
        }
    }
}

/// What a worker asks for in one round trip.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) orchestrator: i64,
    pub(super) queue: i32,
    pub(super) tasks: Vec<i32>,
    pub(super) windows: WindowColumns,
    pub(super) lanes: LaneColumns,
    /// Most that can run at once, and how many executions may be claimed per slot of quick tasks.
    pub(super) most: usize,
    pub(super) quick: Vec<i32>,
    pub(super) ahead: Vec<i32>,
    /// Counts how often the worker has given up on claims under way; one from before is void.
    pub(super) fence: i32,
    /// How many at most; 0 where only outcomes are brought.
    pub(super) want: usize,
    /// Those of the tasks that run in batches, where others do not, and how many executions of them
    /// have a place: more than `want`, as one slot is enough for a batch.
    pub(super) batched: Vec<i32>,
    pub(super) batch_want: usize,
    /// How many bytes of payloads and records may come; one execution comes in any case.
    pub(super) bytes: usize,
    /// Where the look begins.
    pub(super) seen: Seen,
    /// The worker will sleep if this brings nothing, and wants to be woken.
    pub(super) idle: bool,
    /// The worker holds what it has not started, and wants to know whether its queue is paused.
    pub(super) paused: bool,
}

impl Ask {
    /// The same, for outcomes alone.
    pub(super) fn without_claim(&self) -> Self {
        Self {
            want: 0,
            idle: false,
            paused: false,
            seen: Seen::default(),
            lanes: LaneColumns::default(),
            ..self.clone()
        }
    }
}

/// Where the look before has ended, as the claim tells it: a look from there on passes over what runs or has
/// ended. Without priorities, the look is a whole one.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// The highest first.
    priorities: Vec<i32>,
    /// The `run_at` from which on something may be due; none: from the beginning.
    from: Vec<Option<DateTime<Utc>>>,
}

/// What a worker says of the lanes in which it has slots.
#[derive(Debug, Clone, Default)]
pub(super) struct LaneColumns {
    pub(super) lanes: Vec<i32>,
    /// How many executions it holds in each.
    pub(super) used: Vec<i32>,
    /// Those in which it wants to keep no more slots than that.
    pub(super) back: Vec<i32>,
    /// Those with room for their part of what it asks for, with their limits and keys.
    pub(super) roomy: Vec<i32>,
    pub(super) roomy_limits: Vec<i32>,
    pub(super) roomy_keys: Vec<Arc<str>>,
}

/// The slots that a worker has in a lane.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) lane: i32,
    pub(super) slots: i32,
    /// The limit and the key, where the worker may not know them.
    pub(super) of: Option<(i32, Arc<str>)>,
}

/// What comes back.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) claimed: Vec<Claimed>,
    /// How long until something is due, where nothing is and something will be.
    pub(super) next_due: Option<Duration>,
    pub(super) slots: Vec<Slots>,
    /// From where on the next look has to read.
    pub(super) seen: Seen,
}

const FINISH_CLAIM: &str =
    "select id, task_id, claim, attempt, payload, memo, origin, parent, trigger, lanes, slots,
            lane_limits, lane_keys, start_ms, next_due_ms, seen, seen_from
       from conductor.finish_and_claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
                                       $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28,
                                       $29, $30, $31, $32, $33, $34, $35)";

/// Claims in the order of all tasks first. Where that brought all it was asked for, and batches are
/// half of it or more, another claim fills them. Where they are fewer, it might walk past a deep
/// backlog of other tasks; then batches fill as their items come.
const FINISH_CLAIM_FILL: &str = "with first as materialized (
         select f.* from conductor.finish_and_claim(
             $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
             $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35) f
     ), got as (
         select count(f.id) as claimed, count(f.id) filter (where f.task_id = any ($36)) as batched,
                coalesce(sum(octet_length(f.payload) + coalesce(octet_length(f.memo), 0)), 0) as bytes
           from first f
     )
     select id, task_id, claim, attempt, payload, memo, origin, parent, trigger, lanes, slots,
            lane_limits, lane_keys, start_ms, next_due_ms, seen, seen_from
       from first
     union all
     select c.id, c.task_id, c.claim, c.attempt, c.payload, c.memo, c.origin, c.parent, c.trigger,
            c.lanes, c.slots, c.lane_limits, c.lane_keys, c.start_ms, c.next_due_ms, null, null
       from got g
      cross join lateral conductor.claim(
            $10, $11, $36, ($37 - g.batched)::integer, false, $13, $14, $15,
            p_bytes => ($28 - g.bytes)::bigint) c
      where g.claimed >= $16 and g.batched * 2 >= g.claimed and g.batched < $37 and g.bytes < $28
        and c.id is not null";

/// From where on a trip is worth the while of shrinking what it has left.
const LARGE: usize = 1024 * 1024;

/// The leased claim: brings outcomes in and claims back, in one statement and transaction.
pub(super) async fn finish_and_claim(
    session: &mut Session,
    outcomes: &[Outcome],
    ask: &Ask,
) -> Result<Answer, sqlx::Error> {
    let columns = Columns::of(outcomes);
    if !columns.released_ids.is_empty() {
        sqlx::query("select conductor.release($1, $2, $3)")
            .bind(&columns.released_ids)
            .bind(&columns.released_claims.numbers)
            .bind(&columns.released_claims.orchestrators)
            .execute(&mut **session)
            .await?;
        session.separate().await?;
    }
    if !columns.postponed_ids.is_empty() {
        sqlx::query("select conductor.postpone($1, $2, $3, $4)")
            .bind(&columns.postponed_ids)
            .bind(&columns.postponed_claims.numbers)
            .bind(&columns.postponed_until)
            .bind(&columns.postponed_claims.orchestrators)
            .execute(&mut **session)
            .await?;
        session.separate().await?;
    }
    if !columns.unreadable_ids.is_empty() {
        sqlx::query("select conductor.leave_unreadable($1, $2, $3, $4, $5)")
            .bind(ask.orchestrator)
            .bind(&columns.unreadable_ids)
            .bind(&columns.unreadable_claims.numbers)
            .bind(&columns.unreadable_reasons)
            .bind(&columns.unreadable_claims.orchestrators)
            .execute(&mut **session)
            .await?;
        session.separate().await?;
    }
    if !columns.suspended.ids.is_empty() {
        columns.suspended.write(session).await?;
        session.separate().await?;
    }
    let roomy_keys: Vec<&str> = ask.lanes.roomy_keys.iter().map(|key| &**key).collect();
    let fills = ask.want > 0 && !ask.batched.is_empty();
    let query = sqlx::query(if fills {
        FINISH_CLAIM_FILL
    } else {
        FINISH_CLAIM
    })
    .bind(columns.ids)
    .bind(columns.claims.numbers)
    .bind(columns.outputs)
    .bind(columns.failed_ids)
    .bind(columns.failed_claims.numbers)
    .bind(columns.errors)
    .bind(columns.permanent)
    .bind(columns.delay_ms)
    .bind(columns.parents)
    .bind(ask.orchestrator)
    .bind(ask.queue)
    .bind(&ask.tasks)
    .bind(&ask.windows.tasks)
    .bind(&ask.windows.opens)
    .bind(&ask.windows.closes)
    .bind(i32::try_from(ask.want).unwrap_or(i32::MAX))
    .bind(ask.idle)
    .bind(&ask.lanes.lanes)
    .bind(&ask.lanes.used)
    .bind(&ask.lanes.back)
    .bind(i32::try_from(ask.most).unwrap_or(i32::MAX))
    .bind(&ask.quick)
    .bind(&ask.ahead)
    .bind(&ask.lanes.roomy)
    .bind(&ask.lanes.roomy_limits)
    .bind(&roomy_keys)
    .bind(ask.fence)
    .bind(i64::try_from(ask.bytes).unwrap_or(i64::MAX))
    .bind(&ask.seen.priorities)
    .bind(&ask.seen.from)
    .bind(columns.claims.orchestrators)
    .bind(columns.failed_claims.orchestrators)
    .bind(columns.failures)
    .bind(columns.forgotten_of)
    .bind(columns.forgotten);
    let query = if fills {
        query
            .bind(&ask.batched)
            .bind(i32::try_from(ask.batch_want).unwrap_or(i32::MAX))
    } else {
        query
    };
    // Row by row: the whole answer is held once, and not a second time as it came.
    let mut rows = query.fetch(&mut **session);
    let mut answer = Answer::default();
    while let Some(row) = rows.try_next().await? {
        match claimed(&row, ask.orchestrator)? {
            Some(claimed) => answer.claimed.push(claimed),
            None => {
                answer.slots = slots(&row)?;
                answer.seen = seen(&row)?;
                let millis: Option<i64> = row.try_get(14)?;
                answer.next_due = millis
                    .and_then(|millis| u64::try_from(millis).ok())
                    .map(Duration::from_millis);
            }
        }
    }
    drop(rows);
    let came: usize = answer.claimed.iter().map(Claimed::bytes).sum();
    let went: usize = outcomes.iter().map(Outcome::bytes).sum();
    if came.max(went) > LARGE {
        // The session would keep what it grew to.
        session.shrink_buffers();
    }
    Ok(answer)
}

fn claimed(row: &PgRow, orchestrator: i64) -> Result<Option<Claimed>, sqlx::Error> {
    let Some(id) = row.try_get(0)? else {
        return Ok(None);
    };
    let payload: Option<String> = row.try_get(4)?;
    let memo: Option<String> = row.try_get(5)?;
    // Without a payload, the memo's place has the reason.
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
    // Those of which the worker may not know what they stand for come first.
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

/// Whether somebody has paused the queue.
pub(super) async fn is_paused(
    connection: &mut PgConnection,
    queue: i32,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select paused from conductor.queues where id = $1")
        .bind(queue)
        .fetch_one(connection)
        .await
}

/// Gives back what the database has claimed for this worker and the worker never heard of.
pub(super) async fn disown(
    connection: &mut PgConnection,
    ask: &Ask,
    known: &[(Uuid, Claim)],
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = known.iter().map(|(id, _)| *id).collect();
    let claims: ClaimColumns = known.iter().map(|(_, claim)| *claim).collect();
    sqlx::query("select conductor.disown($1, $2, $3, $4, $5, $6, $7)")
        .bind(ask.orchestrator)
        .bind(ask.queue)
        .bind(ids)
        .bind(claims.numbers)
        .bind(&ask.lanes.lanes)
        .bind(ask.fence)
        .bind(claims.orchestrators)
        .execute(connection)
        .await
        .map(drop)
}
