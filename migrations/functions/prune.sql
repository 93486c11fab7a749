-- Removes steps, failures and waits of executions that no longer exist, at most p_limit of each. Called by
-- prune_finished and prune_remains. Returns the executions that have some left.
-- Locks: steps, failures, waits (waits).
create or replace function conductor.remove_records(p_ids uuid[], p_limit integer) returns uuid[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_steps integer;
    v_failures integer;
    v_waits integer;
begin
    delete from conductor.steps s
     where s.ctid = any (array(
           select o.ctid from conductor.steps o where o.execution_id = any (p_ids) limit p_limit));
    get diagnostics v_steps = row_count;
    delete from conductor.failures f
     where f.ctid = any (array(
           select o.ctid from conductor.failures o where o.execution_id = any (p_ids) limit p_limit));
    get diagnostics v_failures = row_count;
    delete from conductor.waits w
     where w.ctid = any (array(
           select o.ctid from conductor.waits o where o.execution_id = any (p_ids) limit p_limit));
    get diagnostics v_waits = row_count;
    if greatest(v_steps, v_failures, v_waits) < p_limit then
        return '{}';
    end if;
    return array(
        select g.id from unnest(p_ids) as g(id)
         where exists (select from conductor.steps s where s.execution_id = g.id)
            or exists (select from conductor.failures f where f.execution_id = g.id)
            or exists (select from conductor.waits w where w.execution_id = g.id));
end
$$;

-- Removes finished executions whose retention is over, at most p_limit, those that expire from p_after on.
-- Called by orchestrators and prune. Returns the number of executions that were removed, and in reached the
-- p_after for the next portion: a caller that removes many does not read again what it has removed, however
-- long vacuum is kept from its work.
-- Locks: finished_executions (if free), as remove_records, remains (inserts).
create or replace function conductor.prune_finished(p_limit integer, p_after timestamptz)
returns table (removed integer, reached timestamptz)
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_ids uuid[];
    v_reached timestamptz;
begin
    select array_agg(e.id), max(e.expires_at) into v_ids, v_reached
      from (select f.id, f.expires_at from conductor.finished_executions f
             where f.expires_at between p_after and v_now
             order by f.expires_at
             limit p_limit
               for update skip locked) e;
    if v_ids is null then
        return query select 0, p_after;
        return;
    end if;
    delete from conductor.finished_executions f where f.id = any (v_ids);
    insert into conductor.remains (execution_id)
    select g.id from unnest(conductor.remove_records(v_ids, 10 * p_limit)) as g(id)
        on conflict do nothing;
    return query select cardinality(v_ids), v_reached;
end
$$;

-- Removes records of executions that were removed earlier. Called by prune. Returns how many executions are
-- done, or p_limit if there is more to do.
-- Locks: remains (if free), as remove_records.
create or replace function conductor.prune_remains(p_limit integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids uuid[] := array(
        select r.execution_id from conductor.remains r order by r.execution_id limit p_limit for update skip locked);
    v_left uuid[];
begin
    if cardinality(v_ids) = 0 then
        return 0;
    end if;
    v_left := conductor.remove_records(v_ids, 10 * p_limit);
    delete from conductor.remains r where r.execution_id = any (v_ids) and r.execution_id <> all (v_left);
    return case when cardinality(v_left) > 0 then p_limit else cardinality(v_ids) end;
end
$$;

-- Looks through the next p_limit records of each kind for records whose execution does not exist, which should
-- never happen, and leaves them to prune_remains. A chore of the orchestrators. Returns where to continue, or
-- null at the end.
-- Locks: remains (inserts).
create or replace function conductor.sweep(p_after uuid, p_limit integer) returns uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_after uuid := coalesce(p_after, '00000000-0000-0000-0000-000000000000');
    v_end uuid;
    v_upto uuid;
begin
    v_end := least(
        (select s.execution_id from conductor.steps s
          where s.execution_id > v_after order by s.execution_id offset p_limit limit 1),
        (select f.execution_id from conductor.failures f
          where f.execution_id > v_after order by f.execution_id offset p_limit limit 1),
        (select w.execution_id from conductor.waits w
          where w.execution_id > v_after order by w.execution_id offset p_limit limit 1));
    v_upto := coalesce(v_end, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
    insert into conductor.remains (execution_id)
    select g.id
      from (select s.execution_id as id from conductor.steps s where s.execution_id > v_after and s.execution_id <= v_upto
             union
            select f.execution_id from conductor.failures f where f.execution_id > v_after and f.execution_id <= v_upto
             union
            select w.execution_id from conductor.waits w where w.execution_id > v_after and w.execution_id <= v_upto) g
     where not exists (select from conductor.live_executions l where l.id = g.id)
       and not exists (select from conductor.finished_executions f where f.id = g.id)
        on conflict do nothing;
    return v_end;
end
$$;

-- Removes dynamic schedules that have no further tick, once their last tick is as long ago as completed
-- executions of their task are kept. Called by prune. Returns the number of schedules that were removed.
-- Locks: schedules (waits).
create or replace function conductor.prune_schedules() returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := conductor.now();
    v_count integer;
begin
    delete from conductor.schedules s
     using conductor.tasks t
     where t.id = s.task_id and s.dynamic and s.next_at = 'infinity' and s.former_cron is null and not s.paused
       and s.fault is null and v_now - greatest(s.last_at, s.planned_from) > t.keep_completed;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- Removes one portion of what has expired: finished executions with everything that belongs to them, slots of
-- throttled invokes, notes on replaced payloads, schedules that will not tick again, notes on data that could
-- not be read, and events. A chore of the orchestrators. Returns the number of rows of the kind of which most
-- were removed: if it is p_limit or more, there may be more to do.
-- Locks: as prune_finished, as prune_remains, throttles (if free), replacements (waits), as prune_schedules, as
--   prune_unreadable, as prune_events.
create or replace function conductor.prune(p_limit integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := conductor.now();
    v_finished integer := (select p.removed from conductor.prune_finished(p_limit, '-infinity') p);
    v_remains integer := conductor.prune_remains(p_limit);
    v_slots integer;
    v_notes integer;
    v_schedules integer;
begin
    with expired as (
        select s.task_id, s.key from conductor.throttles s
         where s.until <= conductor.now()
         order by s.until
         limit p_limit
           for update skip locked
    )
    delete from conductor.throttles s using expired e where s.task_id = e.task_id and s.key = e.key;
    get diagnostics v_slots = row_count;
    -- The ids are in the order of time, so the oldest notes come first.
    with oldest as (
        select r.id, r.replaced_at from conductor.replacements r order by r.id limit p_limit
    )
    delete from conductor.replacements r using oldest o
     where r.id = o.id and o.replaced_at < clock_timestamp() - interval '1 hour';
    get diagnostics v_notes = row_count;

    v_schedules := conductor.prune_schedules();
    return greatest(v_finished, v_remains, v_slots, v_notes, v_schedules, conductor.prune_unreadable(p_limit),
                    conductor.prune_events(p_limit));
end
$$;
