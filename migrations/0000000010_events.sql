-- Events: facts that start executions and end waits.
--
-- The log is the truth. An event enters it under the lock of its name, which orders all events of one
-- name, and with it the executions of the tasks that are subscribed. Whoever is about to wait takes the
-- same lock, shared, and then looks into the log in a statement of its own: so an event and a wait
-- cannot miss one another. The lock is held by short transactions alone. What is emitted in a
-- transaction of the user's lies in the inbox until it commits, and is brought into the log
-- (conductor.dispatch) by whichever orchestrator hears of it: an event counts as emitted from then on, but for the
-- deadlines of waits, which go by when it was put there.
--
-- Waits that are there already are ended in portions. A row in event_deliveries says which event has
-- waits that nobody has looked at yet, and how far it has come; the next event of the name comes after.
-- An execution has an event once, for the first of its waits, in the order of keys, that wants it.
-- A wait for one value of a field is found by a hash of both, so that an event looks at those which it
-- may end, and not at all that wait for its name.
--
-- Locks are taken in this order: names by number, executions by id, waits. Whoever hands out events waits
-- for no execution: the lock of a name would be held as long as somebody's open transaction.

set local search_path = pg_catalog, pg_temp;

create table conductor.events (
    id uuid primary key,
    -- The order in which events of one name were emitted.
    seq bigint not null generated always as identity,
    name text collate "C" not null,
    payload json not null,
    -- When it came into the log. Never less than that of the event before of this name.
    emitted_at timestamptz not null,
    -- When it was put into the inbox, by which a wait's deadline counts; null where it came into the log at once.
    put_at timestamptz
);

create index events_name on conductor.events (name, emitted_at, seq);
-- In the order of time, for those who look at the last ones and for the pruner.
create index events_emitted on conductor.events (emitted_at, seq);

-- Emitted in transactions that have committed, and not in the log yet.
create table conductor.event_inbox (
    n bigint primary key generated always as identity,
    id uuid not null,
    name text collate "C" not null,
    payload json not null,
    -- When emit was called, or the row was changed. Null: when it comes into the log.
    put_at timestamptz,
    bytes integer not null generated always as (octet_length(payload::text)) stored,
    constraint payload_has_at_most_128_mib check (bytes <= 128 * 1024 * 1024)
);

create index event_inbox_name on conductor.event_inbox (name, n);

-- Events whose waits have not all been looked at, and the last wait that was.
create table conductor.event_deliveries (
    seq bigint primary key,
    name text collate "C" not null,
    event_id uuid not null,
    after_execution uuid not null default '00000000-0000-0000-0000-000000000000',
    after_key text not null default ''
);

create index event_deliveries_name on conductor.event_deliveries (name, seq);

-- Executions that were locked by somebody's open transaction when an event came which they wait for: they
-- look into the log once they are free, and until then no later event of the name is handed to them.
create table conductor.event_revisits (
    execution_id uuid not null,
    name text collate "C" not null,
    -- The first one that they have missed.
    event_id uuid not null,
    primary key (execution_id, name)
);

-- The fields by which waits have asked for events of a name. Events behind this one are in event_fields. One that
-- no wait has had for as long as the name's events are kept (at least a day) ends: what comes then is not noted,
-- and it goes with the last event that was.
create table conductor.event_paths (
    name text collate "C" not null,
    path text[] not null,
    from_at timestamptz not null,
    from_seq bigint not null,
    -- When a wait has asked for it, to the hour.
    used_at timestamptz not null,
    ended_at timestamptz,
    primary key (name, path)
);

-- Where events have which values in these fields (conductor.field_hash), so that a wait finds what came
-- before it. Written with the event and removed with it.
create table conductor.event_fields (
    name text collate "C" not null,
    hash bigint not null,
    emitted_at timestamptz not null,
    seq bigint not null,
    primary key (name, hash, emitted_at, seq)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1);

-- Which events start executions of which tasks. Of several filters one is enough.
create table conductor.subscriptions (
    task_id integer not null references conductor.tasks (id) on delete cascade,
    event text collate "C" not null,
    n integer not null,
    -- Null: all of them.
    filter jsonb,
    event_version integer not null,
    -- Whose code declares it, as with schedules.
    owner text not null,
    primary key (task_id, event, n)
);

create index subscriptions_event on conductor.subscriptions (event);

-- What programs know of events, for the command line.
create table conductor.event_types (
    name text collate "C" primary key,
    version integer not null,
    package text not null,
    place text not null,
    docs text not null,
    schema jsonb not null,
    -- How long its events are kept; null: seven days.
    keep_ms bigint
);

-- Events of which somebody wants to know what they do (the command emit --wait), and what they did.
create table conductor.event_watches (
    event_id uuid primary key,
    started uuid[] not null default '{}',
    woken uuid[] not null default '{}',
    watched_at timestamptz not null default clock_timestamp()
);

-- A text as a point in time; null where it is none.
create function conductor.as_time(p_text text) returns timestamptz
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    if p_text !~ '^\d{4,6}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$' then
        return null;
    end if;
    return p_text::timestamptz;
exception when data_exception then
    return null;
end
$$;

