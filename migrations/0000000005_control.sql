-- What people and clients do to executions that exist: wait, cancel, retry; and what keeps the
-- tables small.

set local search_path = pg_catalog, pg_temp;

-- Cancels an execution that has not ended; false where there is none. A running handler is told,
-- and whatever it returns is recorded as cancelled.
create function conductor.cancel(execution uuid, reason text default null) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_state conductor.execution_state;
begin
    update conductor.live_executions l
       set cancelled = true, cancel_reason = coalesce(l.cancel_reason, reason)
     where l.id = execution
    returning l.state into v_state;
    if not found then
        return false;
    end if;
    if v_state = 'running' then
        perform pg_notify('conductor', 'cancel:' || execution);
    else
        perform conductor.conclude(array[execution], 'cancelled', null);
    end if;
    return true;
end
$$;

-- One that waits for its next attempt is due now and keeps its id. A final state never changes, so
-- a failed or cancelled one is repeated by a new execution with the same payload and the recorded
-- steps. Null where the execution is unknown, running or completed.
create function conductor.retry(execution uuid) returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := conductor.now();
    v_queue integer;
    v_id uuid;
begin
    update conductor.live_executions l set run_at = v_now
     where l.id = execution and l.state = 'pending'
    returning l.id, l.queue_id into v_id, v_queue;
    if not found then
        -- Asked twice, it is repeated once: the lock makes the second wait for the first.
        perform from conductor.finished_executions f where f.id = execution for no key update;
        select l.id into v_id from conductor.live_executions l where l.retry_of = execution;
        if found then
            return v_id;
        end if;
        insert into conductor.live_executions as l (
               id, run_at, created_at, parent_id, retry_of, queue_id, task_id, priority, payload)
        select conductor.uuid7(), v_now, v_now, f.parent_id, f.id, t.queue_id, f.task_id, f.priority, f.payload
          from conductor.finished_executions f
          join conductor.tasks t on t.id = f.task_id
         where f.id = execution and f.state in ('failed', 'cancelled')
        returning l.id, l.queue_id into v_id, v_queue;
        insert into conductor.steps (execution_id, key, kind, claim, value, recorded_at)
        select v_id, s.key, s.kind, 0, s.value, s.recorded_at
          from conductor.steps s where s.execution_id = execution and v_id is not null;
    end if;
    if v_id is not null then
        perform conductor.wake(array[v_queue], true);
    end if;
    return v_id;
end
$$;

-- The outcome of an execution; while it lives, its end will be notified.
create function conductor.watch(p_id uuid)
returns table (state text, task text, output text, error text)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
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

-- Whether any of these tasks has an execution that runs or is due; what drain waits for.
create function conductor.has_work(p_queues integer[], p_tasks integer[]) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
begin
    return exists (
        select from unnest(p_queues) as q, conductor.priorities(q) as p,
               lateral (select from conductor.live_executions l
                         where l.queue_id = q and l.priority = p and l.run_at <= v_now
                           and l.task_id = any (p_tasks) and l.state in ('pending', 'running')
                         limit 1) due);
end
$$;

-- Removes finished executions past their time, a batch at a time; how many were removed.
create function conductor.prune(p_limit integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids uuid[];
begin
    with expired as (
        select f.id from conductor.finished_executions f
         where f.expires_at <= conductor.now()
         order by f.expires_at
         limit p_limit
           for update skip locked
    ), removed as (
        delete from conductor.finished_executions f using expired e where f.id = e.id returning f.id
    )
    select array_agg(r.id) into v_ids from removed r;
    delete from conductor.failures f where f.execution_id = any (v_ids);
    delete from conductor.steps s where s.execution_id = any (v_ids);
    return coalesce(cardinality(v_ids), 0);
end
$$;

revoke execute on all functions in schema conductor from public;
