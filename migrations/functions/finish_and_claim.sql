-- Writes outcomes and claims, in the one round trip of a busy worker. The arguments are those of complete, fail
-- and claim, and the result is that of claim. If p_limit is 0 it claims nothing, and only returns the slots in
-- the lanes p_back. If the worker has given up its claims meanwhile (p_fence is lower than the fence that
-- disown has stored), the outcomes are written, and nothing else is done.
--
-- p_parents are the parents of the executions that end. They are locked before their children, as in cancel, so
-- that the two cannot deadlock. If another session holds one of the locks for more than 1 s, this fails,
-- because other executions must not wait. The worker then sets the locked ones aside.
-- Locks: orchestrators (its own row, for key share, waits; only to claim or to return slots), live_executions
--   (parents, waits, by id), as complete, as fail, as claim_plain, as claim_gated or as close_lanes.
create or replace function conductor.finish_and_claim(
    p_ids uuid[], p_claims integer[], p_outputs text[],
    p_failed_ids uuid[], p_failed_claims integer[], p_errors text[], p_permanent boolean[], p_delay_ms bigint[],
    p_parents uuid[], p_orchestrator bigint, p_queue integer, p_tasks integer[],
    p_windowed integer[], p_opens timestamptz[], p_closes timestamptz[], p_limit integer, p_idle boolean,
    p_lanes integer[], p_used integer[], p_back integer[], p_most integer, p_quick integer[], p_ahead integer[],
    p_roomy integer[], p_roomy_limits integer[], p_roomy_keys text[], p_fence integer,
    p_bytes bigint default 64 * 1024 * 1024, p_seen integer[] default null, p_from timestamptz[] default null,
    p_orchestrators bigint[] default null, p_failed_orchestrators bigint[] default null,
    p_failures text[] default null, p_forgotten_of uuid[] default null, p_forgotten text[] default null,
    p_replayed boolean[] default null)
returns setof conductor.claimed
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_late boolean;
    -- Whether the orchestrator must end, which it may not know yet; and whether it or the queue is paused.
    v_drains boolean;
    v_paused boolean;
    v_gated boolean; -- as is_gated, in the same statement
begin
    -- Before any execution is locked, as in recovery, so that the two cannot deadlock.
    if p_limit > 0 or cardinality(p_back) > 0 then
        select (o.fences ->> p_queue::text)::integer > p_fence, o.drain_for > o.version,
               o.drain_for is not null or exists (select from conductor.queues q where q.id = p_queue and q.paused),
               cardinality(p_windowed) > 0 or cardinality(p_back) > 0
                   or exists (select from conductor.limits c where c.task_id = any (p_tasks))
                   or exists (select from conductor.turns t where t.task_id = any (p_tasks))
          into v_late, v_drains, v_paused, v_gated
          from conductor.orchestrators o where o.id = p_orchestrator for key share;
        -- A dead orchestrator must not claim, because no process would give its executions back.
        if not found and p_limit > 0 then
            raise exception 'orchestrator % has lost its lease', p_orchestrator using errcode = 'CD003';
        end if;
    end if;
    if cardinality(p_parents) > 0 then
        perform from conductor.live_executions l where l.id = any (p_parents) order by l.id for no key update;
    end if;
    if cardinality(p_ids) > 0 then
        perform conductor.complete(p_ids, p_claims, p_outputs, p_orchestrators);
    end if;
    if cardinality(p_failed_ids) > 0 then
        perform conductor.fail(
            p_ids => p_failed_ids, p_claims => p_failed_claims, p_errors => p_errors, p_permanent => p_permanent,
            p_delay_ms => p_delay_ms, p_orchestrators => p_failed_orchestrators, p_failures => p_failures,
            p_forgotten_of => p_forgotten_of, p_forgotten => p_forgotten, p_replayed => p_replayed);
    end if;
    if v_late then
        return;
    end if;
    if p_limit > 0 and v_drains is not true and v_gated then
        return query select * from conductor.claim_gated(
            p_orchestrator => p_orchestrator, p_queue => p_queue, p_tasks => p_tasks, p_limit => p_limit,
            p_paused => v_paused, p_idle => p_idle, p_windowed => p_windowed, p_opens => p_opens,
            p_closes => p_closes, p_lanes => p_lanes, p_used => p_used, p_back => p_back, p_most => p_most,
            p_quick => p_quick, p_ahead => p_ahead, p_roomy => p_roomy, p_roomy_limits => p_roomy_limits,
            p_roomy_keys => p_roomy_keys, p_bytes => p_bytes, p_seen => p_seen, p_from => p_from);
    elsif p_limit > 0 and v_drains is not true then
        return query select * from conductor.claim_plain(
            p_orchestrator => p_orchestrator, p_queue => p_queue, p_tasks => p_tasks, p_limit => p_limit,
            p_paused => v_paused, p_idle => p_idle, p_bytes => p_bytes, p_seen => p_seen, p_from => p_from);
    elsif cardinality(p_back) > 0 then
        return query select null::uuid, null::integer, null::integer, null::integer, null::text, null::text,
            null::uuid, null::uuid, null::text, o.lanes, o.slots, null::integer[], null::text[], null::integer, null::bigint,
            null::integer[], null::timestamptz[]
          from conductor.close_lanes(p_orchestrator, p_queue, p_lanes, p_used, p_back, '{}') o;
    end if;
end
$$;