-- Whether a comparison of a filter holds. Values of different types are never equal, different, less
-- or greater.
create function conductor.compares(p_op text, p_value jsonb, p_with jsonb, p_as text) returns boolean
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    v_type text := jsonb_typeof(p_value);
    v_text text collate "C";
    v_with text collate "C";
    -- Less (-1), equal, greater.
    v_sign integer;
begin
    if v_type is distinct from jsonb_typeof(p_with) then
        return false;
    elsif v_type = 'boolean' then
        return case p_op when 'eq' then p_value = p_with when 'ne' then p_value <> p_with else false end;
    elsif v_type = 'number' then
        -- Not by their difference, which may be more than a number can be.
        v_sign := case when p_value::numeric < p_with::numeric then -1
                       when p_value::numeric = p_with::numeric then 0 else 1 end;
    elsif v_type = 'string' and p_as = 'time' then
        v_sign := sign(extract(epoch from conductor.as_time(p_value #>> '{}'))
                       - extract(epoch from conductor.as_time(p_with #>> '{}')));
    elsif v_type = 'string' then
        v_text := p_value #>> '{}';
        v_with := p_with #>> '{}';
        v_sign := case when v_text < v_with then -1 when v_text = v_with then 0 else 1 end;
    else
        return false;
    end if;
    return coalesce(
        case p_op when 'eq' then v_sign = 0 when 'ne' then v_sign <> 0
                  when 'lt' then v_sign < 0 when 'le' then v_sign <= 0
                  when 'gt' then v_sign > 0 when 'ge' then v_sign >= 0 end, false);
end
$$;

-- Whether a filter lets an event through; null lets all through. What it does not understand is false, as is
-- a payload that cannot be read (null), and what lies too deep; and nothing is an error.
create function conductor.matches(p_filter jsonb, p_payload jsonb, p_depth integer default 0) returns boolean
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    v_op text := p_filter->>'op';
    v_value jsonb;
    v_part jsonb;
begin
    if p_filter is null or p_filter = 'null' then
        return true;
    end if;
    if p_payload is null or p_depth > 120 then
        return false;
    end if;
    if v_op in ('and', 'or') then
        if jsonb_typeof(p_filter->'of') is distinct from 'array' then
            return false;
        end if;
        for v_part in select e from jsonb_array_elements(p_filter->'of') as e loop
            if conductor.matches(v_part, p_payload, p_depth + 1) <> (v_op = 'and') then
                return v_op = 'or';
            end if;
        end loop;
        return v_op = 'and';
    elsif v_op = 'not' then
        return jsonb_typeof(p_filter->'of') = 'object' and not conductor.matches(p_filter->'of', p_payload, p_depth + 1);
    end if;
    if jsonb_typeof(p_filter->'path') is distinct from 'array' then
        return false;
    end if;
    v_value := p_payload #> array(select jsonb_array_elements_text(p_filter->'path'));
    if v_op = 'null' then
        return v_value is null or v_value = 'null';
    elsif v_op in ('same', 'differs') then
        return jsonb_typeof(p_filter->'other') = 'array'
           and (coalesce(v_value, 'null')
                = coalesce(p_payload #> array(select jsonb_array_elements_text(p_filter->'other')), 'null'))
               = (v_op = 'same');
    elsif v_op = 'in' then
        if jsonb_typeof(p_filter->'values') is distinct from 'array' then
            return false;
        end if;
        for v_part in select e from jsonb_array_elements(p_filter->'values') as e loop
            if conductor.compares('eq', v_value, v_part, p_filter->>'as') then
                return true;
            end if;
        end loop;
        return false;
    end if;
    return conductor.compares(v_op, v_value, p_filter->'value', p_filter->>'as');
end
$$;

-- A number for a field's value; equal values have equal ones, and none is 0.
create function conductor.field_hash(p_path text[], p_value jsonb) returns bigint
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce(nullif(hashtextextended(p_path::text, jsonb_hash_extended(p_value, 0)), 0), 1);
end
$$;

-- The number of a field's value without which a filter lets nothing through; 0 where there is none. Of
-- several that which seems to tell most events apart: an id, a number, a text, a flag.
create function conductor.filter_field(p_filter jsonb, out path text[], out hash bigint)
language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    select c.path, c.hash into path, hash from (
        with recursive conditions as (
            select p_filter as c
            union all
            select o.c from conditions a
             cross join lateral jsonb_array_elements(
                   case when a.c->>'op' = 'and' and jsonb_typeof(a.c->'of') = 'array' then a.c->'of' else '[]' end)
                   as o(c)
        )
        select f.path, conductor.field_hash(f.path, f.value) as hash
          from (select array(select jsonb_array_elements_text(e.c->'path')) as path, e.c->'value' as value
                  from conditions e
                 where e.c->>'op' = 'eq' and e.c->'as' is null and jsonb_typeof(e.c->'path') = 'array'
                   and jsonb_typeof(e.c->'value') in ('string', 'number', 'boolean')) f
         where cardinality(f.path) <= 8
           -- These may lead into arrays, where conductor.field_hashes does not go.
           and not exists (select from unnest(f.path) as n where n ~ '^\s*[-+]?\d+$')
         order by case jsonb_typeof(f.value) when 'boolean' then 3 when 'number' then 1
                       else case when length(f.value #>> '{}') < 16 then 2 else 0 end end,
                  f.path
         limit 1) c;
end
$$;

create function conductor.filter_hash(p_filter jsonb) returns bigint
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    return coalesce((conductor.filter_field(p_filter)).hash, 0);
end
$$;

-- The fields of an event that waits of its name have asked for.
create function conductor.noted_hashes(p_name text, p_payload jsonb) returns setof bigint
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select distinct conductor.field_hash(p.path, p_payload #> p.path) from conductor.event_paths p
     where p.name = p_name and jsonb_typeof(p_payload #> p.path) in ('string', 'number', 'boolean')
$$;

-- The numbers by which an event finds the waits that it may end.
create function conductor.field_hashes(p_payload jsonb) returns bigint[]
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        with recursive fields as (
            select '{}'::text[] as path, p_payload as value
            union all
            select f.path || e.key, e.value from fields f
             cross join lateral jsonb_each(
                   case when jsonb_typeof(f.value) = 'object' and cardinality(f.path) < 8 then f.value else '{}' end) e
        )
        select 0
        union
        select conductor.field_hash(f.path, f.value) from fields f
         where jsonb_typeof(f.value) in ('string', 'number', 'boolean'));
end
$$;

-- A number for a name and a filter. The record of a wait has it: the next wait with the same ones need not
-- look at what came before.
create function conductor.filter_number(p_name text, p_filter jsonb) returns bigint
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    return hashtextextended(coalesce(p_filter::text, ''), hashtextextended(p_name, 0));
end
$$;

-- Takes the locks of these names until the transaction ends; exclusive for those who write the log.
create function conductor.lock_events(p_names text[], p_exclusive boolean) returns void
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

-- Writes events into the log, in their order, and makes the executions of the tasks that are subscribed
-- to them. The caller holds the locks of the names. One that is in the log already is left alone.
create function conductor.publish(
    p_ids uuid[], p_names text[], p_payloads text[], p_put_at timestamptz[] default null) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_clock constant timestamptz := conductor.now();
    v_now timestamptz := v_clock;
    v_last timestamptz;
    v_name text;
    v_written uuid[];
    v_subscribed text[];
    v_waited text[];
    v_noted text[];
    v_queues integer[];
    v_watched boolean;
begin
    -- A clock that was set back must not change the order. One that was far ahead must not bind later
    -- events, whose deadlines and ends would be wrong: what it stamped has come now.
    for v_name in select distinct n from unnest(p_names) as n loop
        -- By a range, so that the order names the one index that has it.
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
    -- One that was sent twice may lie in the inbox twice: it is the first of them.
    if cardinality(v_written) < cardinality(p_ids) then
        select array_agg(o.id order by o.n), array_agg(o.name order by o.n), array_agg(o.payload order by o.n)
          into p_ids, p_names, p_payloads
          from (select distinct on (g.id) g.id, g.name, g.payload, g.n
                  from unnest(p_ids, p_names, p_payloads) with ordinality as g(id, name, payload, n)
                 where g.id = any (v_written)
                 order by g.id, g.n) o;
    end if;

    -- Which of the names somebody wants. The lock of a name keeps others from waiting for it meanwhile.
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
        v_watched := exists (select from conductor.event_watches w where w.event_id = any (v_written));
        with made as (
            insert into conductor.live_executions as l (
                   id, run_at, created_at, queue_id, task_id, priority, order_key, trigger, payload, bytes)
            select conductor.uuid7(), v_now, v_now, t.queue_id, t.id, t.priority,
                   conductor.order_key(t.ordered_by, g.payload::json),
                   json_build_object('kind', 'event', 'name', g.name, 'event_id', g.id, 'emitted_at', v_now),
                   g.payload::json, octet_length(g.payload)
              from unnest(p_ids, p_names, p_payloads) with ordinality as g(id, name, payload, n)
             cross join lateral (
                   select distinct s.task_id from conductor.subscriptions s
                    where s.event = g.name and conductor.matches(s.filter, conductor.as_jsonb(g.payload::json))) s
              join conductor.tasks t on t.id = s.task_id
             where g.id = any (v_written) and g.name = any (v_subscribed)
             order by g.n, t.id
            returning l.id, l.queue_id, l.trigger
        ), told as (
            update conductor.event_watches w set started = w.started || m.ids
              from (select (o.trigger->>'event_id')::uuid as event_id, array_agg(o.id) as ids
                      from made o where v_watched group by 1) m
             where w.event_id = m.event_id
        )
        select array_agg(distinct m.queue_id) into v_queues from made m;
        if v_queues is not null then
            perform conductor.wake(v_queues, false);
        end if;
    end if;

    if v_noted is not null then
        insert into conductor.event_fields (name, hash, emitted_at, seq)
        select e.name, conductor.field_hash(p.path, p.value), e.emitted_at, e.seq
          from (select o.name, o.emitted_at, o.seq, conductor.as_jsonb(o.payload) as payload from conductor.events o
                 where o.id = any (v_written) and o.name = any (v_noted) offset 0) e
         cross join lateral (
               select o.path, e.payload #> o.path as value from conductor.event_paths o
                where o.name = e.name and o.ended_at is null offset 0) p
         where jsonb_typeof(p.value) in ('string', 'number', 'boolean')
            on conflict do nothing;
    end if;

    if v_waited is not null then
        insert into conductor.event_deliveries (seq, name, event_id)
        select e.seq, e.name, e.id from conductor.events e
         where e.id = any (v_written) and e.name = any (v_waited);
    end if;
end
$$;

-- Takes out of the inbox what stands first of these names, in the order in which it came: so many events of
-- each, and together no more than so many bytes, but always one, as arrays end at a gigabyte. whole: it has left
-- none of those that it saw. The caller holds the locks of the names.
create function conductor.take_inbox(
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

-- Hands events of a name to the waits that are there, in the order of events, until so many waits were
-- looked at. True where nothing is left. The caller holds the lock of the name.
create function conductor.deliver(p_name text, p_limit integer) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_left integer := p_limit;
    -- How many looks at small payloads one look at this one stands for, as each may be recorded.
    v_weight integer;
    v_event record;
    v_payload jsonb;
    v_hashes bigint[];
    v_executions uuid[];
    v_keys text[];
    v_wanted uuid[];
    v_alive uuid[];
    v_missed uuid[];
    v_claims jsonb;
    v_woken uuid[];
    v_queues integer[];
begin
    loop
        select d.seq, d.event_id, d.after_execution, d.after_key, e.payload, e.emitted_at,
               coalesce(e.put_at, e.emitted_at) as at
          into v_event
          from conductor.event_deliveries d
          left join lateral (
               select o.payload, o.emitted_at, o.put_at from conductor.events o where o.id = d.event_id limit 1) e on true
         where d.name = p_name
         order by d.seq limit 1;
        if not found then
            return true;
        end if;
        if v_left <= 0 then
            return false;
        end if;
        if v_event.emitted_at is null then
            -- Removed meanwhile, as it was too old.
            delete from conductor.event_deliveries d where d.seq = v_event.seq;
            continue;
        end if;
        v_weight := greatest(octet_length(v_event.payload::text) / (256 * 1024), 1);
        v_payload := conductor.as_jsonb(v_event.payload);
        v_hashes := conductor.field_hashes(v_payload);
        select array_agg(w.execution_id order by w.execution_id, w.key),
               array_agg(w.key order by w.execution_id, w.key),
               array_agg(distinct w.execution_id)
                   -- One that is over gets nothing more, though no worker has been there to end it.
                   filter (where (w.wake_at is null or w.wake_at >= v_event.at)
                             and conductor.matches(w.event_filter, v_payload))
          into v_executions, v_keys, v_wanted
          from (select o.execution_id, o.key, o.event_filter, o.wake_at
                  from unnest(v_hashes) as h
                 cross join lateral (
                       select c.execution_id, c.key, c.event_filter, c.wake_at from conductor.waits c
                        where c.event_name = p_name and c.event_name <> '' and c.event_hash = h
                          and (c.execution_id, c.key) > (v_event.after_execution, v_event.after_key)
                        order by c.execution_id, c.key
                        limit greatest(v_left / v_weight, 1)) o
                 order by o.execution_id, o.key
                 limit greatest(v_left / v_weight, 1)) w;
        if v_executions is not null then
            -- One that somebody has locked looks into the log later, and so does who has missed another.
            v_alive := array(
                select l.id from conductor.live_executions l
                 where l.id = any (v_wanted) order by l.id for no key update skip locked);
            v_alive := array(
                select id from unnest(v_alive) as id
                 where not exists (select from conductor.event_revisits r
                                    where r.execution_id = id and r.name = p_name));
            v_missed := array(
                select l.id from conductor.live_executions l
                 where l.id = any (v_wanted) and l.id <> all (v_alive) order by l.id);
            if cardinality(v_missed) > 0 then
                insert into conductor.event_revisits (execution_id, name, event_id)
                select id, p_name, v_event.event_id from unnest(v_missed) as id
                    on conflict do nothing;
                perform pg_notify('conductor', 'events:');
            end if;
            v_claims := (select jsonb_object_agg(l.id, l.claim)
                           from conductor.live_executions l where l.id = any (v_alive));
            with taken as (
                delete from conductor.waits w
                 using (select distinct on (o.execution_id) o.place
                          from unnest(v_executions, v_keys) as g(execution_id, key)
                         cross join lateral (
                               select k.ctid as place, k.execution_id, k.key, k.event_filter, k.wake_at
                                 from conductor.waits k
                                where k.execution_id = g.execution_id and k.key = g.key and k.event_name = p_name
                                limit 1) o
                         where o.execution_id = any (v_alive) and (o.wake_at is null or o.wake_at >= v_event.at)
                           and conductor.matches(o.event_filter, v_payload)
                           and (select true from conductor.steps s
                                 where s.execution_id = o.execution_id and s.event_id = v_event.event_id limit 1) is null
                         order by o.execution_id, o.key) f
                 where w.ctid = f.place
                returning w.execution_id, w.key, w.kind, w.event_filter
            ), recorded as (
                insert into conductor.steps (
                       execution_id, key, kind, value, recorded_at, ended_at, claim, event_id, event_at, event_filter)
                select t.execution_id, t.key, t.kind,
                       json_build_object('event', v_event.event_id, 'emitted_at', v_event.emitted_at,
                                         'payload', v_event.payload), v_now, v_event.at,
                       (v_claims->>t.execution_id::text)::integer, v_event.event_id, v_event.emitted_at,
                       conductor.filter_number(p_name, t.event_filter)
                  from taken t
                    on conflict (execution_id, key) do nothing
            )
            select array_agg(t.execution_id) into v_woken from taken t;
            update conductor.event_watches w set woken = w.woken || v_woken
             where w.event_id = v_event.event_id and v_woken is not null;
            with due as (
                update conductor.live_executions l set run_at = v_now, postponed = false
                 where l.id = any (v_woken) and l.state = 'suspended' and l.run_at > v_now
                returning l.queue_id
            )
            select array_agg(distinct d.queue_id) into v_queues from due d;
            if v_queues is not null then
                perform conductor.wake(v_queues, false);
            end if;
            -- Waits of executions that have ended are met once.
            delete from conductor.waits w
             using unnest(v_executions, v_keys) as g(execution_id, key)
             cross join lateral (
                   select k.ctid as place from conductor.waits k
                    where k.execution_id = g.execution_id and k.key = g.key limit 1) o
             where w.ctid = o.place
               and (select true from conductor.live_executions l where l.id = g.execution_id limit 1) is null;
        end if;
        if coalesce(cardinality(v_executions), 0) < greatest(v_left / v_weight, 1) then
            delete from conductor.event_deliveries d where d.seq = v_event.seq;
        else
            update conductor.event_deliveries d
               set after_execution = v_executions[cardinality(v_executions)],
                   after_key = v_keys[cardinality(v_keys)]
             where d.seq = v_event.seq;
        end if;
        v_left := v_left - greatest(coalesce(cardinality(v_executions), 0), 1) * v_weight;
    end loop;
end
$$;

-- Has executions that were locked when an event came look into the log, where they are free now: together at
-- as many events as a suspension. False where some have to be looked at in another call.
create function conductor.revisit(p_limit integer) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_missed record;
    v_behind uuid[];
    v_left integer := 10000;
    v_queues integer[];
begin
    -- In any order: those that stay locked must not stand before the others for ever.
    for v_missed in
        select r.execution_id, r.name, r.event_id from conductor.event_revisits r
         order by random() limit p_limit for update skip locked
    loop
        -- The execution first, as the lock of a name that is of no use would keep others from emitting; nobody is
        -- waited for here, nor by whoever calls this behind it.
        perform from conductor.live_executions l where l.id = v_missed.execution_id for no key update skip locked;
        if not found and exists (select from conductor.live_executions l where l.id = v_missed.execution_id) then
            continue;
        end if;
        continue when not pg_try_advisory_xact_lock_shared(hashtextextended('conductor.event ' || v_missed.name, 0));
        -- It would look at nothing, and be woken for it.
        if v_left <= 0 then
            return false;
        end if;
        select c.behind, c.budget into v_behind, v_left
          from conductor.catch_up(array[v_missed.execution_id], array[v_missed.name], v_now, null, v_left) c;
        delete from conductor.event_revisits r
         where r.execution_id = v_missed.execution_id and r.name = v_missed.name;
        update conductor.event_watches w set woken = w.woken || v_missed.execution_id
         where w.event_id = v_missed.event_id
           and exists (select from conductor.steps s
                        where s.execution_id = v_missed.execution_id and s.event_id = v_missed.event_id);
        with due as (
            update conductor.live_executions l set run_at = v_now, postponed = false
             where l.id = v_missed.execution_id and l.state = 'suspended' and l.run_at > v_now
               -- It has had something of the name, or goes on to look.
               and (v_behind is not null or exists (select from conductor.steps s
                            where s.execution_id = l.id and s.recorded_at = v_now and s.kind in ('event', 'row')))
            returning l.queue_id
        )
        select array_agg(d.queue_id) into v_queues from due d;
        perform conductor.wake(v_queues, false);
    end loop;
    return true;
end
$$;

-- The locks of those of these names that are free now, of the first 16; where none is, that of the first one is
-- waited for a little, as it may always be taken by somebody for a moment.
create function conductor.try_lock_events(p_names text[]) returns text[]
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '250ms'
as $$
declare
    v_name text;
    v_names text[] := '{}';
begin
    foreach v_name in array p_names loop
        if pg_try_advisory_xact_lock(hashtextextended('conductor.event ' || v_name, 0)) then
            v_names := v_names || v_name;
            exit when cardinality(v_names) >= 16;
        end if;
    end loop;
    if cardinality(v_names) = 0 and cardinality(p_names) > 0 then
        begin
            perform conductor.lock_events(p_names[1:1], true);
            v_names := p_names[1:1];
        exception when lock_not_available then
            null;
        end;
    end if;
    return v_names;
end
$$;

-- The names of which something is to be dispatched. Whoever has waited longest comes first, so that busy names do
-- not keep the others waiting; and from name to name, so that no number of events of one name hides another. So
-- many names are looked at, and beside them those of the first events.
create function conductor.waiting_names(p_limit integer) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_names text[];
begin
    v_names := array(
        with recursive names as (
            (select b.name, b.n from conductor.event_inbox b order by b.name, b.n limit 1)
            union all
            select o.name, o.n from names a
             cross join lateral (
                   select b.name, b.n from conductor.event_inbox b
                    where b.name > a.name order by b.name, b.n limit 1) o
        )
        select i.name
          from ((select a.name, a.n from names a limit p_limit)
                union all
                (select b.name, b.n from conductor.event_inbox b order by b.n limit least(p_limit, 100))) i
         group by i.name order by min(i.n));
    return v_names || array(
        with recursive names as (
            (select b.name, b.seq from conductor.event_deliveries b order by b.name, b.seq limit 1)
            union all
            select o.name, o.seq from names a
             cross join lateral (
                   select b.name, b.seq from conductor.event_deliveries b
                    where b.name > a.name order by b.name, b.seq limit 1) o
        )
        select d.name
          from ((select a.name, a.seq from names a limit p_limit)
                union all
                (select b.name, b.seq from conductor.event_deliveries b order by b.seq limit least(p_limit, 100))) d
         where d.name <> all (v_names)
         group by d.name order by min(d.seq));
end
$$;

-- Brings what was emitted in transactions into the log, and goes on with what waits for delivery: so
-- many events and so many waits of each of a few names. True where nothing is left; null where
-- somebody has had the names' locks for so long that it is to be tried again later.
create function conductor.dispatch(p_limit integer) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_names text[];
    v_name text;
    v_ids uuid[];
    v_of text[];
    v_payloads text[];
    v_put_at timestamptz[];
    v_done boolean := true;
    v_none boolean;
    v_revisited boolean := true;
begin
    v_names := conductor.waiting_names(p_limit);
    v_none := cardinality(v_names) = 0;
    -- Somebody else brings those of which the lock is taken, or they stay for the next time. Before the
    -- executions of those who look again, as this may wait for a moment.
    v_names := conductor.try_lock_events(v_names);
    if exists (select from conductor.event_revisits r) then
        v_revisited := conductor.revisit(p_limit);
    end if;
    if v_none then
        return v_revisited;
    elsif cardinality(v_names) = 0 then
        return case when v_revisited then null else false end;
    end if;
    select t.ids, t.names, t.payloads, t.put_at into v_ids, v_of, v_payloads, v_put_at
      from conductor.take_inbox(v_names, p_limit, 16 * 1024 * 1024) t;
    if v_ids is not null then
        perform conductor.publish(v_ids, v_of, v_payloads, v_put_at);
    end if;
    foreach v_name in array v_names loop
        v_done := conductor.deliver(v_name, p_limit) and v_done;
    end loop;
    return v_done and v_revisited
       and not exists (select from conductor.event_inbox i)
       and not exists (select from conductor.event_deliveries d);
end
$$;

-- Emits events: in a transaction of the user's they are put into the inbox, and no lock is taken; else
-- they are mostly in the log when this returns. One that is sent again (its id is the client's) is emitted once.
create function conductor.emit_many(p_ids uuid[], p_names text[], p_payloads text[], p_in_transaction boolean)
returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_names text[];
    v_name text;
    v_fault text;
    v_left boolean := false;
    v_lock bigint;
    v_later boolean;
    v_earlier record;
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
          -- What is short and has no escape and no exponent is neither too deep nor unreadable.
          from (select o.name, o.payload from unnest(p_names, p_payloads) as o(name, payload)
                 where o.payload is null or octet_length(o.payload) > 240 or strpos(o.payload, E'\\u') > 0
                    or o.payload ~ '[eE][-+]?[0-9]{5}' offset 0) g
         -- With an offset it is made once, and not at each place where it is named.
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
    v_names := array(select distinct n from unnest(p_names) as n);
    -- Where much has gathered while no orchestrator was there, nobody has to work it off here; nor is anybody
    -- waited for who has the lock for long.
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
    -- What committed before comes before.
    if not v_later and exists (select from conductor.event_inbox i where i.name = any (v_names)) then
        select t.ids, t.names, t.payloads, t.put_at, t.whole into v_earlier
          from conductor.take_inbox(v_names, 500, 16 * 1024 * 1024) t;
        if v_earlier.ids is not null then
            perform conductor.publish(v_earlier.ids, v_earlier.names, v_earlier.payloads, v_earlier.put_at);
        end if;
        -- What commits meanwhile may come behind.
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

-- For psql, triggers and other languages:  select conductor.emit('user_signed_up', '{"user_id": 7}');
-- Lies in the inbox from the commit on, and counts as emitted when an orchestrator has dispatched it. Gives its id.
create function conductor.emit(event text, payload jsonb default '{}') returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_id uuid := conductor.uuid7();
begin
    perform conductor.emit_many(array[v_id], array[event], array[coalesce(payload, 'null')::text], true);
    return v_id;
end
$$;

-- From now on, events are found by those fields that these waits ask for. The caller holds the locks of the
-- names, shared, so that no event comes in between.
create function conductor.note_event_paths(p_executions uuid[], p_keys text[]) returns void
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

-- Gives executions that are about to wait, or to give up, what is in the log already: of each name the
-- events since the execution was created, in their order, to its waits in the order of keys; to each what
-- came before its deadline. With p_keys to these waits alone, one an execution; null there: to all of it.
-- It looks at so many events, in all, and tells how many are left of these. Waits that have not come to the end
-- go on from there the next time, and their executions are returned. The caller holds the executions, and before them, where they are about to
-- wait, the locks of the names.
create function conductor.catch_up(
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
    -- By the numbers of filters, when the last event came to each.
    v_last jsonb;
    v_left integer := p_limit;
    -- How many in a row were put after the deadline. What was put before it comes into the log about then: behind
    -- so many, none is looked for any more.
    v_late integer;
    c_late constant integer := 100;
    -- The event that was looked at last.
    v_at timestamptz;
    v_seq bigint;
begin
    for v_wait in
        select distinct on (w.execution_id, w.key)
               w.execution_id, w.key, w.kind, w.event_name, w.event_filter, w.event_path, w.event_hash,
               w.seen_at, w.seen_seq,
               g.key is null as anew, l.created_at, l.claim, coalesce(w.wake_at, 'infinity') as deadline
          from unnest(p_executions, p_keys) as g(execution_id, key)
         cross join lateral (
               -- Each by its key; only where there is none all of the execution is read.
               (select o.* from conductor.waits o
                 where g.key is not null and o.execution_id = g.execution_id and o.key = g.key
                   and o.event_name is not null limit 1)
               union all
               (select o.* from conductor.waits o
                 where g.key is null and o.execution_id = g.execution_id and o.event_name = any (p_names)
                offset 0)) w
         cross join lateral (
               -- A repeat hears what came since the first one began.
               select coalesce((select f.created_at from conductor.finished_executions f where f.id = o.retry_of),
                               o.created_at) as created_at, o.claim
                 from conductor.live_executions o
                where o.id = any (array[w.execution_id]) limit 1) l
         order by w.execution_id, w.key, g.key nulls first
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
        -- What a clock that was ahead has noted does not count; what the execution has had is left out below.
        if v_wait.seen_at <= p_now + interval '1 minute' and not v_wait.anew then
            v_at := v_wait.seen_at;
            v_seq := v_wait.seen_seq;
        else
            -- All that this filter let through before the last one, the execution has had.
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
        -- One by one, and no more than are wanted.
        for v_event in
            select e.id, e.payload, e.emitted_at, e.seq,
                   -- What a clock that was ahead has stamped goes by its stamp alone.
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
                -- Its payload is not looked into.
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
        -- What came since its field is noted is found by the field.
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
            delete from conductor.waits w where w.execution_id = v_of and w.key = v_wait.key;
            insert into conductor.steps (
                   execution_id, key, kind, value, recorded_at, ended_at, claim, event_id, event_at, event_filter)
            values (v_of, v_wait.key, v_wait.kind,
                    json_build_object('event', v_event.id, 'emitted_at', v_event.emitted_at, 'payload', v_event.payload),
                    p_now, v_event.at, v_wait.claim, v_event.id, v_event.emitted_at,
                    conductor.filter_number(v_wait.event_name, v_wait.event_filter))
                on conflict (execution_id, key) do nothing;
        elsif v_left <= 0 then
            behind := behind || v_of;
            update conductor.waits w set seen_at = v_at, seen_seq = v_seq, event_hash = -1
             where w.execution_id = v_of and w.key = v_wait.key;
        elsif v_wait.seen_at is not null then
            -- One that is late stays where it is, for the claim that ends it.
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

-- What a program's code subscribes to, at its start, and the events that it knows. The subscriptions of
-- these crates that it does not declare go, unless the task is not its own and a living process has it.
create function conductor.declare_subscriptions(
    p_owners text[], p_tasks integer[], p_subscriptions jsonb, p_events jsonb) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform conductor.wait_for_lock(hashtextextended('conductor.declare_subscriptions', 0), false, 'the lock of the declarations of subscriptions');
    delete from conductor.subscriptions s
     using conductor.tasks t
     where t.id = s.task_id and s.owner = any (p_owners)
       and not exists (select from jsonb_to_recordset(p_subscriptions) as d(task text, event text, n integer)
                        where d.task = t.name and d.event = s.event and d.n = s.n)
       and (t.id = any (p_tasks)
            or not exists (select from conductor.orchestrators o
                            where t.id = any (o.task_ids) and o.lease_until > clock_timestamp()));
    insert into conductor.subscriptions as s (task_id, event, n, filter, event_version, owner)
    select t.id, d.event, d.n, nullif(d.filter, 'null'), d.event_version, d.owner
      from jsonb_to_recordset(p_subscriptions) as d(
           task text, event text, n integer, filter jsonb, event_version integer, owner text)
      join conductor.tasks t on t.name = d.task
     order by t.id, d.event, d.n
        on conflict (task_id, event, n) do update
       set filter = excluded.filter, event_version = excluded.event_version, owner = excluded.owner
     where (s.filter, s.event_version, s.owner)
           is distinct from (excluded.filter, excluded.event_version, excluded.owner);

    insert into conductor.event_types as e (name, version, package, place, docs, schema, keep_ms)
    select d.name, d.version, d.package, d.place, d.docs, d.schema, d.keep_ms
      from jsonb_to_recordset(p_events) as d(
           name text, version integer, package text, place text, docs text, schema jsonb, keep_ms bigint)
     order by d.name
        on conflict (name) do update
       set version = excluded.version, package = excluded.package, place = excluded.place,
           docs = excluded.docs, schema = excluded.schema, keep_ms = excluded.keep_ms
     where (e.version, e.package, e.place, e.docs, e.schema, e.keep_ms)
           is distinct from
           (excluded.version, excluded.package, excluded.place, excluded.docs, excluded.schema, excluded.keep_ms);
end
$$;

-- Says, before an event is emitted, that what it does is to be noted.
create function conductor.watch_event(p_id uuid) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    insert into conductor.event_watches (event_id) values (p_id) on conflict (event_id) do nothing
$$;

-- What an event that is watched has done so far, and whether that is all: it is in the log, and all who
-- waited when it came have been looked at.
create function conductor.event_effect(
    p_id uuid, out done boolean, out started uuid[], out woken uuid[])
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select exists (select from conductor.events e where e.id = p_id)
               and not exists (select from conductor.event_deliveries d where d.event_id = p_id)
               and not exists (select from conductor.event_revisits r where r.event_id = p_id),
           coalesce(w.started, '{}'), coalesce(w.woken, '{}')
      from (select) o
      left join conductor.event_watches w on w.event_id = p_id
$$;

-- How long events of a name are kept.
create function conductor.event_keep(p_name text) returns interval
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select coalesce((select t.keep_ms from conductor.event_types t where t.name = p_name) * interval '1 ms',
                    interval '7 days')
$$;

-- Ends fields that no wait asks for any longer, and removes those of which no event is left.
create function conductor.end_event_paths() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_path record;
    v_before timestamptz;
begin
    for v_path in
        select p.name, p.path, p.used_at, p.ended_at from conductor.event_paths p
         where p.used_at < v_now - interval '1 day'
         order by p.name, p.path
    loop
        v_before := least(v_now - conductor.event_keep(v_path.name), v_now - interval '1 day');
        continue when coalesce(v_path.ended_at, v_path.used_at) >= v_before;
        -- Whoever is about to wait, or writes events, has the lock; nobody is waited for.
        continue when not pg_try_advisory_xact_lock(hashtextextended('conductor.event ' || v_path.name, 0));
        if v_path.ended_at is null then
            update conductor.event_paths p
               set used_at = case when w.waits then v_now else p.used_at end,
                   ended_at = case when w.waits then null else v_now end
              from (select exists (select from conductor.waits o
                                    where o.event_name = v_path.name and o.event_name <> ''
                                      and o.event_path = v_path.path) as waits) w
             where p.name = v_path.name and p.path = v_path.path and p.used_at = v_path.used_at;
        else
            delete from conductor.event_paths p
             where p.name = v_path.name and p.path = v_path.path and p.ended_at = v_path.ended_at
               and (select true from conductor.events e
                     where e.name = v_path.name and e.emitted_at <= v_path.ended_at limit 1) is null;
        end if;
    end loop;
end
$$;

-- Removes events that are older than they are kept, of each name the oldest first; the most of a name.
create function conductor.prune_events(p_limit integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_name text collate "C" := '';
    v_before timestamptz;
    v_noted boolean;
    v_count integer;
    v_most integer := 0;
begin
    loop
        select e.name into v_name from conductor.events e where e.name > v_name order by e.name limit 1;
        exit when not found;
        v_before := conductor.now() - conductor.event_keep(v_name);
        v_noted := exists (select from conductor.event_paths p where p.name = v_name);
        with old as (
            select e.id, e.name, e.emitted_at, e.seq,
                   case when v_noted then array(select conductor.noted_hashes(e.name, conductor.as_jsonb(e.payload))) end as hashes
              from conductor.events e
             where e.name = v_name and e.emitted_at < v_before
             order by e.emitted_at, e.seq
             limit p_limit
               for update skip locked
        ), fields as (
            delete from conductor.event_fields f
             where f.ctid = any (array(
                   select k.ctid from old o
                    cross join lateral unnest(o.hashes) as h(hash)
                    cross join lateral (
                          select i.ctid from conductor.event_fields i
                           where i.name = o.name and i.hash = h.hash and i.emitted_at = o.emitted_at
                             and i.seq = o.seq limit 1) k))
        )
        delete from conductor.events e using old o where e.id = o.id;
        get diagnostics v_count = row_count;
        v_most := greatest(v_most, v_count);
    end loop;
    delete from conductor.event_watches w where w.watched_at < clock_timestamp() - interval '1 hour';
    perform conductor.end_event_paths();
    return v_most;
end
$$;

revoke execute on all functions in schema conductor from public;
