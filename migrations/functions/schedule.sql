-- Schedules: rules that invoke a task again and again. Workers parse the cron expressions and compute the ticks
-- (one implementation, which also checks expressions at compile time). The functions here decide which process
-- may tick, and make each tick happen once.
--
-- A process looks for schedules that are due, computes the next tick, and sends both. The version of the
-- schedule decides: a second process, or one with a rule that has changed meanwhile, matches no row. If next_at
-- is null, the first tick after planned_from has not been computed yet; so SQL can make schedules, too.
--
-- A static schedule belongs to the crate that declares it. If a program of this crate starts without it, the
-- row is retired, and it is removed when the last living process that declares it ends. Only such a process
-- makes its ticks. A dynamic schedule exists until it is removed.

-- Fails with CD002 if a payload could not be used when the tick comes. Called by schedule and trigger_schedule.
create or replace function conductor.check_payload(p_payload json) returns void
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

-- Makes a dynamic schedule, or replaces the one that has this name:
--     select conductor.schedule('report', 'daily', '0 9 * * *', '{"kind": "sales"}', 'Europe/Berlin');
-- An unchanged rule keeps its next tick. A paused schedule continues. Ticks that the old rule owes are still
-- made. If the cron expression cannot be parsed, the command `schedules` shows that. Public.
-- Locks: schedules (one row, inserts, waits).
create or replace function conductor.schedule(
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

-- Removes a dynamic schedule. Executions that it has started continue. Returns false if there is no such
-- schedule. Public.
-- Locks: schedules (one row, waits).
create or replace function conductor.unschedule(task text, name text) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    delete from conductor.schedules s
     using conductor.tasks t
     where t.id = s.task_id and t.name = unschedule.task and s.name = unschedule.name and s.dynamic;
    return found;
end
$$;

-- Stops the ticks of a schedule, static or dynamic, until it is resumed. Returns false if there is no such
-- schedule. Public.
-- Locks: schedules (the rows of this name, waits).
create or replace function conductor.pause_schedule(task text, name text) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    update conductor.schedules s set paused = true, version = s.version + 1
      from conductor.tasks t
     where t.id = s.task_id and t.name = pause_schedule.task and s.name = pause_schedule.name;
    return found;
end
$$;

-- Resumes a paused schedule from now on: the ticks in between do not count as missed. Returns false if there is
-- no such schedule. Public.
-- Locks: schedules (the rows of this name, waits).
create or replace function conductor.resume_schedule(task text, name text) returns boolean
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
