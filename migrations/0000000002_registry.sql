-- Who is there: declared tasks and their queues, orchestrators and their leases, recovery.

set local search_path = pg_catalog, pg_temp;

-- Declares tasks and their queues. With p_replace a known task takes the new options (a worker
-- starts); without, it keeps what it has (a client only wants its task to be known).
create function conductor.declare_tasks(p_tasks jsonb, p_replace boolean)
returns table (id integer, queue_id integer, name text)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    -- Some 9500 years: what ends later is no point in time any more.
    v_for_ever constant float8 := 3e14;
    v_moved integer[];
    v_opened integer[];
    v_ids uuid[];
begin
    if p_replace then
        v_opened := array(
            select t.id from jsonb_to_recordset(p_tasks) as d(name text, time_window jsonb)
              join conductor.tasks t on t.name = d.name
             where t.time_window is not null and t.time_window is distinct from d.time_window);
        v_moved := array(
            select t.id from jsonb_to_recordset(p_tasks) as d(name text, queue text)
              join conductor.tasks t on t.name = d.name
              join conductor.queues q on q.id = t.queue_id
             where q.name <> d.queue);
        insert into conductor.moves as m (task_id, queue_id)
        select t.id, t.queue_id from conductor.tasks t where t.id = any (v_moved) order by t.id
            on conflict on constraint moves_pkey do update
           set moved_at = excluded.moved_at, looked_at = excluded.looked_at, moved_by = excluded.moved_by;
    end if;

    insert into conductor.queues (name)
    select distinct d.queue from jsonb_to_recordset(p_tasks) as d(queue text)
     where not exists (select from conductor.queues q where q.name = d.queue)
     order by d.queue
        on conflict on constraint queues_name_key do nothing;

    insert into conductor.tasks as t (
           name, queue_id, package, place, docs, priority, max_attempts, backoff_initial, backoff_max,
           jitter, timeout, time_window, ordered_by, keep_completed, keep_failed, payload_schema, output_schema,
           declared_at)
    select d.name, q.id, d.package, d.place, d.docs, d.priority, d.max_attempts,
           d.backoff_initial_ms * interval '1 ms', d.backoff_max_ms * interval '1 ms', d.jitter,
           d.timeout_ms * interval '1 ms', d.time_window, d.ordered_by, least(d.keep_completed_ms, v_for_ever) * interval '1 ms',
           least(d.keep_failed_ms, v_for_ever) * interval '1 ms', d.payload_schema, d.output_schema, conductor.now()
      from jsonb_to_recordset(p_tasks) as d(
           name text, queue text, package text, place text, docs text, priority integer,
           max_attempts integer, backoff_initial_ms float8, backoff_max_ms float8, jitter float8,
           timeout_ms float8, time_window jsonb, ordered_by text[], keep_completed_ms float8, keep_failed_ms float8,
           payload_schema jsonb, output_schema jsonb)
      join conductor.queues q on q.name = d.queue
     where p_replace or not exists (select from conductor.tasks k where k.name = d.name)
     order by d.name
        on conflict on constraint tasks_name_key do update
       set queue_id = excluded.queue_id, package = excluded.package, place = excluded.place,
           docs = excluded.docs, priority = excluded.priority, max_attempts = excluded.max_attempts,
           backoff_initial = excluded.backoff_initial, backoff_max = excluded.backoff_max,
           jitter = excluded.jitter, timeout = excluded.timeout, time_window = excluded.time_window,
           window_since = case when t.time_window is distinct from excluded.time_window
                               then clock_timestamp() else t.window_since end,
           ordered_by = excluded.ordered_by, keep_completed = excluded.keep_completed, keep_failed = excluded.keep_failed,
           payload_schema = excluded.payload_schema, output_schema = excluded.output_schema,
           declared_at = excluded.declared_at
     where p_replace
       and (t.queue_id, t.package, t.place, t.docs, t.priority, t.max_attempts, t.backoff_initial,
            t.backoff_max, t.jitter, t.timeout, t.time_window, t.ordered_by, t.keep_completed, t.keep_failed, t.payload_schema,
            t.output_schema)
           is distinct from
           (excluded.queue_id, excluded.package, excluded.place, excluded.docs, excluded.priority,
            excluded.max_attempts, excluded.backoff_initial, excluded.backoff_max, excluded.jitter,
            excluded.timeout, excluded.time_window, excluded.ordered_by, excluded.keep_completed, excluded.keep_failed,
            excluded.payload_schema, excluded.output_schema);

    if p_replace then
        perform conductor.declare_limits(p_tasks);
    end if;

    -- What waits for a window that has been changed looks at the new one.
    -- One that somebody has locked keeps its time: a worker does not wait for him when it starts.
    if cardinality(v_opened) > 0 then
        v_ids := array(
            select l.id from conductor.live_executions l
             where l.task_id = any (v_opened) and l.postponed and l.state <> 'running' for no key update skip locked);
        update conductor.live_executions l set run_at = conductor.now(), postponed = false
         where l.id = any (v_ids);
    end if;

    -- A task that moves to another queue takes along what waits for it; the rest follows later.
    if cardinality(v_moved) > 0 then
        v_ids := array(
            select l.id from conductor.live_executions l
             where l.task_id = any (v_moved) and l.state <> 'running' for no key update skip locked);
        update conductor.live_executions l set queue_id = t.queue_id
          from conductor.tasks t
         where l.id = any (v_ids) and t.id = l.task_id;
    end if;

    return query
    select t.id, t.queue_id, t.name
      from jsonb_to_recordset(p_tasks) as d(name text)
      join conductor.tasks t on t.name = d.name;
