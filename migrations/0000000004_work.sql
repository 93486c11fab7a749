-- The worker's round trip: outcomes go in, claims come back.

set local search_path = pg_catalog, pg_temp;

-- Which of these tasks have had their windows since then, locked, so that whoever declares another window finds what
-- is moved meanwhile; not waited for, as the caller may hold executions already. With the owner's rights, as a worker
-- may not write the tasks, and so could not lock them.
create function conductor.hold_windows(p_tasks integer[], p_since timestamptz) returns integer[]
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

-- Moves what is due outside its window to the opening: of each priority what stands first, as the
-- rest need not be looked at yet. A window that was declared after this process began is for others
-- to judge. How many were moved.
create function conductor.await_windows(
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

-- How many of these candidates, the first ones, fit into an answer of so many bytes, and what they have; with
-- p_first always one. Payloads come with their sizes; records are looked up where some may have any. Those of an
-- execution that has too many do not come (conductor.memo).
create function conductor.within_bytes(
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

-- Claims what is due: higher priority first, then earlier run_at, then id. One index range per
-- priority in use, each ending at now, so that delayed rows cost nothing.
--
-- A look begins where the one before ended: what was claimed since, and what has ended and no vacuum
-- could remove yet, lies before. The worker brings what the row without id has told it: the priorities in
-- p_seen and, for each, from which run_at on something may be due (p_from; null: from the beginning). What
-- becomes due before that (it was given back, or committed late) is found by a whole look, p_seen = '{}', which the
-- worker makes each second. Where p_seen is null, every look is a whole one, and nothing is told of it.
-- A worker that is about to
-- sleep says so (p_idle); when nothing is due, one row without id says how long until something is.
-- Some tasks have windows: p_opens and p_closes are the one that is open, else the next one. What is
-- due outside its window is moved to the opening, so that later claims do not walk past it. Some have
-- limits: p_lanes are the lanes in which the worker has slots, p_used what it runs there; in those of
-- p_back it wants to keep no more slots than that; p_most is what it can run at once; per slot of a task
-- in p_quick it may claim p_ahead. Its lanes p_roomy (of p_roomy_limits and p_roomy_keys) have room for what
-- comes. A row without id then says how many slots it has, where that is news. Payloads and records of the answer
-- have p_bytes together, unless those of one execution alone have more.
create function conductor.claim(
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
-- No plan depends on statistics (0000000001_setup.sql).
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz;
    v_drains boolean;
    v_priority integer;
    v_lower integer;
    -- How far the walk has come in p_seen, and the next priority there. It counts as in use without a look, so that
    -- nothing dead is walked over between those that are known.
    v_place integer;
    v_above integer;
    v_ids uuid[];
    v_again uuid[];
    v_left integer := p_limit;
    -- What the answer may still have; the sizes of the candidates; those that fit, and that some do not.
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
    -- Moved to the opening of their windows, parked in this step, parked in all.
    v_moved integer := 0;
    v_parked integer;
    v_parks integer := 0;
    v_limited integer[];
    -- Those of them with one limit, by count, and what it is; and those that are limited as a whole.
    v_plain integer[];
    v_plain_limits integer[];
    v_plain_paths text[];
    v_whole integer[];
    v_open_limited integer[];
    -- The owners of lanes that several tasks share.
    v_shared integer[] := '{}';
    v_any_limited boolean;
    v_any_again boolean;
    v_any_ordered boolean;
    v_turns record;
    v_aside integer;
    -- Whether turns are in use; how many candidates were busy there in the last step, and all together.
    v_any_turns boolean := false;
    v_stay integer := 0;
    v_stayed integer := 0;
    -- Those whose limit's key cannot be read: they come without payload, and with the reason as memo.
    v_unreadable uuid[];
    v_open integer[] := '{}';
    v_open_most integer[];
    v_look integer[] := '{}';
    v_opened record;
    v_admitted record;
    v_lane integer[];
    v_lanes text[];
    v_starts integer[];
    -- What it holds in its lanes, what this claim brings included; and its slots there in the end.
    v_held integer[] := p_lanes;
    v_used integer[] := p_used;
    v_told integer[] := '{}';
    v_slots integer[] := '{}';
    v_told_limits integer[] := '{}';
    v_told_keys text[] := '{}';
    v_closed_lanes record;
    -- Where the keys of all limits are, if at one place.
    v_paths integer;
    v_path text[];
    v_of integer[];
    v_keys text[];
    v_busy boolean := false;
    -- From where on this look reads a priority, the last of what it found, how much that was, and whether it was all.
    v_start timestamptz;
    v_last timestamptz;
    v_picked integer;
    v_all boolean;
    v_seen integer[];
    v_from timestamptz[];
begin
    -- A dead orchestrator must not claim: nobody would give its executions back.
    select o.drain_for is not null into v_drains from conductor.orchestrators o where o.id = p_orchestrator for key share;
    if not found then
        raise exception 'orchestrator % has lost its lease', p_orchestrator using errcode = 'CD003';
    end if;
    -- One that is to end may not have heard of it yet.
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
            -- Of one whose window has just closed, the worker does not say yet when it opens.
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
                p_orchestrator, p_queue, p_tasks, v_closed, p_windowed, p_opens, v_now, 1000);
        end if;
        v_open_limited := array(select t from unnest(v_limited) as t where t = any (v_tasks));
        if cardinality(v_open_limited) > 0 then
            v_opened := conductor.open_lanes(
                p_orchestrator, v_open_limited || v_shared, v_held, v_used, v_now, p_most, p_quick, p_ahead);
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
            -- What has come to have its turn may lie before the place where the last look ended.
            v_start := case when not v_any_turns then p_from[array_position(p_seen, v_priority)] end;
            -- Behind many that are parked, few at a time would take long: twice as many each time.
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
            -- Once only: what is parked there and stays would come again and again.
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
                    v_of, v_keys, v_plain, v_plain_limits, p_roomy, p_roomy_limits, p_roomy_keys);
            end if;
            v_parked := 0;
            if v_lane is not null then
                v_lanes := null;
                v_starts := null;
                -- Where somebody will ask for it.
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
                    p_orchestrator, v_ids, v_of, case when v_paths <= 1 then coalesce(v_keys, '{}') end, v_left, v_now, p_most,
                    v_held, v_used, p_quick, p_ahead);
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
            -- Whoever was claimed before may have a memo, and deadlines that are over.
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
            -- A deep backlog is parked in pieces: the next claim follows at once.
            exit when v_parks >= 250;
            -- Those that stay stand before others.
            continue when v_parked > 0 or v_stay > 0 and not v_all and v_stayed < 1000;
            exit when v_cut;

            -- Only behind what it has claimed whole: what stays, for a limit or a window, is looked at again.
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

        -- A deep backlog behind closed windows is moved in pieces too.
        if v_moved >= 1000 or v_parks >= 250 then
            v_next := v_now;
            exit;
        end if;
        -- Nothing is due: say so, and look once more, as an invoke may just have missed the flag.
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
        -- One that is due already, or that somebody else has locked, is not for us just now.
        v_found := conductor.next_lane(v_open_limited);
        v_next := least(v_next, case when v_found is not null then greatest(v_found, v_now + interval '20 ms') end,
                        -- In a shared one may only be what others can run.
                        greatest(conductor.next_lane(v_shared),
                                 case when conductor.next_lane(v_shared) is not null then v_now + interval '200 ms' end),
                        case when v_busy then v_now + interval '10 ms' end);
    end if;
    if v_stayed > 0 and v_left = p_limit then
        v_next := least(v_next, v_now + interval '50 ms');
    end if;
    if p_seen is not null and cardinality(v_seen) <= 50 then
        -- Those that it did not come to, which are lower.
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

