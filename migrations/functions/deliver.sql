-- Returns the next waits that look for an event with this payload, after one place, at most p_limit: their executions
-- and keys, and in wanted the executions that the event concerns. Called by deliver, under whose settings it runs.
create or replace function conductor.find_waits(
    p_name text, p_payload jsonb, p_at timestamptz, p_after_execution uuid, p_after_key text, p_limit integer,
    out executions uuid[], out keys text[], out wanted uuid[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_hashes bigint[] := conductor.field_hashes(p_payload);
begin
    select array_agg(w.execution_id order by w.execution_id, w.key),
           array_agg(w.key order by w.execution_id, w.key),
           array_agg(distinct w.execution_id)
               -- A wait whose deadline has passed receives nothing, even if no worker has ended it yet.
               filter (where (w.wake_at is null or w.wake_at >= p_at)
                         and conductor.matches(w.event_filter, p_payload))
      into executions, keys, wanted
      from (select o.execution_id, o.key, o.event_filter, o.wake_at
              from unnest(v_hashes) as h
             cross join lateral (
                   select c.execution_id, c.key, c.event_filter, c.wake_at from conductor.waits c
                    where c.event_name = p_name and c.event_name <> '' and c.event_hash = h
                      and (c.execution_id, c.key) > (p_after_execution, p_after_key)
                    order by c.execution_id, c.key
                    limit p_limit) o
             order by o.execution_id, o.key
             limit p_limit) w;
end
$$;

-- Locks those of these executions that can receive an event of a name now, and returns them. The others are noted for
-- revisit. Called by deliver, under whose settings it runs.
-- Locks: live_executions (if free, by id), event_revisits (inserts).
create or replace function conductor.hold_listeners(p_name text, p_event uuid, p_wanted uuid[]) returns uuid[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_alive uuid[];
    v_missed uuid[];
begin
    -- A locked execution looks into the log later, and so does one that has missed an earlier event.
    v_alive := array(
        select l.id from conductor.live_executions l
         where l.id = any (p_wanted) order by l.id for no key update skip locked);
    v_alive := array(
        select id from unnest(v_alive) as id
         where not exists (select from conductor.event_revisits r
                            where r.execution_id = id and r.name = p_name));
    if cardinality(v_alive) = cardinality(p_wanted) then
        return v_alive;
    end if;
    v_missed := array(
        select l.id from conductor.live_executions l
         where l.id = any (p_wanted) and l.id <> all (v_alive) order by l.id);
    if cardinality(v_missed) > 0 then
        insert into conductor.event_revisits (execution_id, name, event_id)
        select id, p_name, p_event from unnest(v_missed) as id
            on conflict do nothing;
        perform pg_notify('conductor', 'events:');
    end if;
    return v_alive;
end
$$;

-- Gives an event to the waits of the executions p_alive, one of each, and makes these executions due. Removes waits of
-- executions that have ended. p_event is the event as deliver reads it. Called by deliver, which holds the executions
-- and under whose settings it runs. Returns the queues in which executions are due now.
-- Locks: waits and steps of these executions, event_watches (waits).
create or replace function conductor.hand_over(
    p_name text, p_event record, p_payload jsonb, p_executions uuid[], p_keys text[], p_alive uuid[], p_now timestamptz)
returns integer[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_woken uuid[];
    v_queues integer[];
begin
    with taken as (
        delete from conductor.waits w
         using (select distinct on (o.execution_id) o.place
                  from unnest(p_executions, p_keys) as g(execution_id, key)
                 cross join lateral (
                       select k.ctid as place, k.execution_id, k.key, k.event_filter, k.wake_at
                         from conductor.waits k
                        where k.execution_id = g.execution_id and k.key = g.key and k.event_name = p_name
                        limit 1) o
                 where o.execution_id = any (p_alive) and (o.wake_at is null or o.wake_at >= p_event.at)
                   and conductor.matches(o.event_filter, p_payload)
                   and (select true from conductor.steps s
                         where s.execution_id = o.execution_id and s.event_id = p_event.event_id limit 1) is null
                 order by o.execution_id, o.key) f
         where w.ctid = f.place
        returning w.execution_id, w.key, w.kind, w.event_filter, w.input
    ), recorded as (
        insert into conductor.steps (
               execution_id, key, kind, value, recorded_at, ended_at, claim, event_id, event_at, event_filter,
               input)
        select t.execution_id, t.key, t.kind,
               json_build_object('event', p_event.event_id, 'emitted_at', p_event.emitted_at,
                                 'payload', p_event.payload), p_now, p_event.at,
               (select l.claim from conductor.live_executions l where l.id = t.execution_id limit 1),
               p_event.event_id, p_event.emitted_at,
               conductor.filter_number(p_name, t.event_filter), t.input
          from taken t
            on conflict (execution_id, key) do nothing
    )
    select array_agg(t.execution_id) into v_woken from taken t;
    if v_woken is not null then
        update conductor.event_watches w set woken = w.woken || v_woken where w.event_id = p_event.event_id;
        with due as (
            update conductor.live_executions l set run_at = p_now, postponed = false
             where l.id = any (v_woken) and l.state = 'suspended' and l.run_at > p_now
            returning l.queue_id
        )
        select array_agg(distinct d.queue_id) into v_queues from due d;
    end if;
    -- Waits of executions that have ended are removed when an event meets them.
    if not p_executions <@ p_alive then
        delete from conductor.waits w
         using unnest(p_executions, p_keys) as g(execution_id, key)
         cross join lateral (
               select k.ctid as place from conductor.waits k
                where k.execution_id = g.execution_id and k.key = g.key limit 1) o
         where w.ctid = o.place
           and (select true from conductor.live_executions l where l.id = g.execution_id limit 1) is null;
    end if;
    return v_queues;
end
$$;

-- Delivers the next events of a name to the waits that exist, in the order of the events, until p_limit waits
-- were looked at. Called by emit_many and dispatch, which hold the lock of the name. Returns true if nothing is
-- left.
-- Locks: live_executions (if free, by id), event_revisits (inserts), waits and steps of these executions,
--   event_watches (waits), queues.idle (if free), event_deliveries (waits).
create or replace function conductor.deliver(p_name text, p_limit integer) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_left integer := p_limit;
    -- How many looks at small payloads one look at this payload counts for, because each look may record it.
    v_weight integer;
    v_event record;
    v_payload jsonb;
    v_most integer;
    v_waits record;
    v_count integer;
    v_alive uuid[];
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
            -- The event was removed meanwhile, because it was too old.
            delete from conductor.event_deliveries d where d.seq = v_event.seq;
            continue;
        end if;
        v_weight := greatest(octet_length(v_event.payload::text) / (256 * 1024), 1);
        v_payload := conductor.as_jsonb(v_event.payload);
        v_most := greatest(v_left / v_weight, 1);
        v_waits := conductor.find_waits(
            p_name, v_payload, v_event.at, v_event.after_execution, v_event.after_key, v_most);
        v_count := coalesce(cardinality(v_waits.executions), 0);
        if v_count > 0 then
            v_alive := conductor.hold_listeners(p_name, v_event.event_id, v_waits.wanted);
            v_queues := conductor.hand_over(
                p_name => p_name, p_event => v_event, p_payload => v_payload, p_executions => v_waits.executions,
                p_keys => v_waits.keys, p_alive => v_alive, p_now => v_now);
            if v_queues is not null then
                perform conductor.wake(v_queues, false);
            end if;
        end if;
        if v_count < v_most then
            delete from conductor.event_deliveries d where d.seq = v_event.seq;
        else
            update conductor.event_deliveries d
               set after_execution = v_waits.executions[v_count], after_key = v_waits.keys[v_count]
             where d.seq = v_event.seq;
        end if;
        v_left := v_left - greatest(v_count, 1) * v_weight;
    end loop;
end
$$;

-- Makes executions that were locked when an event came look into the log, if they are free now. Together they
-- look at no more events than one suspension (10,000), and at most p_limit of them are looked at. Called by
-- dispatch. Returns false if some have to be looked at in another call.
-- Locks: event_revisits (if free); for each of them the execution (if free), the event name (shared, tries), as
--   catch_up, event_watches (waits), queues.idle (if free).
create or replace function conductor.revisit(p_limit integer) returns boolean
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
    -- In random order: executions that stay locked must not block the others for ever.
    for v_missed in
        select r.execution_id, r.name, r.event_id from conductor.event_revisits r
         order by random() limit p_limit for update skip locked
    loop
        -- The execution first: the lock of a name that is not used would keep other sessions from emitting.
        -- Nothing is waited for, here or by the caller after this call.
        perform from conductor.live_executions l where l.id = v_missed.execution_id for no key update skip locked;
        if not found and exists (select from conductor.live_executions l where l.id = v_missed.execution_id) then
            continue;
        end if;
        continue when not pg_try_advisory_xact_lock_shared(hashtextextended('conductor.event ' || v_missed.name, 0));
        -- Without budget it would look at nothing, and be woken for it.
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
               -- It has received something of the name, or continues to look.
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
