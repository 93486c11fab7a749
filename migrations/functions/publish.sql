-- Locks the names of events until the end of the transaction: exclusively to write the log, shared to begin a
-- wait. Called by emit_many, try_lock_events, suspend and wait_beside.
-- Locks: event names (by number, waits).
create or replace function conductor.lock_events(p_names text[], p_exclusive boolean) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_lock bigint;
begin
    for v_lock in
        select distinct hashtextextended('conductor.event ' || n, 0) from unnest(p_names) as n
         where n is not null
         order by 1
    loop
        if p_exclusive then
            perform pg_advisory_xact_lock(v_lock);
        else
            perform pg_advisory_xact_lock_shared(v_lock);
        end if;
    end loop;
end
$$;

-- Returns the time at which new events of these names count as emitted: now, or the time of the last event of them, if
-- a clock was set back meanwhile. Called by publish, under whose settings it runs.
-- Locks: nothing, unless a clock was far ahead. Then: events, event_fields, event_paths (waits).
create or replace function conductor.log_time(p_names text[]) returns timestamptz
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_clock constant timestamptz := conductor.now();
    v_now timestamptz := v_clock;
    v_last timestamptz;
    v_name text;
begin
    -- A clock that was set back must not change the order. A clock that was far ahead must not hold later
    -- events, whose deadlines and ends would be wrong: the events that it stamped count as emitted now.
    for v_name in select distinct n from unnest(p_names) as n loop
        -- As a range, so that only one index has this order.
        select e.emitted_at into v_last from conductor.events e
         where e.name >= v_name and e.name <= v_name
         order by e.name desc, e.emitted_at desc, e.seq desc limit 1;
        if v_last > v_clock + interval '1 minute' then
            raise warning 'conductor: events "%" were emitted at %, later than now', v_name, v_last;
            update conductor.events e set emitted_at = v_now, put_at = least(e.put_at, v_now)
             where e.name = v_name and e.emitted_at > v_clock + interval '1 minute';
            update conductor.event_fields f set emitted_at = v_now
             where f.name = v_name and f.emitted_at > v_clock + interval '1 minute';
            update conductor.event_paths p set from_at = v_now
             where p.name = v_name and p.from_at > v_clock + interval '1 minute';
            v_last := v_now;
        end if;
        v_now := greatest(v_now, v_last);
    end loop;
    return v_now;
end
$$;

-- Makes executions of the tasks that are subscribed to these events, of those with the ids p_written and the names
-- p_subscribed. Called by publish, under whose settings it runs. Returns the queues of the new executions.
-- Locks: live_executions (new rows), event_watches (waits).
create or replace function conductor.start_subscribers(
    p_ids uuid[], p_names text[], p_payloads text[], p_written uuid[], p_subscribed text[], p_now timestamptz)