-- Moves executions to their final state and tells who waits for them. The caller holds their rows. With p_failures
-- come the codes and details of their errors, as JSON; they stand where a completed one has its output.
create function conductor.conclude(
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
               -- A repeat at least as long as the first one, so that retry of that one knows what has become of it.
               greatest(
                   v_now + (select t.keep_failed from conductor.tasks t where t.id = g.task_id),
                   case when g.retry_of is not null
                        then (select f.expires_at from conductor.finished_executions f where f.id = g.retry_of) end),
               g.parent_id, g.retry_of,
               (select t.queue_id from conductor.tasks t where t.id = g.task_id), g.task_id, g.priority, g.claim,
               g.failures, g.crashes, p_state, g.dedupe_key, g.trigger, g.payload, g.failure::json, g.error
          from gone g
            -- One of this id has ended before, so that `complete` refused it: the first end stays.
            on conflict (id) do nothing
    )
    -- In the one pass over them: a part of the statement that nobody needs is not run.
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

-- Outcomes of handlers that completed. One that has lost its claim matches nothing. Here and in all that writes
-- under a claim, p_orchestrators says who has made it, and null is not checked: a claim whose commit was lost with
-- its server has a number that is given again, to somebody else.
create function conductor.complete(
    p_ids uuid[], p_claims integer[], p_outputs text[], p_orchestrators bigint[] default null) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
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
               -- A repeat at least as long as the first one, as in `conclude`. An expression and no function, which
               -- would be called for each row (7 us).
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

