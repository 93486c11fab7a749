-- Returns whether one of these tasks has a window or a limit, or executions whose turn has come or is held. Lanes
-- that are given back belong to a limit. Called by claim. Executions with an order that come later are found by
-- claim_plain.
create or replace function conductor.is_gated(p_tasks integer[], p_windowed integer[], p_back integer[]) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return cardinality(p_windowed) > 0 or cardinality(p_back) > 0
        or exists (select from conductor.limits c where c.task_id = any (p_tasks))
        or exists (select from conductor.turns t where t.task_id = any (p_tasks));
end
$$;

-- Claims what is due: higher priority first, then earlier run_at, then id. Called by workers that fill batches, beside
-- finish_and_claim, which chooses between the same two ways. A queue without windows, limits and order takes the short
-- way.
--
-- Where a look begins: what was claimed earlier, and what has ended and no vacuum could remove yet, lies at the
-- beginning of each range. So the row without id returns the priorities in use (seen) and, for each, the run_at
-- from which on something may be due (seen_from; null: from the beginning). The worker passes them to its next
-- claim as p_seen and p_from. Executions that become due before that place (they were given back, or committed
-- late) are found by a whole look, with p_seen = '{}', which the worker makes once a second. If p_seen is null,
-- the look is a whole one too, and seen is not returned.
--
-- Sleeping: a worker that is about to sleep sets p_idle. If nothing is due, next_due_ms in the row without id
-- is the time until something is due.
--
-- Windows: p_windowed are the tasks with a window, p_opens and p_closes the window that is open now, or else
-- the next one. Executions that are due outside their window are moved to its opening, so that later claims do
-- not read them again.
--
-- Limits: p_lanes are the lanes in which the worker has slots, p_used the number of executions that it holds in
-- each. Of the lanes in p_back it returns the slots that it does not use. p_most is the number of executions
-- that it can run at once. Per slot of a task in p_quick it may claim p_ahead executions. The lanes p_roomy, of
-- the limits p_roomy_limits and the keys p_roomy_keys, have room for what comes. In the row without id, lanes,
-- slots, lane_limits and lane_keys are the slots of the worker that it may not know.
--
-- Size: payloads and records of the result have at most p_bytes together, except that one execution is returned
-- in any case.
-- Locks: orchestrators (its own row, for key share, waits), as claim_plain or as claim_gated.
create or replace function conductor.claim(
    p_orchestrator bigint, p_queue integer, p_tasks integer[], p_limit integer, p_idle boolean,
    p_windowed integer[] default '{}', p_opens timestamptz[] default '{}', p_closes timestamptz[] default '{}',
    p_lanes integer[] default '{}', p_used integer[] default '{}', p_back integer[] default '{}',
    p_most integer default 1, p_quick integer[] default '{}', p_ahead integer[] default '{}',
    p_roomy integer[] default '{}', p_roomy_limits integer[] default '{}', p_roomy_keys text[] default '{}',
    p_bytes bigint default 64 * 1024 * 1024, p_seen integer[] default null, p_from timestamptz[] default null)
returns setof conductor.claimed
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_paused boolean;
begin
    -- A dead orchestrator must not claim, because no process would give its executions back.
    -- One that must end may not know it yet.
    select o.drain_for is not null or exists (select from conductor.queues q where q.id = p_queue and q.paused)
      into v_paused from conductor.orchestrators o where o.id = p_orchestrator for key share;
    if not found then
        raise exception 'orchestrator % has lost its lease', p_orchestrator using errcode = 'CD003';
    end if;
    if conductor.is_gated(p_tasks, p_windowed, p_back) then
        return query select * from conductor.claim_gated(
            p_orchestrator => p_orchestrator, p_queue => p_queue, p_tasks => p_tasks, p_limit => p_limit,
            p_paused => v_paused, p_idle => p_idle, p_windowed => p_windowed, p_opens => p_opens, p_closes => p_closes,
            p_lanes => p_lanes, p_used => p_used, p_back => p_back, p_most => p_most, p_quick => p_quick,
            p_ahead => p_ahead, p_roomy => p_roomy, p_roomy_limits => p_roomy_limits, p_roomy_keys => p_roomy_keys,
            p_bytes => p_bytes, p_seen => p_seen, p_from => p_from);
    else
        return query select * from conductor.claim_plain(
            p_orchestrator => p_orchestrator, p_queue => p_queue, p_tasks => p_tasks, p_limit => p_limit,
            p_paused => v_paused, p_idle => p_idle, p_bytes => p_bytes, p_seen => p_seen, p_from => p_from);
    end if;
end
$$;
