-- Moves executions to the final state p_state, and informs parents and waiting clients. p_failures has the
-- codes and details of their errors as JSON, which are stored in the column output. Called by all functions
-- that end an execution, except complete. The caller holds the executions, and the parents that wait for them.
-- Locks: finished_executions (inserts), as pass_turns, queues.idle (if free), as report.
create or replace function conductor.conclude(
    p_ids uuid[], p_state conductor.execution_state, p_error text, p_failures text[] default null) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_told bigint;
    v_children uuid[];
    v_parents uuid[];
    v_keys text[];
    v_outcomes text[];
    v_ordered uuid[];
    v_ordered_tasks integer[];
    v_order_keys text[];
begin
    with gone as (
        delete from conductor.live_executions l where l.id = any (p_ids)
        returning l.id, l.created_at, l.claimed_at, l.parent_id, l.parent_key, l.retry_of, l.task_id,
                  l.priority, l.claim, l.failures, l.crashes, l.watched, l.dedupe_key, l.order_key, l.trigger, l.payload,
                  case when p_state = 'cancelled' then l.cancel_reason else coalesce(p_error, l.error) end as error,
                  p_failures[array_position(p_ids, l.id)] as failure
    ), kept as (
        insert into conductor.finished_executions (
               id, created_at, claimed_at, finished_at, expires_at, parent_id, retry_of, queue_id, task_id,
               priority, claim, failures, crashes, state, dedupe_key, trigger, payload, output, error)
        select g.id, g.created_at, g.claimed_at, v_now,
               -- A repeat is kept at least as long as the first execution, so that retry of the first one finds
               -- the repeat's outcome.
               greatest(
                   v_now + (select t.keep_failed from conductor.tasks t where t.id = g.task_id),
                   case when g.retry_of is not null
                        then (select f.expires_at from conductor.finished_executions f where f.id = g.retry_of) end),
               g.parent_id, g.retry_of,
               (select t.queue_id from conductor.tasks t where t.id = g.task_id), g.task_id, g.priority, g.claim,
               g.failures, g.crashes, p_state, g.dedupe_key, g.trigger, g.payload, g.failure::json, g.error
          from gone g
            -- An execution of this id has ended before, so complete failed: the first outcome stays.
            on conflict (id) do nothing
    )
    -- In the one pass over the rows: a part of the statement that nothing reads is not executed.
    select count(case when g.watched then pg_notify('conductor', 'done:' || g.id) end),
           array_agg(g.id) filter (where g.parent_key is not null),
           array_agg(g.parent_id) filter (where g.parent_key is not null),
           array_agg(g.parent_key) filter (where g.parent_key is not null),
           array_agg(
               case when g.failure is null then json_build_object('id', g.id, 'state', p_state, 'error', g.error)
                    else json_build_object(
                             'id', g.id, 'state', p_state, 'output', g.failure::json, 'error', g.error) end::text)
               filter (where g.parent_key is not null),
           array_agg(g.id) filter (where g.order_key is not null),
           array_agg(g.task_id) filter (where g.order_key is not null),
           array_agg(g.order_key) filter (where g.order_key is not null)
      into v_told, v_children, v_parents, v_keys, v_outcomes, v_ordered, v_ordered_tasks, v_order_keys
      from gone g;
    if v_ordered is not null then
        perform conductor.wake(q, false) from conductor.pass_turns(v_ordered, v_ordered_tasks, v_order_keys) as q
          where conductor.may_notify();
    end if;
    if v_children is not null then
        perform conductor.report(v_children, v_parents, v_keys, v_outcomes);
    end if;
end
$$;
