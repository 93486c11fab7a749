use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use conductor_postgres::Session;
use futures_util::{Stream, TryStreamExt as _};
use sqlx::postgres::{PgArguments, PgHasArrayType, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{Connection as _, Decode, PgConnection, Row, Type};
use uuid::Uuid;

use super::claim::{Claim, ClaimColumns};
use super::flush::Columns;
use super::outcome::Outcome;
use super::window::WindowColumns;

/// An execution that this worker has claimed.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) id: Uuid,
    pub(super) task_id: i32,
    pub(super) claim: Claim,
    pub(super) attempt: i32,
    pub(super) payload: String,
    /// Why Postgres cannot read the payload, which the key of the task's limit needs. It must not
    /// run then.
    pub(super) unreadable: Option<Box<str>>,
    /// Its records as JSON, if it was claimed before.
    pub(super) memo: Option<String>,
    /// The first original if this execution is a repeat, otherwise its own id.
    pub(super) origin: Uuid,
    /// The parent that waits for its end.
    pub(super) parent: Option<Uuid>,
    /// What started it, as JSON; `None` if it was invoked.
    pub(super) trigger: Option<String>,
    /// The lanes whose slots it needs.
    pub(super) lanes: Vec<i32>,
    /// When it may start, if a rate limit sets a time.
    pub(super) start_at: Option<Instant>,
    /// When the worker received it.
    pub(super) since: Instant,
}

impl Claimed {
    /// Returns approximately how many bytes it holds in memory.
    pub(super) fn bytes(&self) -> usize {
        self.payload.len() + self.memo.as_ref().map_or(0, String::len)
    }
}

#[cfg(test)]
impl Claimed {
    /// An execution of this task that needs slots of these lanes.
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

/// The request of one round trip.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) orchestrator: i64,
    pub(super) queue: i32,
    pub(super) tasks: Vec<i32>,
    pub(super) windows: WindowColumns,
    pub(super) lanes: LaneColumns,
    /// The most that can run at once, and for each task with limits how many executions one slot
    /// may claim.
    pub(super) most: usize,
    pub(super) quick: Vec<i32>,
    pub(super) ahead: Vec<i32>,
    /// How often the worker has given up claims in progress; requests with an older number are
    /// void.
    pub(super) fence: i32,
    /// How many executions to claim at most; 0 if only outcomes are written.
    pub(super) want: usize,
    /// The tasks that run in batches, if other tasks do not, and how many of their executions have
    /// room: more than `want`, because one slot is enough for a batch.
    pub(super) batched: Vec<i32>,
    pub(super) batch_want: usize,
    /// How many bytes of payloads and records may be returned; one execution is returned in any
    /// case.
    pub(super) bytes: usize,
    /// The position at which the scan begins.
    pub(super) seen: Seen,
    /// Whether the worker will sleep if nothing is returned, and wants to be woken.
    pub(super) idle: bool,
    /// Whether the worker holds executions that have not started, and must know if its queue is
    /// paused.
    pub(super) paused: bool,
}

impl Ask {
    /// Returns the same request for outcomes only.
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

/// The position where the previous scan ended. Beginning there skips what is running or has ended.
/// Without priorities, the scan begins at the start.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// The highest first.
    priorities: Vec<i32>,
    /// The `run_at` from which on something may be due; `None` from the beginning.
    from: Vec<Option<DateTime<Utc>>>,
}

/// What a worker reports about the lanes in which it has slots.
#[derive(Debug, Clone, Default)]
pub(super) struct LaneColumns {
    pub(super) lanes: Vec<i32>,
    /// How many executions it holds in each lane.
    pub(super) used: Vec<i32>,
    /// The lanes in which it wants no more slots than that.
    pub(super) back: Vec<i32>,
    /// The lanes with room for their part of the request, with their limits and keys.
    pub(super) roomy: Vec<i32>,
    pub(super) roomy_limits: Vec<i32>,
    pub(super) roomy_keys: Vec<Arc<str>>,
}

/// The slots that a worker has in a lane.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) lane: i32,
    pub(super) slots: i32,
    /// The limit and the key, if the worker may not know them.
    pub(super) of: Option<(i32, Arc<str>)>,
}

/// The result of a round trip.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) claimed: Vec<Claimed>,
    /// How long until something is due, if nothing is due now.
    pub(super) next_due: Option<Duration>,
    pub(super) slots: Vec<Slots>,
    /// Where the next scan begins.
    pub(super) seen: Seen,
}

const FINISH_CLAIM: &str =
    "select id, task_id, claim, attempt, payload, memo, origin, parent, trigger, lanes, slots,
            lane_limits, lane_keys, start_ms, next_due_ms, seen, seen_from
       from conductor.finish_and_claim(
           p_ids => $1, p_claims => $2, p_outputs => $3, p_failed_ids => $4, p_failed_claims => $5,
           p_errors => $6, p_permanent => $7, p_delay_ms => $8, p_parents => $9, p_orchestrator => $10,
           p_queue => $11, p_tasks => $12, p_windowed => $13, p_opens => $14, p_closes => $15,
           p_limit => $16, p_idle => $17, p_lanes => $18, p_used => $19, p_back => $20, p_most => $21,
           p_quick => $22, p_ahead => $23, p_roomy => $24, p_roomy_limits => $25, p_roomy_keys => $26,
           p_fence => $27, p_bytes => $28, p_seen => $29, p_from => $30, p_orchestrators => $31,
           p_failed_orchestrators => $32, p_failures => $33, p_forgotten_of => $34, p_forgotten => $35,
           p_replayed => $36)";