end
$$;

-- Brings executions along whose task has moved while somebody's open transaction made or held them: it
-- looks through the queue from which the task has moved, for a day at least and for as long as a transaction
-- lasts that is older than the move. Less and less often, and after a look at very many only after 20 times
-- as long as it took. One move a call, and of its queue a portion, in the order of claims; the next call goes
-- on from there. Whether there may be more to do now.
create function conductor.follow_moves(p_portion integer default 10000, out moved integer, out more boolean)
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_move record;
    v_priority integer;
    v_run_at timestamptz;
    v_id uuid;
    v_ids uuid[] := '{}';
    v_found uuid[];
    v_seen integer;
    v_left integer := p_portion;
begin
    moved := 0;
    more := false;
    select m.task_id, m.queue_id, m.moved_at, m.moved_by, m.at_priority, m.at_run_at, m.at_id, m.seen,
           t.queue_id as goal
      into v_move
      from conductor.moves m
      join conductor.tasks t on t.id = m.task_id
     where m.at_priority is not null or v_now < m.looked_at
        or v_now >= m.looked_at + least(greatest((v_now - m.moved_at) / 8, interval '0'), interval '30 s')
                                + m.seen * interval '50 us'
     order by m.looked_at, m.task_id, m.queue_id
     limit 1
       for update of m skip locked;
    if not found then
        return;
    end if;
    more := true;
    if v_move.goal <> v_move.queue_id then
        v_priority := v_move.at_priority;
        v_run_at := v_move.at_run_at;
        v_id := v_move.at_id;
        if v_priority is null then
            v_move.seen := 0;
        end if;
        loop
            if v_run_at is null then
                select l.priority into v_priority from conductor.live_executions l
                 where l.queue_id = v_move.queue_id and l.priority < coalesce(v_priority, 2147483647)
                 order by l.priority desc limit 1;
                exit when v_priority is null;
                v_run_at := '-infinity';
                v_id := '00000000-0000-0000-0000-000000000000';
            end if;
            select array_agg(o.id) filter (where o.task_id = v_move.task_id and o.state in ('pending', 'suspended')),
                   count(*)::integer, max(o.run_at), (array_agg(o.id order by o.run_at desc, o.id desc))[1]
              into v_found, v_seen, v_run_at, v_id
              from (select l.id, l.task_id, l.state, l.run_at from conductor.live_executions l
                     where l.queue_id = v_move.queue_id and l.priority = v_priority
                       and (l.run_at, l.id) > (v_run_at, v_id)
                     order by l.run_at, l.id limit v_left) o;
            v_ids := v_ids || coalesce(v_found, '{}');
            v_move.seen := v_move.seen + v_seen;
            v_left := v_left - v_seen;
            exit when v_left <= 0;
            v_run_at := null;
        end loop;
        update conductor.live_executions l set queue_id = v_move.goal
         where l.id = any (array(
               select o.id from conductor.live_executions o
                where o.id = any (v_ids) and o.queue_id = v_move.queue_id and o.state in ('pending', 'suspended')
                  for no key update skip locked));
        get diagnostics moved = row_count;
        if moved > 0 then
            perform conductor.wake(array[v_move.goal], false);
        end if;
    end if;
    if v_priority is null and v_move.moved_at < v_now - interval '1 day'
       and v_move.moved_by < pg_snapshot_xmin(pg_current_snapshot()) then
        delete from conductor.moves m where m.task_id = v_move.task_id and m.queue_id = v_move.queue_id;
    else
        update conductor.moves m
           set looked_at = v_now, at_priority = v_priority, at_run_at = v_run_at, at_id = v_id, seen = v_move.seen
         where m.task_id = v_move.task_id and m.queue_id = v_move.queue_id;
    end if;
