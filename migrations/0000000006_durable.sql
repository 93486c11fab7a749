-- What makes an execution durable: recorded steps, suspensions, children that report back.

set local search_path = pg_catalog, pg_temp;

-- How many bytes the records and waits of one execution may have together; a worker refuses records that would
-- pass it. What children and events bring may.
create function conductor.most_records() returns bigint
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
    -- As MAX_RECORDS_BYTES in codec.rs.
    select 268435456::bigint
$$;

-- What is known of an execution that was claimed before, as a JSON array of [key, kind, value, fresh, at]: its
-- steps, its sleeps that are over (value null), and what it still waits for (key and kind alone). Fresh is what has come to a
-- wait since the last suspension, so that no run has had it; at, when it was over, in microseconds since 1970. Where it
-- has too many records, {"records": n, "bytes": n} instead: with that its attempt fails, and the claim does not.
create function conductor.memo(p_id uuid, p_now timestamptz, p_suspended_claim integer) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_records bigint;
    v_bytes bigint;
begin
    select count(m.record), sum(m.bytes) into v_records, v_bytes
      from (select true as record, s.bytes from conductor.steps s where s.execution_id = p_id
            union all
            select null, octet_length(w.key) + 60 from conductor.waits w where w.execution_id = p_id) m;
    if v_bytes > conductor.most_records() then
        return json_build_object('records', v_records, 'bytes', v_bytes);
    end if;
    return (
        select json_agg(m.entry)::text
          from (select json_build_array(
                           s.key, s.kind, s.value, coalesce(s.claim >= p_suspended_claim, false),
                           (extract(epoch from coalesce(s.ended_at, s.recorded_at)) * 1000000)::bigint) as entry
                  from conductor.steps s where s.execution_id = p_id
                union all
                select case when w.child_id is null and w.event_name is null and w.wake_at <= p_now
                            then json_build_array(w.key, w.kind, null, false,
                                                  (extract(epoch from w.wake_at) * 1000000)::bigint)
                            else json_build_array(w.key, w.kind) end
                  from conductor.waits w where w.execution_id = p_id) m);
end
$$;

