-- Returns the different names of these events. Fails with CD002 if one of them cannot be stored, or could not be read by
-- filters or programs. Called by emit_many.
create or replace function conductor.checked_names(p_ids uuid[], p_names text[], p_payloads text[]) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    v_name text;
    v_fault text;
begin
    if cardinality(p_names) is distinct from cardinality(p_ids)
       or cardinality(p_payloads) is distinct from cardinality(p_ids) or array_position(p_ids, null) is not null then
        raise exception 'the arrays of emit_many have different lengths, or an id is null: each has one element an event'
            using errcode = 'CD002';
    end if;
    for v_name in select distinct n from unnest(p_names) as n loop
        if v_name is null or octet_length(v_name) not between 1 and 100 then
            raise exception 'the name of an event has 1 to 100 bytes' using errcode = 'CD002';
        elsif starts_with(v_name, 'conductor:') then
            raise exception 'names of events that begin with "conductor:" are those of row changes'
                using errcode = 'CD002';
        end if;
    end loop;
    -- What filters or programs could not read is refused here, and not when it is dispatched.
    for v_name, v_fault in
        select g.name, case when j.payload is null then conductor.json_fault(g.payload::json) end
          -- A short payload without escapes and exponents is neither too deep nor unreadable.
          from (select o.name, o.payload from unnest(p_names, p_payloads) as o(name, payload)
                 where o.payload is null or octet_length(o.payload) > 240 or strpos(o.payload, E'\\u') > 0
                    or o.payload ~ '[eE][-+]?[0-9]{5}' offset 0) g
         -- With `offset 0` the value is computed once, and not at each place that names it.
         cross join lateral (select conductor.as_jsonb(g.payload::json) as payload offset 0) j
         where octet_length(g.payload) > 16 * 1024 * 1024 or j.payload is null
            or jsonb_path_exists(j.payload, 'strict $.**{120} ? (@.type() == "array" || @.type() == "object")')
    loop
        if v_fault is not null then
            raise exception 'Postgres cannot read the payload of event "%": %', v_name, v_fault using errcode = 'CD002';
        end if;
        raise exception 'the payload of event "%" is null, nests more than 120 levels deep or has more than 16 MiB', v_name
              using errcode = 'CD002', hint = 'Store the data elsewhere and emit a reference.';
    end loop;
    return array(select distinct n from unnest(p_names) as n);
end
$$;

-- Emits events. In a user's transaction (p_in_transaction) they are put into the inbox without a lock, and
-- enter the log after the commit, when an orchestrator dispatches them. Otherwise they are usually in the log
-- when this returns. An event that is sent again is emitted once, because the client makes its id. Called by
-- clients, handlers and emit. Fails with CD002 if an event cannot be stored.
-- Locks: event names (exclusive; tries them by number, and waits from the first one on that is not free), as
--   take_inbox, as publish, as deliver; or only event_inbox (new rows).
create or replace function conductor.emit_many(p_ids uuid[], p_names text[], p_payloads text[], p_in_transaction boolean)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_names text[] := conductor.checked_names(p_ids, p_names, p_payloads);
    v_name text;
    v_left boolean := false;
    v_lock bigint;
    v_later boolean;
    v_earlier record;
begin
    -- If many events have gathered while no orchestrator ran, this call does not have to work them off. It also
    -- does not wait long for a lock. In both cases the events go to the inbox.
    v_later := p_in_transaction or exists (
        select from unnest(v_names) as g(name)
         where (select count(*) > 500 or sum(i.bytes) > 16 * 1024 * 1024
                  from (select b.bytes from conductor.event_inbox b where b.name = g.name order by b.n limit 501) i));
    if not v_later then
        foreach v_lock in array array(
            select distinct hashtextextended('conductor.event ' || n, 0) from unnest(v_names) as n order by 1)
        loop
            continue when pg_try_advisory_xact_lock(v_lock);
            begin
                perform conductor.lock_events(v_names, true);
            exception when lock_not_available then
                v_later := true;
            end;
            exit;
        end loop;
    end if;
    -- Events that committed earlier come first.
    if not v_later and exists (select from conductor.event_inbox i where i.name = any (v_names)) then
        select t.ids, t.names, t.payloads, t.put_at, t.whole into v_earlier
          from conductor.take_inbox(v_names, 500, 16 * 1024 * 1024) t;
        if v_earlier.ids is not null then
            perform conductor.publish(v_earlier.ids, v_earlier.names, v_earlier.payloads, v_earlier.put_at);
        end if;
        -- Events that commit meanwhile may come later.
        v_later := not v_earlier.whole;
    end if;
    if v_later then
        insert into conductor.event_inbox (id, name, payload, put_at)
        select g.id, g.name, g.payload::json, conductor.now()
          from unnest(p_ids, p_names, p_payloads) with ordinality as g(id, name, payload, n)
         order by g.n;
        if not p_in_transaction or conductor.may_notify() then
            perform pg_notify('conductor', 'events:');
        end if;
        return;
    end if;
    perform conductor.publish(p_ids, p_names, p_payloads);
    foreach v_name in array v_names loop
        v_left := not conductor.deliver(v_name, 500) or v_left;
    end loop;
    if v_left then
        perform pg_notify('conductor', 'events:');
    end if;
end
$$;

-- Emits an event, and returns its id. For psql, triggers and other languages:
--     select conductor.emit('user_signed_up', '{"user_id": 7}');
-- The event is in the inbox from the commit on, and counts as emitted when an orchestrator has dispatched it.
-- Public.
-- Locks: event_inbox (new row).
create or replace function conductor.emit(event text, payload jsonb default '{}') returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_id uuid := conductor.uuid7();
begin
    perform conductor.emit_many(array[v_id], array[event], array[coalesce(payload, 'null')::text], true);
    return v_id;
end
$$;

-- Notes the fields that these waits ask for: from now on, events are found by them. Called by read_log,
-- which holds the locks of the names, shared, so that no event comes in between.
-- Locks: event_paths (inserts, waits, by name and path).
create or replace function conductor.note_event_paths(p_executions uuid[], p_keys text[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
begin
    insert into conductor.event_paths as p (name, path, from_at, from_seq, used_at)
    select d.event_name, d.path, coalesce(e.emitted_at, '-infinity'), coalesce(e.seq, 0), v_now
      from (select distinct w.event_name, w.event_path as path
              from unnest(p_executions, p_keys) as g(execution_id, key)
             cross join lateral (
                   select o.event_name, o.event_path from conductor.waits o
                    where o.execution_id = g.execution_id and o.key = g.key and o.event_path is not null
                    limit 1) w) d
      left join lateral (
           select o.emitted_at, o.seq from conductor.events o
            where o.name = d.event_name order by o.emitted_at desc, o.seq desc limit 1) e on true
     where (select true from conductor.event_paths o
             where o.name = d.event_name and o.path = d.path and o.ended_at is null
               and o.used_at > v_now - interval '1 hour' limit 1) is null
     order by 1, 2
        on conflict (name, path) do update
       set used_at = v_now, ended_at = null,
           from_at = case when p.ended_at is null then p.from_at else excluded.from_at end,
           from_seq = case when p.ended_at is null then p.from_seq else excluded.from_seq end;
end
$$;
