-- Informs parents of how their children ended: removes the waits, records the outcomes and makes the parents
-- due. A parent that waits for one thing, or for the last one of several, is due at once. A parent that waits
-- for more is resumed for the first one that comes, because it may be a race, and then at growing intervals,
-- because it seems to be a join. Called by complete and conclude.
-- Locks: live_executions (parents, waits, by id; mostly held already), waits and steps of the parents,
--   queues.idle (if free).
create or replace function conductor.report(p_children uuid[], p_parents uuid[], p_keys text[], p_outcomes text[])
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_executions uuid[];
    v_groups text[];
    v_queues integer[];
begin
    -- In one order, so that two workers never wait for each other. Before the waits are read, so that a parent
    -- that is being suspended is waited for.
    perform from conductor.live_executions l where l.id = any (p_parents) order by l.id for no key update;
    -- By their places, because only the holder of an execution changes its waits.
    with found as materialized (
        select k.place, g.outcome
          from unnest(p_children, p_parents, p_keys, p_outcomes) as g(child_id, parent_id, key, outcome)
         cross join lateral (
               select w.ctid as place from conductor.waits w
                where w.execution_id = g.parent_id and w.key = g.key and w.child_id = g.child_id limit 1) k
    ), resolved as (
        delete from conductor.waits w
         using found f
         where w.ctid = any (array(select o.place from found o)) and w.ctid = f.place
        returning w.execution_id, w.key, w.kind, w.group_key, w.input, f.outcome
    ), recorded as (
        insert into conductor.steps (execution_id, key, kind, value, recorded_at, input)
        select r.execution_id, r.key, r.kind, r.outcome::json, v_now, r.input from resolved r
            on conflict (execution_id, key) do nothing
    )
    select array_agg(r.execution_id), array_agg(r.group_key) into v_executions, v_groups from resolved r;
    if v_executions is null then
        return;
    end if;
    with ready as (
        select distinct r.execution_id
          -- Each group is looked for once, however many of its children have ended.
          from (select distinct g.execution_id, g.group_key
                  from unnest(v_executions, v_groups) as g(execution_id, group_key)) r
         where (select true from conductor.waits w
                 where w.execution_id = r.execution_id and w.group_key = r.group_key limit 1) is null
    ), paced as (
        select r.execution_id, d.delay
          from ready r
         cross join lateral (
               select o.partial_wakes from conductor.live_executions o where o.id = r.execution_id limit 1) o
         cross join lateral (
               select case when o.partial_wakes > 0
                            and (select true from conductor.waits w
                                  where w.execution_id = r.execution_id and w.child_id is not null limit 1)
                           then least(0.05 * power(2, least(o.partial_wakes - 1, 10)), 5) * interval '1 s'
                           else interval '0' end as delay) d
    ), woken as (
        update conductor.live_executions l
           set run_at = v_now + p.delay, postponed = false, partial_wakes = l.partial_wakes + 1
          from paced p
         where l.id = any (v_executions) and l.id = p.execution_id
           and l.state = 'suspended' and l.run_at > v_now + p.delay
        returning l.queue_id
    )
    select array_agg(distinct w.queue_id) into v_queues from woken w;
    perform conductor.wake(v_queues, false);
end
$$;