-- Outcomes of attempts that failed: tried again after a delay, or final. With p_forgotten come the keys of recorded errors that
-- the attempts ended with: the next ones do these steps again.
create function conductor.fail(
    p_ids uuid[], p_claims integer[], p_errors text[], p_permanent boolean[], p_delay_ms bigint[],
    p_orchestrators bigint[] default null, p_failures text[] default null,
    p_forgotten_of uuid[] default null, p_forgotten text[] default null) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_count integer;
    v_final uuid[];
    v_failures text[];
    v_again uuid[];
    v_cancelled uuid[];
begin
    -- The backoff doubles with each failure. In seconds: an interval would overflow on the way.
    with failed as (
        update conductor.live_executions l
           set state = 'pending', orchestrator_id = null, failures = l.failures + 1, error = o.error,
               met = null, astray = null, astray_key = null,
               queue_id = (select t.queue_id from conductor.tasks t where t.id = l.task_id),
               run_at = v_now + coalesce(
                   o.delay_ms * interval '1 ms',
                   (select least(extract(epoch from t.backoff_initial)::float8 * power(2, least(l.failures, 60)),
                                 extract(epoch from t.backoff_max)::float8)
                               * (1 + t.jitter * (2 * random() - 1)) * interval '1 s'
                      from conductor.tasks t where t.id = l.task_id))
          from unnest(p_ids, p_claims, p_errors, p_permanent, p_delay_ms, p_orchestrators, p_failures)
               as o(id, claim, error, permanent, delay_ms, orchestrator, failure)
         where l.id = any (p_ids) and l.id = o.id and l.claim = o.claim and l.state = 'running'
           and (o.orchestrator is null or o.orchestrator = l.orchestrator_id)
        returning l.id, l.failures, l.crashes, l.error, l.cancelled, o.failure,
                  o.permanent or l.failures >= (select t.max_attempts from conductor.tasks t
                                                 where t.id = l.task_id) as final
    ), noted as (
        insert into conductor.failures (execution_id, attempt, failed_at, error)
        select f.id, f.failures + f.crashes, v_now, f.error from failed f
            on conflict do nothing
    )
    select count(*), array_agg(f.id) filter (where f.cancelled),
           array_agg(f.id) filter (where f.final and not f.cancelled),
           array_agg(f.failure) filter (where f.final and not f.cancelled),
           array_agg(f.id) filter (where not f.final and not f.cancelled)
      into v_count, v_cancelled, v_final, v_failures, v_again
      from failed f;
    if cardinality(p_forgotten_of) > 0 and v_again is not null then
        perform conductor.forget_errors(v_again, p_forgotten_of, p_forgotten);
    end if;
    if v_cancelled is not null then
        perform conductor.conclude(v_cancelled, 'cancelled', null);
    end if;
    if v_final is not null then
        perform conductor.conclude(v_final, 'failed', null, v_failures);
    end if;
    return v_count;
end
$$;

