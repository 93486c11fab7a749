-- Begins waits of executions that continue, because one of their steps still runs. The arguments are those of
-- suspend. Called by workers. Returns in their order whether each claim is still held and the execution not
-- cancelled.
-- Locks: as know_tasks (for children of unknown tasks), event names (shared, by number, waits), live_executions
--   (waits, by id), as begin_waits, queues.idle (if free).
create or replace function conductor.wait_beside(
    p_ids uuid[], p_claims integer[],
    p_executions uuid[], p_keys text[], p_kinds text[], p_groups text[], p_wake_ms bigint[],
    p_wake_at timestamptz[], p_children uuid[], p_tasks text[], p_payloads text[], p_detached boolean[],
    p_events text[], p_filters text[], p_withdrawn_of uuid[] default '{}', p_withdrawn text[] default '{}',
    p_orchestrators bigint[] default null, p_inputs integer[] default null)
returns boolean[]
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_held uuid[];
    v_begun record;
begin
    if exists (select from unnest(p_tasks) as g(task)
                where g.task is not null
                  and not exists (select from conductor.tasks t where t.name = g.task)) then
        perform conductor.know_tasks(p_tasks);
    end if;
    perform conductor.lock_events(p_events, false);
    select array_agg(h.id) into v_held
      from (select l.id
              from unnest(p_ids, p_claims, p_orchestrators) as g(id, claim, orchestrator)
              join conductor.live_executions l on l.id = g.id and l.id = any (p_ids)
             where l.claim = g.claim and l.state = 'running' and not l.cancelled
               and (g.orchestrator is null or g.orchestrator = l.orchestrator_id)
               order by l.id for no key update of l) h;
    if v_held is not null then
        -- What came to a wait that was dropped is free for the new waits.
        v_begun := conductor.begin_waits(
            p_held => v_held, p_executions => p_executions, p_keys => p_keys, p_kinds => p_kinds,
            p_groups => p_groups, p_wake_ms => p_wake_ms, p_wake_at => p_wake_at, p_children => p_children,
            p_tasks => p_tasks, p_payloads => p_payloads, p_detached => p_detached, p_events => p_events,
            p_filters => p_filters, p_inputs => p_inputs, p_withdrawn_of => p_withdrawn_of, p_withdrawn => p_withdrawn,
            p_now => conductor.now());
        update conductor.live_executions l set partial_wakes = 0
         where l.id = any (v_held) and l.id = any (v_begun.fresh) and l.partial_wakes > 0;
        perform conductor.wake(v_begun.queues, false);
    end if;
    return array(select g.id = any (v_held) is true from unnest(p_ids) with ordinality as g(id, n) order by g.n);
end
$$;

-- Returns what has come to waits of running executions: the value and the time when it came about, in
-- microseconds since 1970, or the number of milliseconds until the wait's time is over. Waits without news and
-- without a time are left out. So is what would make the result larger than about 64 MiB; it comes with a later
-- call. Passed deadlines are recorded first; those of executions that another session has locked are recorded
-- later. Called by workers.
-- Locks: live_executions (if free), as settle.
create or replace function conductor.look_beside(
    p_ids uuid[], p_claims integer[], p_executions uuid[], p_keys text[], p_orchestrators bigint[] default null)
returns table (execution_id uuid, key text, value text, at bigint, left_ms bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_late uuid[];
begin
    select array_agg(distinct g.execution_id) into v_late
      from unnest(p_executions, p_keys) as g(execution_id, key)
     cross join lateral (
           select from conductor.waits w
            where w.execution_id = g.execution_id and w.key = g.key and w.wake_at <= v_now
              and (w.child_id is not null or w.event_name is not null) limit 1) w;
    if v_late is not null then
        v_late := array(
            select l.id
              from unnest(p_ids, p_claims, p_orchestrators) as g(id, claim, orchestrator)
              join conductor.live_executions l on l.id = g.id and l.id = any (v_late)
             where l.claim = g.claim and l.state = 'running'
               and (g.orchestrator is null or g.orchestrator = l.orchestrator_id)
               for no key update of l skip locked);
        perform conductor.settle(v_late, v_now);
    end if;
    return query
    select f.execution_id, f.key, s.value::text,
           (extract(epoch from coalesce(s.ended_at, s.recorded_at)) * 1000000)::bigint, null::bigint
      from (select g.execution_id, g.key, k.place, sum(k.bytes) over (order by g.n) - k.bytes as before
              from unnest(p_executions, p_keys) with ordinality as g(execution_id, key, n)
             cross join lateral (
                   select o.ctid as place, o.bytes from conductor.steps o
                    where o.execution_id = g.execution_id and o.key = g.key limit 1) k) f
      join conductor.steps s on s.ctid = f.place
     where f.before < 67108864
    union all
    select g.execution_id, g.key,
           case when w.is_sleep and w.wake_at <= v_now then 'null' end,
           (extract(epoch from w.wake_at) * 1000000)::bigint,
           greatest((extract(epoch from w.wake_at - v_now) * 1000)::bigint, 0)
      from unnest(p_executions, p_keys) as g(execution_id, key)
     cross join lateral (
           select o.wake_at, o.child_id is null and o.event_name is null as is_sleep from conductor.waits o
            where o.execution_id = g.execution_id and o.key = g.key and o.wake_at is not null limit 1) w;
end
$$;
