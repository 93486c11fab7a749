-- Removes what handlers no longer ask for: their waits and sleeps, and the events that came to these waits and
-- that they never received. Called by begin_waits, which holds the executions and then gives the events to
-- other waits (catch_up). Returns the executions whose events are free again.
-- Locks: waits and steps (of executions that the caller holds).
create or replace function conductor.withdraw(p_executions uuid[], p_keys text[]) returns uuid[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_freed uuid[];
    v_since timestamptz[];
begin
    -- One lookup for each key, forced by the limits, so that no statistics matter.
    delete from conductor.waits w
     where w.ctid = any (array(
           select k.ctid from unnest(p_executions, p_keys) as g(execution_id, key)
            cross join lateral (
                  select o.ctid from conductor.waits o
                   where o.execution_id = g.execution_id and o.key = g.key
                     and o.kind in ('event', 'row', 'sleep') limit 1) k));
    with freed as (
        delete from conductor.steps s
         where s.ctid = any (array(
               select k.ctid from unnest(p_executions, p_keys) as g(execution_id, key)
                cross join lateral (
                      select o.ctid, o.event_id from conductor.steps o
                       where o.execution_id = g.execution_id and o.key = g.key and o.kind in ('event', 'row')
                         and o.claim is not null limit 1) k
                -- An event that is no longer in the log could not be given to another wait.
                cross join lateral (select true from conductor.events e where e.id = k.event_id limit 1) e))
        returning s.execution_id, s.event_at as emitted_at
    )
    select array_agg(f.execution_id), array_agg(f.since) into v_freed, v_since
      from (select d.execution_id, min(d.emitted_at) as since from freed d group by d.execution_id) f;
    if v_freed is not null then
        -- It is no longer true that everything up to these events was received.
        update conductor.steps s set event_filter = null
         where s.execution_id = any (v_freed) and s.event_filter is not null
           and s.event_at >= v_since[array_position(v_freed, s.execution_id)];
    end if;
    return v_freed;
end
$$;

-- Applies what a race reports with its record. What its branches have received stays received, and the waits
-- that it has dropped are removed. What had come to those is free with the next suspension, which gives it to
-- other waits. Called by record_steps and suspend, which hold the executions (p_held).
-- Locks: steps and waits (of executions that the caller holds).
create or replace function conductor.decide(
    p_held uuid[], p_had_of uuid[], p_had text[], p_withdrawn_of uuid[], p_withdrawn text[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
begin
    update conductor.steps s set claim = null
     where s.ctid = any (array(
           select k.ctid from unnest(p_had_of, p_had) as g(execution_id, key)
            cross join lateral (
                  select o.ctid from conductor.steps o
                   where o.execution_id = g.execution_id and o.key = g.key limit 1) k
            where g.execution_id = any (p_held)));
    delete from conductor.waits w
     where w.ctid = any (array(
           select k.ctid from unnest(p_withdrawn_of, p_withdrawn) as g(execution_id, key)
            cross join lateral (
                  select o.ctid from conductor.waits o
                   where o.execution_id = g.execution_id and o.key = g.key
                     and o.kind in ('event', 'row', 'sleep') limit 1) k
            where g.execution_id = any (p_held)));
end
$$;
