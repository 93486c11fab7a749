-- Fails with CD002 if the name, the cron expression or the time zone of a schedule cannot be valid. Does not
-- parse the cron expression: workers do. Called by schedule.
create or replace function conductor.check_schedule(p_name text, p_cron text, p_timezone text) returns void
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

-- Returns how a schedule continues with a new rule. An unchanged rule keeps its next tick. A changed rule
-- counts from now on, and the ticks that the old rule owes up to now are still made, by the new setting of
-- missed. A schedule that was paused or had a fault starts again from now on. Called by schedule and
-- declare_schedules.
create or replace function conductor.changed_rule(p_was conductor.schedules, p_cron text, p_timezone text, p_now timestamptz)
returns table (next_at timestamptz, planned_from timestamptz, former_cron text, former_timezone text)
language plpgsql immutable set search_path = pg_catalog, pg_temp
as $$
begin
    if p_was.paused or p_was.fault is not null then
        return query select null::timestamptz, p_now, null::text, null::text;
    elsif (p_was.cron, p_was.timezone) = (p_cron, p_timezone) then
        return query select p_was.next_at, p_was.planned_from, p_was.former_cron, p_was.former_timezone;
    elsif p_was.former_cron is not null then
        -- Changed twice before a worker has looked: the newest rule counts from the first change.
        return query select p_was.next_at, p_was.planned_from, p_was.former_cron, p_was.former_timezone;
    elsif p_was.next_at <= p_now then
        return query select p_was.next_at, p_now, p_was.cron, p_was.timezone;
    else
        return query select null::timestamptz, p_now, null::text, null::text;
    end if;
end
$$;

-- Removes static schedules that newer code has dropped and no living process declares. Called by
-- declare_schedules, recover and stop_orchestrator.
-- Locks: the declarations of schedules (advisory, tries), schedules (waits).
create or replace function conductor.drop_retired_schedules() returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    -- Not while a program starts, which may declare one of them again. Recovery does not wait for that program.
    if exists (select from conductor.schedules s where s.retired)
       and pg_try_advisory_xact_lock(hashtextextended('conductor.declare_schedules', 0)) then
        delete from conductor.schedules s
         where s.retired
           and not exists (select from conductor.orchestrators o
                            where s.id = any (o.schedule_ids) and o.lease_until > clock_timestamp());
    end if;
end
$$;

-- Declares the static schedules of a program that starts. p_owners are the crates that the program is made of,
-- each with its package. A schedule of these crates that the program does not declare is removed when the last
-- living process that declares it ends. Returns the ids of the declared schedules, which this process may tick.
-- Locks: the declarations of schedules (advisory, waits), schedules (waits).
create or replace function conductor.declare_schedules(p_owners text[], p_schedules jsonb)
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

    -- For a changed rule, see changed_rule.
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