-- Claims that the worker gives back unfinished, at shutdown; nothing is charged.
create function conductor.release(p_ids uuid[], p_claims integer[], p_orchestrators bigint[] default null)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_held uuid[];
begin
    perform conductor.lock_parents(p_ids);
    v_held := array(
        select l.id from conductor.live_executions l
          join unnest(p_ids, p_claims, p_orchestrators) as o(id, claim, orchestrator)
            on o.id = l.id and o.claim = l.claim
           and (o.orchestrator is null or o.orchestrator = l.orchestrator_id)
         where l.id = any (p_ids) and l.state = 'running'
           for no key update of l);
    return conductor.give_back(v_held, null);
end
$$;

-- Gives back what stopped at a step or checkpoint because its task's window closed: due when it opens.
create function conductor.postpone(
    p_ids uuid[], p_claims integer[], p_until timestamptz[], p_orchestrators bigint[] default null) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_held uuid[];
begin
    perform conductor.lock_parents(p_ids);
    v_held := array(
        select l.id from conductor.live_executions l
          join unnest(p_ids, p_claims, p_orchestrators) as o(id, claim, orchestrator)
            on o.id = l.id and o.claim = l.claim
           and (o.orchestrator is null or o.orchestrator = l.orchestrator_id)
         where l.id = any (p_ids) and l.state = 'running'
           for no key update of l);
    perform conductor.give_back(v_held, null);
    update conductor.live_executions l set run_at = greatest(o.until, conductor.now()), postponed = true
      from unnest(p_ids, p_until) as o(id, until)
     where l.id = o.id and l.id = any (v_held) and l.state = 'pending';
    return cardinality(v_held);
end
$$;

-- Gives back what this process cannot read, and charges nothing. While a living process has not tried, it is
-- due again at once; then at growing intervals, and when a process with its task starts (look_again).
create function conductor.leave_unreadable(
    p_orchestrator bigint, p_ids uuid[], p_claims integer[], p_reasons text[],
    p_orchestrators bigint[] default null) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_reader text;
    v_held uuid[];
    v_rests jsonb;
begin
    select 'process ' || o.pid || case when o.host <> '' then ' on ' || o.host else '' end
      into v_reader from conductor.orchestrators o where o.id = p_orchestrator for key share;
    perform conductor.lock_parents(p_ids);
    v_held := array(
        select l.id from conductor.live_executions l
          join unnest(p_ids, p_claims, p_orchestrators) as o(id, claim, orchestrator)
            on o.id = l.id and o.claim = l.claim
           and (o.orchestrator is null or o.orchestrator = l.orchestrator_id)
         where l.state = 'running' and l.id = any (p_ids)
           for no key update of l);
    if cardinality(v_held) = 0 then
        return 0;
    end if;
    -- Claimed and given back: its number has grown by two since the last time.
    insert into conductor.unreadable as u (
           execution_id, task_id, left_claim, times, run_at, since, noted_at, tried, reader, reason)
    select l.id, l.task_id, l.claim + 1, 1, l.run_at, v_now, clock_timestamp(), array[p_orchestrator],
           coalesce(v_reader, 'a process that is gone'), left(o.reason, 4000)
      from conductor.live_executions l
      join unnest(p_ids, p_claims, p_reasons, p_orchestrators) as o(id, claim, reason, orchestrator)
        on o.id = l.id and o.claim = l.claim and (o.orchestrator is null or o.orchestrator = l.orchestrator_id)
     where l.id = any (v_held)
     order by l.id
        on conflict (execution_id) do update
       set left_claim = excluded.left_claim, noted_at = excluded.noted_at, reader = excluded.reader,
           reason = excluded.reason,
           times = case when u.left_claim = excluded.left_claim - 2 then u.times + 1 else 1 end,
           run_at = case when u.left_claim = excluded.left_claim - 2 then u.run_at else excluded.run_at end,
           since = case when u.left_claim = excluded.left_claim - 2 then u.since else excluded.since end,
           tried = case when u.left_claim = excluded.left_claim - 2
                        then array(select o.id from conductor.orchestrators o where o.id = any (u.tried || excluded.tried))
                        else excluded.tried end;
    perform conductor.give_back(v_held, null);
    -- Of very many of a task, each is tried the less often: about 20 a second in all, up to the 12,000 that
    -- are counted.
    v_rests := (select jsonb_object_agg(c.task_id, c.count / 20)
                  from (select distinct u.task_id from conductor.unreadable u where u.execution_id = any (v_held)) g
                 cross join lateral (
                       select g.task_id, count(*) as count
                         from (select from conductor.unreadable n where n.task_id = g.task_id limit 12000) n) c);
    update conductor.live_executions l
       set run_at = v_now + interval '1 s' * case
               when exists (select from conductor.orchestrators o
                             where l.task_id = any (o.task_ids) and o.id <> all (u.tried)
                               and o.lease_until > clock_timestamp() and o.drain_for is null)
               then least(0.1 * power(2, least(u.times - 1, 6)), 5)
               else greatest(least(power(2, least(u.times - 1, 6)), 60), (v_rests ->> u.task_id::text)::integer) end
      from conductor.unreadable u
     where l.id = any (v_held) and l.state = 'pending' and u.execution_id = l.id and u.execution_id = any (v_held);
    return cardinality(v_held);
