-- Moves parked executions of these lanes back to the queues of their tasks: of the tasks p_tasks, or of all
-- tasks if it is null. Called by change_lanes, which has locked the lanes: a transaction that was parking
-- there has ended when the lock is granted. Executions that another session has locked are moved later, by
-- revive_lanes.
-- Locks: live_executions (parked ones, if free).
create or replace function conductor.empty_lanes(p_lanes integer[], p_tasks integer[]) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
    update conductor.live_executions l set queue_id = t.queue_id
      from conductor.tasks t
     where l.id = any (array(
           select o.id from conductor.live_executions o
            where o.queue_id = any (array(select -lane from unnest(p_lanes) as lane)) and o.state <> 'running'
              and (p_tasks is null or o.task_id = any (p_tasks))
              for no key update skip locked))
       and t.id = l.task_id
$$;

-- Returns the limits that these declarations have, each with the shared limit that it belongs to, if that is known
-- already. Called by write_shared_limits, write_limits and drop_limits.
create or replace function conductor.declared_limits(p_tasks jsonb)
returns table (
    task_id integer, queue_id integer, kind text, name text, path text[], amount integer, per interval, burst integer,
    shared_id integer)
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select t.id, t.queue_id, g.kind, coalesce(g.name, ''), g.path, g.amount, g.per_ms * interval '1 ms', coalesce(g.burst, 1),
           (select s.id from conductor.limits s
             where s.task_id is null and s.queue_id = t.queue_id and s.kind = g.kind and s.name = g.name)
      from jsonb_to_recordset(p_tasks) as d(name text, limits jsonb)
      join conductor.tasks t on t.name = d.name
     cross join lateral jsonb_to_recordset(d.limits)
           as g(kind text, name text, path text[], amount integer, per_ms float8, burst integer)
$$;

-- Writes the declared limits that several tasks of a queue share, and returns those that are new or have changed.
-- Called by declare_limits.
-- Locks: limits (inserts, waits, by queue, kind and name).
create or replace function conductor.write_shared_limits(p_tasks jsonb) returns integer[]
language sql volatile set search_path = pg_catalog, pg_temp
as $$
    with written as (
        insert into conductor.limits as c (queue_id, kind, name, path, amount, per, burst)
        select distinct on (d.queue_id, d.kind, d.name) d.queue_id, d.kind, d.name, '{}'::text[], d.amount, d.per, d.burst
          from conductor.declared_limits(p_tasks) d
         where d.name <> ''
         order by d.queue_id, d.kind, d.name
            on conflict (queue_id, kind, name) where task_id is null do update
           set amount = excluded.amount, per = excluded.per, burst = excluded.burst
         where (c.amount, c.per, c.burst) is distinct from (excluded.amount, excluded.per, excluded.burst)
        returning c.id
    )
    select array(select w.id from written w)
$$;

-- Writes the declared limits of each task, and returns those that are new or have changed. Called by declare_limits,
-- which has written the shared limits.
-- Locks: limits (inserts, waits, by task, kind, name and path).
create or replace function conductor.write_limits(p_tasks jsonb) returns integer[]
language sql volatile set search_path = pg_catalog, pg_temp
as $$
    with written as (
        insert into conductor.limits as c (task_id, kind, name, shared_id, path, amount, per, burst)
        select d.task_id, d.kind, d.name, d.shared_id, d.path, d.amount, d.per, d.burst
          from conductor.declared_limits(p_tasks) d
         order by d.task_id, d.kind, d.name, d.path
            on conflict on constraint limits_task do update
           set amount = excluded.amount, per = excluded.per, burst = excluded.burst
         where (c.amount, c.per, c.burst) is distinct from (excluded.amount, excluded.per, excluded.burst)
        returning c.id
    )
    select array(select w.id from written w)
$$;

-- Removes the limits of these tasks that are no longer declared. Returns in gone those that were the task's own, in
-- leavers the tasks that no longer share a limit, and in abandoned the shared limits that they have left. Called by
-- declare_limits.
-- Locks: limits (waits).
create or replace function conductor.drop_limits(
    p_tasks jsonb, out gone integer[], out leavers integer[], out abandoned integer[])
