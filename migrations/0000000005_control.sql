-- What people and clients do to executions that exist: wait, cancel, retry; and what keeps the
-- tables small.

set local search_path = pg_catalog, pg_temp;

-- Cancels an execution that has not ended, and its children; false where there is none. A running
-- handler is told, and whatever it returns is recorded as cancelled.
create function conductor.cancel(execution uuid, reason text default null, cascade boolean default true)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_found boolean;
    v_rest uuid[];
    v_level uuid[] := array[execution];
    v_tree uuid[] := '{}';
begin
    -- Parents before children, everywhere; the outermost one is told how this ends.
    perform from conductor.live_executions p
     where p.id = (select l.parent_id from conductor.live_executions l
                    where l.id = execution and l.parent_key is not null)
       for no key update;
    -- Level by level, each locked before its children are looked for: one that suspends now has
    -- made its children when the lock comes.
    loop
        v_level := array(
            select l.id from conductor.live_executions l where l.id = any (v_level) order by l.id for no key update);
        v_tree := v_tree || v_level;
        exit when not cascade or cardinality(v_level) = 0;
        v_level := array(
            select c.id from conductor.live_executions c
             where c.parent_id = any (v_level) and c.parent_id is not null and not c.detached
               and c.id <> all (v_tree));
    end loop;
    with cancelled as (
        update conductor.live_executions l
           set cancelled = true,
               cancel_reason = coalesce(l.cancel_reason, reason,
                                        case when l.id <> execution then 'its parent was cancelled' end)
         where l.id = any (v_tree)
        returning l.id, l.state
    ), told as (
        select count(pg_notify('conductor', 'cancel:' || c.id)) as n from cancelled c
         where c.state = 'running' and coalesce(current_setting('conductor.notify', true), '') <> 'off'
    )
    select bool_or(c.id = execution), array_agg(c.id) filter (where c.state <> 'running')
      into v_found, v_rest
      from cancelled c cross join told;
    if v_rest is not null then
        perform conductor.conclude(v_rest, 'cancelled', null);
    end if;
    return coalesce(v_found, false);
end
$$;

-- Gives a repeat what its forerunner, which has ended, had by then: records, sleeps, and the children that still
-- run, whose ends it waits for; the time in which nobody did is added to their deadlines. Locks these children, behind the
-- repeat, which nobody else sees.
create function conductor.take_over(p_from uuid, p_to uuid) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_ended timestamptz := (select f.finished_at from conductor.finished_executions f where f.id = p_from);
    v_children uuid[];
begin
    -- One that ends meanwhile tells its forerunner: the records below have it. A detached one goes on behind its
    -- deadline.
    v_children := array(
        select l.id from conductor.live_executions l
         where l.id = any (array(
               select w.child_id from conductor.waits w where w.execution_id = p_from and w.child_id is not null
               union all
               select conductor.as_uuid(conductor.json_field(s.value, 'id')) from conductor.steps s
                where s.execution_id = p_from and s.kind = 'invoke'
                  and conductor.json_field(s.value, 'state') = 'timed_out'))
           and not l.cancelled
         order by l.id for no key update);
    update conductor.live_executions l set parent_id = p_to where l.id = any (v_children);
    insert into conductor.waits (execution_id, key, kind, group_key, wake_at, child_id)
    select p_to, w.key, w.kind, w.group_key,
           case when w.child_id is null then w.wake_at else w.wake_at + (v_now - v_ended) end, w.child_id
      from conductor.waits w
     where w.execution_id = p_from and (w.kind = 'sleep' or w.child_id = any (v_children));
    insert into conductor.waits (execution_id, key, kind, group_key, wake_at, child_id)
    select p_to, s.key, s.kind, split_part(s.key, chr(31), 1), v_now + (s.ended_at - l.created_at), l.id
      from conductor.steps s
     cross join lateral (
           select o.id, o.created_at from conductor.live_executions o
            where o.id = conductor.as_uuid(conductor.json_field(s.value, 'id')) and o.id = any (v_children) limit 1) l
     where s.execution_id = p_from and s.kind = 'invoke'
       and conductor.json_field(s.value, 'state') = 'timed_out';
    insert into conductor.steps (
           execution_id, key, kind, value, recorded_at, ended_at, event_id, event_at, event_filter)
    select p_to, s.key, s.kind, s.value, s.recorded_at, s.ended_at, s.event_id, s.event_at, s.event_filter
      from conductor.steps s
     where s.execution_id = p_from
       -- A child that did not complete is tried again, and so is an event or a row that did not come.
       and case when s.kind = 'invoke' then conductor.json_field(s.value, 'state') = 'completed'
                when s.kind in ('event', 'row') then conductor.json_field(s.value, 'event') is not null else true end;
