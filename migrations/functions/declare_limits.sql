-- Moves parked executions of these lanes back to the queues of their tasks: of the tasks p_tasks, or of all
-- tasks if it is null. Called by declare_limits, which has locked the lanes: a transaction that was parking
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

-- Replaces the limits of these tasks by the declared ones. Executions that were parked under a limit that is
-- gone return to their queue. If a limit has changed, its lanes with parked executions become due. Called by
-- declare_tasks when a worker starts.
-- Locks: limits (inserts, waits), lanes of limits that are gone, left or changed (waits, by id), as
--   empty_lanes, queues.idle (if free).
create or replace function conductor.declare_limits(p_tasks jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := conductor.now();
    v_gone integer[];
    v_changed integer[];
    v_shared integer[];
    -- Tasks that no longer share a limit, and the limits that they have left.
    v_leavers integer[];
    v_left integer[];
    v_lanes integer[];
    v_queues integer[];
begin
    with shared as (
        insert into conductor.limits as c (queue_id, kind, name, path, amount, per, burst)
        select distinct on (t.queue_id, g.kind, g.name)
               t.queue_id, g.kind, g.name, '{}', g.amount, g.per_ms * interval '1 ms', coalesce(g.burst, 1)
          from jsonb_to_recordset(p_tasks) as d(name text, limits jsonb)
          join conductor.tasks t on t.name = d.name
         cross join lateral jsonb_to_recordset(d.limits)
               as g(kind text, name text, amount integer, per_ms float8, burst integer)
         where g.name <> ''
         order by t.queue_id, g.kind, g.name
            on conflict (queue_id, kind, name) where task_id is null do update
           set amount = excluded.amount, per = excluded.per, burst = excluded.burst
         where (c.amount, c.per, c.burst) is distinct from (excluded.amount, excluded.per, excluded.burst)
        returning c.id
    )
    select array(select s.id from shared s) into v_shared;
    with given as materialized (
        select t.id as task_id, g.kind, coalesce(g.name, '') as name, g.path, g.amount,
               g.per_ms * interval '1 ms' as per, coalesce(g.burst, 1) as burst,
               (select s.id from conductor.limits s
                 where s.task_id is null and s.queue_id = t.queue_id and s.kind = g.kind and s.name = g.name) as shared_id
          from jsonb_to_recordset(p_tasks) as d(name text, limits jsonb)
          join conductor.tasks t on t.name = d.name
         cross join lateral jsonb_to_recordset(d.limits)
               as g(kind text, name text, path text[], amount integer, per_ms float8, burst integer)
    ), gone as (
        delete from conductor.limits c
         using jsonb_to_recordset(p_tasks) as d(name text), conductor.tasks t
         where t.name = d.name and c.task_id = t.id
           and not exists (select from given g
                            where (g.task_id, g.kind, g.name, g.path) = (c.task_id, c.kind, c.name, c.path)
                              and g.shared_id is not distinct from c.shared_id)
        returning c.id, c.task_id, c.shared_id
    )
    select array(select g.id from gone g where g.shared_id is null),
           array(select g.task_id from gone g where g.shared_id is not null),
           array(select g.shared_id from gone g where g.shared_id is not null)
      into v_gone, v_leavers, v_left;
    with written as (
        insert into conductor.limits as c (task_id, kind, name, shared_id, path, amount, per, burst)
        select t.id, g.kind, coalesce(g.name, ''),
               (select s.id from conductor.limits s
                 where s.task_id is null and s.queue_id = t.queue_id and s.kind = g.kind and s.name = g.name),
               g.path, g.amount, g.per_ms * interval '1 ms', coalesce(g.burst, 1)
          from jsonb_to_recordset(p_tasks) as d(name text, limits jsonb)
          join conductor.tasks t on t.name = d.name
         cross join lateral jsonb_to_recordset(d.limits)
               as g(kind text, name text, path text[], amount integer, per_ms float8, burst integer)
         order by 1, 2, 3, 5
            on conflict on constraint limits_task do update
           set amount = excluded.amount, per = excluded.per, burst = excluded.burst
         where (c.amount, c.per, c.burst) is distinct from (excluded.amount, excluded.per, excluded.burst)
        returning c.id
    )
    select v_shared || array(select w.id from written w) into v_changed;
    if cardinality(v_left) > 0 then
        -- Locked first: a transaction that was making a task share the limit has ended when the lock is
        -- granted.
        perform from conductor.limits c where c.id = any (v_left) order by c.id for update;
        with gone as (
            delete from conductor.limits c
             where c.id = any (v_left) and not exists (select from conductor.limits m where m.shared_id = c.id)
            returning c.id
        )
        select v_gone || array(select g.id from gone g) into v_gone;
    end if;

    -- Locked first, all in one order: a transaction that was parking in one of them has ended when the lock is
    -- granted.
    if cardinality(v_gone || v_left || v_changed) > 0 then
        perform from conductor.lanes a
          where a.limit_id = any (v_gone || v_left || v_changed)
            and (a.limit_id = any (v_gone || v_left) or a.parked
                 or (select c.kind = 'rate' from conductor.limits c where c.id = a.limit_id))
          order by a.id for update;
    end if;
    if cardinality(v_gone || v_left) > 0 then
        v_lanes := array(
            select a.id from conductor.lanes a where a.limit_id = any (v_left) and a.limit_id <> all (v_gone));
        perform conductor.empty_lanes(v_lanes, v_leavers);
        v_lanes := array(select a.id from conductor.lanes a where a.limit_id = any (v_gone));
        perform conductor.empty_lanes(v_lanes, null);
        delete from conductor.lanes a where a.id = any (v_lanes);
    end if;
    if cardinality(v_changed) > 0 then
        -- What the old rate has let start delays the next start no longer than a full burst of the new rate
        -- would.
        update conductor.lanes a
           set due_at = case when a.parked then v_now else a.due_at end,
               next_at = case when c.kind = 'rate'
                              then least(a.next_at, v_now + conductor.rate_lead(c.amount, c.per, c.burst) + c.per / c.amount)
                              else a.next_at end
          from conductor.limits c
         where a.limit_id = any (v_changed) and c.id = a.limit_id and (a.parked or c.kind = 'rate');
    end if;
    if cardinality(v_gone || v_changed || v_left) > 0 then
        select array_agg(distinct t.queue_id) into v_queues
          from jsonb_to_recordset(p_tasks) as d(name text) join conductor.tasks t on t.name = d.name;
        perform conductor.wake(v_queues, false);
    end if;
end
$$;
