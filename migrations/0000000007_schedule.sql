-- Schedules: rules that invoke a task again and again. The arithmetic on cron rules is the workers'
-- (one implementation, checked by the compiler too); here is who may tick, and that each tick
-- happens once.
--
-- A worker looks for schedules that are due, computes the tick after, and brings both here. The
-- version decides: whoever comes second, or with a rule that has been changed meanwhile, matches no
-- row. A schedule whose next_at is null waits for a worker to compute its first tick after
-- planned_from; so SQL can make schedules too.
--
-- Static schedules belong to the crate that declares them: a row is retired when a program that is
-- made of this crate starts without it, and goes with the last living process that declares it; only
-- such a process ticks it. Dynamic ones live until somebody removes them.

set local search_path = pg_catalog, pg_temp;

-- Whether a rule's words make sense; the rule itself is the workers' to read.
create function conductor.check_schedule(p_name text, p_cron text, p_timezone text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if p_name is null or octet_length(p_name) not between 1 and 200 then
        raise exception 'the name of a schedule has 1 to 200 bytes' using errcode = 'CD002';
    end if;
    if p_name ~ '[\u0001-\u001f\u007f-\u009f]' then
        raise exception 'the name of a schedule has no control characters' using errcode = 'CD002';
    end if;
    if p_cron is null or octet_length(p_cron) not between 1 and 500 then
        raise exception 'a cron rule has 1 to 500 bytes' using errcode = 'CD002';
    end if;
    if not exists (select from pg_timezone_names z where z.name = p_timezone) then
        raise exception 'unknown time zone "%"', p_timezone using errcode = 'CD002',
            hint = 'Write a name such as UTC or Europe/Berlin.';
    end if;
end
$$;

-- Where a schedule stands once it has this rule. The same one keeps its beat. Another one counts
-- from now on; what the old one owes up to now is still to be settled, by the new words on missed
-- ticks. One that rested begins anew.
create function conductor.changed_rule(p_was conductor.schedules, p_cron text, p_timezone text, p_now timestamptz)
returns table (next_at timestamptz, planned_from timestamptz, former_cron text, former_timezone text)
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
    if p_was.paused or p_was.fault is not null then
        return query select null::timestamptz, p_now, null::text, null::text;
    elsif (p_was.cron, p_was.timezone) = (p_cron, p_timezone) then
        return query select p_was.next_at, p_was.planned_from, p_was.former_cron, p_was.former_timezone;
    elsif p_was.former_cron is not null then
        -- Changed twice before any worker has looked: the newest rule counts from the first change.
        return query select p_was.next_at, p_was.planned_from, p_was.former_cron, p_was.former_timezone;
    elsif p_was.next_at <= p_now then
        return query select p_was.next_at, p_now, p_was.cron, p_was.timezone;
    else
        return query select null::timestamptz, p_now, null::text, null::text;
    end if;
end
$$;

-- Takes away the static schedules that newer code has dropped and no living process declares.
create function conductor.drop_retired_schedules() returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    -- Not while a program that starts declares one of them again; recovery does not wait for it.
    if exists (select from conductor.schedules s where s.retired)
       and pg_try_advisory_xact_lock(hashtextextended('conductor.declare_schedules', 0)) then
        delete from conductor.schedules s
         where s.retired
           and not exists (select from conductor.orchestrators o
                            where s.id = any (o.schedule_ids) and o.lease_until > clock_timestamp());
    end if;
end
$$;

-- What a program's code declares, at its start. p_owners are the crates that it is made of, each
-- with its package. Static schedules of these crates that the program does not declare go with the
-- last living process that does. Gives the ids of what it may tick.
create function conductor.declare_schedules(p_owners text[], p_schedules jsonb)
returns table (id bigint, task text, name text)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := conductor.now();
begin
    -- Programs that start at the same time declare one after the other.
    perform conductor.wait_for_lock(hashtextextended('conductor.declare_schedules', 0), false, 'the lock of the declarations of schedules');
    update conductor.schedules s set retired = true
      from conductor.tasks t
     where t.id = s.task_id and not s.dynamic and not s.retired and s.owner = any (p_owners)
       and not exists (select from jsonb_to_recordset(p_schedules) as d(task text, name text)
                        where d.task = t.name and d.name = s.name);
    perform conductor.drop_retired_schedules();

    -- A changed rule: see conductor.schedule.
    insert into conductor.schedules as s (
           task_id, name, dynamic, owner, cron, timezone, missed, overlap, planned_from)
    select t.id, d.name, false, d.owner, d.cron, d.timezone, d.missed, d.overlap, v_now
      from jsonb_to_recordset(p_schedules) as d(
           task text, name text, owner text, cron text, timezone text, missed text, overlap text)
      join conductor.tasks t on t.name = d.task
     order by t.id, d.name
        on conflict on constraint schedules_name do update
       set owner = excluded.owner, cron = excluded.cron, timezone = excluded.timezone,
           missed = excluded.missed, overlap = excluded.overlap, version = s.version + 1, fault = null,
           retired = false,
           (next_at, planned_from, former_cron, former_timezone) = (
               select r.next_at, r.planned_from, r.former_cron, r.former_timezone
                 from conductor.changed_rule(s, excluded.cron, excluded.timezone, v_now) r)
     where (s.owner, s.cron, s.timezone, s.missed, s.overlap)
           is distinct from
           (excluded.owner, excluded.cron, excluded.timezone, excluded.missed, excluded.overlap)
        or s.fault is not null or s.retired;

    return query
    select s.id, t.name, s.name
      from jsonb_to_recordset(p_schedules) as d(task text, name text)
      join conductor.tasks t on t.name = d.task
      join conductor.schedules s on s.task_id = t.id and s.name = d.name and not s.dynamic;
end
$$;

-- Refuses a payload that would be of no use when the tick comes.
create function conductor.check_payload(p_payload json) returns void
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
declare
    v_fault text := conductor.json_fault(p_payload);
begin
    if v_fault is not null then
        raise exception 'Postgres cannot read the payload: %', v_fault using errcode = 'CD002';
    elsif octet_length(p_payload::text) > 16777216 then
        raise exception 'the payload has more than 16 MiB' using errcode = 'CD002',
            hint = 'Store the data elsewhere and pass a reference.';
    elsif jsonb_path_exists(p_payload::jsonb, 'strict $.**{120} ? (@.type() == "array" || @.type() == "object")') then
        raise exception 'the payload nests more than 120 levels deep' using errcode = 'CD002';
    end if;
end
$$;

-- Makes a dynamic schedule, or replaces the one of that name:
--     select conductor.schedule('report', 'daily', '0 9 * * *', '{"kind": "sales"}', 'Europe/Berlin');
-- An unchanged rule keeps its beat; a paused one goes on. Ticks that the old rule owes are not lost
-- with it. A rule that cannot be read is shown by the command schedules.
create function conductor.schedule(
    task text, name text, cron text, payload json default 'null', timezone text default 'UTC',
    missed text default 'once', overlap text default 'allow') returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := conductor.now();
    v_task integer;
begin
    perform conductor.check_schedule(name, cron, timezone);
    if missed not in ('skip', 'once', 'all') or missed is null then
        raise exception 'missed is skip, once or all, not "%"', missed using errcode = 'CD002';
    end if;
    if overlap not in ('allow', 'skip') or overlap is null then
        raise exception 'overlap is allow or skip, not "%"', overlap using errcode = 'CD002';
    end if;
    perform conductor.check_payload(payload);
    select t.id into v_task from conductor.tasks t where t.name = schedule.task;
    if not found then
        raise exception 'unknown task "%"', task using errcode = 'CD001';
    end if;
    insert into conductor.schedules as s (
           task_id, name, dynamic, owner, cron, timezone, missed, overlap, payload, planned_from)
    values (v_task, schedule.name, true, '', schedule.cron, schedule.timezone, schedule.missed,
            schedule.overlap, coalesce(schedule.payload, 'null'), v_now)
        on conflict on constraint schedules_name do update
       set cron = excluded.cron, timezone = excluded.timezone, missed = excluded.missed,
           overlap = excluded.overlap, payload = excluded.payload, version = s.version + 1,
           fault = null, paused = false,
           (next_at, planned_from, former_cron, former_timezone) = (
               select r.next_at, r.planned_from, r.former_cron, r.former_timezone
                 from conductor.changed_rule(s, excluded.cron, excluded.timezone, v_now) r);
    perform pg_notify('conductor', 'schedules:') where conductor.may_notify();
end
$$;

-- Removes a dynamic schedule; what it has started goes on. False where there is none.
create function conductor.unschedule(task text, name text) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    delete from conductor.schedules s
     using conductor.tasks t
     where t.id = s.task_id and t.name = unschedule.task and s.name = unschedule.name and s.dynamic;
    return found;
end
$$;

-- Stops the ticks of a schedule, static or dynamic, until it is resumed; false where there is none.
create function conductor.pause_schedule(task text, name text) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    update conductor.schedules s set paused = true, version = s.version + 1
      from conductor.tasks t
     where t.id = s.task_id and t.name = pause_schedule.task and s.name = pause_schedule.name;
    return found;
end
$$;

-- Lets a paused schedule tick again, from now on: what it did not do meanwhile was not missed.
create function conductor.resume_schedule(task text, name text) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := conductor.now();
begin
    update conductor.schedules s
       set paused = false, version = s.version + 1,
           planned_from = case when s.paused then v_now else s.planned_from end,
           next_at = case when not s.paused then s.next_at end,
           former_cron = case when not s.paused then s.former_cron end,
           former_timezone = case when not s.paused then s.former_timezone end
      from conductor.tasks t
     where t.id = s.task_id and t.name = resume_schedule.task and s.name = resume_schedule.name;
    if found then
        perform pg_notify('conductor', 'schedules:') where conductor.may_notify();
        return true;
    end if;
    return false;
end
$$;

-- Invokes now what the schedule would invoke, beside its ticks; the execution's id, or null where
-- there is no such schedule. A payload that the code computes is the code's to give, with the time
-- that it was computed for.
create function conductor.trigger_schedule(
    task text, name text, payload json default null, scheduled_at timestamptz default null) returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := conductor.now();
    v_id uuid := conductor.uuid7();
    v_queue integer;
    v_payload json;
    v_found record;
begin
    select s.id, s.task_id, s.name, s.dynamic, s.payload into v_found
      from conductor.schedules s
      join conductor.tasks t on t.id = s.task_id
     where t.name = trigger_schedule.task and s.name = trigger_schedule.name
     order by s.dynamic desc limit 1;
    if not found then
        return null;
    end if;
    perform conductor.check_payload(trigger_schedule.payload);
    if scheduled_at not between '0001-01-01 00:00:00+00' and '9999-12-31 23:59:59.999999+00' then
        raise exception 'scheduled_at % lies outside the years 1 to 9999', scheduled_at using errcode = 'CD002';
    end if;
    v_payload := coalesce(trigger_schedule.payload, v_found.payload);
    if v_payload is null then
        raise exception 'the payload of schedule "%" of task "%" is computed by its program', name, task
            using errcode = 'CD002', hint = 'Give a payload, or use the program''s own command line.';
    end if;
    insert into conductor.live_executions as l (
           id, run_at, created_at, queue_id, task_id, priority, order_key, payload, bytes, trigger)
    select v_id, v_now, v_now, t.queue_id, t.id, t.priority, conductor.order_key(t.ordered_by, v_payload), v_payload, octet_length(v_payload::text),
           json_build_object('kind', 'schedule', 'name', v_found.name,
                             'scheduled_at', coalesce(trigger_schedule.scheduled_at, v_now))
      from conductor.tasks t where t.id = v_found.task_id
    returning l.queue_id into v_queue;
    perform conductor.wake(array[v_queue], true);
    return v_id;
end
$$;

-- The schedules that are due or whose next tick is not known, of those that this worker may tick;
-- and, in a row without id, the time, how far tests have moved it, how long until the next one is due,
-- and whether ticks wait for one another.
create function conductor.due_schedules(p_static bigint[], p_limit integer)
returns table (
    id bigint, version bigint, task text, name text, cron text, timezone text, former_cron text,
    former_timezone text, missed text, payload text, next_at timestamptz, planned_from timestamptz, now timestamptz,
    shift_ms bigint, next_due_ms bigint, queued boolean)
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_next timestamptz;
begin
    return query
    select s.id, s.version, t.name, s.name, s.cron, s.timezone, s.former_cron, s.former_timezone,
           s.missed, s.payload::text, s.next_at, s.planned_from, v_now, null::bigint, null::bigint,
           null::boolean
      from (
            (select d.* from conductor.schedules d
              where not d.paused and d.fault is null and d.next_at is null
                and (d.dynamic or d.id = any (p_static))
              limit p_limit)
            union all
            (select d.* from conductor.schedules d
              where not d.paused and d.fault is null and d.next_at <= v_now
                and (d.dynamic or d.id = any (p_static))
              order by d.next_at
              limit p_limit)) s
      join conductor.tasks t on t.id = s.task_id;
    select s.next_at into v_next from conductor.schedules s
     where not s.paused and s.fault is null and s.next_at > v_now and s.next_at < 'infinity'
       and (s.dynamic or s.id = any (p_static))
     order by s.next_at limit 1;
    return query
    select null::bigint, null::bigint, null::text, null::text, null::text, null::text, null::text, null::text,
           null::text, null::text, null::timestamptz, null::timestamptz, v_now,
           (select floor(extract(epoch from c.shift) * 1000)::bigint from conductor.clock c where c.only_row),
           ceil(extract(epoch from v_next - v_now) * 1000)::bigint,
           exists (select from conductor.queued_ticks);
end
$$;

-- Schedules by their next ticks, the furthest first, before a time (null: from the furthest on): whoever can
-- read the rules sees whether that is the next tick.
create function conductor.far_schedules(p_before timestamptz, p_limit integer)
returns table (id bigint, version bigint, task text, name text, cron text, timezone text, next_at timestamptz, now timestamptz)
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
begin
    return query
    select s.id, s.version, t.name, s.name, s.cron, s.timezone, s.next_at, v_now
      from (select d.* from conductor.schedules d
             where not d.paused and d.fault is null
               and d.next_at > v_now and d.next_at < coalesce(p_before, 'infinity')
             order by d.next_at desc
             limit p_limit) s
      join conductor.tasks t on t.id = s.task_id
     order by s.next_at desc;
end
$$;

-- Lets schedules begin anew from now on whose next tick lies further ahead than it can, as a clock was wrong;
-- how many.
create function conductor.replan(p_ids bigint[], p_versions bigint[]) returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_count integer;
begin
    update conductor.schedules s
       set next_at = null, planned_from = conductor.now(), former_cron = null, former_timezone = null,
           version = s.version + 1
      from (select k.id from conductor.schedules k
              join unnest(p_ids, p_versions) as g(id, version) on g.id = k.id and g.version = k.version
             where k.next_at > conductor.now()
             order by k.id for no key update of k skip locked) far
     where s.id = far.id;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- The first of each queue of ticks.
create function conductor.first_ticks() returns setof conductor.queued_ticks
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_first conductor.queued_ticks;
begin
    loop
        select q.* into v_first from conductor.queued_ticks q
         where q.schedule_id > coalesce(v_first.schedule_id, 0)
         order by q.schedule_id, q.number limit 1;
        exit when not found;
        return next v_first;
    end loop;
end
$$;

-- Takes what has ended from the heads of the queues of ticks, and makes due what is first then; how many
-- were made due. A queue whose head somebody else has locked is left to him.
create function conductor.release_ticks() returns integer
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

-- Ticks: moves schedules on, and makes the executions of the ticks that are due. One whose version
-- is not what the worker saw is left to whoever changed it. Without a next time (null) it has had
-- its last tick; a fault says why its rule cannot be read. A payload that the code could not make
-- (null) is asked of it again when the execution runs. Of schedules that miss none and do not overlap, ticks that
-- come late, or several at once, were missed: they are queued behind one another and behind the last
-- execution. How many schedules were moved on.
create function conductor.tick(
    p_ids bigint[], p_versions bigint[], p_next timestamptz[], p_faults text[],
    p_schedules bigint[], p_executions uuid[], p_at timestamptz[], p_payloads text[]) returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_won bigint[];
    v_busy bigint[];
    v_queues integer[];
begin
    -- In one order, as several workers tick at the same moments; who has the lock has the tick.
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
           -- Done with once the next tick is of the rule that has replaced it.
           former_cron = case when g.next_at <= s.planned_from then s.former_cron end,
           former_timezone = case when g.next_at <= s.planned_from then s.former_timezone end
      from unnest(p_ids, p_next, p_faults) as g(id, next_at, fault)
     where g.id = s.id and s.id = any (v_won);

    -- Those that must not overlap, and of which something has not ended.
    v_busy := array(
        select s.id from conductor.schedules s
         where s.id = any (v_won) and s.overlap = 'skip'
           and (exists (select from conductor.live_executions l where l.id = s.last_execution)
                or exists (select from conductor.queued_ticks q
                            where q.schedule_id = s.id
                              and (select true from conductor.live_executions l where l.id = q.execution_id limit 1))));
    with ticks as (
        select k.*, k.queues and (k.from_first > 1 or k.schedule = any (v_busy)) as waits
          from (select g.schedule, g.execution, g.at, g.payload, s.task_id, s.name, s.overlap,
                       row_number() over (partition by g.schedule order by g.at) as from_first,
                       row_number() over (partition by g.schedule order by g.at desc) as from_last,
                       -- Punctual is as in conductor_schedule::Due.
                       s.missed = 'all' and s.overlap = 'skip'
                           and (g.at < v_now - interval '5 s' or count(*) over (partition by g.schedule) > 1) as queues
                  from unnest(p_schedules, p_executions, p_at, p_payloads) as g(schedule, execution, at, payload)
                  join conductor.schedules s on s.id = g.schedule
                 where s.id = any (v_won)) k
         where k.queues or k.schedule <> all (v_busy)
    ), made as (
        insert into conductor.live_executions as l (
               id, run_at, created_at, queue_id, task_id, priority, order_key, payload, bytes, trigger)
        select k.execution, case when k.waits then 'infinity' else k.at end, v_now, t.queue_id, t.id, t.priority,
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
        -- Behind what was made before, should it not have ended and not be queued.
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
    if v_queues is not null then
        perform conductor.wake(v_queues, false);
    end if;
    return cardinality(v_won);
end
$$;

revoke execute on all functions in schema conductor from public;
