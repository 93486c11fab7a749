-- Removes ticks whose executions have ended from the heads of the queues of ticks, and makes those due that are
-- first then. A queue whose head another session has locked is left to that session. Called by orchestrators.
-- Returns the number of executions that were made due.
-- Locks: for each queue: queued_ticks (if free), live_executions (if free), queues.idle (if free).
create or replace function conductor.release_ticks() returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_count integer := 0;
    v_queue integer;
    v_first conductor.queued_ticks;
begin
    for v_first in select f.* from conductor.first_ticks() f loop
        loop
            perform from conductor.queued_ticks q
              where q.schedule_id = v_first.schedule_id and q.number = v_first.number for update skip locked;
            exit when not found;
            if exists (select from conductor.live_executions l where l.id = v_first.execution_id) then
                update conductor.live_executions l set run_at = v_first.at
                 where l.id = (select k.id from conductor.live_executions k
                                where k.id = v_first.execution_id and k.state = 'pending' and k.run_at = 'infinity'
                                  for no key update skip locked)
                returning l.queue_id into v_queue;
                if found then
                    v_count := v_count + 1;
                    perform conductor.wake(array[v_queue], false);
                end if;
                exit;
            end if;
            delete from conductor.queued_ticks q
             where q.schedule_id = v_first.schedule_id and q.number = v_first.number;
            select q.* into v_first from conductor.queued_ticks q
             where q.schedule_id = v_first.schedule_id
             order by q.number limit 1;
            exit when not found;
        end loop;
    end loop;
    return v_count;
end
$$;

-- Makes the executions of these ticks, of the schedules p_won, and queues those that must not overlap another one.
-- Notes the last tick of each schedule. Called by tick, which has locked the schedules and under whose settings it
-- runs. Returns the queues of the new executions.
-- Locks: live_executions (new rows), queued_ticks (inserts).
create or replace function conductor.make_ticks(
    p_won bigint[], p_schedules bigint[], p_executions uuid[], p_at timestamptz[], p_payloads text[], p_now timestamptz)
returns integer[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_busy bigint[];
    v_queues integer[];
begin
    -- Schedules that must not overlap, and of which an execution has not ended.
    v_busy := array(
        select s.id from conductor.schedules s
         where s.id = any (p_won) and s.overlap = 'skip'
           and (exists (select from conductor.live_executions l where l.id = s.last_execution)
                or exists (select from conductor.queued_ticks q
                            where q.schedule_id = s.id
                              and (select true from conductor.live_executions l where l.id = q.execution_id limit 1))));
    with ticks as (
        select k.*, k.queues and (k.from_first > 1 or k.schedule = any (v_busy)) as waits
          from (select g.schedule, g.execution, g.at, g.payload, s.task_id, s.name, s.overlap,
                       row_number() over (partition by g.schedule order by g.at) as from_first,
                       row_number() over (partition by g.schedule order by g.at desc) as from_last,
                       -- Late as in conductor_schedule::Due.
                       s.missed = 'all' and s.overlap = 'skip'
                           and (g.at < p_now - interval '5 s' or count(*) over (partition by g.schedule) > 1) as queues
                  from unnest(p_schedules, p_executions, p_at, p_payloads) as g(schedule, execution, at, payload)
                  join conductor.schedules s on s.id = g.schedule
                 where s.id = any (p_won)) k
         where k.queues or k.schedule <> all (v_busy)
    ), made as (
        insert into conductor.live_executions as l (
               id, run_at, created_at, queue_id, task_id, priority, order_key, payload, bytes, trigger)
        select k.execution, case when k.waits then 'infinity' else k.at end, p_now, t.queue_id, t.id, t.priority,
               conductor.order_key(t.ordered_by, coalesce(k.payload::json, 'null')),
               coalesce(k.payload::json, 'null'), octet_length(coalesce(k.payload, 'null')),
               json_strip_nulls(json_build_object(
                   'kind', 'schedule', 'name', k.name, 'scheduled_at', k.at,
                   'unmade', case when k.payload is null then true end))
          from ticks k
          join conductor.tasks t on t.id = k.task_id
         where k.overlap = 'allow' or k.queues or k.from_last = 1
         order by k.at, k.execution
        returning l.id, l.queue_id
    ), queued as (
        -- Behind the last execution, if it has not ended and is not in the queue.
        insert into conductor.queued_ticks as q (schedule_id, execution_id, at)
        select k.schedule, k.execution, k.at
          from (select o.schedule, o.execution, o.at, o.from_first from ticks o
                 where o.waits or o.from_first <> o.from_last and o.queues
                union all
                select s.id, s.last_execution, s.last_at, 0 from conductor.schedules s
                 where s.id = any (v_busy) and s.last_execution is not null
                   and exists (select from ticks o where o.schedule = s.id and o.queues)
                   and not exists (select from conductor.queued_ticks w
                                    where w.schedule_id = s.id and w.execution_id = s.last_execution)) k
         order by k.schedule, k.from_first
            on conflict do nothing
    ), noted as (
        update conductor.schedules s set last_at = k.at, last_execution = k.execution
          from ticks k
         where k.schedule = s.id and k.from_last = 1
    )
    select array_agg(distinct m.queue_id) into v_queues from made m;
    return v_queues;
end
$$;

-- Makes the executions of the ticks that are due, and moves the schedules on. Called by orchestrators, which
-- have computed the ticks. Returns the number of schedules that were moved on.
--
-- Arguments: the first four arrays have one element for each schedule, the others one for each tick. A schedule
-- whose version has changed is left alone. If its next time is null, it has had its last tick. A fault is the
-- reason why its rule cannot be parsed. If a payload is null, the code could not make it, and is asked again
-- when the execution runs.
--
-- If a schedule misses no tick and must not overlap (missed = all, overlap = skip), ticks that come late, or
-- several at once, count as missed: they are queued behind one another and behind the last execution.
-- Locks: schedules (if free, by id), live_executions (new rows), queued_ticks (inserts), queues.idle (if free).
create or replace function conductor.tick(
    p_ids bigint[], p_versions bigint[], p_next timestamptz[], p_faults text[],
    p_schedules bigint[], p_executions uuid[], p_at timestamptz[], p_payloads text[]) returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_won bigint[];
    v_queues integer[];
begin
    -- In one order, because several processes tick at the same moments. The one that has the lock makes the
    -- tick.
    v_won := array(
        select s.id from conductor.schedules s
          join unnest(p_ids, p_versions) as g(id, version) on g.id = s.id and g.version = s.version
         where not s.paused
         order by s.id
           for no key update of s skip locked);
    if cardinality(v_won) = 0 then
        return 0;
    end if;
    update conductor.schedules s
       set version = s.version + 1, next_at = coalesce(g.next_at, 'infinity'), fault = g.fault,
           -- Not needed once the next tick follows the new rule.
           former_cron = case when g.next_at <= s.planned_from then s.former_cron end,
           former_timezone = case when g.next_at <= s.planned_from then s.former_timezone end
      from unnest(p_ids, p_next, p_faults) as g(id, next_at, fault)
     where g.id = s.id and s.id = any (v_won);
    v_queues := conductor.make_ticks(v_won, p_schedules, p_executions, p_at, p_payloads, v_now);
    if v_queues is not null then
        perform conductor.wake(v_queues, false);
    end if;
    return cardinality(v_won);
end
$$;
