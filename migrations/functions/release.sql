-- Gives back claims whose executions the worker does not finish (a shutdown, a paused queue), without a charge.
-- Called by workers. Returns the number of executions that were given back.
-- Locks: as lock_parents, live_executions (waits, by id), as give_back.
create or replace function conductor.release(p_ids uuid[], p_claims integer[], p_orchestrators bigint[] default null)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_held uuid[];
begin
    perform conductor.lock_parents(p_ids);
    v_held := array(
        select l.id from conductor.live_executions l
          join unnest(p_ids, p_claims, p_orchestrators) as o(id, claim, orchestrator)
            on o.id = l.id and o.claim = l.claim
           and (o.orchestrator is null or o.orchestrator = l.orchestrator_id)
         where l.id = any (p_ids) and l.state = 'running'
           order by l.id for no key update of l);
    return conductor.give_back(v_held, null);
end
$$;

-- Gives back executions that stopped at a step or checkpoint because the window of their task has closed: they
-- are due at its opening. Called by workers. Returns the number of executions that were given back.
-- Locks: as release.
create or replace function conductor.postpone(
    p_ids uuid[], p_claims integer[], p_until timestamptz[], p_orchestrators bigint[] default null) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_held uuid[];
begin
    perform conductor.lock_parents(p_ids);
    v_held := array(
        select l.id from conductor.live_executions l
          join unnest(p_ids, p_claims, p_orchestrators) as o(id, claim, orchestrator)
            on o.id = l.id and o.claim = l.claim
           and (o.orchestrator is null or o.orchestrator = l.orchestrator_id)
         where l.id = any (p_ids) and l.state = 'running'
           order by l.id for no key update of l);
    perform conductor.give_back(v_held, null);
    update conductor.live_executions l set run_at = greatest(o.until, conductor.now()), postponed = true
      from unnest(p_ids, p_until) as o(id, until)
     where l.id = o.id and l.id = any (v_held) and l.state = 'pending';
    return cardinality(v_held);
end
$$;
