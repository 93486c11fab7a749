-- Returns whether one of these tasks has an execution that runs or is due, an event is to be dispatched, or a
-- schedule has a tick to make. Called by orchestrators that drain.
create or replace function conductor.has_work(p_queues integer[], p_tasks integer[], p_static bigint[]) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    -- The longest of the intervals in conductor.report.
    v_pace interval := '5 s';
    -- What is due in a paused queue may stay due for days.
    v_queues integer[] := array(select q.id from conductor.queues q where q.id = any (p_queues) and not q.paused);
begin
    return exists (select from conductor.event_inbox i)
    or exists (select from conductor.event_deliveries d)
    or exists (select from conductor.event_revisits r)
    or exists (
        select from conductor.schedules s
         where not s.paused and s.fault is null and (s.next_at is null or s.next_at <= v_now)
           and (s.dynamic or s.id = any (p_static)))
    or exists (
        select from conductor.first_ticks() f
         where (select l.state <> 'pending' or l.run_at < 'infinity' from conductor.live_executions l
                 where l.id = f.execution_id limit 1) is not true)
    or exists (
        select from unnest(v_queues) as q, conductor.priorities(q) as p,
               lateral (select from conductor.live_executions l
                         where l.queue_id = q and l.priority = p and l.run_at <= v_now + v_pace
                           and l.task_id = any (p_tasks)
                           and (l.run_at <= v_now
                                -- A join that is resumed at intervals, before any of its times has come.
                                or l.state = 'suspended' and l.partial_wakes > 0
                                   and not exists (select from conductor.waits w
                                                    where w.execution_id = l.id and w.wake_at <= l.run_at))
                         limit 1) due)
    or exists (
        select from conductor.limits c
          join conductor.lanes a on a.limit_id = coalesce(c.shared_id, c.id)
          join conductor.tasks t on t.id = c.task_id
         where c.task_id = any (p_tasks) and t.queue_id = any (v_queues)
           and (a.holders <> '{}' or a.due_at <= v_now + conductor.rate_horizon())
           and (select true from conductor.live_executions l
                 where l.queue_id = -a.id and l.task_id = any (p_tasks) limit 1));
end
$$;
