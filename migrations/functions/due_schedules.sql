-- Returns the schedules that are due and those whose next tick is not known, at most p_limit of each, of those
-- that this process may tick: the dynamic ones, and the static ones in p_static. Also returns one row without
-- id, which has the time, how far tests have moved the clock, how long until the next schedule is due, and
-- whether ticks are queued behind one another. Called by orchestrators.
create or replace function conductor.due_schedules(p_static bigint[], p_limit integer)
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

-- Returns the schedules by their next ticks, the furthest first: at most p_limit, before p_before (null: from
-- the furthest on). Called by orchestrators, which parse the rules and so find next ticks that are too far
-- ahead.
create or replace function conductor.far_schedules(p_before timestamptz, p_limit integer)
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

-- Plans schedules again, from now on, because their next tick lies further ahead than their rule allows: a
-- clock was wrong. Schedules whose version has changed are left alone. Called by orchestrators. Returns the
-- number of schedules that were changed.
-- Locks: schedules (if free, by id).
create or replace function conductor.replan(p_ids bigint[], p_versions bigint[]) returns integer
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

-- Returns the first tick of each queue of ticks. Called by release_ticks and has_work.
create or replace function conductor.first_ticks() returns setof conductor.queued_ticks
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