end
$$;

-- One that waits for its next attempt is due now and keeps its id. A final state never changes, so
-- a failed or cancelled one is repeated by a new execution with the same payload and the recorded
-- steps; one that was repeated before goes on where its last repeat has ended. Null where the execution is unknown,
-- running or completed, by a repeat too.
create function conductor.retry(execution uuid) returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_queue integer;
    v_id uuid;
    v_origin uuid;
    v_last uuid;
begin
    update conductor.live_executions l set run_at = v_now
     where l.id = execution and l.state = 'pending'
    returning l.id, l.queue_id into v_id, v_queue;
    if not found then
        -- The first one of all repeats is named, so that idempotency keys stay.
        select coalesce(f.retry_of, f.id) into v_origin from conductor.finished_executions f where f.id = execution;
        if not found then
            return null;
        end if;
        -- Asked twice, by whichever of its repeats, it is repeated once: the second waits for the first.
        perform conductor.wait_for_lock(
            hashtextextended('conductor.retry ' || v_origin, 0), false, 'the lock of the repeats of this execution');
        select l.id into v_id from conductor.live_executions l where l.retry_of = v_origin;
        if found then
            return v_id;
        end if;
        v_last := coalesce((select f.id from conductor.finished_executions f
                             where f.retry_of = v_origin order by f.id desc limit 1), execution);
        -- What it left stays until it is copied.
        perform from conductor.finished_executions f where f.id = v_last for no key update;
        -- As if it had been claimed before, so that its steps are loaded.
        insert into conductor.live_executions as l (
               id, run_at, created_at, parent_id, retry_of, queue_id, task_id, priority, claim, order_key, trigger,
               payload, bytes)
        select conductor.uuid7(), v_now, v_now, f.parent_id, v_origin, t.queue_id, f.task_id,
               f.priority, 1, conductor.order_key(t.ordered_by, f.payload), f.trigger, f.payload,
               octet_length(f.payload::text)
          from conductor.finished_executions f
          join conductor.tasks t on t.id = f.task_id
         where f.id = v_last and f.state in ('failed', 'cancelled')
        returning l.id, l.queue_id into v_id, v_queue;
        if v_id is not null then
            perform conductor.take_over(v_last, v_id);
        end if;
    end if;
    if v_id is not null then
        perform conductor.wake(array[v_queue], true);
    end if;
    return v_id;
end
$$;

create function conductor.set_paused(p_queue text, p_paused boolean) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_queue integer;
begin
    update conductor.queues q set paused = p_paused where q.name = p_queue returning q.id into v_queue;
    if not found then
        return false;
    end if;
    if coalesce(current_setting('conductor.notify', true), '') <> 'off' then
        perform pg_notify('conductor', 'queue:' || v_queue);
    end if;
    return true;
end
$$;

-- Keeps a queue from being claimed, until it is resumed; what runs goes on, and what was claimed and
-- has not started is given back by the workers, who are told. False where there is none.
create function conductor.pause_queue(queue text) returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select conductor.set_paused(queue, true) $$;

create function conductor.resume_queue(queue text) returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select conductor.set_paused(queue, false) $$;

-- The outcome of an execution; while it lives, its end will be notified.
create function conductor.watch(p_id uuid)
returns table (state text, task text, output text, error text)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
    -- Written once only: those who wait ask again each second.
    update conductor.live_executions l set watched = true where l.id = p_id and not l.watched;
    -- A new statement sees what an outcome committed while the update waited for it.
    return query
    select l.state::text, t.name, null::text, null::text
      from conductor.live_executions l
      join conductor.tasks t on t.id = l.task_id
     where l.id = p_id;
    if not found then
        return query
        select f.state::text, t.name, f.output::text, f.error
          from conductor.finished_executions f
          join conductor.tasks t on t.id = f.task_id
         where f.id = p_id;
    end if;
end
$$;

-- Whether any of these tasks has an execution that runs or is due, an event is to be dispatched, or a
-- schedule has a tick to make; what drain waits for.
create function conductor.has_work(p_queues integer[], p_tasks integer[], p_static bigint[]) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    -- The longest of the intervals in conductor.report.
    v_pace interval := '5 s';
    -- What is due in a paused queue may stay so for days.
    v_queues integer[] := array(select q.id from conductor.queues q where q.id = any (p_queues) and not q.paused);
