-- start_orchestrator, heartbeat and drain_for keep their names and arguments for as long as there is a schema,
-- because an older process finds out through them that it must end.
--
-- Registers a process, and returns the id of its orchestrator, which has a lease from then on. Fails with CD010
-- if a breaking migration that the program does not know was applied or is about to be; the detail is the
-- number of that migration. p_version is the newest migration that the program knows; null skips this check.
-- Called by programs when they start, and after they have lost their lease. The lock of the migrations keeps
-- any migration from being applied meanwhile.
-- Locks: the migrations (advisory, shared, waits), orchestrators (new row), as look_again.
create or replace function conductor.start_orchestrator(
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
           -- Further ahead it was written by a wrong clock: it is set for five seconds.
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

-- Renews a lease. Called by orchestrators. Returns false if the lease was lost and the executions were given
-- back.
-- Locks: orchestrators (its own row, waits).
create or replace function conductor.heartbeat(p_orchestrator bigint, p_lease interval) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    update conductor.orchestrators set lease_until = clock_timestamp() + p_lease, lease = p_lease
     where id = p_orchestrator;
    return found;
end
$$;

-- Returns the breaking migration for which an orchestrator must end; usually null. Called by orchestrators.
create or replace function conductor.drain_for(p_orchestrator bigint) returns integer
language sql stable set search_path = pg_catalog, pg_temp
as $$ select o.drain_for from conductor.orchestrators o where o.id = p_orchestrator $$;

-- Asks processes that do not know this breaking migration to end, keeps others from starting for 5 s, and
-- returns those that still exist. Called again and again by a process that migrates and holds the lock of the
-- migrations.
-- Locks: upgrade (its row, inserts, waits), as recover, orchestrators (of older versions, waits).
create or replace function conductor.retire(p_version integer, p_max_crashes integer)
returns table (host text, pid integer, version integer)
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    insert into conductor.upgrade as u (version, until)
    values (p_version, clock_timestamp() + interval '5 s')
        on conflict (only_row) do update
       set version = greatest(case when u.until > clock_timestamp() then u.version end, excluded.version),
           until = excluded.until;
    -- Dead processes do not end by themselves.
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
