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
            -- The event was removed meanwhile, because it was too old.
            delete from conductor.event_deliveries d where d.seq = v_event.seq;
            continue;
        end if;
        v_weight := greatest(octet_length(v_event.payload::text) / (256 * 1024), 1);
        v_payload := conductor.as_jsonb(v_event.payload);
        v_hashes := conductor.field_hashes(v_payload);
        select array_agg(w.execution_id order by w.execution_id, w.key),
               array_agg(w.key order by w.execution_id, w.key),
               array_agg(distinct w.execution_id)
                   -- A wait whose deadline has passed receives nothing, even if no worker has ended it yet.
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
            -- A locked execution looks into the log later, and so does one that has missed an earlier event.
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
                returning w.execution_id, w.key, w.kind, w.event_filter, w.input
            ), recorded as (
                insert into conductor.steps (
                       execution_id, key, kind, value, recorded_at, ended_at, claim, event_id, event_at, event_filter,
                       input)
                select t.execution_id, t.key, t.kind,
                       json_build_object('event', v_event.event_id, 'emitted_at', v_event.emitted_at,
                                         'payload', v_event.payload), v_now, v_event.at,
                       (v_claims->>t.execution_id::text)::integer, v_event.event_id, v_event.emitted_at,
                       conductor.filter_number(p_name, t.event_filter), t.input
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
            -- Waits of executions that have ended are removed when an event meets them.
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