end
$$;

-- What a client may do that must not change what workers have declared.
create function conductor.declare_missing(p_tasks jsonb) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform conductor.declare_tasks(p_tasks, false);
end
$$;

-- Makes tasks that nobody has declared yet, by their names, in the default queue: what is invoked of them
-- waits until somebody does.
create function conductor.know_tasks(p_names text[]) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    insert into conductor.queues (name) values ('default')
        on conflict on constraint queues_name_key do nothing;
    insert into conductor.tasks (name, queue_id, declared_at)
    select distinct g.name, q.id, conductor.now()
      from unnest(p_names) as g(name)
      join conductor.queues q on q.name = 'default'
     where g.name is not null
     order by g.name
        on conflict on constraint tasks_name_key do nothing;
end
$$;

-- Makes due what could not be read of these tasks, as a process has come that may: in the order in which
-- it was due at first. Of very many, the rest is looked at when its time comes.
create function conductor.look_again(p_tasks integer[]) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_ids uuid[];
    v_claims integer[];
    v_run_at timestamptz[];
    v_mine uuid[];
begin
    select array_agg(n.execution_id), array_agg(n.left_claim), array_agg(n.run_at) into v_ids, v_claims, v_run_at
      from (select u.execution_id, u.left_claim, u.run_at from conductor.unreadable u
             where u.task_id = any (p_tasks) limit 10000) n;
    if v_ids is null then
        return 0;
    end if;
    v_mine := array(
        select l.id from conductor.live_executions l
          join unnest(v_ids, v_claims) as n(id, claim) on n.id = l.id and n.claim = l.claim
         where l.id = any (v_ids) and l.state = 'pending' and l.run_at > v_now and not l.postponed
           for no key update of l skip locked);
    update conductor.live_executions l set run_at = least(n.run_at, v_now)
      from unnest(v_ids, v_run_at) as n(id, run_at)
     where l.id = any (v_mine) and n.id = l.id;
    return cardinality(v_mine);
end
$$;

-- The next three keep their names and arguments for as long as there is a schema: by them an older
-- process learns that it must go.

-- Takes a lease. Refused (CD010, the detail is the number of the migration) where a breaking migration
-- that the program does not know was applied, or is about to be; p_version is the newest that it knows,
-- null for one that fits. The lock is that of the migrations, so that none is applied meanwhile.
create function conductor.start_orchestrator(
    p_host text, p_pid integer, p_queues integer[], p_tasks integer[], p_lease interval,
    p_schedules bigint[] default '{}', p_version integer default null) returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_newer integer;
    v_id bigint;
begin
    perform conductor.wait_for_lock(27988542616855412, true, 'the lock of the migrations');
    select max(m.id) into v_newer from conductor.migrations m where m.breaking and m.id > p_version;
    if v_newer is null then
        select u.version into v_newer from conductor.upgrade u
         where u.version > p_version and u.until > clock_timestamp()
           -- Else a clock was wrong, as it is for five seconds.
           and u.until < clock_timestamp() + interval '1 minute';
    end if;
    if v_newer is not null then
        raise exception 'schema version % does not work with programs of version %', v_newer, p_version
            using errcode = 'CD010', detail = v_newer::text;
    end if;
    insert into conductor.orchestrators (
           host, pid, queue_ids, task_ids, schedule_ids, version, started_at, lease_until, lease)
    values (p_host, p_pid, p_queues, p_tasks, p_schedules,
            coalesce(p_version, (select max(m.id) from conductor.migrations m)),
            clock_timestamp(), clock_timestamp() + p_lease, p_lease)
    returning id into v_id;
    perform conductor.look_again(p_tasks);
    return v_id;
