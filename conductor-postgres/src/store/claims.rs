use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::claim::{Claim, ClaimColumns};
use super::claim_request::ClaimRequest;
use super::claimed::{ClaimResponse, Claimed};
use super::outcomes::{Outcomes, write_others};
use crate::Session;

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

/// The size from which on the session's buffers are shrunk.
const LARGE: usize = 1024 * 1024;

/// Runs a round trip under a lease: writes outcomes, which have `bytes` together, and claims. What is completed or has
/// failed is written by the statement and transaction of the claim.
///
/// Fails with [`LEASE_LOST`](crate::sqlstate::LEASE_LOST) if the orchestrator's lease is over, with a lock timeout if another
/// transaction holds a row, and with the code of the data if a value cannot be stored.
pub async fn finish_and_claim(
    session: &mut Session,
    outcomes: Outcomes<'_>,
    bytes: usize,
    request: &ClaimRequest,
) -> Result<ClaimResponse, sqlx::Error> {
    write_others(session, &outcomes, request.orchestrator).await?;
    let roomy_keys: Vec<&str> = request.lanes.roomy_keys.iter().map(|key| &**key).collect();
    let rows = statement(outcomes, request, &roomy_keys).fetch(&mut **session);
    let response = ClaimResponse::read(rows, request.orchestrator).await?;
    let came: usize = response.claimed.iter().map(Claimed::bytes).sum();
    if came.max(bytes) > LARGE {
        // The session would otherwise keep its grown buffers.
        session.shrink_buffers();
    }
    Ok(response)
}

/// Returns the statement that writes what ended, and claims.
fn statement<'q>(
    outcomes: Outcomes<'q>,
    request: &'q ClaimRequest,
    roomy_keys: &'q Vec<&'q str>,
) -> Query<'q, Postgres, PgArguments> {
    let fills = request.fills_batches();
    let (completed, failed) = (outcomes.completed, outcomes.failed);
    let query = sqlx::query(if fills {
        FINISH_CLAIM_FILL
    } else {
        FINISH_CLAIM
    })
    .bind(completed.ids)
    .bind(completed.claims.numbers)
    .bind(completed.outputs)
    .bind(failed.ids)
    .bind(failed.claims.numbers)
    .bind(failed.errors)
    .bind(failed.permanent)
    .bind(failed.delay_ms)
    .bind(outcomes.parents)
    .bind(request.orchestrator)
    .bind(request.queue)
    .bind(&request.tasks)
    .bind(&request.windows.tasks)
    .bind(&request.windows.opens)
    .bind(&request.windows.closes)
    .bind(i32::try_from(request.want).unwrap_or(i32::MAX))
    .bind(request.idle)
    .bind(&request.lanes.lanes)
    .bind(&request.lanes.used)
    .bind(&request.lanes.back)
    .bind(i32::try_from(request.most).unwrap_or(i32::MAX))
    .bind(&request.quick)
    .bind(&request.ahead)
    .bind(&request.lanes.roomy)
    .bind(&request.lanes.roomy_limits)
    .bind(roomy_keys)
    .bind(request.fence)
    .bind(i64::try_from(request.bytes).unwrap_or(i64::MAX))
    .bind(&request.seen.priorities)
    .bind(&request.seen.from)
    .bind(completed.claims.orchestrators)
    .bind(failed.claims.orchestrators)
    .bind(failed.failures)
    .bind(failed.forgotten_of)
    .bind(failed.forgotten)
    .bind(failed.replayed);
    if fills {
        query
            .bind(&request.batched)
            .bind(i32::try_from(request.batch_want).unwrap_or(i32::MAX))
    } else {
        query
    }
}

/// Returns whether the queue is paused.
pub async fn is_paused(connection: &mut PgConnection, queue: i32) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select paused from conductor.queues where id = $1")
        .bind(queue)
        .fetch_one(connection)
        .await
}

/// Gives back what the database has claimed for a worker and whose answer never arrived: everything but what it knows.
pub async fn disown(
    connection: &mut PgConnection,
    request: &ClaimRequest,
    known: &[(Uuid, Claim)],
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = known.iter().map(|(id, _)| *id).collect();
    let claims: ClaimColumns = known.iter().map(|(_, claim)| *claim).collect();
    sqlx::query(
        "select conductor.disown(
            p_orchestrator => $1, p_queue => $2, p_ids => $3, p_claims => $4, p_lanes => $5, p_fence => $6,
            p_orchestrators => $7)",
    )
    .bind(request.orchestrator)
    .bind(request.queue)
    .bind(ids)
    .bind(claims.numbers)
    .bind(&request.lanes.lanes)
    .bind(request.fence)
    .bind(claims.orchestrators)
    .execute(connection)
    .await
    .map(drop)
}
