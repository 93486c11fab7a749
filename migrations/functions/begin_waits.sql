-- Lets waits look into the log of events: those that have just begun (p_new, p_new_keys), those among the given ones
-- that have not read the whole log yet, and all waits of the executions p_freed, for which events have become free
-- again. Called by begin_waits, under whose settings it runs and which describes the other arguments.
-- Locks: as note_event_paths, as catch_up.
create or replace function conductor.read_log(
    p_held uuid[], p_executions uuid[], p_keys text[], p_events text[], p_new uuid[], p_new_keys text[], p_freed uuid[],
    p_now timestamptz) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_expecting uuid[] := p_new;
    v_expecting_keys text[] := p_new_keys;
begin
    -- In statements of their own, which see all events up to the lock of the names.
    if v_expecting is not null then
        perform conductor.note_event_paths(v_expecting, v_expecting_keys);
    end if;
    select v_expecting || array_agg(g.execution_id), v_expecting_keys || array_agg(g.key)
      into v_expecting, v_expecting_keys
      from unnest(p_executions, p_keys, p_events) as g(execution_id, key, event)
     cross join lateral (
           select from conductor.waits w
            where w.execution_id = g.execution_id and w.key = g.key and w.seen_at is not null limit 1) w
     where g.event is not null and g.execution_id = any (p_held);
    if p_freed is not null then
        v_expecting := v_expecting || p_freed;
        v_expecting_keys := v_expecting_keys || array_fill(null::text, array[cardinality(p_freed)]);
    end if;
    if v_expecting is not null then
        perform conductor.catch_up(v_expecting, p_events, p_now, v_expecting_keys);
    end if;
end
$$;

-- Withdraws waits that handlers no longer ask for, and begins the waits that are new, with the children that
-- they name. A wait that is recorded or has begun already stays as it is. Called by suspend and wait_beside,
-- which hold the executions (p_held) and, since before that, the locks of the event names.
--
-- Arguments: the arrays from p_executions to p_filters, and p_inputs, have one element for each wait; waits of executions that
-- are not in p_held are ignored.
--
-- Returns in fresh the executions that have new waits, and in queues the queues of the new children.
-- Locks: as withdraw, waits and live_executions (new rows), as note_event_paths, as catch_up.
create or replace function conductor.begin_waits(
    p_held uuid[], p_executions uuid[], p_keys text[], p_kinds text[], p_groups text[], p_wake_ms bigint[],
    p_wake_at timestamptz[], p_children uuid[], p_tasks text[], p_payloads text[], p_detached boolean[],
    p_events text[], p_filters text[], p_withdrawn_of uuid[], p_withdrawn text[], p_now timestamptz,
    p_inputs integer[] default null,
    out fresh uuid[], out queues integer[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_new uuid[];
    v_new_keys text[];
    v_freed uuid[];
begin
    if cardinality(p_withdrawn_of) > 0 then
        select conductor.withdraw(array_agg(g.id order by g.n), array_agg(g.key order by g.n)) into v_freed
          from unnest(p_withdrawn_of, p_withdrawn) with ordinality as g(id, key, n) where g.id = any (p_held);
    end if;
    -- The waits that are not known yet. No other session can begin them, because the executions are locked.
    with given as materialized (
        select distinct on (g.execution_id, g.key) g.execution_id, g.key, g.kind, g.group_key,
               coalesce(g.wake_at, p_now + g.wake_ms * interval '1 ms') as wake_at,
               g.child_id, g.task, g.payload, g.detached, g.event, g.filter, g.input
          from unnest(p_executions, p_keys, p_kinds, p_groups, p_wake_ms, p_wake_at, p_children, p_tasks,
                      p_payloads, p_detached, p_events, p_filters, p_inputs)
               as g(execution_id, key, kind, group_key, wake_ms, wake_at, child_id, task, payload, detached, event,
                    filter, input)
         where g.execution_id = any (p_held)
           and (select true from conductor.steps s
                 where s.execution_id = g.execution_id and s.key = g.key limit 1) is null
           and (select true from conductor.waits w
                 where w.execution_id = g.execution_id and w.key = g.key limit 1) is null
    ), begun as (
        insert into conductor.waits (
               execution_id, key, kind, group_key, wake_at, child_id, event_name, event_filter, event_hash, event_path,
               input)
        select g.execution_id, g.key, g.kind, g.group_key, g.wake_at, g.child_id, g.event, g.filter::jsonb,
               coalesce(f.hash, 0), f.path, g.input
          from given g
          left join (
               select k.execution_id, k.key, o.hash, o.path
                 from given k
                cross join lateral conductor.filter_field(k.filter::jsonb) o
                where k.filter is not null) f
            on f.execution_id = g.execution_id and f.key = g.key
    ), children as (
        insert into conductor.live_executions as l (
               id, run_at, created_at, parent_id, parent_key, queue_id, task_id, priority, detached, order_key,
               payload, bytes)
        select g.child_id, p_now, p_now, g.execution_id, g.key, t.queue_id, t.id, t.priority, g.detached,
               conductor.order_key(t.ordered_by, g.payload::json), g.payload::json, octet_length(g.payload)
          from given g
          join conductor.tasks t on t.name = g.task
         where g.child_id is not null
        returning l.queue_id
    )
    select (select array_agg(distinct g.execution_id) from given g),
           (select array_agg(distinct c.queue_id) from children c),
           (select array_agg(g.execution_id order by g.execution_id, g.key) from given g where g.event is not null),
           (select array_agg(g.key order by g.execution_id, g.key) from given g where g.event is not null)
      into fresh, queues, v_new, v_new_keys;
    if v_freed is not null or num_nonnulls(variadic p_events) > 0 then
        perform conductor.read_log(
            p_held => p_held, p_executions => p_executions, p_keys => p_keys, p_events => p_events, p_new => v_new,
            p_new_keys => v_new_keys, p_freed => v_freed, p_now => p_now);
    end if;
end
$$;