end
$$;

-- Renews the lease. False: the lease was lost and the executions were given back.
create function conductor.heartbeat(p_orchestrator bigint, p_lease interval) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    update conductor.orchestrators set lease_until = clock_timestamp() + p_lease, lease = p_lease
     where id = p_orchestrator;
    return found;
end
$$;

-- The breaking migration for which an orchestrator is to end; mostly none.
create function conductor.drain_for(p_orchestrator bigint) returns integer
language sql stable set search_path = pg_catalog, pg_temp
as $$ select o.drain_for from conductor.orchestrators o where o.id = p_orchestrator $$;

-- Tells the processes that do not know this breaking migration to end, lets no more of them start for
-- a while, and gives those that are still there. The caller holds the migrations' lock.
create function conductor.retire(p_version integer, p_max_crashes integer)
returns table (host text, pid integer, version integer)
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    insert into conductor.upgrade as u (version, until)
    values (p_version, clock_timestamp() + interval '5 s')
        on conflict (only_row) do update
       set version = greatest(case when u.until > clock_timestamp() then u.version end, excluded.version),
           until = excluded.until;
    -- The dead do not go by themselves.
    perform conductor.recover(p_max_crashes);
    update conductor.orchestrators o set drain_for = p_version
     where o.version < p_version and (o.drain_for is null or o.drain_for < p_version);
    if found then
        perform pg_notify('conductor', 'version:' || p_version);
    end if;
    return query
    select o.host, o.pid, o.version from conductor.orchestrators o where o.version < p_version order by o.id;
end
$$;

-- Whether the caller is to do a chore now, and from where on; the next one is not before p_every is
-- over. Mostly it is not the caller's turn, which locks nothing.
create function conductor.take_chore(p_name text, p_every interval)
returns table (position_before uuid)
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    -- Further ahead than it can be: a clock was wrong.
    perform from conductor.chores c
      where c.name = p_name and (c.due_at <= clock_timestamp() or c.due_at > clock_timestamp() + p_every);
    if not found then
        return;
    end if;
    return query
    update conductor.chores c set due_at = clock_timestamp() + p_every, every = p_every
      from (select k.name from conductor.chores k
             where k.name = p_name and (k.due_at <= clock_timestamp() or k.due_at > clock_timestamp() + p_every)
               for no key update skip locked) mine
     where c.name = mine.name
    returning c.position;
end
$$;

-- Puts a chore down where it has come to; with p_again any process may take it up again at once.
create function conductor.leave_chore(p_name text, p_position uuid, p_again boolean) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
    update conductor.chores c
       set due_at = case when p_again then clock_timestamp() else c.due_at end, position = p_position
     where c.name = p_name;
$$;

