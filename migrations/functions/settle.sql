-- Records the passed deadlines of what these executions wait for, and cancels the children that missed them.
-- Called by claim and look_beside, which hold the executions.
-- Locks: as catch_up, waits and steps (of these executions), as cancel_free, deferred (inserts).
create or replace function conductor.settle(p_ids uuid[], p_now timestamptz) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_late uuid[];
    v_expecting uuid[];
    v_names text[];
    v_keys text[];
    v_behind uuid[];
begin
    -- An event that was emitted in time may not have reached its wait yet. At most 2000 waits and 2000 events
    -- are looked at, because other executions wait for this claim; waits whose deadline passed first come
    -- first. The rest follows with the next claim, for which the execution is due at once.
    select array_agg(w.execution_id), array_agg(w.event_name), array_agg(w.key)
      into v_expecting, v_names, v_keys
      from (select o.execution_id, o.event_name, o.key from conductor.waits o
             where o.execution_id = any (p_ids) and o.wake_at <= p_now and o.event_name is not null
             order by o.wake_at, o.execution_id, o.key limit 2000) w;
    if v_expecting is not null then
        v_behind := (conductor.catch_up(v_expecting, v_names, p_now, v_keys, 2000)).behind;
    end if;
    with late as (
        delete from conductor.waits w
         where w.ctid = any (array(
               select o.ctid from conductor.waits o
                where o.execution_id = any (p_ids) and o.wake_at <= p_now and o.child_id is not null
               union all
               select k.ctid from unnest(v_expecting, v_keys) as g(execution_id, key)
                cross join lateral (
                      select o.ctid from conductor.waits o
                       where o.execution_id = g.execution_id and o.key = g.key and o.event_name is not null limit 1) k
                -- These have not looked at everything that came in time. Another claim follows.
                where v_behind is null or g.execution_id <> all (v_behind)))
        returning w.execution_id, w.key, w.kind, w.child_id, w.wake_at, w.input
    ), recorded as (
        insert into conductor.steps (execution_id, key, kind, value, recorded_at, ended_at, input)
        select l.execution_id, l.key, l.kind, json_build_object('state', 'timed_out', 'id', l.child_id), p_now, l.wake_at,
               l.input
          from late l
            on conflict (execution_id, key) do nothing
    )
    select array_agg(l.child_id) filter (where l.child_id is not null) into v_late from late l;
    if v_late is not null then
        v_late := conductor.cancel_free(v_late);
        insert into conductor.deferred (execution_id, what)
        select distinct id, 'cancel' from unnest(v_late) as id
            on conflict do nothing;
    end if;
end
$$;
