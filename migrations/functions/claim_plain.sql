-- Locks and returns what is due in a queue with one priority, at most p_most. It is limited if a task has a limit, which
-- may be newer than what the caller knows. Called by claim_plain, under whose settings it runs.
-- Locks: live_executions (candidates, if free).
create or replace function conductor.due_plain(
    p_queue integer, p_priority integer, p_tasks integer[], p_start timestamptz, p_now timestamptz, p_most integer)
returns conductor.candidates
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_due conductor.candidates;
begin
    select coalesce(array_agg(d.id), '{}'), array_agg(d.bytes), sum(d.bytes), count(*) < p_most, max(d.run_at),
           bool_or(d.claim > 0), bool_or(d.ordered),
           count(*) > 0 and exists (select from conductor.limits c where c.task_id = any (p_tasks))
      into v_due.ids, v_due.sizes, v_due.bytes, v_due.is_all, v_due.last, v_due.again, v_due.ordered, v_due.limited
      from (select l.id, l.run_at, l.claim, l.bytes, l.order_key is not null as ordered
              from conductor.live_executions l
             where l.queue_id = p_queue and l.priority = p_priority
               and l.run_at >= coalesce(p_start, '-infinity') and l.run_at <= p_now
               and l.state in ('pending', 'suspended') and l.task_id = any (p_tasks)
               -- A pause that committed before an invoke is seen by whoever sees the invoke.
               and not exists (select from conductor.queues q where q.id = p_queue and q.paused)
             order by l.run_at, l.id
             limit p_most
               for no key update skip locked) d;
    return v_due;
end
$$;

-- Claims what is due in a queue whose tasks have no window and no limit: higher priority first, then
-- earlier run_at, then id. Called by finish_and_claim and claim, which describes the arguments and the result.
--
-- Reads one index range for each priority in use (due_plain). Each range ends at the present, so executions that
-- are due later cost nothing. If candidates have an order or a limit, claim_gated does the rest. No plan depends on
-- statistics (tables/001_queue.sql).
-- Locks: live_executions (candidates, if free), as settle, queues.idle (if free), as claim_gated.
create or replace function conductor.claim_plain(
    p_orchestrator bigint, p_queue integer, p_tasks integer[], p_limit integer, p_paused boolean, p_idle boolean,
    p_bytes bigint, p_seen integer[], p_from timestamptz[])
returns setof conductor.claimed
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz;
    v_priority integer;
    v_left integer := case when p_paused then 0 else p_limit end;
    v_due conductor.candidates;
    v_fit integer; -- candidates
    v_bytes bigint := p_bytes; -- that the result may still have
    v_start timestamptz;
    v_next timestamptz;
    v_seen integer[];
    v_from timestamptz[];
    v_row conductor.claimed;
begin
    loop
        v_now := (select clock_timestamp() + c.shift from conductor.clock c where c.only_row);
        v_next := null;
        v_seen := '{}';
        v_from := '{}';
        v_priority := conductor.next_priority(p_queue, null, p_seen);
        while v_priority is not null and v_left > 0 loop
            v_start := p_from[array_position(p_seen, v_priority)];
            v_due := conductor.due_plain(p_queue, v_priority, p_tasks, v_start, v_now, v_left);
            -- The order or the limit came after the first look of the statement, or a deploy has left the order out.
            if v_due.ordered or v_due.limited then
                return query select * from conductor.claim_gated(
                    p_orchestrator => p_orchestrator, p_queue => p_queue, p_tasks => p_tasks, p_limit => v_left,
                    p_paused => p_paused, p_idle => p_idle and v_left = p_limit, p_most => v_left,
                    p_bytes => v_bytes, p_seen => p_seen, p_from => p_from);
                return;
            end if;
            v_fit := cardinality(v_due.ids);
            if v_due.again or v_due.bytes > v_bytes then
                select w.fit, w.bytes into v_fit, v_due.bytes
                  from conductor.within_bytes(v_due.ids, v_due.sizes, v_due.again, v_bytes, v_left = p_limit) w;
                exit when v_fit = 0;
            end if;
            if v_fit > 0 then
                return query select * from conductor.take(
                    p_orchestrator => p_orchestrator, p_ids => v_due.ids[1:v_fit], p_again => v_due.again, p_now => v_now);
            end if;
            v_left := v_left - v_fit;
            v_bytes := v_bytes - coalesce(v_due.bytes, 0);
            exit when v_fit < cardinality(v_due.ids);
            if p_seen is not null then
                v_seen := v_seen || v_priority;
                v_from := v_from || conductor.next_place(v_start, v_now, v_due.is_all, v_due.last);
            end if;
            if p_idle and v_left = p_limit then
                v_next := least(v_next, conductor.next_due(p_queue, v_priority, v_now));
            end if;
            exit when v_left = 0; -- The lower priorities keep their places.
            v_priority := conductor.next_priority(p_queue, v_priority, p_seen);
        end loop;
        -- Nothing is due: sets the flag and looks once more, because an invoke may have missed the flag.
        exit when not p_idle or v_left < p_limit or not conductor.go_idle(p_queue);
    end loop;
    v_row := conductor.closing_row(p_seen, p_from, v_seen, v_from, v_priority is not null, v_next - v_now);
    if v_row.seen is not null or p_idle and v_left = p_limit then
        return next v_row;
    end if;
end
$$;
