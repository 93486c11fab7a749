-- Returns in fit how many of these candidates, from the first one on, fit into p_most bytes, and in bytes their
-- size; with p_first at least one. p_sizes has the sizes of their payloads. With p_again some have been claimed
-- before, so the sizes of their records are looked up. The records of an execution that has too many count as
-- nothing, because memo returns only their size. Called by claim.
create or replace function conductor.within_bytes(
    p_ids uuid[], p_sizes integer[], p_again boolean, p_most bigint, p_first boolean, out fit integer, out bytes bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
begin
    select count(*), coalesce(max(w.total), 0) into fit, bytes
      from (select g.n, sum(g.size + case when p_again then coalesce(m.bytes, 0) else 0 end) over (order by g.n) as total
              from unnest(p_ids, p_sizes) with ordinality as g(id, size, n)
              left join lateral (
                   select case when sum(s.bytes) <= conductor.most_records() then sum(s.bytes) end as bytes
                     from conductor.steps s where s.execution_id = g.id) m on p_again) w
     where w.total <= p_most or p_first and w.n = 1;
end
$$;

-- Claims what is due: higher priority first, then earlier run_at, then id. Reads one index range for each
-- priority in use. Each range ends at the present, so executions that are due later cost nothing. Called by
-- workers, mostly through finish_and_claim.
--
-- Where a look begins: what was claimed earlier, and what has ended and no vacuum could remove yet, lies at the
-- beginning of each range. So the row without id returns the priorities in use (seen) and, for each, the run_at
-- from which on something may be due (seen_from; null: from the beginning). The worker passes them to its next
-- claim as p_seen and p_from. Executions that become due before that place (they were given back, or committed
-- late) are found by a whole look, with p_seen = '{}', which the worker makes once a second. If p_seen is null,
-- the look is a whole one too, and seen is not returned.
--
-- Sleeping: a worker that is about to sleep sets p_idle. If nothing is due, next_due_ms in the row without id
-- is the time until something is due.
--
-- Windows: p_windowed are the tasks with a window, p_opens and p_closes the window that is open now, or else
-- the next one. Executions that are due outside their window are moved to its opening, so that later claims do
-- not read them again.
--
-- Limits: p_lanes are the lanes in which the worker has slots, p_used the number of executions that it holds in
-- each. Of the lanes in p_back it returns the slots that it does not use. p_most is the number of executions
-- that it can run at once. Per slot of a task in p_quick it may claim p_ahead executions. The lanes p_roomy, of
-- the limits p_roomy_limits and the keys p_roomy_keys, have room for what comes. In the row without id, lanes,
-- slots, lane_limits and lane_keys are the slots of the worker that it may not know.
--
-- Size: payloads and records of the result have at most p_bytes together, except that one execution is returned
-- in any case.
-- Locks: orchestrators (its own row, for key share, waits), as unpark and as await_windows if windows are
--   closed, live_executions (candidates, if free), as take_turns, as admit, as settle, queues.idle (if free),
--   as close_lanes.
create or replace function conductor.claim(
    p_orchestrator bigint, p_queue integer, p_tasks integer[], p_limit integer, p_idle boolean,
    p_windowed integer[] default '{}', p_opens timestamptz[] default '{}', p_closes timestamptz[] default '{}',
    p_lanes integer[] default '{}', p_used integer[] default '{}', p_back integer[] default '{}',
    p_most integer default 1, p_quick integer[] default '{}', p_ahead integer[] default '{}',
    p_roomy integer[] default '{}', p_roomy_limits integer[] default '{}', p_roomy_keys text[] default '{}',
    p_bytes bigint default 64 * 1024 * 1024, p_seen integer[] default null, p_from timestamptz[] default null)
returns table (
    id uuid, task_id integer, claim integer, attempt integer, payload text, memo text, origin uuid,
    parent uuid, trigger text, lanes integer[], slots integer[], lane_limits integer[], lane_keys text[],
    start_ms integer, next_due_ms bigint, seen integer[], seen_from timestamptz[])
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
-- No plan depends on statistics (tables/001_queue.sql).
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz;
    v_drains boolean;
    v_priority integer;
    v_lower integer;
    -- The position in p_seen, and the next priority there. That priority counts as in use without a look, so
    -- that no dead rows are read between the priorities that are known.
    v_place integer;
    v_above integer;
    v_ids uuid[];
    v_again uuid[];
    v_left integer := p_limit;
    -- The bytes that the result may still have, the sizes of the candidates, the number of candidates that fit,
    -- and whether some do not.
    v_bytes bigint := p_bytes;
    v_sizes integer[];
    v_size bigint;
    v_fit integer;
    v_cut boolean;
    v_claimed integer;
    v_next timestamptz;
    v_found timestamptz;
    v_tasks integer[] := p_tasks;
    v_closed integer[];
    -- Executions that were moved to the opening of their windows, that were parked in this step, and that were
    -- parked in all steps.
    v_moved integer := 0;
    v_parked integer;
    v_parks integer := 0;
    v_limited integer[];
    -- Limited tasks that have exactly one limit, which is for concurrency and not shared, with that limit; and
    -- tasks that are limited as a whole, without a key.
    v_plain integer[];
    v_plain_limits integer[];
    v_plain_paths text[];
    v_whole integer[];
    v_open_limited integer[];
    -- The owners of lanes that several tasks share: -limit_id.
    v_shared integer[] := '{}';
    v_any_limited boolean;
    v_any_again boolean;
    v_any_ordered boolean;
    v_turns record;
    v_aside integer;
    -- Whether turns are in use, and the number of candidates whose turn was busy, in the last step and in all
    -- steps.
    v_any_turns boolean := false;
    v_stay integer := 0;
    v_stayed integer := 0;
    -- Executions with an unreadable key of a limit. They are returned without payload, and with the reason as
    -- memo.
    v_unreadable uuid[];
    v_open integer[] := '{}';
    v_open_most integer[];
    v_look integer[] := '{}';
    v_opened record;
    v_admitted record;
    v_lane integer[];
    v_lanes text[];
    v_starts integer[];
    -- What the worker holds in its lanes, including what this claim returns; and its slots there at the end.
    v_held integer[] := p_lanes;
    v_used integer[] := p_used;
    v_told integer[] := '{}';
    v_slots integer[] := '{}';
    v_told_limits integer[] := '{}';
    v_told_keys text[] := '{}';
    v_closed_lanes record;
    -- The place of the keys of all limits, if it is one place.
    v_paths integer;
    v_path text[];
    v_of integer[];
    v_keys text[];
    v_busy boolean := false;
    -- The run_at from which on this look reads a priority, the run_at of the last candidate, the number of
    -- candidates, and whether these are all.
    v_start timestamptz;
    v_last timestamptz;
    v_picked integer;
    v_all boolean;
    v_seen integer[];
    v_from timestamptz[];
begin
    -- A dead orchestrator must not claim, because no process would give its executions back.
    select o.drain_for is not null into v_drains from conductor.orchestrators o where o.id = p_orchestrator for key share;
    if not found then
        raise exception 'orchestrator % has lost its lease', p_orchestrator using errcode = 'CD003';
    end if;
    -- A process that must end may not know it yet.
    if v_drains or exists (select from conductor.queues q where q.id = p_queue and q.paused) then
        v_left := 0;
    end if;
    select coalesce(array_agg(k.task_id), '{}'), array_agg(k.task_id) filter (where k.plain),
           array_agg(k.limit_id) filter (where k.plain), array_agg(k.path::text) filter (where k.plain),
           array_agg(k.task_id) filter (where k.whole)
      into v_limited, v_plain, v_plain_limits, v_plain_paths, v_whole
      from (select c.task_id, min(c.id) as limit_id,
                   count(*) = 1 and min(c.kind) = 'concurrency' and max(c.shared_id) is null as plain,
                   min(c.path) as path, max(cardinality(c.path)) = 0 as whole
              from conductor.limits c where c.task_id = any (p_tasks) group by c.task_id) k;
    if cardinality(v_limited) > 0 then
        select count(distinct c.path) filter (where cardinality(c.path) > 0),
               min(c.path) filter (where cardinality(c.path) > 0),
               coalesce(array_agg(distinct -c.shared_id) filter (where c.shared_id is not null), '{}')
          into v_paths, v_path, v_shared
          from conductor.limits c where c.task_id = any (v_limited);
    end if;

    v_any_turns := p_seen <> '{}'
        and (select true from conductor.turns t where t.task_id = any (p_tasks) limit 1) is not null;

    loop
        v_now := conductor.now();
        v_next := null;
        if cardinality(p_windowed) > 0 then
            -- If a window has just closed, the worker has not sent the next opening yet. Its task is neither
            -- claimed nor moved.
            select array_agg(w.task_id) filter (where v_now < w.opens),
                   array_agg(w.task_id) filter (where v_now >= w.opens and v_now < w.closes)
              into v_closed, v_tasks
              from unnest(p_windowed, p_opens, p_closes) as w(task_id, opens, closes);
            v_tasks := array(select t from unnest(p_tasks) as t
                              where t <> all (p_windowed) or t = any (v_tasks));
        end if;
        if cardinality(v_closed) > 0 then
            perform conductor.unpark(array(select t from unnest(v_closed) as t where t = any (v_limited)) || array(
                select -c.shared_id from conductor.limits c
                 where c.task_id = any (v_closed) and c.shared_id is not null), 1000);
            v_moved := conductor.await_windows(
                p_orchestrator => p_orchestrator, p_queue => p_queue, p_tasks => p_tasks, p_closed => v_closed,
                p_windowed => p_windowed, p_opens => p_opens, p_now => v_now, p_limit => 1000);
        end if;
        v_open_limited := array(select t from unnest(v_limited) as t where t = any (v_tasks));
        if cardinality(v_open_limited) > 0 then
            v_opened := conductor.open_lanes(
                p_orchestrator => p_orchestrator, p_tasks => v_open_limited || v_shared, p_lanes => v_held,
                p_used => v_used, p_now => v_now, p_most => p_most, p_quick => p_quick, p_ahead => p_ahead);
            v_open := v_opened.lanes;
            v_open_most := v_opened.most;
            v_look := v_look || v_opened.look;
        end if;
        v_seen := '{}';
        v_from := '{}';
        v_place := 1;
        v_above := p_seen[1];
        v_priority := null;
        select l.priority into v_priority from conductor.live_executions l
         where l.queue_id = p_queue and l.priority > coalesce(v_above, -2147483649)
         order by l.priority desc limit 1;
        v_priority := coalesce(v_priority, v_above);
        if cardinality(v_open) > 0 then
            v_priority := greatest(v_priority, conductor.lane_priority(v_open, null));
        end if;
        v_parked := 0;
        while v_priority is not null and v_left > 0 loop
            -- An execution that was brought back for its turn may be due before the place where the last look
            -- ended.
            v_start := case when not v_any_turns then p_from[array_position(p_seen, v_priority)] end;
            -- Behind many parked executions, small steps would take long: each step reads twice as many.
            select max(d.run_at), count(*), count(*) < v_left + 2 * (v_parked + v_stayed), coalesce(array_agg(d.id), '{}'), coalesce(bool_or(d.limited), false), array_agg(d.task_id),
                   array_agg(case when not d.limited then null when d.task_id = any (v_whole) then ''
                                  when d.key is null then 'null' when octet_length(d.key) > 200 then md5(d.key) else d.key end),
                   bool_or(d.claim > 0), bool_or(d.ordered), array_agg(d.bytes), sum(d.bytes)
              into v_last, v_picked, v_all, v_ids, v_any_limited, v_of, v_keys, v_any_again, v_any_ordered, v_sizes, v_size
              from (select l.id, l.run_at, l.task_id, l.claim, l.bytes, l.task_id = any (v_limited) as limited,
                           l.order_key is not null as ordered,
                           case when l.task_id = any (v_limited) and (l.task_id = any (v_whole)) is not true
                                then conductor.lane_key(l.payload, case when v_paths <= 1 then v_path
                                     else v_plain_paths[array_position(v_plain, l.task_id)]::text[] end) end as key
                      from conductor.live_executions l
                     where l.queue_id = p_queue and l.priority = v_priority
                       and l.run_at >= coalesce(v_start, '-infinity') and l.run_at <= v_now
                       and l.state in ('pending', 'suspended') and l.task_id = any (v_tasks)
                     order by l.run_at, l.id
                     limit v_left + 2 * (v_parked + v_stayed)
                       for no key update skip locked) d;
            -- Once only: executions that are parked there and stay would be read again and again.
            if cardinality(v_open) > 0 and v_parked = 0 and v_stay = 0 then
                v_any_limited := true;
                select coalesce(array_agg(s.id), '{}'), array_agg(s.task_id), array_agg(s.key), bool_or(s.claim > 0),
                       bool_or(s.order_key is not null), array_agg(s.bytes), sum(s.bytes)
                  into v_ids, v_of, v_keys, v_any_again, v_any_ordered, v_sizes, v_size
                  from (select o.id, o.task_id, o.claim, o.order_key, o.bytes, conductor.lane_key(o.payload, v_path) as key
                      from (select l.id, l.run_at, l.task_id, l.claim, l.order_key, l.bytes, l.payload
                              from conductor.live_executions l where l.id = any (v_ids)
                            union all
                            select k.id, k.run_at, k.task_id, k.claim, k.order_key, k.bytes, k.payload
                              from unnest(v_open, v_open_most) as g(lane, most)
                             cross join lateral (
                                   select l.id, l.run_at, l.task_id, l.claim, l.order_key, l.bytes, l.payload
                                     from conductor.live_executions l
                                    where l.queue_id = -g.lane and l.priority = v_priority and l.run_at <= v_now
                                      and l.state in ('pending', 'suspended') and l.task_id = any (v_tasks)
                                    order by l.run_at, l.id
                                    limit least(v_left, g.most)
                                      for no key update skip locked) k) o
                     order by o.run_at, o.id
                     limit v_left) s;
            end if;
            v_cut := false;
            if v_any_again or v_size > v_bytes then
                select w.fit, w.bytes into v_fit, v_size
                  from conductor.within_bytes(v_ids, v_sizes, v_any_again, v_bytes, v_left = p_limit) w;
                v_cut := v_fit < cardinality(v_ids);
                exit when v_cut and v_fit = 0;
                v_ids := v_ids[1:v_fit];
                v_of := v_of[1:v_fit];
                v_keys := v_keys[1:v_fit];
            end if;
            v_aside := 0;
            v_stay := 0;
            if v_any_ordered then
                v_turns := conductor.take_turns(v_ids, v_of, v_keys, v_stayed > 200);
                v_ids := v_turns.ids;
                v_of := v_turns.of;
                v_keys := v_turns.keys;
                v_aside := v_turns.moved;
                v_stay := v_turns.busy;
                v_stayed := v_stayed + v_stay;
            end if;
            v_unreadable := null;
            if v_any_limited and conductor.unreadable_key() = any (v_keys) then
                v_unreadable := array(
                    select g.id from unnest(v_ids, v_of, v_keys) as g(id, task_id, key)
                     where g.key = conductor.unreadable_key() and g.task_id = any (v_limited)
                       and (g.task_id = any (v_whole)) is not true);
            end if;
            v_lane := null;
            if v_any_limited and cardinality(p_roomy) > 0 and v_open = '{}' and cardinality(v_ids) <= v_left then
                v_lane := conductor.roomy_lanes(
                    p_of => v_of, p_keys => v_keys, p_plain => v_plain, p_limits => v_plain_limits,
                    p_lanes => p_roomy, p_lane_limits => p_roomy_limits, p_lane_keys => p_roomy_keys);
            end if;
            v_parked := 0;
            if v_lane is not null then
                v_lanes := null;
                v_starts := null;
                -- Only if a later step reads it.
                if v_left > cardinality(v_ids) or cardinality(p_back) > 0 or cardinality(v_look) > 0 then
                    select coalesce(array_agg(k.lane), '{}'), coalesce(array_agg(k.used), '{}') into v_held, v_used
                      from (select g.lane, sum(g.used)::integer as used
                              from (select unnest(v_held) as lane, unnest(v_used) as used
                                    union all
                                    select unnest(v_lane), 1) g
                             where g.lane is not null
                             group by g.lane) k;
                end if;
            elsif v_any_limited then
                v_admitted := conductor.admit(
                    p_orchestrator => p_orchestrator, p_ids => v_ids, p_of => v_of,
                    p_keys => case when v_paths <= 1 then coalesce(v_keys, '{}') end, p_left => v_left,
                    p_now => v_now, p_most => p_most, p_lanes => v_held, p_used => v_used, p_tasks => p_quick,
                    p_ahead => p_ahead);
                v_ids := v_admitted.ids;
                v_lane := v_admitted.one_lane;
                v_lanes := v_admitted.lanes;
                v_starts := v_admitted.starts;
                v_held := v_admitted.held;
                v_used := v_admitted.used;
                v_told := v_told || v_admitted.grown;
                v_slots := v_slots || v_admitted.slots;
                v_told_limits := v_told_limits || v_admitted.grown_limits;
                v_told_keys := v_told_keys || v_admitted.grown_keys;
                v_look := v_look || v_admitted.full_lanes;
                v_busy := v_busy or v_admitted.busy;
                v_parked := v_admitted.moved;
            else
                v_ids := v_ids[1:v_left];
                v_lane := null;
                v_lanes := null;
                v_starts := null;
            end if;
            -- Executions that were claimed before may have records, and waits whose deadlines have passed.
            if v_any_again then
                v_again := array(select l.id from conductor.live_executions l where l.id = any (v_ids) and l.claim > 0);
                perform conductor.settle(v_again, v_now);
            end if;
            v_claimed := 0;
            if cardinality(v_ids) > 0 then
                return query
                with claimed as (
                    update conductor.live_executions l
                       set state = 'running', claim = l.claim + 1, orchestrator_id = p_orchestrator, claimed_at = v_now,
                           postponed = false, holds_key = l.holds_key and not l.debounced
                      from unnest(v_ids, v_lane, v_lanes, v_starts) as g(id, lane, lanes, start_ms)
                     where l.id = any (v_ids) and l.id = g.id
                    returning l.id, l.task_id, l.claim, l.failures + l.crashes + 1 as attempt,
                              case when l.id = any (v_unreadable) then null else l.payload::text end as payload,
                              l.run_at, coalesce(l.retry_of, l.id) as origin,
                              case when l.parent_key is not null then l.parent_id end as parent,
                              l.trigger::text as trigger,
                              coalesce(g.lanes::integer[], case when g.lane is not null then array[g.lane] end) as lanes,
                              g.start_ms,
                              l.suspended_claim
                )
                select c.id, c.task_id, c.claim, c.attempt, c.payload,
                       case when c.payload is null then (select conductor.json_fault(l.payload)
                                                           from conductor.live_executions l where l.id = c.id)
                            when c.claim > 1 then conductor.memo(c.id, v_now, c.suspended_claim) end, c.origin,
                       c.parent, c.trigger, c.lanes, null::integer[], null::integer[], null::text[], c.start_ms, null::bigint,
                       null::integer[], null::timestamptz[]
                  from claimed c order by c.run_at, c.id;
                get diagnostics v_claimed = row_count;
            end if;
            v_left := v_left - v_claimed;
            v_parked := v_parked + v_aside;
            if v_claimed > 0 then
                v_bytes := v_bytes - coalesce(v_size, 0);
            end if;
            v_parks := v_parks + v_parked;
            -- A deep backlog is parked in pieces. The next claim follows at once.
            exit when v_parks >= 250;
            -- Candidates that stay lie before others, so the range is read again.
            continue when v_parked > 0 or v_stay > 0 and not v_all and v_stayed < 1000;
            exit when v_cut;

            -- The place moves only if everything was claimed: executions that stay for a limit or a window are
            -- read again.
            if p_seen is not null then
                if v_claimed = v_picked and v_open = '{}' and cardinality(p_windowed) = 0 then
                    v_start := greatest(v_start, v_now - interval '1 year',
                                        case when v_all then v_now - interval '1 s' else v_last - interval '200 ms' end);
                end if;
                v_seen := v_seen || v_priority;
                v_from := v_from || v_start;
            end if;
            if p_idle and v_left = p_limit then
                v_found := null;
                select l.run_at into v_found from conductor.live_executions l
                 where l.queue_id = p_queue and l.priority = v_priority and l.run_at > v_now
                   and l.run_at < 'infinity'
                 order by l.run_at limit 1;
                v_next := least(v_next, v_found);
            end if;
            while p_seen[v_place] >= v_priority loop
                v_place := v_place + 1;
            end loop;
            v_above := p_seen[v_place];
            v_lower := null;
            select l.priority into v_lower from conductor.live_executions l
             where l.queue_id = p_queue and l.priority < v_priority and l.priority > coalesce(v_above, -2147483649)
             order by l.priority desc limit 1;
            v_lower := coalesce(v_lower, v_above);
            if cardinality(v_open) > 0 then
                v_lower := greatest(v_lower, conductor.lane_priority(v_open, v_priority));
            end if;
            v_priority := v_lower;
            v_stay := 0;
        end loop;

        -- A deep backlog behind closed windows is moved in pieces, too.
        if v_moved >= 1000 or v_parks >= 250 then
            v_next := v_now;
            exit;
        end if;
        -- Nothing is due: set the flag and look once more, because an invoke may have missed the flag.
        exit when not p_idle or v_left < p_limit;
        update conductor.queues q set idle = true
         where q.id = any (array(select o.id from conductor.queues o
                                  where o.id = p_queue and not o.idle for no key update skip locked));
        exit when not found;
    end loop;

    if cardinality(p_back) > 0 or cardinality(v_look) > 0 then
        v_closed_lanes := conductor.close_lanes(p_orchestrator, p_queue, v_held, v_used, p_back, v_look);
        v_told := v_told || v_closed_lanes.lanes;
        v_slots := v_slots || v_closed_lanes.slots;
    end if;
    if v_left = p_limit and cardinality(v_limited) > 0 then
        -- A lane that is due already, or that another session has locked, could not be used now.
        v_found := conductor.next_lane(v_open_limited);
        v_next := least(v_next, case when v_found is not null then greatest(v_found, v_now + interval '20 ms') end,
                        -- A shared lane may have only executions that other processes can run.
                        greatest(conductor.next_lane(v_shared),
                                 case when conductor.next_lane(v_shared) is not null then v_now + interval '200 ms' end),
                        case when v_busy then v_now + interval '10 ms' end);
    end if;
    if v_stayed > 0 and v_left = p_limit then
        v_next := least(v_next, v_now + interval '50 ms');
    end if;
    if p_seen is not null and cardinality(v_seen) <= 50 then
        -- The priorities that this claim did not reach. They are lower.
        if v_priority is not null then
            select v_seen || array_agg(g.seen order by g.n), v_from || array_agg(g.since order by g.n)
              into v_seen, v_from
              from unnest(p_seen, p_from) with ordinality as g(seen, since, n)
             where g.seen <> all (v_seen);
        end if;
    else
        v_seen := null;
        v_from := null;
    end if;
    if p_idle and v_left = p_limit or cardinality(v_told) > 0 or cardinality(p_back) > 0 or v_seen is not null then
        return query select null::uuid, null::integer, null::integer, null::integer, null::text, null::text,
            null::uuid, null::uuid, null::text, v_told, v_slots, v_told_limits, v_told_keys, null::integer,
            ceil(extract(epoch from v_next - v_now) * 1000)::bigint, v_seen, v_from;
    end if;
end
$$;
