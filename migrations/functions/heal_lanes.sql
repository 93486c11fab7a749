-- Corrects lanes whose next start, or next look, lies further ahead than the slowest rate of their task allows,
-- because a clock was wrong. The bound is part of the range that is read, because there may be one lane for
-- each key that is rightly ahead. Called by heal_times. Returns one line for the log for each lane.
-- Locks: lanes (waits).
create or replace function conductor.heal_lanes() returns setof text
language plpgsql volatile set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_row record;
begin
    for v_row in
        update conductor.lanes a set due_at = v_now, next_at = least(a.next_at, v_now)
          from (select k.id, k.due_at as was, o.name
                  from (select t.id, format('a rate of the task %s', t.name) as name,
                               (select max(coalesce(c.per, '1 minute')) from conductor.limits c where c.task_id = t.id) as per
                          from conductor.tasks t
                        union all
                        select -c.id, format('the rate %s', c.name), coalesce(c.per, '1 minute')
                          from conductor.limits c where c.task_id is null) o
                 cross join lateral (
                       select d.id, d.due_at from conductor.lanes d
                        where d.task_id = o.id and d.due_at > v_now + conductor.rate_horizon() + interval '1 s' + o.per
                        order by d.due_at desc limit 100) k
                 order by k.id) far
         where a.id = far.id and a.due_at = far.was
        returning far.name, far.was
    loop
        return next format('%s was due at %s', v_row.name, v_row.was);
    end loop;
end
$$;

-- Makes lanes with parked executions due if no orchestrator has slots there, and moves executions that are
-- parked under a limit that is gone back to the queues of their tasks. Only a claim that overlaps with a deploy
-- leaves such executions. A chore of the orchestrators.
-- Locks: lanes (without slots, waits, by id), live_executions (parked ones, if free).
create or replace function conductor.revive_lanes() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_queue integer;
begin
    loop
        select l.queue_id into v_queue from conductor.live_executions l
         where l.queue_id < coalesce(v_queue, 0)
         order by l.queue_id desc limit 1;
        exit when not found;
        if exists (select from conductor.lanes a join conductor.limits c on c.id = a.limit_id where a.id = -v_queue) then
            update conductor.lanes a set due_at = conductor.now(), parked = true
             where a.id = -v_queue and a.holders = '{}' and a.due_at is null;
        else
            update conductor.live_executions l set queue_id = t.queue_id
              from conductor.tasks t
             where l.id = any (array(
                   select o.id from conductor.live_executions o
                    where o.queue_id = v_queue and o.state <> 'running' for no key update skip locked))
               and t.id = l.task_id;
        end if;
    end loop;
end
$$;

-- Removes lanes that nothing uses, at most p_limit. A chore of the orchestrators. Returns the number of lanes
-- that were removed.
-- Locks: lanes (if free).
create or replace function conductor.prune_lanes(p_limit integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_lanes integer[];
    v_count integer;
begin
    v_lanes := array(
        select a.id from conductor.lanes a
         where a.holders = '{}' and not a.parked and a.key <> ''
           and (a.next_at is null or a.next_at < conductor.now())
         limit p_limit
           for update skip locked);
    delete from conductor.lanes a
     where a.id = any (v_lanes)
       and (select true from conductor.live_executions l where l.queue_id = -a.id limit 1) is null;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;