/// Claims in the order of all tasks first. If that returned as many as were requested and at least
/// half are batch items, a second claim fills the batches. With fewer batch items it might scan a
/// deep backlog of other tasks; then batches fill as their items become due.
const FINISH_CLAIM_FILL: &str = "with first as materialized (
         select f.* from conductor.finish_and_claim(
             p_ids => $1, p_claims => $2, p_outputs => $3, p_failed_ids => $4, p_failed_claims => $5,
             p_errors => $6, p_permanent => $7, p_delay_ms => $8, p_parents => $9, p_orchestrator => $10,
             p_queue => $11, p_tasks => $12, p_windowed => $13, p_opens => $14, p_closes => $15,
             p_limit => $16, p_idle => $17, p_lanes => $18, p_used => $19, p_back => $20, p_most => $21,
             p_quick => $22, p_ahead => $23, p_roomy => $24, p_roomy_limits => $25, p_roomy_keys => $26,
             p_fence => $27, p_bytes => $28, p_seen => $29, p_from => $30, p_orchestrators => $31,
             p_failed_orchestrators => $32, p_failures => $33, p_forgotten_of => $34, p_forgotten => $35,
             p_replayed => $36) f
     ), got as (
         select count(f.id) as claimed, count(f.id) filter (where f.task_id = any ($37)) as batched,
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
            p_orchestrator => $10, p_queue => $11, p_tasks => $37, p_limit => ($38 - g.batched)::integer,
            p_idle => false, p_windowed => $13, p_opens => $14, p_closes => $15,
            p_bytes => ($28 - g.bytes)::bigint) c
      where g.claimed >= $16 and g.batched * 2 >= g.claimed and g.batched < $38 and g.bytes < $28
        and c.id is not null";

/// The size from which on the session's buffers are shrunk after a trip.
const LARGE: usize = 1024 * 1024;

/// Runs the round trip under a lease: writes outcomes and claims, in one statement and transaction.
pub(super) async fn finish_and_claim(
    session: &mut Session,
    outcomes: &[Outcome],
    ask: &Ask,
) -> Result<Answer, sqlx::Error> {
    let columns = Columns::of(outcomes);
    write_others(session, &columns, ask.orchestrator).await?;
    let roomy_keys: Vec<&str> = ask.lanes.roomy_keys.iter().map(|key| &**key).collect();
    let answer = read(
        statement(columns, ask, &roomy_keys).fetch(&mut **session),
        ask.orchestrator,
    )
    .await?;
    let came: usize = answer.claimed.iter().map(Claimed::bytes).sum();
    let went: usize = outcomes.iter().map(Outcome::bytes).sum();
    if came.max(went) > LARGE {
        // The session would otherwise keep its grown buffers.
        session.shrink_buffers();
    }
    Ok(answer)
}

/// Writes the outcomes that have statements of their own.
async fn write_others(
    session: &mut Session,
    columns: &Columns<'_>,
    orchestrator: i64,
) -> Result<(), sqlx::Error> {
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
            .bind(orchestrator)
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
    Ok(())
}

/// Returns the statement that writes the other outcomes and claims.
fn statement<'q>(
    columns: Columns<'q>,
    ask: &'q Ask,
    roomy_keys: &'q Vec<&'q str>,
) -> Query<'q, Postgres, PgArguments> {
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
    .bind(roomy_keys)
    .bind(ask.fence)
    .bind(i64::try_from(ask.bytes).unwrap_or(i64::MAX))
    .bind(&ask.seen.priorities)
    .bind(&ask.seen.from)
    .bind(columns.claims.orchestrators)
    .bind(columns.failed_claims.orchestrators)
    .bind(columns.failures)
    .bind(columns.forgotten_of)
    .bind(columns.forgotten)
    .bind(columns.replayed);
    if fills {
        query
            .bind(&ask.batched)
            .bind(i32::try_from(ask.batch_want).unwrap_or(i32::MAX))
    } else {
        query
    }
}

/// Reads the answer.
async fn read(
    mut rows: impl Stream<Item = Result<PgRow, sqlx::Error>> + Unpin,
    orchestrator: i64,
) -> Result<Answer, sqlx::Error> {
    // Row by row, so that the answer is not held twice in memory.
    let mut answer = Answer::default();
    while let Some(row) = rows.try_next().await? {
        match claimed(&row, orchestrator)? {
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
    Ok(answer)
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

/// Returns whether the queue is paused.
pub(super) async fn is_paused(
    connection: &mut PgConnection,
    queue: i32,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select paused from conductor.queues where id = $1")
        .bind(queue)
        .fetch_one(connection)
        .await
}

/// Gives back what the database has claimed for this worker and whose answer never arrived.
pub(super) async fn disown(
    connection: &mut PgConnection,
    ask: &Ask,
    known: &[(Uuid, Claim)],
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = known.iter().map(|(id, _)| *id).collect();
    let claims: ClaimColumns = known.iter().map(|(_, claim)| *claim).collect();
    sqlx::query("select conductor.disown(
        p_orchestrator => $1, p_queue => $2, p_ids => $3, p_claims => $4, p_lanes => $5, p_fence => $6,
        p_orchestrators => $7)")
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