-- Cancels children that their parents do not wait for any longer, with theirs, and gives those of which
-- somebody else has locked some: a claim that comes upon them must not wait.
create function conductor.cancel_free(p_ids uuid[]) returns uuid[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_reason constant text := 'its parent did not wait any longer';
    v_id uuid;
    v_level uuid[];
    v_locked uuid[];
    v_tree uuid[];
    v_left uuid[] := '{}';
begin
    for v_id in
        select c.id from conductor.live_executions c
         where c.id = any (p_ids) and not c.detached order by c.id
    loop
        -- As in conductor.cancel: each level is locked before the next one is looked for. The parent
        -- is ours already, or ended.
        v_level := array[v_id];
        v_tree := '{}';
        loop
            v_locked := array(
                select l.id from conductor.live_executions l
                 where l.id = any (v_level) order by l.id for no key update skip locked);
            exit when cardinality(v_locked)
                < (select count(*) from conductor.live_executions l where l.id = any (v_level));
            v_tree := v_tree || v_locked;
            v_level := array(
                select c.id from conductor.live_executions c
                 where c.parent_id = any (v_locked) and c.parent_id is not null and not c.detached
                   and c.id <> all (v_tree));
            exit when cardinality(v_level) = 0;
        end loop;
        if cardinality(v_level) > 0 or conductor.is_turn_locked(v_tree) then
            v_left := v_left || v_id;
        else
            perform conductor.cancel(v_id, v_reason);
        end if;
    end loop;
    return v_left;
end
$$;

-- Does what was deferred for executions that are free now; how many are done with. Waits for nobody.
create function conductor.do_deferred(p_limit integer, p_max_crashes integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_late uuid[];
    v_left uuid[];
    v_held uuid[];
    v_claims integer[];
    v_free uuid[];
    v_what text;
    v_most integer;
    v_count integer := 0;
begin
    if not exists (select from conductor.deferred d) then
        return 0;
    end if;
    -- In any order: those that stay locked must not stand before the others for ever.
    v_late := array(
        select d.execution_id from conductor.deferred d
         where d.what = 'cancel' order by random() limit p_limit for update skip locked);
    if cardinality(v_late) > 0 then
        -- Their parents first, as everywhere; where somebody has one, its child stays.
        v_free := array(
            select p.id from conductor.live_executions p
             where p.id = any (array(select c.parent_id from conductor.live_executions c where c.id = any (v_late)))
             order by p.id for no key update skip locked);
        v_left := array(
            select c.id from conductor.live_executions c
             where c.id = any (v_late) and c.parent_id <> all (v_free)
               and exists (select from conductor.live_executions p where p.id = c.parent_id));
        v_left := v_left || conductor.cancel_free(array(select id from unnest(v_late) as id except select id from unnest(v_left) as id));
        delete from conductor.deferred d
         where d.what = 'cancel' and d.execution_id = any (v_late) and d.execution_id <> all (v_left);
        get diagnostics v_count = row_count;
    end if;

    v_late := array(
        select d.execution_id from conductor.deferred d
         where d.what = 'turn' order by random() limit p_limit for update skip locked);
    if cardinality(v_late) > 0 then
        v_count := v_count + conductor.come_back(v_late);
    end if;

    foreach v_what in array array['disown', 'orphan'] loop
        v_most := case when v_what = 'orphan' then p_max_crashes end;
        select array_agg(d.execution_id), array_agg(d.claim) into v_held, v_claims
          from (select g.execution_id, g.claim from conductor.deferred g
                 where g.what = v_what order by random() limit p_limit for update skip locked) d;
        continue when v_held is null;
        v_free := conductor.lock_held(v_held, v_most);
        v_free := array(
            select l.id from conductor.live_executions l
              join unnest(v_held, v_claims) as g(id, claim) on g.id = l.id and g.claim = l.claim
             where l.id = any (v_free));
        v_count := v_count + conductor.give_back(v_free, v_most);
        delete from conductor.deferred d
         using unnest(v_held, v_claims) as g(id, claim)
         where d.what = v_what and d.execution_id = g.id and d.claim = g.claim
           and not exists (select from conductor.live_executions l
                            where l.id = g.id and l.claim = g.claim and l.state = 'running');
    end loop;
    return v_count;
end
$$;

-- Records the deadlines that are over among what these executions wait for, and cancels the
-- children that came too late. The caller holds the executions' rows.
create function conductor.settle(p_ids uuid[], p_now timestamptz) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_late uuid[];
    v_expecting uuid[];
    v_names text[];
    v_keys text[];
    v_behind uuid[];
begin
    -- An event that was emitted in time may be on its way to them. So many waits and events are looked at, as
    -- others wait for this claim, and the rest at the next one, for which the execution is due at once: those
    -- whose time was over first come first.
    select array_agg(w.execution_id), array_agg(w.event_name), array_agg(w.key)
      into v_expecting, v_names, v_keys
      from (select o.execution_id, o.event_name, o.key from conductor.waits o
             where o.execution_id = any (p_ids) and o.wake_at <= p_now and o.event_name is not null
             order by o.wake_at, o.execution_id, o.key limit 2000) w;
    if v_expecting is not null then
        v_behind := (conductor.catch_up(v_expecting, v_names, p_now, v_keys, 2000)).behind;
    end if;
    with late as (
        delete from conductor.waits w
         where w.ctid = any (array(
               select o.ctid from conductor.waits o
                where o.execution_id = any (p_ids) and o.wake_at <= p_now and o.child_id is not null
               union all
               select k.ctid from unnest(v_expecting, v_keys) as g(execution_id, key)
                cross join lateral (
                      select o.ctid from conductor.waits o
                       where o.execution_id = g.execution_id and o.key = g.key and o.event_name is not null limit 1) k
                -- These have not looked at all that came in time: another claim follows.
                where v_behind is null or g.execution_id <> all (v_behind)))
        returning w.execution_id, w.key, w.kind, w.child_id, w.wake_at
    ), recorded as (
        insert into conductor.steps (execution_id, key, kind, value, recorded_at, ended_at)
        select l.execution_id, l.key, l.kind, json_build_object('state', 'timed_out', 'id', l.child_id), p_now, l.wake_at
          from late l
            on conflict (execution_id, key) do nothing
    )
    select array_agg(l.child_id) filter (where l.child_id is not null) into v_late from late l;
    if v_late is not null then
        v_late := conductor.cancel_free(v_late);
        insert into conductor.deferred (execution_id, what)
        select distinct id, 'cancel' from unnest(v_late) as id
            on conflict do nothing;
    end if;
end
$$;

-- Takes back what handlers want no longer: their waits and sleeps, and the events that came to these and
-- that they never had. Returns the executions whose events are free again. The caller holds the executions,
-- and gives what is left for them to other waits (conductor.catch_up).
create function conductor.withdraw(p_executions uuid[], p_keys text[]) returns uuid[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_freed uuid[];
    v_since timestamptz[];
begin
    -- Key by key, by the limits, whatever the statistics say.
    delete from conductor.waits w
     where w.ctid = any (array(
           select k.ctid from unnest(p_executions, p_keys) as g(execution_id, key)
            cross join lateral (
                  select o.ctid from conductor.waits o
                   where o.execution_id = g.execution_id and o.key = g.key
                     and o.kind in ('event', 'row', 'sleep') limit 1) k));
    with freed as (
        delete from conductor.steps s
         where s.ctid = any (array(
               select k.ctid from unnest(p_executions, p_keys) as g(execution_id, key)
                cross join lateral (
                      select o.ctid, o.event_id from conductor.steps o
                       where o.execution_id = g.execution_id and o.key = g.key and o.kind in ('event', 'row')
                         and o.claim is not null limit 1) k
                -- What is no longer in the log could not be given to anybody.
                cross join lateral (select true from conductor.events e where e.id = k.event_id limit 1) e))
        returning s.execution_id, s.event_at as emitted_at
    )
    select array_agg(f.execution_id), array_agg(f.since) into v_freed, v_since
      from (select d.execution_id, min(d.emitted_at) as since from freed d group by d.execution_id) f;
    if v_freed is not null then
        -- That all before these was had is no longer so.
        update conductor.steps s set event_filter = null
         where s.execution_id = any (v_freed) and s.event_filter is not null
           and s.event_at >= v_since[array_position(v_freed, s.execution_id)];
    end if;
    return v_freed;
end
$$;

-- What a race tells with its record: what its branches have had stays given, and the waits that it dropped
-- go. What came to these already is free with the next suspension, which hands it on.
create function conductor.decide(
    p_held uuid[], p_had_of uuid[], p_had text[], p_withdrawn_of uuid[], p_withdrawn text[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
begin
    update conductor.steps s set claim = null
     where s.ctid = any (array(
           select k.ctid from unnest(p_had_of, p_had) as g(execution_id, key)
            cross join lateral (
                  select o.ctid from conductor.steps o
                   where o.execution_id = g.execution_id and o.key = g.key limit 1) k
            where g.execution_id = any (p_held)));
    delete from conductor.waits w
     where w.ctid = any (array(
           select k.ctid from unnest(p_withdrawn_of, p_withdrawn) as g(execution_id, key)
            cross join lateral (
                  select o.ctid from conductor.waits o
                   where o.execution_id = g.execution_id and o.key = g.key
                     and o.kind in ('event', 'row', 'sleep') limit 1) k
            where g.execution_id = any (p_held)));
end
$$;

-- Writes step records of many executions at once. Gives, in order, whether each claim still held;
-- a record whose claim was lost is not written. Null for those of executions that somebody else has
-- locked: nothing was written, and they are to be sent again, by themselves and to wait (p_waits).
-- With the record of a race come the keys of what its branches have had, and of waits that it dropped.
create function conductor.record_steps(
    p_ids uuid[], p_claims integer[], p_keys text[], p_kinds text[], p_values text[], p_waits boolean default false,
    p_had_of uuid[] default '{}', p_had text[] default '{}',
    p_withdrawn_of uuid[] default '{}', p_withdrawn text[] default '{}', p_orchestrators bigint[] default null)
returns boolean[]
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_held uuid[];
    -- Which of the records these are: one batch may hold some of an old claim and some of its successor.
    v_places bigint[];
begin
    if p_waits then
        perform from conductor.live_executions l where l.id = any (p_ids) for no key update;
    end if;
    -- The lock keeps whoever recovers from giving the claim away before this commits.
    select array_agg(h.id), array_agg(h.n) into v_held, v_places
      from (select l.id, g.n
              from unnest(p_ids, p_claims, p_orchestrators) with ordinality as g(id, claim, orchestrator, n)
              join conductor.live_executions l on l.id = g.id and l.id = any (p_ids)
             where l.claim = g.claim and l.state = 'running'
               and (g.orchestrator is null or g.orchestrator = l.orchestrator_id)
               for no key update of l skip locked) h;
    insert into conductor.steps (execution_id, key, kind, value, recorded_at)
    select g.id, g.key, g.kind, g.value::json, v_now
      from unnest(p_ids, p_keys, p_kinds, p_values) with ordinality as g(id, key, kind, value, n)
      join unnest(v_places) as h(n) on h.n = g.n
        on conflict (execution_id, key) do nothing;
    if cardinality(p_had_of) > 0 or cardinality(p_withdrawn_of) > 0 then
        perform conductor.decide(coalesce(v_held, '{}'), p_had_of, p_had, p_withdrawn_of, p_withdrawn);
    end if;
    if cardinality(v_places) = cardinality(p_ids) then
        return array_fill(true, array[cardinality(p_ids)]);
    end if;
    return array(
        select case when h.n is not null then true
                    when l.id is null or l.claim <> g.claim or g.orchestrator <> l.orchestrator_id then false end
          from unnest(p_ids, p_claims, p_orchestrators) with ordinality as g(id, claim, orchestrator, n)
          left join unnest(v_places) as h(n) on h.n = g.n
          left join conductor.live_executions l on l.id = g.id and l.id = any (p_ids) and l.state = 'running'
         order by g.n);
end
$$;

-- Removes recorded errors that attempts of these executions have ended with. The caller holds the executions.
create function conductor.forget_errors(p_ids uuid[], p_of uuid[], p_keys text[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
begin
    delete from conductor.steps s
     where s.ctid = any (array(
           select k.ctid from unnest(p_of, p_keys) as g(execution_id, key)
            cross join lateral (
                  select o.ctid from conductor.steps o
                   where o.execution_id = g.execution_id and o.key = g.key
                     and o.kind in ('failed step', 'failed transaction', 'race') limit 1) k
            where g.execution_id = any (p_ids)));
end
$$;

-- The record of ctx.transaction, in the user's own transaction and its last statement but commit.
create function conductor.record_in_transaction(
    p_id uuid, p_claim integer, p_key text, p_kind text, p_value text, p_orchestrator bigint default null)
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_cancelled boolean;
begin
    select l.cancelled into v_cancelled from conductor.live_executions l
     where l.id = p_id and l.claim = p_claim and l.state = 'running'
       and (p_orchestrator is null or p_orchestrator = l.orchestrator_id)
       for no key update;
    if not found then
        raise exception 'execution % is no longer run under claim %', p_id, p_claim using errcode = 'CD004';
    end if;
    if v_cancelled then
        raise exception 'execution % was cancelled', p_id using errcode = 'CD005';
    end if;
    insert into conductor.steps (execution_id, key, kind, value, recorded_at)
    values (p_id, p_key, p_kind, p_value::json, conductor.now());
end
$$;

-- Whether a step is recorded, for one whose commit is in doubt: the lock waits for the end of the
-- transaction that holds it. Null where the claim is lost: the record may be that of the next one.
create function conductor.recorded(
    p_id uuid, p_key text, p_claim integer default null, p_orchestrator bigint default null) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
    perform from conductor.live_executions l
      where l.id = p_id and (p_claim is null or p_claim = l.claim and l.state = 'running')
        and (p_orchestrator is null or p_orchestrator = l.orchestrator_id)
        for no key update;
    if not found and p_claim is not null then
        return null;
    end if;
    return exists (select from conductor.steps s where s.execution_id = p_id and s.key = p_key);
end
$$;

-- Withdraws what handlers want no longer, and begins what they wait for and what is not known yet: its waits, and the
-- children that they name. Returns whose waits are new, and the queues of the children. The caller holds the executions,
-- and before them the locks of the names.
create function conductor.begin_waits(
    p_held uuid[], p_executions uuid[], p_keys text[], p_kinds text[], p_groups text[], p_wake_ms bigint[],
    p_wake_at timestamptz[], p_children uuid[], p_tasks text[], p_payloads text[], p_detached boolean[],
    p_events text[], p_filters text[], p_withdrawn_of uuid[], p_withdrawn text[], p_now timestamptz,
    out fresh uuid[], out queues integer[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_expecting uuid[];
    v_expecting_keys text[];
    v_freed uuid[];
begin
    if cardinality(p_withdrawn_of) > 0 then
        v_freed := conductor.withdraw(
            (select array_agg(g.id order by g.n) from unnest(p_withdrawn_of) with ordinality as g(id, n)
              where g.id = any (p_held)),
            (select array_agg(g.key order by g.n)
               from unnest(p_withdrawn_of, p_withdrawn) with ordinality as g(id, key, n) where g.id = any (p_held)));
    end if;
    -- What is not known yet. Nobody else can make it so: the executions are locked.
    with given as materialized (
        select distinct on (g.execution_id, g.key) g.execution_id, g.key, g.kind, g.group_key,
               coalesce(g.wake_at, p_now + g.wake_ms * interval '1 ms') as wake_at,
               g.child_id, g.task, g.payload, g.detached, g.event, g.filter
          from unnest(p_executions, p_keys, p_kinds, p_groups, p_wake_ms, p_wake_at, p_children, p_tasks,
                      p_payloads, p_detached, p_events, p_filters)
               as g(execution_id, key, kind, group_key, wake_ms, wake_at, child_id, task, payload, detached, event,
                    filter)
         where g.execution_id = any (p_held)
           and (select true from conductor.steps s
                 where s.execution_id = g.execution_id and s.key = g.key limit 1) is null
           and (select true from conductor.waits w
                 where w.execution_id = g.execution_id and w.key = g.key limit 1) is null
    ), begun as (
        insert into conductor.waits (
               execution_id, key, kind, group_key, wake_at, child_id, event_name, event_filter, event_hash, event_path)
        select g.execution_id, g.key, g.kind, g.group_key, g.wake_at, g.child_id, g.event, g.filter::jsonb,
               coalesce(f.hash, 0), f.path
          from given g
          left join (
               select k.execution_id, k.key, o.hash, o.path
                 from given k
                cross join lateral conductor.filter_field(k.filter::jsonb) o
                where k.filter is not null) f
            on f.execution_id = g.execution_id and f.key = g.key
    ), children as (
        insert into conductor.live_executions as l (
               id, run_at, created_at, parent_id, parent_key, queue_id, task_id, priority, detached, order_key,
               payload, bytes)
        select g.child_id, p_now, p_now, g.execution_id, g.key, t.queue_id, t.id, t.priority, g.detached,
               conductor.order_key(t.ordered_by, g.payload::json), g.payload::json, octet_length(g.payload)
          from given g
          join conductor.tasks t on t.name = g.task
         where g.child_id is not null
        returning l.queue_id
    )
    select (select array_agg(distinct g.execution_id) from given g),
           (select array_agg(distinct c.queue_id) from children c),
           (select array_agg(g.execution_id order by g.execution_id, g.key) from given g where g.event is not null),
           (select array_agg(g.key order by g.execution_id, g.key) from given g where g.event is not null)
      into fresh, queues, v_expecting, v_expecting_keys;
    -- In statements of their own, which see what was emitted up to the lock of the names.
    if v_expecting is not null then
        perform conductor.note_event_paths(v_expecting, v_expecting_keys);
    end if;
    -- Those that have not looked at all of the log yet go on; where something is free again, all look.
    select v_expecting || array_agg(g.execution_id), v_expecting_keys || array_agg(g.key)
      into v_expecting, v_expecting_keys
      from unnest(p_executions, p_keys, p_events) as g(execution_id, key, event)
     cross join lateral (
           select from conductor.waits w
            where w.execution_id = g.execution_id and w.key = g.key and w.seen_at is not null limit 1) w
     where g.event is not null and g.execution_id = any (p_held);
    if v_freed is not null then
        v_expecting := v_expecting || v_freed;
        v_expecting_keys := v_expecting_keys || array_fill(null::text, array[cardinality(v_freed)]);
    end if;
    if v_expecting is not null then
        perform conductor.catch_up(v_expecting, p_events, p_now, v_expecting_keys);
    end if;
end
$$;

-- Fails executions that have met nothing of what they waited for in so many runs in a row, this one included, and would
-- go on like that for ever. Returns the others. The caller holds them, and their parents.
create function conductor.end_astray(p_held uuid[], p_ids uuid[], p_met integer[], p_astray text[]) returns uuid[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    c_most constant integer := 50;
    v_lost record;
    v_held uuid[] := p_held;
begin
    for v_lost in
        select l.id, g.key
          from unnest(p_ids, p_met, p_astray) as g(id, met, key)
          join conductor.live_executions l on l.id = g.id and l.id = any (p_held)
         where g.key is not null and g.met <= l.met and l.astray >= c_most - 1
    loop
        perform conductor.conclude(array[v_lost.id], 'failed', format(
            'its keys change at each run: %s came, and the code does not ask for it and waits for something new, %s runs '
            'in a row. Make a key of the payload, of recorded values or of a text, and not of a clock, a random number '
            'or the order of a HashMap', to_json(v_lost.key), c_most));
        v_held := array_remove(v_held, v_lost.id);
    end loop;
    return v_held;
end
$$;

-- Suspends executions: makes the children that their waits name, and decides when each is due
-- again. The waits come as columns; one that is known already keeps its time and its child. What the
-- handler waits for no longer is withdrawn. With p_met comes how many records each run met, and with p_astray the key of
-- something that came and that the run did not ask for, while it waits for something new: an execution that goes on like
-- that, and meets no more than before, would never end, and fails.
create function conductor.suspend(
    p_ids uuid[], p_claims integer[],
    p_executions uuid[], p_keys text[], p_kinds text[], p_groups text[], p_wake_ms bigint[],
    p_wake_at timestamptz[], p_children uuid[], p_tasks text[], p_payloads text[], p_detached boolean[],
    p_events text[], p_filters text[], p_withdrawn_of uuid[] default '{}', p_withdrawn text[] default '{}',
    p_orchestrators bigint[] default null, p_met integer[] default null, p_astray text[] default null,
    p_had_of uuid[] default '{}', p_had text[] default '{}')
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_held uuid[];
    v_cancelled uuid[];
    v_fresh uuid[];
    v_queues integer[];
begin
    -- A child of a task that nobody has declared yet stays pending until somebody does.
    if exists (select from unnest(p_tasks) as g(task)
                where g.task is not null
                  and not exists (select from conductor.tasks t where t.name = g.task)) then
        perform conductor.know_tasks(p_tasks);
    end if;
    -- Before the executions, as whoever emits does.
    perform conductor.lock_events(p_events, false);
    perform conductor.lock_parents(p_ids, case when num_nonnulls(variadic p_astray) > 0 then array(
        select g.id from unnest(p_ids, p_astray) as g(id, key) where g.key is not null) else '{}' end);
    -- Locked before anything is looked at: a child that ends now waits for us, or is seen below.
    select array_agg(h.id) filter (where not h.cancelled), array_agg(h.id) filter (where h.cancelled)
      into v_held, v_cancelled
      from (select l.id, l.cancelled
              from unnest(p_ids, p_claims, p_orchestrators) as g(id, claim, orchestrator)
              join conductor.live_executions l on l.id = g.id and l.id = any (p_ids)
             where l.claim = g.claim and l.state = 'running'
               and (g.orchestrator is null or g.orchestrator = l.orchestrator_id)
               for no key update of l) h;
    if v_cancelled is not null then
        perform conductor.conclude(v_cancelled, 'cancelled', null);
    end if;
    if num_nonnulls(variadic p_astray) > 0 then
        v_held := conductor.end_astray(v_held, p_ids, p_met, p_astray);
    end if;
    if coalesce(cardinality(v_held), 0) = 0 then
        return 0;
    end if;

    -- What came while a step ran and the handler has had is not free again.
    if cardinality(p_had_of) > 0 then
        perform conductor.decide(v_held, p_had_of, p_had, '{}', '{}');
    end if;
    select b.fresh, b.queues into v_fresh, v_queues
      from conductor.begin_waits(
           v_held, p_executions, p_keys, p_kinds, p_groups, p_wake_ms, p_wake_at, p_children, p_tasks, p_payloads,
           p_detached, p_events, p_filters, p_withdrawn_of, p_withdrawn, v_now) b;

    -- Due at once where something has come already, else at the first time that it waits for.
    with due as (
        select g.execution_id,
               min(case when w.seen_at is not null then v_now
                        when w.key is not null then coalesce(w.wake_at, 'infinity')
                        when c.group_key is not null then 'infinity'
                        else v_now end) as run_at
          from unnest(p_executions, p_keys, p_groups) as g(execution_id, key, group_key)
          left join lateral (
               select k.key, k.wake_at, k.seen_at from conductor.waits k
                where k.execution_id = g.execution_id and k.key = g.key limit 1) w on true
          -- Looked for once, not for each of many groups.
          left join (
               select distinct o.execution_id, o.group_key from conductor.waits o
                where o.execution_id = any (v_held) and o.child_id is not null) c
            on c.execution_id = g.execution_id and c.group_key = g.group_key
         where g.execution_id = any (v_held)
         group by g.execution_id
    )
    update conductor.live_executions l
       set state = 'suspended', orchestrator_id = null, run_at = d.run_at,
           queue_id = (select t.queue_id from conductor.tasks t where t.id = l.task_id), forgiven = l.crashes,
           partial_wakes = case when l.id = any (v_fresh) then 0 else l.partial_wakes end,
           suspended_claim = l.claim, met = g.met,
           astray = case when g.key is not null and g.met <= l.met then coalesce(l.astray, 0) + 1 end,
           astray_key = case when g.key is not null and g.met <= l.met then g.key end
      from due d
      left join unnest(p_ids, p_met, p_astray) as g(id, met, key) on g.id = d.execution_id
     where l.id = any (v_held) and l.id = d.execution_id;
    perform conductor.wake(v_queues, false);
    return cardinality(v_held);
end
$$;

-- Begins the waits of executions that go on, as a step of theirs still runs: as `suspend`, with the same columns. Returns
-- in their order whether each claim still holds. Locks the names and then the executions, as `suspend` does.
create function conductor.wait_beside(
    p_ids uuid[], p_claims integer[],
    p_executions uuid[], p_keys text[], p_kinds text[], p_groups text[], p_wake_ms bigint[],
    p_wake_at timestamptz[], p_children uuid[], p_tasks text[], p_payloads text[], p_detached boolean[],
    p_events text[], p_filters text[], p_withdrawn_of uuid[] default '{}', p_withdrawn text[] default '{}',
    p_orchestrators bigint[] default null)
returns boolean[]
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_held uuid[];
    v_fresh uuid[];
    v_queues integer[];
begin
    if exists (select from unnest(p_tasks) as g(task)
                where g.task is not null
                  and not exists (select from conductor.tasks t where t.name = g.task)) then
        perform conductor.know_tasks(p_tasks);
    end if;
    perform conductor.lock_events(p_events, false);
    select array_agg(h.id) into v_held
      from (select l.id
              from unnest(p_ids, p_claims, p_orchestrators) as g(id, claim, orchestrator)
              join conductor.live_executions l on l.id = g.id and l.id = any (p_ids)
             where l.claim = g.claim and l.state = 'running' and not l.cancelled
               and (g.orchestrator is null or g.orchestrator = l.orchestrator_id)
               for no key update of l) h;
    if v_held is not null then
        -- What came to a wait that was dropped is for the new ones.
        select b.fresh, b.queues into v_fresh, v_queues
          from conductor.begin_waits(
               v_held, p_executions, p_keys, p_kinds, p_groups, p_wake_ms, p_wake_at, p_children, p_tasks, p_payloads,
               p_detached, p_events, p_filters, p_withdrawn_of, p_withdrawn, conductor.now()) b;
        update conductor.live_executions l set partial_wakes = 0
         where l.id = any (v_held) and l.id = any (v_fresh) and l.partial_wakes > 0;
        perform conductor.wake(v_queues, false);
    end if;
    return array(select g.id = any (v_held) is true from unnest(p_ids) with ordinality as g(id, n) order by g.n);
end
$$;

-- What has come to waits of executions that run: the value and when it was over, in microseconds since 1970, or else
-- how many milliseconds are left until their time is over. What nothing is known of is left out, and so is what would make
-- the answer larger than some 64 MiB, for the next look. Deadlines that are over
-- are recorded first, under the locks of the executions; those that somebody else has locked have theirs recorded later.
create function conductor.look_beside(
    p_ids uuid[], p_claims integer[], p_executions uuid[], p_keys text[], p_orchestrators bigint[] default null)
returns table (execution_id uuid, key text, value text, at bigint, left_ms bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_late uuid[];
begin
    select array_agg(distinct g.execution_id) into v_late
      from unnest(p_executions, p_keys) as g(execution_id, key)
     cross join lateral (
           select from conductor.waits w
            where w.execution_id = g.execution_id and w.key = g.key and w.wake_at <= v_now
              and (w.child_id is not null or w.event_name is not null) limit 1) w;
    if v_late is not null then
        v_late := array(
            select l.id
              from unnest(p_ids, p_claims, p_orchestrators) as g(id, claim, orchestrator)
              join conductor.live_executions l on l.id = g.id and l.id = any (v_late)
             where l.claim = g.claim and l.state = 'running'
               and (g.orchestrator is null or g.orchestrator = l.orchestrator_id)
               for no key update of l skip locked);
        perform conductor.settle(v_late, v_now);
    end if;
    return query
    select f.execution_id, f.key, s.value::text,
           (extract(epoch from coalesce(s.ended_at, s.recorded_at)) * 1000000)::bigint, null::bigint
      from (select g.execution_id, g.key, k.place, sum(k.bytes) over (order by g.n) - k.bytes as before
              from unnest(p_executions, p_keys) with ordinality as g(execution_id, key, n)
             cross join lateral (
                   select o.ctid as place, o.bytes from conductor.steps o
                    where o.execution_id = g.execution_id and o.key = g.key limit 1) k) f
      join conductor.steps s on s.ctid = f.place
     where f.before < 67108864
    union all
    select g.execution_id, g.key,
           case when w.is_sleep and w.wake_at <= v_now then 'null' end,
           (extract(epoch from w.wake_at) * 1000000)::bigint,
           greatest((extract(epoch from w.wake_at - v_now) * 1000)::bigint, 0)
      from unnest(p_executions, p_keys) as g(execution_id, key)
     cross join lateral (
           select o.wake_at, o.child_id is null and o.event_name is null as is_sleep from conductor.waits o
            where o.execution_id = g.execution_id and o.key = g.key and o.wake_at is not null limit 1) w;
end
$$;

-- Children tell their parents how they ended. A parent that waits for one thing, or for the last
-- one of several, is due at once. One that waits for more is woken for the first that comes, as it
-- may be a race, and then less and less often, as it seems to be a join.
create function conductor.report(p_children uuid[], p_parents uuid[], p_keys text[], p_outcomes text[])
returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_executions uuid[];
    v_groups text[];
    v_queues integer[];
begin
    -- In one order, so that two workers never wait for one another; and before the waits are
    -- looked at: a parent that suspends now is waited for.
    perform from conductor.live_executions l where l.id = any (p_parents) order by l.id for no key update;
    -- By their places: nobody but the holder of its execution changes a wait.
    with found as materialized (
        select k.place, g.outcome
          from unnest(p_children, p_parents, p_keys, p_outcomes) as g(child_id, parent_id, key, outcome)
         cross join lateral (
               select w.ctid as place from conductor.waits w
                where w.execution_id = g.parent_id and w.key = g.key and w.child_id = g.child_id limit 1) k
    ), resolved as (
        delete from conductor.waits w
         using found f
         where w.ctid = any (array(select o.place from found o)) and w.ctid = f.place
        returning w.execution_id, w.key, w.kind, w.group_key, f.outcome
    ), recorded as (
        insert into conductor.steps (execution_id, key, kind, value, recorded_at)
        select r.execution_id, r.key, r.kind, r.outcome::json, v_now from resolved r
            on conflict (execution_id, key) do nothing
    )
    select array_agg(r.execution_id), array_agg(r.group_key) into v_executions, v_groups from resolved r;
    if v_executions is null then
        return;
    end if;
    with ready as (
        select distinct r.execution_id
          -- Each group is looked for once, however many children of it have ended.
          from (select distinct g.execution_id, g.group_key
                  from unnest(v_executions, v_groups) as g(execution_id, group_key)) r
         where (select true from conductor.waits w
                 where w.execution_id = r.execution_id and w.group_key = r.group_key limit 1) is null
    ), paced as (
        select r.execution_id, d.delay
          from ready r
         cross join lateral (
               select o.partial_wakes from conductor.live_executions o where o.id = r.execution_id limit 1) o
         cross join lateral (
               select case when o.partial_wakes > 0
                            and (select true from conductor.waits w
                                  where w.execution_id = r.execution_id and w.child_id is not null limit 1)
                           then least(0.05 * power(2, least(o.partial_wakes - 1, 10)), 5) * interval '1 s'
                           else interval '0' end as delay) d
    ), woken as (
        update conductor.live_executions l
           set run_at = v_now + p.delay, postponed = false, partial_wakes = l.partial_wakes + 1
          from paced p
         where l.id = any (v_executions) and l.id = p.execution_id
           and l.state = 'suspended' and l.run_at > v_now + p.delay
        returning l.queue_id
    )
    select array_agg(distinct w.queue_id) into v_queues from woken w;
    perform conductor.wake(v_queues, false);
end
$$;

revoke execute on all functions in schema conductor from public;
