-- Locks and returns those of these tasks whose windows have not changed since p_since. Until the end of the
-- transaction no other window can be declared, and a later declaration finds what was moved. Tasks that another
-- session has locked are left out, because the caller may hold executions. Runs with the owner's rights,
-- because a worker may not write tasks, and so cannot lock them. Called by await_windows.
-- Locks: tasks (for share, if free).
create or replace function conductor.hold_windows(p_tasks integer[], p_since timestamptz) returns integer[]
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
    return array(
        select t.id from conductor.tasks t
         where t.id = any (p_tasks) and t.window_since <= p_since
           for share skip locked);
end
$$;

-- Moves executions that are due outside their window to its opening: of each priority those that come first,
-- because the rest does not need to be read yet. If a window was declared after this process began, its
-- executions are left to newer processes. Called by meet_windows. Returns the number of executions that were moved.
-- Locks: as hold_windows, live_executions (if free).
create or replace function conductor.await_windows(
    p_orchestrator bigint, p_queue integer, p_tasks integer[], p_closed integer[], p_windowed integer[], p_opens timestamptz[],
    p_now timestamptz, p_limit integer)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_ids uuid[];
    v_mine integer[];
    v_count integer;
begin
    v_ids := array(
        select first.id
          from conductor.priorities(p_queue) as p,
               lateral (select l.id, l.task_id from conductor.live_executions l
                         where l.queue_id = p_queue and l.priority = p and l.run_at <= p_now
                           and l.state in ('pending', 'suspended') and l.task_id = any (p_tasks)
                         order by l.run_at, l.id
                         limit p_limit) first
         where first.task_id = any (p_closed));
    if cardinality(v_ids) = 0 then
        return 0;
    end if;
    v_mine := conductor.hold_windows(
        p_closed, (select o.started_at from conductor.orchestrators o where o.id = p_orchestrator));
    v_ids := array(
        select l.id from conductor.live_executions l
         where l.id = any (v_ids) and l.task_id = any (v_mine) and l.run_at <= p_now and l.state in ('pending', 'suspended')
           for no key update skip locked);
    update conductor.live_executions l set run_at = w.opens, postponed = true
      from unnest(p_windowed, p_opens) as w(task_id, opens)
     where l.id = any (v_ids) and w.task_id = l.task_id;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- Moves parked executions of tasks whose windows are closed back to their queue, those of lanes that they share
-- with other tasks included. Called by meet_windows.
-- Locks: as unpark.
create or replace function conductor.unpark_closed(p_closed integer[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_owners integer[];
begin
    select array_agg(c.task_id) || array_agg(-c.shared_id) filter (where c.shared_id is not null) into v_owners
      from conductor.limits c where c.task_id = any (p_closed);
    if v_owners is not null then
        perform conductor.unpark(v_owners, 1000);
    end if;
end
$$;

-- Looks which windows are open. Returns in tasks those that may be claimed now, in limited those of p_limited, and in
-- moved how many executions were moved to the opening of their windows; null if no window is closed. Called by
-- claim_gated, which describes the other arguments and under whose settings it runs.
-- Locks: as unpark and as await_windows if windows are closed.
create or replace function conductor.meet_windows(
    p_orchestrator bigint, p_queue integer, p_tasks integer[], p_limited integer[], p_windowed integer[],
    p_opens timestamptz[], p_closes timestamptz[], p_now timestamptz,
    out tasks integer[], out limited integer[], out moved integer)
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_closed integer[];
    v_open integer[];
begin
    -- If a window has just closed, the worker has not sent the next opening yet. Its task is neither claimed nor
    -- moved.
    select array_agg(w.task_id) filter (where p_now < w.opens),
           array_agg(w.task_id) filter (where p_now >= w.opens and p_now < w.closes)
      into v_closed, v_open
      from unnest(p_windowed, p_opens, p_closes) as w(task_id, opens, closes);
    tasks := array(select t from unnest(p_tasks) as t where t <> all (p_windowed) or t = any (v_open));
    limited := array(select t from unnest(p_limited) as t where t = any (tasks));
    if cardinality(v_closed) > 0 then
        perform conductor.unpark_closed(v_closed);
        moved := conductor.await_windows(
            p_orchestrator => p_orchestrator, p_queue => p_queue, p_tasks => p_tasks, p_closed => v_closed,
            p_windowed => p_windowed, p_opens => p_opens, p_now => p_now, p_limit => 1000);
    end if;
end
$$;