begin
    return exists (select from conductor.event_inbox i)
    or exists (select from conductor.event_deliveries d)
    or exists (select from conductor.event_revisits r)
    or exists (
        select from conductor.schedules s
         where not s.paused and s.fault is null and (s.next_at is null or s.next_at <= v_now)
           and (s.dynamic or s.id = any (p_static)))
    or exists (
        select from conductor.first_ticks() f
         where (select l.state <> 'pending' or l.run_at < 'infinity' from conductor.live_executions l
                 where l.id = f.execution_id limit 1) is not true)
    or exists (
        select from unnest(v_queues) as q, conductor.priorities(q) as p,
               lateral (select from conductor.live_executions l
                         where l.queue_id = q and l.priority = p and l.run_at <= v_now + v_pace
                           and l.task_id = any (p_tasks)
                           and (l.run_at <= v_now
                                -- A join that is woken at intervals, before any of its times has come.
                                or l.state = 'suspended' and l.partial_wakes > 0
                                   and not exists (select from conductor.waits w
                                                    where w.execution_id = l.id and w.wake_at <= l.run_at))
                         limit 1) due)
    or exists (
        select from conductor.limits c
          join conductor.lanes a on a.limit_id = coalesce(c.shared_id, c.id)
          join conductor.tasks t on t.id = c.task_id
         where c.task_id = any (p_tasks) and t.queue_id = any (v_queues)
           and (a.holders <> '{}' or a.due_at <= v_now + conductor.rate_horizon())
           and (select true from conductor.live_executions l
                 where l.queue_id = -a.id and l.task_id = any (p_tasks) limit 1));
end
$$;

