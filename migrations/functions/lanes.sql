-- Returns how long before its time an execution under a rate is claimed. Its worker starts it at that time.
create or replace function conductor.rate_horizon() returns interval
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select interval '100 ms' $$;

-- Returns how much earlier than at even distances a start may come. After a rest, p_burst starts may come
-- together, and each interval has at most p_amount + p_burst - 1 starts. (The generic cell rate algorithm:
-- lanes.next_at is its theoretical arrival time, and this is its tolerance.)
create or replace function conductor.rate_lead(p_amount integer, p_per interval, p_burst integer) returns interval
language sql immutable parallel safe
return p_per / p_amount * (p_burst - 1);

-- Returns the lanes whose parked executions a worker may claim, and about how many of each: the lanes in which
-- it has slots, and the lanes that are due. look has these lanes, and those of which it can claim nothing,
-- which are only to be examined at the end. p_tasks has tasks, and the owners of shared lanes. Called by claim.
create or replace function conductor.open_lanes(
    p_orchestrator bigint, p_tasks integer[], p_lanes integer[], p_used integer[], p_now timestamptz,
    p_most integer, p_quick integer[], p_ahead integer[],
    out lanes integer[], out most integer[], out look integer[])
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = on set enable_nestloop = off set jit = off
as $$
begin
    if (select true from conductor.lanes a where a.task_id = any (p_tasks) and a.parked limit 1) is null then
        lanes := '{}';
        most := '{}';
        look := '{}';
        return;
    end if;
    select coalesce(array_agg(k.id) filter (where k.most > 0), '{}'),
           coalesce(array_agg(k.most) filter (where k.most > 0), '{}'), coalesce(array_agg(k.id), '{}')
      into lanes, most, look
      from (select o.id,
                   case when c.kind = 'concurrency' then
                        least(p_most, c.amount - (select coalesce(sum(h.value::integer), 0)
                                                    from jsonb_each(o.holders - p_orchestrator::text) as h))
                        * coalesce(f.ahead, 1) - coalesce(u.used, 0)
                   else c.burst + extract(epoch from conductor.rate_horizon()) / extract(epoch from c.per) * c.amount
                   end::integer as most
              from (select a.id, a.limit_id, a.task_id, a.holders from conductor.lanes a
                     where a.id = any (p_lanes) and a.parked
                    union
                    select d.id, d.limit_id, d.task_id, d.holders
                      from unnest(p_tasks) as t
                     cross join lateral (
                           select a.id, a.limit_id, a.task_id, a.holders from conductor.lanes a
                            where a.task_id = t and a.due_at <= p_now
                            order by a.due_at limit 200) d) o
              join conductor.limits c on c.id = o.limit_id
              left join unnest(p_lanes, p_used) as u(lane, used) on u.lane = o.id
              left join unnest(p_quick, p_ahead) as f(task_id, ahead) on f.task_id = o.task_id) k;
end
$$;

-- Returns the highest priority below p_below (null: the highest of all) that is parked in these lanes. Called
-- by claim.
create or replace function conductor.lane_priority(p_lanes integer[], p_below integer) returns integer
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
    return (
        select k.priority
          from unnest(p_lanes) as lane
         cross join lateral (
               select l.priority from conductor.live_executions l
                where l.queue_id = -lane and l.priority < coalesce(p_below::bigint, 2147483648)
                order by l.priority desc limit 1) k
         order by k.priority desc limit 1);
end
$$;

-- Moves executions of tasks whose window is closed from due lanes back to their queue, where they wait for the
-- window. At most 100 lanes, and p_limit executions of each. p_tasks has tasks, and the owners of shared lanes.
-- Called by claim.
-- Locks: lanes (if free), live_executions (parked ones, if free).
create or replace function conductor.unpark(p_tasks integer[], p_limit integer) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_lane record;
    v_count integer;
begin
    for v_lane in
        select a.id from conductor.lanes a
         where a.task_id = any (p_tasks) and a.due_at is not null
         limit 100
           for no key update of a skip locked
    loop
        update conductor.live_executions l
           set queue_id = (select t.queue_id from conductor.tasks t where t.id = l.task_id)
         where l.id = any (array(select k.id from conductor.live_executions k
                                  where k.queue_id = -v_lane.id and k.state in ('pending', 'suspended')
                                  limit p_limit
                                    for no key update skip locked))
           and l.task_id = any (p_tasks);
        get diagnostics v_count = row_count;
        -- Other tasks may share the lane.
        if v_count = 0 and (select true from conductor.live_executions k
                             where k.queue_id = -v_lane.id and k.task_id <> all (p_tasks) limit 1) is null then
            update conductor.lanes a set due_at = null, parked = false where a.id = v_lane.id;
        end if;
    end loop;
end
$$;

-- Returns when the first lane of these tasks, or owners of shared lanes, is due. Called by claim.
create or replace function conductor.next_lane(p_tasks integer[]) returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
    return (
        select d.due_at
          from unnest(p_tasks) as t
         cross join lateral (
               select a.due_at from conductor.lanes a
                where a.task_id = t and a.due_at is not null order by a.due_at limit 1) d
         order by d.due_at limit 1);
end
$$;

-- Returns when a claim that took nothing may find something in a lane: of the tasks p_limited, or of the owners
-- p_shared of shared lanes. Called by claim_gated.
create or replace function conductor.lanes_due(
    p_limited integer[], p_shared integer[], p_now timestamptz, p_busy boolean) returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    v_own timestamptz := conductor.next_lane(p_limited);
    v_shared timestamptz;
begin
    if cardinality(p_shared) > 0 then
        v_shared := conductor.next_lane(p_shared);
    end if;
    return least(
        -- A lane that is due already, or that another session has locked, could not be used now.
        case when v_own is not null then greatest(v_own, p_now + interval '20 ms') end,
        -- A shared lane may have only executions that other processes can run.
        case when v_shared is not null then greatest(v_shared, p_now + interval '200 ms') end,
        case when p_busy then p_now + interval '10 ms' end);
end
$$;

-- Returns the lanes of these executions if each limited one is in a lane of p_lanes, in which the worker has
-- slots and room, so that nothing else needs to be read. Otherwise returns null. p_of and p_keys are the tasks
-- and the keys of the executions; the keys are in the form that lanes store. A task in p_plain has exactly one
-- limit, in p_limits. Called by claim.
create or replace function conductor.roomy_lanes(
    p_of integer[], p_keys text[], p_plain integer[], p_limits integer[],
    p_lanes integer[], p_lane_limits integer[], p_lane_keys text[])
returns integer[]
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_hashjoin = on set enable_nestloop = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_lanes integer[];
    v_all boolean;
begin
    select array_agg(k.lane order by i.n), bool_and(k.lane is not null or i.key is null)
      into v_lanes, v_all
      from (select generate_subscripts(p_of, 1) as n, unnest(p_of) as task_id, unnest(p_keys) as key) i
      left join (select unnest(p_lane_limits) as limit_id, unnest(p_lane_keys) as key, unnest(p_lanes) as lane) k
        on k.key = i.key and k.limit_id = p_limits[array_position(p_plain, i.task_id)];
    return case when v_all then v_lanes end;
end
$$;
