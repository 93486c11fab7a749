-- Claims these executions, and returns them. With p_again some were claimed before: they may have records, and
-- waits whose deadlines have passed. p_lane has the lane of each execution, or p_lanes those of each as text;
-- p_starts has the milliseconds until a rate lets it start. Executions in p_unreadable have an unreadable key of a
-- limit; they are returned without payload, and with the reason as memo. Called by claim_plain and claim_gated,
-- which hold the executions and under whose settings it runs.
-- Locks: as settle.
create or replace function conductor.take(
    p_orchestrator bigint, p_ids uuid[], p_again boolean, p_now timestamptz, p_lane integer[] default null,
    p_lanes text[] default null, p_starts integer[] default null, p_unreadable uuid[] default null)
returns setof conductor.claimed
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    -- Most executions that go on have no deadline that has passed.
    if p_again and exists (
           select from conductor.waits w
            where w.execution_id = any (p_ids) and w.wake_at <= p_now
              and (w.event_name is not null or w.child_id is not null)) then
        perform conductor.settle(
            array(select l.id from conductor.live_executions l where l.id = any (p_ids) and l.claim > 0), p_now);
    end if;
    return query
    with claimed as (
        update conductor.live_executions l
           set state = 'running', claim = l.claim + 1, orchestrator_id = p_orchestrator, claimed_at = p_now,
               postponed = false, holds_key = l.holds_key and not l.debounced
          from unnest(p_ids, p_lane, p_lanes, p_starts) as g(id, lane, lanes, start_ms)
         where l.id = any (p_ids) and l.id = g.id
        returning l.id, l.task_id, l.claim, l.failures + l.crashes + 1 as attempt,
                  case when l.id = any (p_unreadable) then null else l.payload::text end as payload,
                  l.run_at, coalesce(l.retry_of, l.id) as origin,
                  case when l.parent_key is not null then l.parent_id end as parent, l.trigger::text as trigger,
                  coalesce(g.lanes::integer[], case when g.lane is not null then array[g.lane] end) as lanes,
                  g.start_ms, l.suspended_claim
    )
    select c.id, c.task_id, c.claim, c.attempt, c.payload,
           case when c.payload is null then (select conductor.json_fault(l.payload)
                                               from conductor.live_executions l where l.id = c.id)
                when c.claim > 1 then conductor.memo(c.id, p_now, c.suspended_claim) end,
           c.origin, c.parent, c.trigger, c.lanes, null::integer[], null::integer[], null::text[], c.start_ms,
           null::bigint, null::integer[], null::timestamptz[]
      from claimed c order by c.run_at, c.id;
end
$$;