end
$$;

-- Gives back what this orchestrator holds in a queue without knowing it: the connection broke before
-- the worker read its claims; of one that it has run, it may not know of the next claim. A statement of the broken connection may still be under way: the lock
-- waits for its end; or it may come yet, from the buffers of a network: the fence is before it.
create function conductor.disown(
    p_orchestrator bigint, p_queue integer, p_ids uuid[], p_claims integer[], p_lanes integer[], p_fence integer,
    p_orchestrators bigint[] default null)
returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '5s' set jit = off
as $$
declare
    v_lanes integer[];
    v_held uuid[];
    v_ids uuid[];
begin
    -- The row first, as recovery does: neither waits for the other in a circle. The heartbeat wants it, so
    -- lanes are waited for only shortly; the worker tries again.
    perform from conductor.orchestrators o where o.id = p_orchestrator for update;
    update conductor.orchestrators o set fences = o.fences || jsonb_build_object(p_queue::text, p_fence)
     where o.id = p_orchestrator;
    perform set_config('lock_timeout', '1s', true);
    -- Slots too: of the lanes that it does know, it says itself how many it uses.
    v_lanes := array(
        select a.id from conductor.lanes a
          left join conductor.tasks t on t.id = a.task_id
          left join conductor.limits c on c.id = a.limit_id
         where a.holders ? p_orchestrator::text and a.id <> all (p_lanes)
           and coalesce(t.queue_id, c.queue_id) = p_queue
         order by a.id
           for no key update of a);
    update conductor.lanes a
       set holders = a.holders - p_orchestrator::text,
           due_at = coalesce(a.due_at, case when a.parked then conductor.now() end)
     where a.id = any (v_lanes);
    v_held := array(
        select l.id from conductor.live_executions l
          join conductor.tasks t on t.id = l.task_id
         where l.state = 'running' and l.orchestrator_id = p_orchestrator
           and (l.queue_id = p_queue or l.queue_id <= 0 and t.queue_id = p_queue)
           and not exists (select from unnest(p_ids, p_claims, p_orchestrators) as k(id, claim, orchestrator)
                            where k.id = l.id and k.claim = l.claim
                              and (k.orchestrator is null or k.orchestrator = p_orchestrator)));
    -- Nobody is waited for while the orchestrator's row is held, which the heartbeat wants.
    v_ids := conductor.lock_held(v_held, null);
    insert into conductor.deferred (execution_id, what, claim)
    select l.id, 'disown', l.claim from conductor.live_executions l
     where l.id = any (v_held) and l.id <> all (v_ids) and l.state = 'running' and l.orchestrator_id = p_orchestrator
       and not exists (select from unnest(p_ids, p_claims, p_orchestrators) as k(id, claim, orchestrator)
                        where k.id = l.id and k.claim = l.claim
                          and (k.orchestrator is null or k.orchestrator = p_orchestrator))
        on conflict do nothing;
    return conductor.give_back(
        array(select l.id from conductor.live_executions l
               where l.id = any (v_ids) and l.orchestrator_id = p_orchestrator
                 and not exists (select from unnest(p_ids, p_claims, p_orchestrators) as k(id, claim, orchestrator)
                                  where k.id = l.id and k.claim = l.claim
                                    and (k.orchestrator is null or k.orchestrator = p_orchestrator))),
        null);
