-- Invokes without options if the same calls may have committed before: an execution that exists or has ended
-- stays as it is. Waits for a transaction that inserts the same ids. Called by invoke_many.
-- Locks: live_executions (inserts), queues.idle (if free; not in a user's transaction).
create or replace function conductor.invoke_again(
    p_ids uuid[], p_tasks text[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[],
    p_priorities integer[], p_in_transaction boolean) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_mergejoin = off set enable_nestloop = off
set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
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
           and (select true from conductor.finished_executions f where f.id = g.id limit 1) is null
            on conflict (id) do nothing
        returning l.queue_id, l.run_at
    )
    select count(*), array_agg(distinct i.queue_id) filter (where i.run_at < v_now + interval '1s')
      into v_count, v_queues
      from inserted i;
    if v_count < cardinality(p_ids) then
        perform conductor.refuse_invokes(p_ids, p_tasks, p_payloads, p_run_at, p_delay_ms);
    end if;
    -- An execution may have ended while the insert waited. No other session has seen what was inserted instead.
    delete from conductor.live_executions l
     where l.id = any (p_ids) and l.claim = 0 and l.created_at = v_now
       and (select true from conductor.finished_executions f where f.id = l.id limit 1);
    if v_queues is not null then
        perform conductor.wake(v_queues, p_in_transaction);
    end if;
end
$$;