language sql volatile set search_path = pg_catalog, pg_temp
as $$
    with given as materialized (
        select d.task_id, d.kind, d.name, d.path, d.shared_id from conductor.declared_limits(p_tasks) d
    ), dropped as (
        delete from conductor.limits c
         using jsonb_to_recordset(p_tasks) as d(name text), conductor.tasks t
         where t.name = d.name and c.task_id = t.id
           and not exists (select from given g
                            where (g.task_id, g.kind, g.name, g.path) = (c.task_id, c.kind, c.name, c.path)
                              and g.shared_id is not distinct from c.shared_id)
        returning c.id, c.task_id, c.shared_id
    )
    select array(select g.id from dropped g where g.shared_id is null),
           array(select g.task_id from dropped g where g.shared_id is not null),
           array(select g.shared_id from dropped g where g.shared_id is not null)
$$;

-- Removes those of these shared limits that no task shares, and returns them. Called by declare_limits.
-- Locks: limits (waits, by id).
create or replace function conductor.drop_unshared(p_limits integer[]) returns integer[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_gone integer[];
begin
    -- Locked first: a transaction that was making a task share the limit has ended when the lock is granted.
    perform from conductor.limits c where c.id = any (p_limits) order by c.id for update;
    with gone as (
        delete from conductor.limits c
         where c.id = any (p_limits) and not exists (select from conductor.limits m where m.shared_id = c.id)
        returning c.id
    )
    select array(select g.id from gone g) into v_gone;
    return v_gone;
end
$$;

-- Makes the lanes follow the limits: removes those of limits that are gone, takes what the tasks p_leavers have
-- parked out of the lanes of the limits p_abandoned, and makes lanes of changed limits due. Called by declare_limits.
-- Locks: lanes (waits, by id), as empty_lanes.
create or replace function conductor.change_lanes(
    p_gone integer[], p_abandoned integer[], p_leavers integer[], p_changed integer[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := conductor.now();
    v_lanes integer[];
begin
    -- Locked first, all in one order: a transaction that was parking in one of them has ended when the lock is
    -- granted.
    perform from conductor.lanes a
      where a.limit_id = any (p_gone || p_abandoned || p_changed)
        and (a.limit_id = any (p_gone || p_abandoned) or a.parked
             or (select c.kind = 'rate' from conductor.limits c where c.id = a.limit_id))
      order by a.id for update;
    if cardinality(p_gone || p_abandoned) > 0 then
        v_lanes := array(
            select a.id from conductor.lanes a where a.limit_id = any (p_abandoned) and a.limit_id <> all (p_gone));
        perform conductor.empty_lanes(v_lanes, p_leavers);
        v_lanes := array(select a.id from conductor.lanes a where a.limit_id = any (p_gone));
        perform conductor.empty_lanes(v_lanes, null);
        delete from conductor.lanes a where a.id = any (v_lanes);
    end if;
    if cardinality(p_changed) > 0 then
        -- What the old rate has let start delays the next start no longer than a full burst of the new rate
        -- would.
        update conductor.lanes a
           set due_at = case when a.parked then v_now else a.due_at end,
               next_at = case when c.kind = 'rate'
                              then least(a.next_at, v_now + conductor.rate_lead(c.amount, c.per, c.burst) + c.per / c.amount)
                              else a.next_at end
          from conductor.limits c
         where a.limit_id = any (p_changed) and c.id = a.limit_id and (a.parked or c.kind = 'rate');
    end if;
end
$$;

-- Replaces the limits of these tasks by the declared ones. Executions that were parked under a limit that is
-- gone return to their queue. If a limit has changed, its lanes with parked executions become due. Called by
-- declare_tasks when a worker starts.
-- Locks: limits (inserts, waits), lanes of limits that are gone, left or changed (waits, by id), as
--   empty_lanes, queues.idle (if free).
create or replace function conductor.declare_limits(p_tasks jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_changed integer[] := conductor.write_shared_limits(p_tasks);
    v_gone integer[];
    -- Tasks that no longer share a limit, and the limits that they have left.
    v_leavers integer[];
    v_abandoned integer[];
    v_queues integer[];
begin
    select d.gone, d.leavers, d.abandoned into v_gone, v_leavers, v_abandoned from conductor.drop_limits(p_tasks) d;
    v_changed := v_changed || conductor.write_limits(p_tasks);
    if cardinality(v_abandoned) > 0 then
        v_gone := v_gone || conductor.drop_unshared(v_abandoned);
    end if;
    if cardinality(v_gone || v_changed || v_abandoned) > 0 then
        perform conductor.change_lanes(v_gone, v_abandoned, v_leavers, v_changed);
        select array_agg(distinct t.queue_id) into v_queues
          from jsonb_to_recordset(p_tasks) as d(name text) join conductor.tasks t on t.name = d.name;
        perform conductor.wake(v_queues, false);
    end if;
end
$$;
