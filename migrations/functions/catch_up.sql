-- Returns the waits that look into the log: of each element of p_keys that wait, or all waits of the execution for
-- p_names if it is null. anew is true if a wait looks from its beginning. Called by catch_up, which describes the
-- arguments and under whose settings it runs.
create or replace function conductor.waits_to_serve(p_executions uuid[], p_names text[], p_keys text[])
returns table (
    execution_id uuid, key text, kind text, event_name text, event_filter jsonb, event_path text[], event_hash bigint,
    seen_at timestamptz, seen_seq bigint, input integer, anew boolean, created_at timestamptz, claim integer,
    deadline timestamptz)
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select distinct on (w.execution_id, w.key)
           w.execution_id, w.key, w.kind, w.event_name, w.event_filter, w.event_path, w.event_hash,
           w.seen_at, w.seen_seq, w.input,
           g.key is null as anew, l.created_at, l.claim, coalesce(w.wake_at, 'infinity') as deadline
      from unnest(p_executions, p_keys) as g(execution_id, key)
     cross join lateral (
           -- Each wait by its key. Only without a key all waits of the execution are read.
           (select o.* from conductor.waits o
             where g.key is not null and o.execution_id = g.execution_id and o.key = g.key
               and o.event_name is not null limit 1)
           union all
           (select o.* from conductor.waits o
             where g.key is null and o.execution_id = g.execution_id and o.event_name = any (p_names)
            offset 0)) w
     cross join lateral (
           -- A repeat receives what came since the first execution was created.
           select coalesce((select f.created_at from conductor.finished_executions f where f.id = o.retry_of),
                           o.created_at) as created_at, o.claim
             from conductor.live_executions o
            where o.id = any (array[w.execution_id]) limit 1) l
     order by w.execution_id, w.key, g.key nulls first;
end
$$;

-- Ends a wait by an event: removes the wait and records the event. p_wait is a row of waits_to_serve, p_event the event
-- as catch_up reads it. Called by catch_up, which holds the execution and under whose settings it runs.
-- Locks: waits, steps (of the execution that the caller holds).
create or replace function conductor.receive_event(p_wait record, p_event record, p_now timestamptz) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    delete from conductor.waits w where w.execution_id = p_wait.execution_id and w.key = p_wait.key;
    insert into conductor.steps (
           execution_id, key, kind, value, recorded_at, ended_at, claim, event_id, event_at, event_filter,
           input)
    values (p_wait.execution_id, p_wait.key, p_wait.kind,
            json_build_object('event', p_event.id, 'emitted_at', p_event.emitted_at, 'payload', p_event.payload),
            p_now, p_event.at, p_wait.claim, p_event.id, p_event.emitted_at,
            conductor.filter_number(p_wait.event_name, p_wait.event_filter), p_wait.input)
        on conflict (execution_id, key) do nothing;
end
$$;

-- Delivers events that are in the log already to waits of these executions. A wait receives the first event of
-- its name that was emitted since the execution was created and before the deadline of the wait, that its
-- filter lets through, and that its execution has not received yet. Waits are served in the order of their
-- keys, events in their own order. Called by read_log, settle and revisit, which hold the executions; for
-- executions that are about to wait, they also hold the locks of the names, taken before.
--
-- Arguments: p_keys has one element for each element of p_executions: only this wait is served. If the element
-- or all of p_keys is null, all waits for p_names are served, from their beginning. At most p_limit events are
-- looked at in all.
--
-- Returns in budget how many of p_limit are left, and in behind the executions with waits that have not reached
-- the end of the log. They continue from there the next time.
-- Locks: waits, steps (of executions that the caller holds).
create or replace function conductor.catch_up(
    p_executions uuid[], p_names text[], p_now timestamptz, p_keys text[] default null,
    p_limit integer default 10000, out behind uuid[], out budget integer)
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_wait record;
    v_event record;
    v_from_at timestamptz;
    v_from_seq bigint;
    v_hash bigint;
    v_found boolean;
    v_of uuid;
    v_had uuid[];
    -- For each number of a filter, the time of the last event that it let through.
    v_last jsonb;
    v_left integer := p_limit;
    -- The number of events in a row that were put into the inbox after the deadline. An event that was put
    -- before it enters the log at about the same time, so the search ends after c_late such events.
    v_late integer;
    c_late constant integer := 100;
    -- The event that was looked at last.
    v_at timestamptz;
    v_seq bigint;