-- Locks those of these executions that run and that nobody else has locked, and gives them. Of one that
-- is to end, as it was cancelled or may have crashed too often, the parent is locked before, as
-- whoever ends a child does; where somebody else has that one, the child is not given. Waits for nobody.
create function conductor.lock_held(p_ids uuid[], p_max_crashes integer) returns uuid[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_nestloop = off
set enable_hashjoin = on set jit = off
as $$
declare
    v_most integer := coalesce(p_max_crashes, 2147483647);
    v_of uuid[];
    v_parents uuid[];
    v_ids uuid[];
begin
    v_of := array(
        select l.parent_id from conductor.live_executions l
         where l.id = any (p_ids) and l.parent_key is not null and (l.cancelled or l.crashes + 1 >= v_most));
    v_parents := array(
        select p.id from conductor.live_executions p
         where p.id = any (v_of) order by p.id for no key update skip locked);
    v_ids := array(
        select l.id from conductor.live_executions l
         where l.id = any (p_ids) and l.state = 'running' order by l.id for no key update skip locked);
    -- By a statement of its own: a cancel may have committed before the lock came.
    v_of := array(
        select l.parent_id from conductor.live_executions l
         where l.id = any (v_ids) and l.parent_key is not null and (l.cancelled or l.crashes + 1 >= v_most));
    -- Parents that are there and not ours.
    v_of := array(
        select p.id from conductor.live_executions p where p.id = any (v_of)
        except select id from unnest(v_parents) as id);
    if cardinality(v_of) = 0 then
        return v_ids;
    end if;
    return array(
        select l.id from conductor.live_executions l
         where l.id = any (v_ids)
           and not (coalesce(l.parent_id = any (v_of), false) and l.parent_key is not null
                    and (l.cancelled or l.crashes + 1 >= v_most)));
end
$$;

-- Locks the parents of those of these executions that were cancelled, or that are in p_ending, before they end: parents
-- before children, everywhere.
create function conductor.lock_parents(p_ids uuid[], p_ending uuid[] default '{}') returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_parents uuid[] := array(
        select l.parent_id from conductor.live_executions l
         where l.id = any (p_ids) and (l.cancelled or l.id = any (p_ending)) and l.parent_key is not null);
begin
    if cardinality(v_parents) > 0 then
        perform from conductor.live_executions p where p.id = any (v_parents) order by p.id for no key update;
    end if;
end
$$;

-- Notes those of these executions that somebody else has locked and that run under an orchestrator which is
-- gone: they are given back when they are free (conductor.do_deferred), charged with a crash or not.
create function conductor.defer_orphans(p_held uuid[], p_free uuid[], p_charged boolean) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_nestloop = off
set enable_hashjoin = on set jit = off
as $$
declare
    v_locked uuid[];
begin
    if cardinality(p_free) = cardinality(p_held) then
        return;
    end if;
    v_locked := array(select id from unnest(p_held) as id except select id from unnest(p_free) as id);
    insert into conductor.deferred (execution_id, what, claim)
    select l.id, case when p_charged then 'orphan' else 'disown' end, l.claim
      from conductor.live_executions l
     where l.id = any (v_locked) and l.state = 'running'
       and not exists (select from conductor.orchestrators o where o.id = l.orchestrator_id)
        on conflict do nothing;
end
$$;

-- Gives back what dead orchestrators held. An execution that has seen its process die
-- p_max_crashes times is taken for the killer and fails. One that somebody's open transaction has
-- locked keeps nothing else waiting: it is given back when it is free.
create function conductor.recover(p_max_crashes integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_dead bigint[];
    v_held uuid[];
    v_free uuid[];
    v_ids uuid[];
begin
    -- Most calls end here, and lock nothing.
    perform from conductor.orchestrators o where o.lease_until < clock_timestamp();
    if not found then
        return 0;
    end if;
    with expired as (
        select o.id from conductor.orchestrators o
         where o.lease_until < clock_timestamp()
           for update skip locked
    ), buried as (
        delete from conductor.orchestrators o using expired e where o.id = e.id returning o.id
    )
    select array_agg(b.id) into v_dead from buried b;
    if v_dead is null then
        return 0;
    end if;
    perform conductor.free_lanes(v_dead);
    perform conductor.drop_retired_schedules();
    v_held := array(
        select l.id from conductor.live_executions l where l.state = 'running' and l.orchestrator_id = any (v_dead));
    v_free := conductor.lock_held(v_held, p_max_crashes);
    v_ids := array(
        select l.id from conductor.live_executions l
         where l.id = any (v_free) and l.orchestrator_id = any (v_dead));
    perform conductor.defer_orphans(v_held, v_free, true);
    return conductor.give_back(v_ids, p_max_crashes);
end
$$;

-- An orderly end: what it still holds goes back, and nothing is charged. What runs was due, so the
-- due part of its queues is looked through (with an hour to spare for a clock that was set back).
create function conductor.stop_orchestrator(p_orchestrator bigint) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_until timestamptz := conductor.now() + interval '1 hour';
    v_queues integer[];
    v_held uuid[];
    v_free uuid[];
    v_ids uuid[];
begin
    delete from conductor.orchestrators o where o.id = p_orchestrator returning o.queue_ids into v_queues;
    v_queues := v_queues || array(
        select -a.id from conductor.lanes a where a.holders ? p_orchestrator::text);
    perform conductor.free_lanes(array[p_orchestrator]);
    perform conductor.drop_retired_schedules();
    v_held := array(
        select held.id
          from unnest(v_queues) as q, conductor.priorities(q) as p,
               lateral (select l.id from conductor.live_executions l
                         where l.queue_id = q and l.priority = p and l.run_at <= v_until
                           and l.state = 'running' and l.orchestrator_id = p_orchestrator) held);
    v_free := conductor.lock_held(v_held, null);
    v_ids := array(
        select l.id from conductor.live_executions l
         where l.id = any (v_free) and l.orchestrator_id = p_orchestrator);
    perform conductor.defer_orphans(v_held, v_free, false);
    perform conductor.give_back(v_ids, null);
end
$$;

-- Takes running executions from whoever had them: cancelled ones end, the others are due again. The
-- caller has locked them. One that has crashed p_max_crashes times and recorded nothing in between, or
-- twenty times as often in all, fails. With p_max_crashes, each is charged a crash, and the charged ones are due
-- at different times, so that one that kills its process does not meet the same neighbours again.
create function conductor.give_back(p_ids uuid[], p_max_crashes integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_charge integer := case when p_max_crashes is null then 0 else 1 end;
    v_count integer;
    v_queues integer[];
begin
    if cardinality(p_ids) = 0 then
        return 0;
    end if;

    insert into conductor.failures (execution_id, attempt, failed_at, error)
    select l.id, l.failures + l.crashes + 1, v_now, 'the process died while it ran this attempt'
      from conductor.live_executions l
     where v_charge = 1 and l.id = any (p_ids) and l.state = 'running'
        on conflict do nothing;

    -- What it has recorded under this claim it will not do again: the crashes before do not count. What others
    -- record of it, as children that end and events that come, is no work of its own.
    if v_charge = 1 then
        update conductor.live_executions l set forgiven = l.crashes
         where l.id = any (p_ids) and l.state = 'running' and l.crashes > l.forgiven
           and (select true from conductor.steps s
                 where s.execution_id = l.id and s.recorded_at > l.claimed_at
                   and s.kind not in ('invoke', 'event', 'row') limit 1);
    end if;
    update conductor.live_executions l
       set state = 'pending', orchestrator_id = null, claim = l.claim + 1, crashes = l.crashes + v_charge,
           met = null, astray = null, astray_key = null,
           queue_id = (select t.queue_id from conductor.tasks t where t.id = l.task_id),
           run_at = case when l.crashes - l.forgiven + v_charge > 1 and v_charge = 1
                         then v_now + random() * (l.crashes - l.forgiven) * interval '2 s' else l.run_at end,
           error = case when v_charge = 1 then 'the process died while it ran this attempt' else l.error end
     where l.id = any (p_ids) and l.state = 'running';
    get diagnostics v_count = row_count;

    perform conductor.conclude(
        array(select l.id from conductor.live_executions l
               where l.id = any (p_ids) and l.state = 'pending' and l.cancelled),
        'cancelled', null);
    perform conductor.conclude(
        array(select l.id from conductor.live_executions l
               where l.id = any (p_ids) and l.state = 'pending' and l.crashes - l.forgiven >= p_max_crashes),
        'failed', format('given up after %s crashes: each time the process died while it ran this', p_max_crashes));
    -- One that records something new each time is not to kill processes for ever.
    perform conductor.conclude(
        array(select l.id from conductor.live_executions l
               where l.id = any (p_ids) and l.state = 'pending' and l.crashes >= 20 * p_max_crashes),
        'failed', format('given up after %s crashes in all, although it recorded something between them',
                         20 * p_max_crashes));

    select array_agg(distinct l.queue_id) into v_queues
      from conductor.live_executions l where l.id = any (p_ids) and l.state = 'pending';
    perform conductor.wake(v_queues, false);
    return v_count;
end
$$;

-- Mends what lies further ahead than it can, as it was written while the server's clock was ahead; gives a
-- line for the log each. A lease is not over by that: who lives renews it, who does not has it for as long
-- as a lease lasts. A chore of once a minute; mostly it finds nothing, and locks nothing.
create function conductor.heal_times() returns setof text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set jit = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_real timestamptz := clock_timestamp();
    v_now timestamptz := conductor.now();
    v_row record;
begin
    for v_row in
        update conductor.orchestrators o set lease_until = v_real + o.lease
          from (select k.id, k.lease_until as was from conductor.orchestrators k
                 where k.lease_until > v_real + k.lease + interval '1 s'
                 order by k.id for no key update skip locked) far
         where o.id = far.id
        returning o.id, o.host, o.pid, far.was
    loop
        return next format('the lease of process %s on %s lasted until %s', v_row.pid, v_row.host, v_row.was);
    end loop;
    for v_row in
        update conductor.chores c set due_at = v_real
          from (select k.name, k.due_at as was from conductor.chores k
                 where k.due_at > v_real + k.every + interval '1 s'
                 order by k.name for no key update skip locked) far
         where c.name = far.name
        returning c.name, far.was
    loop
        -- What was written of executions meanwhile is looked at by this one.
        update conductor.chores c set due_at = v_real where c.name = 'orphans' and c.due_at > v_real;
        return next format('the chore %s was due at %s', v_row.name, v_row.was);
    end loop;
    for v_row in
        update conductor.row_watches w set used_at = v_now
         where w.used_at > v_now + interval '1 minute'
        returning w.event
    loop
        return next format('the watch %s was used later than now', v_row.event);
    end loop;
    for v_row in
        delete from conductor.throttles s
         using (select k.task_id, k.key, k.until as was
                  from (select m.task_id, m.key from conductor.throttles m order by m.until desc limit 100) m
                  join conductor.throttles k on k.task_id = m.task_id and k.key = m.key
                 where k.until > v_now + k.lasts + interval '1 s'
                 order by k.task_id, k.key for update of k skip locked) far
         where s.task_id = far.task_id and s.key = far.key
        returning s.task_id, s.key, far.was
    loop
        return next format('the slot "%s" of a throttle lasted until %s', v_row.key, v_row.was);
    end loop;
    return query select conductor.heal_lanes();
end
$$;

-- What was due or made in the future: as long from now as it was from then. Of those that failed, and of
-- new ones that were to start at once or within a day; what is to start at a given time stays. It reads
-- the whole table.
create function conductor.heal_executions() returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_ids uuid[];
    v_count integer;
begin
    v_ids := array(
        select l.id from conductor.live_executions l
         where l.state = 'pending' and l.run_at > v_now + interval '1 minute' and l.run_at < 'infinity'
           and (l.created_at > v_now + interval '1 minute'
                or l.failures > 0
                   and exists (select from conductor.failures f
                                where f.execution_id = l.id and f.failed_at > v_now + interval '1 minute')));
    -- Only those are locked: a retry may be due in hours, and rightly.
    v_ids := array(
        select l.id from conductor.live_executions l
         where l.id = any (v_ids) order by l.id for no key update skip locked);
    update conductor.live_executions l
       set run_at = v_now + (l.run_at - far.at), created_at = least(l.created_at, v_now), postponed = false
      from (select k.id, coalesce(
                   (select max(f.failed_at) from conductor.failures f where f.execution_id = k.id), k.created_at) as at
              from conductor.live_executions k where k.id = any (v_ids)) far
     where l.id = any (v_ids) and l.id = far.id and far.at > v_now + interval '1 minute'
       and l.run_at between far.at and far.at + case when l.failures > 0 then interval '100 years' else interval '1 day' end;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- Gives back what runs under an orchestrator that is not there, which no end of an orchestrator
-- should leave; it reads the whole table, so it is for once in a while.
create function conductor.recover_orphans(p_max_crashes integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
    v_held uuid[] := array(
        select l.id from conductor.live_executions l
         where l.state = 'running'
           and not exists (select from conductor.orchestrators o where o.id = l.orchestrator_id));
    v_free uuid[] := conductor.lock_held(v_held, p_max_crashes);
    v_ids uuid[] := array(
        select l.id from conductor.live_executions l
         where l.id = any (v_free)
           and not exists (select from conductor.orchestrators o where o.id = l.orchestrator_id));
begin
    perform conductor.heal_executions();
    perform conductor.defer_orphans(v_held, v_free, true);
    return conductor.give_back(v_ids, p_max_crashes);
end
$$;