returns integer[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_watched boolean;
    v_queues integer[];
begin
    v_watched := exists (select from conductor.event_watches w where w.event_id = any (p_written));
    with made as (
        insert into conductor.live_executions as l (
               id, run_at, created_at, queue_id, task_id, priority, order_key, trigger, payload, bytes)
        select conductor.uuid7(), p_now, p_now, t.queue_id, t.id, t.priority,
               conductor.order_key(t.ordered_by, g.payload::json),
               json_build_object('kind', 'event', 'name', g.name, 'event_id', g.id, 'emitted_at', p_now),
               g.payload::json, octet_length(g.payload)
          from unnest(p_ids, p_names, p_payloads) with ordinality as g(id, name, payload, n)
         cross join lateral (
               select distinct s.task_id from conductor.subscriptions s
                where s.event = g.name and conductor.matches(s.filter, conductor.as_jsonb(g.payload::json))) s
          join conductor.tasks t on t.id = s.task_id
         where g.id = any (p_written) and g.name = any (p_subscribed)
         order by g.n, t.id
        returning l.id, l.queue_id, l.trigger
    ), told as (
        update conductor.event_watches w set started = w.started || m.ids
          from (select (o.trigger->>'event_id')::uuid as event_id, array_agg(o.id) as ids
                  from made o where v_watched group by 1) m
         where w.event_id = m.event_id
    )
    select array_agg(distinct m.queue_id) into v_queues from made m;
    return v_queues;
end
$$;

-- Notes the fields of these events by which waits look for events, for the names p_names. Called by publish, under
-- whose settings it runs.
-- Locks: event_fields (inserts).
create or replace function conductor.note_event_fields(p_ids uuid[], p_names text[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    insert into conductor.event_fields (name, hash, emitted_at, seq)
    select e.name, conductor.field_hash(p.path, p.value), e.emitted_at, e.seq
      from (select o.name, o.emitted_at, o.seq, conductor.as_jsonb(o.payload) as payload from conductor.events o
             where o.id = any (p_ids) and o.name = any (p_names) offset 0) e
     cross join lateral (
           select o.path, e.payload #> o.path as value from conductor.event_paths o
            where o.name = e.name and o.ended_at is null offset 0) p
     where jsonb_typeof(p.value) in ('string', 'number', 'boolean')
        on conflict do nothing;
end
$$;

-- Writes events into the log, in this order, and makes executions of the tasks that are subscribed to them. An
-- event that is in the log already is left alone. Called by emit_many and dispatch, which hold the locks of the
-- names.
-- Locks: events (inserts), live_executions (new rows), event_watches (waits), queues.idle (if free),
--   event_fields (inserts), event_deliveries (new rows). If a clock was wrong, first: events, event_fields,
--   event_paths (waits).
create or replace function conductor.publish(
    p_ids uuid[], p_names text[], p_payloads text[], p_put_at timestamptz[] default null) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.log_time(p_names);
    v_name text;
    v_written uuid[];
    v_subscribed text[];
    v_waited text[];
    v_noted text[];
    v_queues integer[];
begin
    with written as (
        insert into conductor.events as e (id, name, payload, emitted_at, put_at)
        select g.id, g.name, g.payload::json, v_now, least(g.put_at, v_now)
          from unnest(p_ids, p_names, p_payloads, p_put_at) with ordinality as g(id, name, payload, put_at, n)
         order by g.n
            on conflict (id) do nothing
        returning e.id
    )
    select array_agg(w.id) into v_written from written w;
    if v_written is null then
        return;
    end if;
    -- An event that was sent twice may be twice in the inbox. The first one counts.
    if cardinality(v_written) < cardinality(p_ids) then
        select array_agg(o.id order by o.n), array_agg(o.name order by o.n), array_agg(o.payload order by o.n)
          into p_ids, p_names, p_payloads
          from (select distinct on (g.id) g.id, g.name, g.payload, g.n
                  from unnest(p_ids, p_names, p_payloads) with ordinality as g(id, name, payload, n)
                 where g.id = any (v_written)
                 order by g.id, g.n) o;
    end if;

    -- Which names have subscriptions, fields that are noted, or waits. The lock of the name keeps other
    -- sessions from beginning to wait meanwhile.
    for v_name in select distinct n from unnest(p_names) as n loop
        if exists (select from conductor.subscriptions s where s.event = v_name) then
            v_subscribed := v_subscribed || v_name;
        end if;
        if exists (select from conductor.event_paths p where p.name = v_name and p.ended_at is null) then
            v_noted := v_noted || v_name;
        end if;
        if exists (select from conductor.waits w where w.event_name = v_name and w.event_name <> '') then
            v_waited := v_waited || v_name;
        end if;
    end loop;
    if v_subscribed is not null then
        v_queues := conductor.start_subscribers(p_ids, p_names, p_payloads, v_written, v_subscribed, v_now);
        if v_queues is not null then
            perform conductor.wake(v_queues, false);
        end if;
    end if;

    if v_noted is not null then
        perform conductor.note_event_fields(v_written, v_noted);
    end if;

    if v_waited is not null then
        insert into conductor.event_deliveries (seq, name, event_id)
        select e.seq, e.name, e.id from conductor.events e
         where e.id = any (v_written) and e.name = any (v_waited);
    end if;
end
$$;

-- Takes the first events of these names out of the inbox, in the order in which they came: at most p_limit of
-- each name, and together at most p_bytes, but at least one (an array ends at 1 GiB). Called by emit_many and
-- dispatch, which hold the locks of the names. Returns the events, and in whole whether none of those that it
-- saw are left.
-- Locks: event_inbox (waits).
create or replace function conductor.take_inbox(
    p_names text[], p_limit integer, p_bytes bigint,
    out ids uuid[], out names text[], out payloads text[], out put_at timestamptz[], out whole boolean)
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
begin
    with first as materialized (
        select o.n, sum(o.bytes) over (order by o.n) - o.bytes as before
          from unnest(p_names) as g(name)
         cross join lateral (select b.n, b.bytes from conductor.event_inbox b
                              where b.name = g.name order by b.n limit p_limit) o
    ), taken as (
        delete from conductor.event_inbox i
         where i.n = any (array(select f.n from first f where f.before < p_bytes))
        returning i.n, i.id, i.name, i.payload, i.put_at
    )
    select array_agg(t.id order by t.n), array_agg(t.name order by t.n), array_agg(t.payload::text order by t.n),
           array_agg(t.put_at order by t.n),
           (select count(*) < p_limit and coalesce(bool_and(f.before < p_bytes), true) from first f)
      into ids, names, payloads, put_at, whole
      from taken t;
end
$$;
