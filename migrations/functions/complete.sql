-- Ends executions whose handlers completed: moves them from live_executions to finished_executions. An
-- execution that was cancelled meanwhile ends as cancelled. An outcome whose claim was lost matches nothing.
-- Called by finish_and_claim. Returns the number of executions that ended.
--
-- Here and in all functions that write under a claim, p_orchestrators names the orchestrators that made the
-- claims; null is not compared. The number of a claim is not enough: a server that lost its latest commits
-- issues the number again, to another orchestrator.
-- Locks: live_executions (waits), finished_executions (new rows), as pass_turns, queues.idle (if free), as
--   report.
create or replace function conductor.complete(
    p_ids uuid[], p_claims integer[], p_outputs text[], p_orchestrators bigint[] default null) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    -- As conductor.now(), without the call.
    v_now timestamptz := (select clock_timestamp() + c.shift from conductor.clock c where c.only_row);
    v_count integer;
    v_children uuid[];
    v_parents uuid[];
    v_keys text[];
    v_outcomes text[];
    v_ordered uuid[];
    v_ordered_tasks integer[];
    v_order_keys text[];
begin
    with gone as (
        delete from conductor.live_executions l
         using unnest(p_ids, p_claims, p_outputs, p_orchestrators) as o(id, claim, output, orchestrator)
         where l.id = any (p_ids) and l.id = o.id and l.claim = o.claim and l.state = 'running'
           and (o.orchestrator is null or o.orchestrator = l.orchestrator_id)
        returning l.id, l.created_at, l.claimed_at, l.parent_id, l.parent_key, l.retry_of, l.queue_id, l.task_id,
                  l.priority, l.claim, l.failures, l.crashes, l.watched, l.cancelled, l.cancel_reason, l.dedupe_key,
                  l.order_key, l.trigger, l.payload, o.output
    ), kept as (
        insert into conductor.finished_executions (
               id, created_at, claimed_at, finished_at, expires_at, parent_id, retry_of, queue_id, task_id,
               priority, claim, failures, crashes, state, dedupe_key, trigger, payload, output, error)
        select g.id, g.created_at, g.claimed_at, v_now,
               -- A repeat is kept at least as long as the first execution, as in conclude. An expression and
               -- not a function, which would be called for each row (7 us).
               greatest(
                   v_now + (select case when g.cancelled then t.keep_failed else t.keep_completed end
                              from conductor.tasks t where t.id = g.task_id),
                   case when g.retry_of is not null
                        then (select f.expires_at from conductor.finished_executions f where f.id = g.retry_of) end),
               g.parent_id, g.retry_of,
               case when g.queue_id > 0 then g.queue_id
                    else (select t.queue_id from conductor.tasks t where t.id = g.task_id) end,
               g.task_id, g.priority, g.claim, g.failures, g.crashes,
               case when g.cancelled then 'cancelled' else 'completed' end::conductor.execution_state,
               g.dedupe_key, g.trigger, g.payload, case when not g.cancelled then g.output::json end,
               case when g.cancelled then g.cancel_reason end
          from gone g
    )
    select count(*) + 0 * count(case when g.watched then pg_notify('conductor', 'done:' || g.id) end),
           array_agg(g.id) filter (where g.parent_key is not null),
           array_agg(g.parent_id) filter (where g.parent_key is not null),
           array_agg(g.parent_key) filter (where g.parent_key is not null),
           array_agg(case when g.cancelled
                          then json_build_object('id', g.id, 'state', 'cancelled', 'error', g.cancel_reason)
                          else json_build_object('id', g.id, 'state', 'completed', 'output', g.output::json) end::text)
               filter (where g.parent_key is not null),
           array_agg(g.id) filter (where g.order_key is not null),
           array_agg(g.task_id) filter (where g.order_key is not null),
           array_agg(g.order_key) filter (where g.order_key is not null)
      into v_count, v_children, v_parents, v_keys, v_outcomes, v_ordered, v_ordered_tasks, v_order_keys
      from gone g;
    if v_ordered is not null then
        perform conductor.wake(q, false) from conductor.pass_turns(v_ordered, v_ordered_tasks, v_order_keys) as q
          where conductor.may_notify();
    end if;
    if v_children is not null then
        perform conductor.report(v_children, v_parents, v_keys, v_outcomes);
    end if;
    return v_count;
end
$$;