end
$$;

-- Those of these executions that somebody else has locked just now. A worker whose outcomes were not
-- written in time asks, and brings those of the others.
create function conductor.locked(p_ids uuid[]) returns uuid[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_free uuid[] := array(
        select l.id from conductor.live_executions l where l.id = any (p_ids) for no key update skip locked);
begin
    return array(
        select l.id from conductor.live_executions l
         where l.id = any (array(select id from unnest(p_ids) as id except select id from unnest(v_free) as id)));
end
$$;

-- The round trip of a worker under load. The parents of what ends are locked before their children,
-- as cancel does, so that neither waits for the other in a circle. Whoever has locked one of them for long
-- has this end in an error, as the others are not to wait.
create function conductor.finish_and_claim(
    p_ids uuid[], p_claims integer[], p_outputs text[],
    p_failed_ids uuid[], p_failed_claims integer[], p_errors text[], p_permanent boolean[], p_delay_ms bigint[],
    p_parents uuid[], p_orchestrator bigint, p_queue integer, p_tasks integer[],
    p_windowed integer[], p_opens timestamptz[], p_closes timestamptz[], p_limit integer, p_idle boolean,
    p_lanes integer[], p_used integer[], p_back integer[], p_most integer, p_quick integer[], p_ahead integer[],
    p_roomy integer[], p_roomy_limits integer[], p_roomy_keys text[], p_fence integer,
    p_bytes bigint default 64 * 1024 * 1024, p_seen integer[] default null, p_from timestamptz[] default null,
    p_orchestrators bigint[] default null, p_failed_orchestrators bigint[] default null,
    p_failures text[] default null, p_forgotten_of uuid[] default null, p_forgotten text[] default null)
returns table (
    id uuid, task_id integer, claim integer, attempt integer, payload text, memo text, origin uuid,
    parent uuid, trigger text, lanes integer[], slots integer[], lane_limits integer[], lane_keys text[],
    start_ms integer, next_due_ms bigint, seen integer[], seen_from timestamptz[])
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_late boolean;
    -- It is to end, and may not have heard of it yet.
    v_drains boolean;
begin
    -- Before any execution is touched, as recovery does: neither waits for the other in a circle.
    if p_limit > 0 or cardinality(p_back) > 0 then
        select (o.fences ->> p_queue::text)::integer > p_fence, o.drain_for > o.version into v_late, v_drains
          from conductor.orchestrators o where o.id = p_orchestrator for key share;
    end if;
    if cardinality(p_parents) > 0 then
        perform from conductor.live_executions l where l.id = any (p_parents) order by l.id for no key update;
    end if;
    if cardinality(p_ids) > 0 then
        perform conductor.complete(p_ids, p_claims, p_outputs, p_orchestrators);
    end if;
    if cardinality(p_failed_ids) > 0 then
        perform conductor.fail(
            p_failed_ids, p_failed_claims, p_errors, p_permanent, p_delay_ms, p_failed_orchestrators, p_failures,
            p_forgotten_of, p_forgotten);
    end if;
    if v_late then
        return;
    end if;
    if p_limit > 0 and v_drains is not true then
        return query select * from conductor.claim(
            p_orchestrator, p_queue, p_tasks, p_limit, p_idle, p_windowed, p_opens, p_closes,
            p_lanes, p_used, p_back, p_most, p_quick, p_ahead, p_roomy, p_roomy_limits, p_roomy_keys, p_bytes,
            p_seen, p_from);
    elsif cardinality(p_back) > 0 then
        return query select null::uuid, null::integer, null::integer, null::integer, null::text, null::text,
            null::uuid, null::uuid, null::text, o.lanes, o.slots, null::integer[], null::text[], null::integer, null::bigint,
            null::integer[], null::timestamptz[]
          from conductor.close_lanes(p_orchestrator, p_queue, p_lanes, p_used, p_back, '{}') o;
    end if;
end
$$;
