-- Returns the text of a crash among the failures of an execution.
create or replace function conductor.crash_text() returns text
language sql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$ select 'the process died while it ran this attempt' $$;

-- Takes running executions from their orchestrators: cancelled ones end, the others are pending again. Called
-- by all functions that make running executions pending, except fail. The caller holds them, and the parents of
-- those that end. Returns the number of executions that were given back.
--
-- If p_max_crashes is null, nothing is charged. Otherwise each execution is charged with a crash. It fails if
-- it has crashed p_max_crashes times without suspending or recording a step in between, or 20 times as often in
-- all. From the second crash on it is due at a random time, so that an execution that kills its process does
-- not meet the same others again.
-- Locks: failures (inserts), as conclude, queues.idle (if free).
create or replace function conductor.give_back(p_ids uuid[], p_max_crashes integer) returns integer
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
    select l.id, l.failures + l.crashes + 1, v_now, conductor.crash_text()
      from conductor.live_executions l
     where v_charge = 1 and l.id = any (p_ids) and l.state = 'running'
        on conflict do nothing;

    -- A step that was recorded under this claim will not run again, so the earlier crashes do not count. Ends
    -- of children and events are recorded by other sessions and do not count as progress.
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
           error = case when v_charge = 1 then conductor.crash_text() else l.error end
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
    -- An execution that records something new each time must not kill processes for ever.
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
