-- Fails executions that would continue for ever, because their keys change at each run: in 50 runs in a row,
-- this one included, they have not asked for what they had waited for. Called by suspend, which holds the
-- executions and their parents. Returns the others.
-- Locks: as conclude.
create or replace function conductor.end_astray(p_held uuid[], p_ids uuid[], p_met integer[], p_astray text[]) returns uuid[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    c_most constant integer := 50;
    v_lost record;
    v_held uuid[] := p_held;
begin
    for v_lost in
        select l.id, g.key
          from unnest(p_ids, p_met, p_astray) as g(id, met, key)
          join conductor.live_executions l on l.id = g.id and l.id = any (p_held)
         where g.key is not null and g.met <= l.met and l.astray >= c_most - 1
    loop
        perform conductor.conclude(array[v_lost.id], 'failed', format(
            'its keys change at each run: %s came, and the code does not ask for it and waits for something new, %s runs '
            'in a row. Make a key of the payload, of recorded values or of a text, and not of a clock, a random number '
            'or the order of a HashMap', to_json(v_lost.key), c_most));
        v_held := array_remove(v_held, v_lost.id);
    end loop;
    return v_held;
end
$$;

-- Writes that the executions p_held are suspended: due at once if something has come already, otherwise at the first
-- time that they wait for. p_fresh are those with new waits. Called by suspend, which describes the other arguments
-- and under whose settings it runs. Returns the number of executions.
-- Locks: live_executions (that the caller holds).
create or replace function conductor.mark_suspended(
    p_held uuid[], p_fresh uuid[], p_ids uuid[], p_met integer[], p_astray text[], p_executions uuid[], p_keys text[],
    p_groups text[], p_now timestamptz) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    with due as (
        select g.execution_id,
               min(case when w.seen_at is not null then p_now
                        when w.key is not null then coalesce(w.wake_at, 'infinity')
                        when c.group_key is not null then 'infinity'
                        else p_now end) as run_at
          from unnest(p_executions, p_keys, p_groups) as g(execution_id, key, group_key)
          left join lateral (
               select k.key, k.wake_at, k.seen_at from conductor.waits k
                where k.execution_id = g.execution_id and k.key = g.key limit 1) w on true
          -- Looked up once, and not for each of many groups.
          left join (
               select distinct o.execution_id, o.group_key from conductor.waits o
                where o.execution_id = any (p_held) and o.child_id is not null) c
            on c.execution_id = g.execution_id and c.group_key = g.group_key
         where g.execution_id = any (p_held)
         group by g.execution_id
    )
    update conductor.live_executions l
       set state = 'suspended', orchestrator_id = null, run_at = d.run_at,
           queue_id = (select t.queue_id from conductor.tasks t where t.id = l.task_id), forgiven = l.crashes,
           partial_wakes = case when l.id = any (p_fresh) then 0 else l.partial_wakes end,
           suspended_claim = l.claim, met = g.met,
           astray = case when g.key is not null and g.met <= l.met then coalesce(l.astray, 0) + 1 end,
           astray_key = case when g.key is not null and g.met <= l.met then g.key end
      from due d
      left join unnest(p_ids, p_met, p_astray) as g(id, met, key) on g.id = d.execution_id
     where l.id = any (p_held) and l.id = d.execution_id;
    return cardinality(p_held);
end
$$;

-- Suspends executions: begins their waits, makes the children that these name, and decides when each execution
-- is due again. A wait that is known already keeps its time and its child. What the handler no longer waits for
-- is withdrawn. A cancelled execution ends. Called by workers. Returns the number of executions that were
-- suspended.
--
-- Arguments: the arrays from p_executions to p_filters, and p_inputs, have one element for each wait. p_had_of and p_had are
-- the keys of what came during the run and the handler has received. p_met is the number of records that each
-- run has used. p_astray is the key of something that came and that the run did not ask for, while it waits for
-- something new. An execution that continues in this way, and uses no more records than before, would never end
-- (end_astray).
-- Locks: as know_tasks (for children of unknown tasks), event names (shared, by number, waits), live_executions
--   (parents of cancelled ones and of those in p_astray, then the executions, by id, waits), as conclude, as
--   decide, as begin_waits, queues.idle (if free).
create or replace function conductor.suspend(
    p_ids uuid[], p_claims integer[],
    p_executions uuid[], p_keys text[], p_kinds text[], p_groups text[], p_wake_ms bigint[],
    p_wake_at timestamptz[], p_children uuid[], p_tasks text[], p_payloads text[], p_detached boolean[],
    p_events text[], p_filters text[], p_withdrawn_of uuid[] default '{}', p_withdrawn text[] default '{}',
    p_orchestrators bigint[] default null, p_met integer[] default null, p_astray text[] default null,
    p_had_of uuid[] default '{}', p_had text[] default '{}', p_inputs integer[] default null)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_held uuid[];
    v_cancelled uuid[];
    v_begun record;
    v_count integer;
begin
    -- A child of a task that no program has declared yet stays pending until one does.
    if exists (select from unnest(p_tasks) as g(task)
                where g.task is not null
                  and not exists (select from conductor.tasks t where t.name = g.task)) then
        perform conductor.know_tasks(p_tasks);
    end if;
    -- Before the executions, as in emits.
    perform conductor.lock_events(p_events, false);
    perform conductor.lock_parents(p_ids, case when num_nonnulls(variadic p_astray) > 0 then array(
        select g.id from unnest(p_ids, p_astray) as g(id, key) where g.key is not null) else '{}' end);
    -- Locked before anything is read: a child that ends now waits for this transaction, or is seen below.
    select array_agg(h.id) filter (where not h.cancelled), array_agg(h.id) filter (where h.cancelled)
      into v_held, v_cancelled
      from (select l.id, l.cancelled
              from unnest(p_ids, p_claims, p_orchestrators) as g(id, claim, orchestrator)
              join conductor.live_executions l on l.id = g.id and l.id = any (p_ids)
             where l.claim = g.claim and l.state = 'running'
               and (g.orchestrator is null or g.orchestrator = l.orchestrator_id)
               order by l.id for no key update of l) h;
    if v_cancelled is not null then
        perform conductor.conclude(v_cancelled, 'cancelled', null);
    end if;
    if num_nonnulls(variadic p_astray) > 0 then
        v_held := conductor.end_astray(v_held, p_ids, p_met, p_astray);
    end if;
    if coalesce(cardinality(v_held), 0) = 0 then
        return 0;
    end if;

    -- What came while a step ran, and what the handler has received, does not become free again.
    if cardinality(p_had_of) > 0 then
        perform conductor.decide(v_held, p_had_of, p_had, '{}', '{}');
    end if;
    v_begun := conductor.begin_waits(
        p_held => v_held, p_executions => p_executions, p_keys => p_keys, p_kinds => p_kinds, p_groups => p_groups,
        p_wake_ms => p_wake_ms, p_wake_at => p_wake_at, p_children => p_children, p_tasks => p_tasks,
        p_payloads => p_payloads, p_detached => p_detached, p_events => p_events, p_filters => p_filters,
        p_inputs => p_inputs,
        p_withdrawn_of => p_withdrawn_of, p_withdrawn => p_withdrawn, p_now => v_now);

    v_count := conductor.mark_suspended(
        p_held => v_held, p_fresh => v_begun.fresh, p_ids => p_ids, p_met => p_met, p_astray => p_astray,
        p_executions => p_executions, p_keys => p_keys, p_groups => p_groups, p_now => v_now);
    perform conductor.wake(v_begun.queues, false);
    return v_count;
end
$$;
