-- Makes executions of these tasks due that could not be read (conductor.unreadable), because a process has
-- started that may read them. They keep the order in which they were first due. At most 10,000; the others are
-- tried when their time comes. Called by start_orchestrator. Returns the number of executions that were made
-- due.
-- Locks: live_executions (if free).
create or replace function conductor.look_again(p_tasks integer[]) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_ids uuid[];
    v_claims integer[];
    v_run_at timestamptz[];
    v_mine uuid[];
begin
    select array_agg(n.execution_id), array_agg(n.left_claim), array_agg(n.run_at) into v_ids, v_claims, v_run_at
      from (select u.execution_id, u.left_claim, u.run_at from conductor.unreadable u
             where u.task_id = any (p_tasks) limit 10000) n;
    if v_ids is null then
        return 0;
    end if;
    v_mine := array(
        select l.id from conductor.live_executions l
          join unnest(v_ids, v_claims) as n(id, claim) on n.id = l.id and n.claim = l.claim
         where l.id = any (v_ids) and l.state = 'pending' and l.run_at > v_now and not l.postponed
           for no key update of l skip locked);
    update conductor.live_executions l set run_at = least(n.run_at, v_now)
      from unnest(v_ids, v_run_at) as n(id, run_at)
     where l.id = any (v_mine) and n.id = l.id;
    return cardinality(v_mine);
end
$$;

-- Looks through at most p_portion executions of a queue in the order of claims, from one place (p_priority, p_run_at,
-- p_id) on, or from the beginning if p_priority is null. Returns in ids those of a task that can be moved, in seen how
-- many executions it has looked at, and the place where the next look begins; at_priority is null if this one has
-- reached the end. Called by follow_moves, under whose settings it runs.
create or replace function conductor.find_moved(
    p_task integer, p_queue integer, p_priority integer, p_run_at timestamptz, p_id uuid, p_portion integer,
    out ids uuid[], out seen integer, out at_priority integer, out at_run_at timestamptz, out at_id uuid)
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_found uuid[];
    v_seen integer;
begin
    ids := '{}';
    seen := 0;
    at_priority := p_priority;
    at_run_at := p_run_at;
    at_id := p_id;
    loop
        if at_run_at is null then
            select l.priority into at_priority from conductor.live_executions l
             where l.queue_id = p_queue and l.priority < coalesce(at_priority, 2147483647)
             order by l.priority desc limit 1;
            exit when at_priority is null;
            at_run_at := '-infinity';
            at_id := '00000000-0000-0000-0000-000000000000';
        end if;
        select array_agg(o.id) filter (where o.task_id = p_task and o.state in ('pending', 'suspended')),
               count(*)::integer, max(o.run_at), (array_agg(o.id order by o.run_at desc, o.id desc))[1]
          into v_found, v_seen, at_run_at, at_id
          from (select l.id, l.task_id, l.state, l.run_at from conductor.live_executions l
                 where l.queue_id = p_queue and l.priority = at_priority
                   and (l.run_at, l.id) > (at_run_at, at_id)
                 order by l.run_at, l.id limit p_portion - seen) o;
        ids := ids || coalesce(v_found, '{}');
        seen := seen + v_seen;
        exit when seen >= p_portion;
        at_run_at := null;
    end loop;
end
$$;

-- Moves executions of a task that has moved to another queue, if an open transaction had made or locked them
-- when the task moved. Looks through the queue that the task has left, for at least a day, and for as long as a
-- transaction runs that is older than the move. The looks become less frequent; after a look at very many
-- executions, the pause is 20 times as long as the look took. Handles one move per call, and p_portion
-- executions of its queue in the order of claims; the next call continues there. Called by orchestrators at
-- each heartbeat. Returns the number of executions that were moved, and whether there may be more to do now.
-- Locks: moves (one row, if free), live_executions (if free), queues.idle (if free).
create or replace function conductor.follow_moves(p_portion integer default 10000, out moved integer, out more boolean)
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := clock_timestamp();
    v_move record;
    v_ids uuid[];
    v_seen integer;
    v_priority integer;
    v_run_at timestamptz;
    v_id uuid;
begin
    moved := 0;
    more := false;
    select m.task_id, m.queue_id, m.moved_at, m.moved_by, m.at_priority, m.at_run_at, m.at_id, m.seen,
           t.queue_id as goal
      into v_move
      from conductor.moves m
      join conductor.tasks t on t.id = m.task_id
     where m.at_priority is not null or v_now < m.looked_at
        or v_now >= m.looked_at + least(greatest((v_now - m.moved_at) / 8, interval '0'), interval '30 s')
                                + m.seen * interval '50 us'
     order by m.looked_at, m.task_id, m.queue_id
     limit 1
       for update of m skip locked;
    if not found then
        return;
    end if;
    more := true;
    if v_move.goal <> v_move.queue_id then
        select f.ids, f.seen, f.at_priority, f.at_run_at, f.at_id into v_ids, v_seen, v_priority, v_run_at, v_id
          from conductor.find_moved(
              p_task => v_move.task_id, p_queue => v_move.queue_id, p_priority => v_move.at_priority,
              p_run_at => v_move.at_run_at, p_id => v_move.at_id, p_portion => p_portion) f;
        v_move.seen := v_seen + case when v_move.at_priority is null then 0 else v_move.seen end;
        update conductor.live_executions l set queue_id = v_move.goal
         where l.id = any (array(
               select o.id from conductor.live_executions o
                where o.id = any (v_ids) and o.queue_id = v_move.queue_id and o.state in ('pending', 'suspended')
                  for no key update skip locked));
        get diagnostics moved = row_count;
        if moved > 0 then
            perform conductor.wake(array[v_move.goal], false);
        end if;
    end if;
    if v_priority is null and v_move.moved_at < v_now - interval '1 day'
       and v_move.moved_by < pg_snapshot_xmin(pg_current_snapshot()) then
        delete from conductor.moves m where m.task_id = v_move.task_id and m.queue_id = v_move.queue_id;
    else
        update conductor.moves m
           set looked_at = v_now, at_priority = v_priority, at_run_at = v_run_at, at_id = v_id, seen = v_move.seen
         where m.task_id = v_move.task_id and m.queue_id = v_move.queue_id;
    end if;
end
$$;
