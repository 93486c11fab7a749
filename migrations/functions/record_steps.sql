-- Writes records of steps, for many executions at once. Called by workers. Returns, in the order of the
-- records, whether each claim is still held; if not, the record is not written. Returns null for executions
-- that another session has locked: nothing was written, and the records must be sent again, separately and with
-- p_waits. With the record of a race come the keys of what its branches have received (p_had), and the keys of
-- waits that it has dropped (p_withdrawn).
-- Locks: live_executions (if free; with p_waits it waits first), steps (inserts), as decide.
create or replace function conductor.record_steps(
    p_ids uuid[], p_claims integer[], p_keys text[], p_kinds text[], p_values text[], p_waits boolean default false,
    p_had_of uuid[] default '{}', p_had text[] default '{}',
    p_withdrawn_of uuid[] default '{}', p_withdrawn text[] default '{}', p_orchestrators bigint[] default null)
returns boolean[]
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_held uuid[];
    -- The places of these records: one batch may have records of an old claim and of its successor.
    v_places bigint[];
begin
    if p_waits then
        perform from conductor.live_executions l where l.id = any (p_ids) for no key update;
    end if;
    -- The lock keeps recovery from giving the execution back before this commits.
    select array_agg(h.id), array_agg(h.n) into v_held, v_places
      from (select l.id, g.n
              from unnest(p_ids, p_claims, p_orchestrators) with ordinality as g(id, claim, orchestrator, n)
              join conductor.live_executions l on l.id = g.id and l.id = any (p_ids)
             where l.claim = g.claim and l.state = 'running'
               and (g.orchestrator is null or g.orchestrator = l.orchestrator_id)
               for no key update of l skip locked) h;
    insert into conductor.steps (execution_id, key, kind, value, recorded_at)
    select g.id, g.key, g.kind, g.value::json, v_now
      from unnest(p_ids, p_keys, p_kinds, p_values) with ordinality as g(id, key, kind, value, n)
      join unnest(v_places) as h(n) on h.n = g.n
        on conflict (execution_id, key) do nothing;
    if cardinality(p_had_of) > 0 or cardinality(p_withdrawn_of) > 0 then
        perform conductor.decide(coalesce(v_held, '{}'), p_had_of, p_had, p_withdrawn_of, p_withdrawn);
    end if;
    if cardinality(v_places) = cardinality(p_ids) then
        return array_fill(true, array[cardinality(p_ids)]);
    end if;
    return array(
        select case when h.n is not null then true
                    when l.id is null or l.claim <> g.claim or g.orchestrator <> l.orchestrator_id then false end
          from unnest(p_ids, p_claims, p_orchestrators) with ordinality as g(id, claim, orchestrator, n)
          left join unnest(v_places) as h(n) on h.n = g.n
          left join conductor.live_executions l on l.id = g.id and l.id = any (p_ids) and l.state = 'running'
         order by g.n);
end
$$;

-- Removes recorded errors with which attempts of these executions have ended. Called by fail, which holds the
-- executions.
-- Locks: steps (of executions that the caller holds).
create or replace function conductor.forget_errors(p_ids uuid[], p_of uuid[], p_keys text[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
begin
    delete from conductor.steps s
     where s.ctid = any (array(
           select k.ctid from unnest(p_of, p_keys) as g(execution_id, key)
            cross join lateral (
                  select o.ctid from conductor.steps o
                   where o.execution_id = g.execution_id and o.key = g.key
                     and o.kind in ('failed step', 'failed transaction', 'race') limit 1) k
            where g.execution_id = any (p_ids)));
end
$$;

-- Writes the record of ctx.transaction, as the last statement before the commit of the user's transaction.
-- Called by handlers. Fails with CD004 if the claim is lost, and with CD005 if the execution was cancelled.
-- Locks: live_executions (one row, waits), steps (new row).
create or replace function conductor.record_in_transaction(
    p_id uuid, p_claim integer, p_key text, p_kind text, p_value text, p_orchestrator bigint default null,
    p_input integer default null)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_cancelled boolean;
begin
    select l.cancelled into v_cancelled from conductor.live_executions l
     where l.id = p_id and l.claim = p_claim and l.state = 'running'
       and (p_orchestrator is null or p_orchestrator = l.orchestrator_id)
       for no key update;
    if not found then
        raise exception 'execution % is no longer run under claim %', p_id, p_claim using errcode = 'CD004';
    end if;
    if v_cancelled then
        raise exception 'execution % was cancelled', p_id using errcode = 'CD005';
    end if;
    insert into conductor.steps (execution_id, key, kind, value, recorded_at, input)
    values (p_id, p_key, p_kind, p_value::json, conductor.now(), p_input);
end
$$;

-- Returns whether a step is recorded, if the commit of its record is in doubt: the lock waits for the end of
-- the transaction that holds the execution. Returns null if the claim is lost, because the record may be that
-- of the next claim. Called by handlers.
-- Locks: live_executions (one row, waits).
create or replace function conductor.recorded(
    p_id uuid, p_key text, p_claim integer default null, p_orchestrator bigint default null) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
    perform from conductor.live_executions l
      where l.id = p_id and (p_claim is null or p_claim = l.claim and l.state = 'running')
        and (p_orchestrator is null or p_orchestrator = l.orchestrator_id)
        for no key update;
    if not found and p_claim is not null then
        return null;
    end if;
    return exists (select from conductor.steps s where s.execution_id = p_id and s.key = p_key);
end
$$;