-- Removes steps, failures and waits of executions that are gone, at most p_limit of each; gives the
-- executions that have some left.
create function conductor.remove_records(p_ids uuid[], p_limit integer) returns uuid[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_steps integer;
    v_failures integer;
    v_waits integer;
begin
    delete from conductor.steps s
     where s.ctid = any (array(
           select o.ctid from conductor.steps o where o.execution_id = any (p_ids) limit p_limit));
    get diagnostics v_steps = row_count;
    delete from conductor.failures f
     where f.ctid = any (array(
           select o.ctid from conductor.failures o where o.execution_id = any (p_ids) limit p_limit));
    get diagnostics v_failures = row_count;
    delete from conductor.waits w
     where w.ctid = any (array(
           select o.ctid from conductor.waits o where o.execution_id = any (p_ids) limit p_limit));
    get diagnostics v_waits = row_count;
    if greatest(v_steps, v_failures, v_waits) < p_limit then
        return '{}';
    end if;
    return array(
        select g.id from unnest(p_ids) as g(id)
         where exists (select from conductor.steps s where s.execution_id = g.id)
            or exists (select from conductor.failures f where f.execution_id = g.id)
            or exists (select from conductor.waits w where w.execution_id = g.id));
end
$$;

-- Removes finished executions that are past their time, at most p_limit, from p_after on: whoever
-- removes many goes on from where the last portion ended, and does not walk over what he has removed,
-- however long vacuum is kept from its work.
create function conductor.prune_finished(p_limit integer, p_after timestamptz)
returns table (removed integer, reached timestamptz)
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_ids uuid[];
    v_reached timestamptz;
begin
    select array_agg(e.id), max(e.expires_at) into v_ids, v_reached
      from (select f.id, f.expires_at from conductor.finished_executions f
             where f.expires_at between p_after and v_now
             order by f.expires_at
             limit p_limit
               for update skip locked) e;
    if v_ids is null then
        return query select 0, p_after;
        return;
    end if;
    delete from conductor.finished_executions f where f.id = any (v_ids);
    insert into conductor.remains (execution_id)
    select g.id from unnest(conductor.remove_records(v_ids, 10 * p_limit)) as g(id)
        on conflict do nothing;
    return query select cardinality(v_ids), v_reached;
end
$$;

-- Removes records whose execution is gone already. How many executions are done with; p_limit where
-- there is more to do.
create function conductor.prune_remains(p_limit integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids uuid[] := array(
        select r.execution_id from conductor.remains r order by r.execution_id limit p_limit for update skip locked);
    v_left uuid[];
begin
    if cardinality(v_ids) = 0 then
        return 0;
    end if;
    v_left := conductor.remove_records(v_ids, 10 * p_limit);
    delete from conductor.remains r where r.execution_id = any (v_ids) and r.execution_id <> all (v_left);
    return case when cardinality(v_left) > 0 then p_limit else cardinality(v_ids) end;
end
$$;

-- Looks through the next records of each kind for some whose execution is not there, which nothing of
-- ours should leave, and hands them to prune_remains. Gives where to go on; null at the end.
create function conductor.sweep(p_after uuid, p_limit integer) returns uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_after uuid := coalesce(p_after, '00000000-0000-0000-0000-000000000000');
    v_end uuid;
    v_upto uuid;
begin
    v_end := least(
        (select s.execution_id from conductor.steps s
          where s.execution_id > v_after order by s.execution_id offset p_limit limit 1),
        (select f.execution_id from conductor.failures f
          where f.execution_id > v_after order by f.execution_id offset p_limit limit 1),
        (select w.execution_id from conductor.waits w
          where w.execution_id > v_after order by w.execution_id offset p_limit limit 1));
    v_upto := coalesce(v_end, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
    insert into conductor.remains (execution_id)
    select g.id
      from (select s.execution_id as id from conductor.steps s where s.execution_id > v_after and s.execution_id <= v_upto
             union
            select f.execution_id from conductor.failures f where f.execution_id > v_after and f.execution_id <= v_upto
             union
            select w.execution_id from conductor.waits w where w.execution_id > v_after and w.execution_id <= v_upto) g
     where not exists (select from conductor.live_executions l where l.id = g.id)
       and not exists (select from conductor.finished_executions f where f.id = g.id)
        on conflict do nothing;
    return v_end;
end
$$;

-- Removes dynamic schedules that have had their last tick, once that is as long ago as what they have
-- started is kept; how many.
create function conductor.prune_schedules() returns integer
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := conductor.now();
    v_count integer;
begin
    delete from conductor.schedules s
     using conductor.tasks t
     where t.id = s.task_id and s.dynamic and s.next_at = 'infinity' and s.former_cron is null and not s.paused
       and s.fault is null and v_now - greatest(s.last_at, s.planned_from) > t.keep_completed;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- Removes notes on executions that have gone on since, or have ended. Those that count are renewed while a
-- process with their task lives.
create function conductor.prune_unreadable(p_limit integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_ids uuid[];
    v_claims integer[];
    v_live uuid[];
    v_count integer;
begin
    select array_agg(n.execution_id), array_agg(n.left_claim) into v_ids, v_claims
      from (select u.execution_id, u.left_claim from conductor.unreadable u
             where u.noted_at < clock_timestamp() - interval '10 minutes'
             order by u.execution_id
             limit p_limit) n;
    if v_ids is null then
        return 0;
    end if;
    v_live := array(
        select l.id from conductor.live_executions l
          join unnest(v_ids, v_claims) as n(id, claim) on n.id = l.id and n.claim = l.claim
         where l.id = any (v_ids) and l.state = 'pending');
    -- One that is served by nobody just now is not looked at before the others.
    update conductor.unreadable u set noted_at = clock_timestamp() where u.execution_id = any (v_live);
    delete from conductor.unreadable u
     where u.execution_id = any (v_ids) and u.execution_id <> all (v_live)
       and u.noted_at < clock_timestamp() - interval '10 minutes';
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- Removes what is past its time, a portion at a time: finished executions with all of theirs, slots of
-- throttled invokes, the notes on repeated ones, schedules that will not tick again, and events. How
-- many of the kind of which there were most: p_limit or more where there may be more.
create function conductor.prune(p_limit integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := conductor.now();
    v_finished integer := (select p.removed from conductor.prune_finished(p_limit, '-infinity') p);
    v_remains integer := conductor.prune_remains(p_limit);
    v_slots integer;
    v_notes integer;
    v_schedules integer;
begin
    with expired as (
        select s.task_id, s.key from conductor.throttles s
         where s.until <= conductor.now()
         order by s.until
         limit p_limit
           for update skip locked
    )
    delete from conductor.throttles s using expired e where s.task_id = e.task_id and s.key = e.key;
    get diagnostics v_slots = row_count;
    -- The ids are in the order of time, so the oldest notes come first.
    with oldest as (
        select r.id, r.replaced_at from conductor.replacements r order by r.id limit p_limit
    )
    delete from conductor.replacements r using oldest o
     where r.id = o.id and o.replaced_at < clock_timestamp() - interval '1 hour';
    get diagnostics v_notes = row_count;

    v_schedules := conductor.prune_schedules();
    return greatest(v_finished, v_remains, v_slots, v_notes, v_schedules, conductor.prune_unreadable(p_limit),
                    conductor.prune_events(p_limit));
end
$$;