begin
    for v_wait in
        select w.* from conductor.waits_to_serve(p_executions, p_names, p_keys) w
    loop
        if v_of is distinct from v_wait.execution_id then
            v_of := v_wait.execution_id;
            v_had := array(
                select s.event_id from conductor.steps s where s.execution_id = v_of and s.event_id is not null);
            v_last := (
                select jsonb_object_agg(f.number, f.at)
                  from (select s.event_filter as number, max(s.event_at) as at from conductor.steps s
                         where s.execution_id = v_of and s.event_filter is not null group by s.event_filter) f);
        end if;
        -- A position that was noted while a clock was ahead does not count. Events that the execution has
        -- received are left out below.
        if v_wait.seen_at <= p_now + interval '1 minute' and not v_wait.anew then
            v_at := v_wait.seen_at;
            v_seq := v_wait.seen_seq;
        else
            -- The execution has received everything that this filter let through up to the last such event.
            v_at := greatest(
                v_wait.created_at,
                (v_last->>conductor.filter_number(v_wait.event_name, v_wait.event_filter)::text)::timestamptz);
            v_seq := -1;
            if v_at > p_now + interval '1 minute' then
                v_at := least(v_wait.created_at, p_now);
            end if;
        end if;
        v_found := false;
        v_late := 0;
        v_hash := null;
        v_from_at := null;
        v_from_seq := null;
        if v_wait.event_path is not null then
            select p.from_at, p.from_seq,
                   case when v_wait.event_hash = -1 then conductor.filter_hash(v_wait.event_filter) else v_wait.event_hash end
              into v_from_at, v_from_seq, v_hash
              from conductor.event_paths p
             where p.name = v_wait.event_name and p.path = v_wait.event_path and p.ended_at is null;
        end if;
        -- One by one, and no more than are needed.
        for v_event in
            select e.id, e.payload, e.emitted_at, e.seq,
                   -- An event that was stamped while a clock was ahead goes by its stamp alone.
                   case when e.emitted_at > p_now + interval '1 minute' then e.emitted_at
                        else coalesce(e.put_at, e.emitted_at) end as at
              from conductor.events e
             where e.name = v_wait.event_name and (e.emitted_at, e.seq) > (v_at, v_seq)
               and e.emitted_at <= coalesce(v_from_at, 'infinity')
               and e.seq <= coalesce(v_from_seq, 9223372036854775807)
             order by e.emitted_at, e.seq
        loop
            exit when v_left <= 0 or v_late >= c_late;
            if v_event.at > v_wait.deadline then
                v_late := v_late + 1;
                -- Its payload is not read, so ten such events count as one.
                v_left := v_left - case when v_late % 10 = 0 then 1 else 0 end;
                continue;
            end if;
            v_late := 0;
            v_left := v_left - 1;
            v_at := v_event.emitted_at;
            v_seq := v_event.seq;
            v_found := v_event.id <> all (v_had)
                       and (v_wait.event_filter is null
                            or conductor.matches(v_wait.event_filter, conductor.as_jsonb(v_event.payload)));
            exit when v_found;
        end loop;
        -- Events that came after the field was noted are found by the field.
        if v_hash is not null and not v_found and v_left > 0 then
            for v_event in
                select e.id, e.payload, e.emitted_at, e.seq,
                       case when e.emitted_at > p_now + interval '1 minute' then e.emitted_at
                            else coalesce(e.put_at, e.emitted_at) end as at
                  from conductor.event_fields f
                 cross join lateral (
                       select o.id, o.payload, o.emitted_at, o.put_at, o.seq from conductor.events o
                        where o.name = f.name and o.emitted_at = f.emitted_at and o.seq = f.seq limit 1) e
                 where f.name = v_wait.event_name and f.hash = v_hash
                   and (f.emitted_at, f.seq) > (v_at, v_seq)
                 order by f.emitted_at, f.seq
            loop
                exit when v_left <= 0 or v_late >= c_late;
                if v_event.at > v_wait.deadline then
                    v_late := v_late + 1;
                    v_left := v_left - case when v_late % 10 = 0 then 1 else 0 end;
                    continue;
                end if;
                v_late := 0;
                v_left := v_left - 1;
                v_at := v_event.emitted_at;
                v_seq := v_event.seq;
                v_found := v_event.id <> all (v_had)
                       and (v_wait.event_filter is null
                            or conductor.matches(v_wait.event_filter, conductor.as_jsonb(v_event.payload)));
                exit when v_found;
            end loop;
        end if;
        if v_found then
            v_had := v_had || v_event.id;
            perform conductor.receive_event(v_wait, v_event, p_now);
        elsif v_left <= 0 then
            behind := behind || v_of;
            update conductor.waits w set seen_at = v_at, seen_seq = v_seq, event_hash = -1
             where w.execution_id = v_of and w.key = v_wait.key;
        elsif v_wait.seen_at is not null then
            -- A wait whose deadline has passed keeps its position for the claim that ends it.
            update conductor.waits w
               set seen_at = case when v_wait.deadline <= p_now then v_at end,
                   seen_seq = case when v_wait.deadline <= p_now then v_seq end,
                   event_hash = case when v_wait.deadline <= p_now then -1
                                     else conductor.filter_hash(v_wait.event_filter) end
             where w.execution_id = v_of and w.key = v_wait.key;
        end if;
    end loop;
    budget := v_left;
end
$$;
