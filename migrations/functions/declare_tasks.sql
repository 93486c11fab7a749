-- Makes tasks that no program has declared yet, in the queue "default". Their executions wait until a program
-- declares the task. Called by suspend and wait_beside for children.
-- Locks: queues (inserts), tasks (inserts, by name).
create or replace function conductor.know_tasks(p_names text[]) returns void
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

-- Writes tasks and their queues. With p_replace known tasks take the new options; without it they keep what they
-- have. Called by declare_tasks.
-- Locks: queues (inserts), tasks (inserts, waits, by name).
create or replace function conductor.write_tasks(p_tasks jsonb, p_replace boolean) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    -- About 9500 years. A time that is later is not valid.
    v_for_ever constant float8 := 3e14;
begin
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
end
$$;

-- Notes that tasks move to another queue, for follow_moves, and returns those tasks. Called by declare_tasks, which
-- writes the new queue.
-- Locks: moves (inserts, waits, by task).
create or replace function conductor.note_moves(p_tasks jsonb) returns integer[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_moved integer[];
begin
    v_moved := array(
        select t.id from jsonb_to_recordset(p_tasks) as d(name text, queue text)
          join conductor.tasks t on t.name = d.name
          join conductor.queues q on q.id = t.queue_id
         where q.name <> d.queue);
    insert into conductor.moves as m (task_id, queue_id)
    select t.id, t.queue_id from conductor.tasks t where t.id = any (v_moved) order by t.id
        on conflict on constraint moves_pkey do update
       set moved_at = excluded.moved_at, looked_at = excluded.looked_at, moved_by = excluded.moved_by;
    return v_moved;
end
$$;

-- Makes executions follow their tasks: those that waited for a window that has changed (tasks p_opened) are due
-- now, and those of tasks that have moved (p_moved) change their queue. Called by declare_tasks.
-- Locks: live_executions (if free).
create or replace function conductor.follow_tasks(p_opened integer[], p_moved integer[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_ids uuid[];
begin
    -- Executions that wait for a changed window meet the new one. Those that another session has locked keep
    -- their time, because a starting worker does not wait for executions.
    if cardinality(p_opened) > 0 then
        v_ids := array(
            select l.id from conductor.live_executions l
             where l.task_id = any (p_opened) and l.postponed and l.state <> 'running' for no key update skip locked);
        update conductor.live_executions l set run_at = conductor.now(), postponed = false
         where l.id = any (v_ids);
    end if;

    -- What is missed here is moved later, by follow_moves.
    if cardinality(p_moved) > 0 then
        v_ids := array(
            select l.id from conductor.live_executions l
             where l.task_id = any (p_moved) and l.state <> 'running' for no key update skip locked);
        update conductor.live_executions l set queue_id = t.queue_id
          from conductor.tasks t
         where l.id = any (v_ids) and t.id = l.task_id;
    end if;
end
$$;

-- Declares tasks and their queues. With p_replace (a worker starts) known tasks take the new options; without
-- it (a client needs the tasks to exist) they keep what they have. If a window has changed, executions that
-- waited for it are due now. If a task has moved to another queue, its executions move, too. Called by programs
-- when they start, and by declare_missing. Returns the id, the queue and the name of each task.
-- Locks: moves (inserts, waits), queues (inserts), tasks (inserts, waits, by name), as declare_limits,
--   live_executions (if free).
create or replace function conductor.declare_tasks(p_tasks jsonb, p_replace boolean)
returns table (id integer, queue_id integer, name text)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_moved integer[];
    v_opened integer[];
begin
    if p_replace then
        v_opened := array(
            select t.id from jsonb_to_recordset(p_tasks) as d(name text, time_window jsonb)
              join conductor.tasks t on t.name = d.name
             where t.time_window is not null and t.time_window is distinct from d.time_window);
        v_moved := conductor.note_moves(p_tasks);
    end if;
    perform conductor.write_tasks(p_tasks, p_replace);
    if p_replace then
        perform conductor.declare_limits(p_tasks);
        perform conductor.follow_tasks(v_opened, v_moved);
    end if;
    return query
    select t.id, t.queue_id, t.name
      from jsonb_to_recordset(p_tasks) as d(name text)
      join conductor.tasks t on t.name = d.name;
end
$$;

-- Declares the tasks that do not exist yet, and changes no other. For clients, which must not change what
-- workers have declared.
-- Locks: as declare_tasks without p_replace: queues (inserts), tasks (inserts, by name).
create or replace function conductor.declare_missing(p_tasks jsonb) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform conductor.declare_tasks(p_tasks, false);
end
$$;
