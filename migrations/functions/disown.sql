-- Gives back what this orchestrator holds in a queue without the worker's knowledge, because the connection
-- broke before the worker had read its claims. Called by workers. Returns the number of executions that were
-- given back.
--
-- Arguments: p_ids, p_claims and p_orchestrators are the claims that the worker knows. They name claims and not
-- only executions, because an execution that the worker has run may have been claimed again. p_lanes are the
-- lanes that the worker knows.
--
-- A statement of the broken connection may still run: the lock of the orchestrator's row waits for its end. Or
-- it may arrive later, from the buffers of a network: p_fence is stored, and a statement with a lower fence
-- claims nothing.
-- Locks: orchestrators (its own row, waits 5 s), lanes with its slots (waits 1 s, by id), as lock_held,
--   deferred (inserts), as give_back.
create or replace function conductor.disown(
    p_orchestrator bigint, p_queue integer, p_ids uuid[], p_claims integer[], p_lanes integer[], p_fence integer,
    p_orchestrators bigint[] default null)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '5s' set jit = off
as $$
declare
    v_lanes integer[];
    v_held uuid[];
    v_ids uuid[];
begin
    -- The orchestrator's row first, as in recovery, so that the two cannot deadlock. The heartbeat needs this
    -- row, so lanes are waited for only 1 s. The worker tries again.
    perform from conductor.orchestrators o where o.id = p_orchestrator for update;
    update conductor.orchestrators o set fences = o.fences || jsonb_build_object(p_queue::text, p_fence)
     where o.id = p_orchestrator;
    perform set_config('lock_timeout', '1s', true);
    -- Slots are given back, too. For the lanes that the worker knows, it reports itself how many it uses.
    v_lanes := array(
        select a.id from conductor.lanes a
          left join conductor.tasks t on t.id = a.task_id
          left join conductor.limits c on c.id = a.limit_id
         where a.holders ? p_orchestrator::text and a.id <> all (p_lanes)
           and coalesce(t.queue_id, c.queue_id) = p_queue
         order by a.id
           for no key update of a);
    update conductor.lanes a
       set holders = a.holders - p_orchestrator::text,
           due_at = coalesce(a.due_at, case when a.parked then conductor.now() end)
     where a.id = any (v_lanes);
    v_held := array(
        select l.id from conductor.live_executions l
          join conductor.tasks t on t.id = l.task_id
         where l.state = 'running' and l.orchestrator_id = p_orchestrator
           and (l.queue_id = p_queue or l.queue_id <= 0 and t.queue_id = p_queue)
           and not exists (select from unnest(p_ids, p_claims, p_orchestrators) as k(id, claim, orchestrator)
                            where k.id = l.id and k.claim = l.claim
                              and (k.orchestrator is null or k.orchestrator = p_orchestrator)));
    -- No execution is waited for while the orchestrator's row is locked, because the heartbeat needs that row.
    v_ids := conductor.lock_held(v_held, null);
    insert into conductor.deferred (execution_id, what, claim)
    select l.id, 'disown', l.claim from conductor.live_executions l
     where l.id = any (v_held) and l.id <> all (v_ids) and l.state = 'running' and l.orchestrator_id = p_orchestrator
       and not exists (select from unnest(p_ids, p_claims, p_orchestrators) as k(id, claim, orchestrator)
                        where k.id = l.id and k.claim = l.claim
                          and (k.orchestrator is null or k.orchestrator = p_orchestrator))
        on conflict do nothing;
    return conductor.give_back(
        array(select l.id from conductor.live_executions l
               where l.id = any (v_ids) and l.orchestrator_id = p_orchestrator
                 and not exists (select from unnest(p_ids, p_claims, p_orchestrators) as k(id, claim, orchestrator)
                                  where k.id = l.id and k.claim = l.claim
                                    and (k.orchestrator is null or k.orchestrator = p_orchestrator))),
        null);
end
$$;

-- Returns those of these executions that another session has locked now. Called by a worker whose outcomes
-- could not be written in time; it then writes the outcomes of the other executions.
-- Locks: live_executions (if free).
create or replace function conductor.locked(p_ids uuid[]) returns uuid[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_free uuid[] := array(
        select l.id from conductor.live_executions l where l.id = any (p_ids) for no key update skip locked);
begin
    return array(
        select l.id from conductor.live_executions l
         where l.id = any (array(select id from unnest(p_ids) as id except select id from unnest(v_free) as id)));
end
$$;
