-- Invokes without options. The ids are new, and usually later than all ids that are stored: then one look for
-- each statement, instead of one for each row, shows that no id is known. Called by invoke_many, whose settings
-- are in force here.
-- Locks: live_executions (inserts), queues.idle (if free; not in a user's transaction).
create or replace function conductor.invoke_new(
    p_ids uuid[], p_tasks text[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[],
    p_priorities integer[], p_in_transaction boolean) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    -- As conductor.now(), without the call.
    v_now timestamptz := (select clock_timestamp() + c.shift from conductor.clock c where c.only_row);
    v_first uuid := (select g.id from unnest(p_ids) as g(id) order by g.id limit 1);
    -- A serializable transaction must not read where all others insert.
    v_known boolean := current_setting('transaction_isolation') = 'serializable'
                    or exists (select from conductor.finished_executions f where f.id >= v_first)
                    or exists (select from conductor.live_executions l where l.id >= v_first);
    v_count bigint;
    v_queues integer[];
begin
    with inserted as (
        insert into conductor.live_executions as l (
               id, run_at, created_at, queue_id, task_id, priority, order_key, payload, bytes)
        select g.id, coalesce(g.run_at, v_now + g.delay_ms * interval '1 ms', v_now), v_now,
               t.queue_id, t.id, coalesce(g.priority, t.priority), conductor.order_key(t.ordered_by, g.payload::json),
               g.payload::json, octet_length(g.payload)
          from unnest(p_ids, p_tasks, p_payloads, p_run_at, p_delay_ms, p_priorities)
               as g(id, task, payload, run_at, delay_ms, priority)
          join conductor.tasks t on t.name = g.task
         where conductor.is_invoke(g.id, g.payload, g.run_at, g.delay_ms)
           -- An execution that exists or has ended is from the same call.
           and (not v_known
                or (select true from conductor.live_executions o where o.id = g.id limit 1) is null
                   and (select true from conductor.finished_executions f where f.id = g.id limit 1) is null)
        returning l.queue_id, l.run_at
    )
    select count(*), array_agg(distinct i.queue_id) filter (where i.run_at < v_now + interval '1s')
      into v_count, v_queues
      from inserted i;
    if v_count < cardinality(p_ids) then
        perform conductor.refuse_invokes(p_ids, p_tasks, p_payloads, p_run_at, p_delay_ms);
    end if;
    -- The flag is read after the insert: a worker that sets it meanwhile finds what was inserted.
    if v_queues is not null
       and (p_in_transaction or exists (select from conductor.queues q where q.id = any (v_queues) and q.idle)) then
        perform conductor.wake(v_queues, p_in_transaction);
    end if;
end
$$;

-- Invokes once, without options, as most calls do, and so without the joins of invoke_new. Called by
-- invoke_many, whose settings are in force here.
-- Locks: live_executions (inserts), queues.idle (if free; not in a user's transaction).
create or replace function conductor.invoke_one(
    p_id uuid, p_task text, p_payload text, p_run_at timestamptz, p_delay_ms bigint, p_priority integer,
    p_in_transaction boolean) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := (select clock_timestamp() + c.shift from conductor.clock c where c.only_row);
    v_queue integer;
    v_due boolean;
begin
    insert into conductor.live_executions as l (
           id, run_at, created_at, queue_id, task_id, priority, order_key, payload, bytes)
    select p_id, coalesce(p_run_at, v_now + p_delay_ms * interval '1 ms', v_now), v_now,
           t.queue_id, t.id, coalesce(p_priority, t.priority), conductor.order_key(t.ordered_by, p_payload::json),
           p_payload::json, octet_length(p_payload)
      from conductor.tasks t
     where t.name = p_task
       and conductor.is_invoke(p_id, p_payload, p_run_at, p_delay_ms)
       -- An execution that has ended is from the same call.
       and (select true from conductor.finished_executions f where f.id = p_id limit 1) is null
        on conflict (id) do nothing
    returning l.queue_id, l.run_at < v_now + interval '1s' into v_queue, v_due;
    if v_queue is null then
        perform conductor.refuse_invokes(
                    array[p_id], array[p_task], array[p_payload], array[p_run_at], array[p_delay_ms]);
        return;
    end if;
    if v_due and (p_in_transaction or exists (select from conductor.queues q where q.id = v_queue and q.idle)) then
        perform conductor.wake(array[v_queue], p_in_transaction);
    end if;
end
$$;
