-- Makes those of these lanes due that have parked executions and can start one, unless a worker with slots will
-- claim them, and notes which have none any more. Called by close_lanes, which has locked the lanes and under whose
-- settings it runs. Returns the number of lanes that are due now.
-- Locks: lanes (that the caller holds).
create or replace function conductor.examine_lanes(p_lanes integer[], p_now timestamptz) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_due integer;
begin
    with seen as (
        select a.id, a.due_at as old, k.parked,
               case when not k.parked then null
                    when c.kind = 'rate' then greatest(a.next_at - conductor.rate_lead(c.amount, c.per, c.burst)
                                                    - conductor.rate_horizon() / 2, p_now)
                    when c.amount > (select coalesce(sum(h.value::integer), 0) from jsonb_each(a.holders) as h)
                    then p_now
               end as due
          from conductor.lanes a
          join conductor.limits c on c.id = a.limit_id
         cross join lateral (
               select coalesce((select true from conductor.live_executions l
                                 where l.queue_id = -a.id and l.state in ('pending', 'suspended') limit 1), false)
                      as parked) k
         where a.id = any (p_lanes) and a.parked
    ), noted as (
        update conductor.lanes a set due_at = s.due, parked = s.parked
          from seen s
         where a.id = s.id and a.id = any (p_lanes) and (s.due is distinct from s.old or not s.parked)
           -- A lane that was due already stays due at its old time.
           and not coalesce(s.due <= p_now and s.old <= p_now, false)
        returning a.due_at
    )
    select count(*) into v_due from noted n where n.due_at <= p_now;
    return v_due;
end
$$;

-- Ends the part of a round trip that deals with limits. In the lanes p_back, the orchestrator returns the slots
-- that it does not use (it uses p_used in p_lanes). The lanes p_look, which this trip has looked into, become
-- due if they have parked executions that no worker with slots will claim. Called by claim and
-- finish_and_claim. Returns the lanes p_back with the slots that the orchestrator has there now.
-- Locks: lanes (if free, by id), queues.idle (if free).
create or replace function conductor.close_lanes(
    p_orchestrator bigint, p_queue integer, p_lanes integer[], p_used integer[], p_back integer[], p_look integer[],
    out lanes integer[], out slots integer[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = on set enable_nestloop = off set jit = off
as $$
declare
    v_me text := p_orchestrator::text;
    v_needs integer[];
    v_less integer[];
    v_locked integer[];
begin
    if cardinality(p_back) > 0 then
        select array_agg(k.id), array_agg(k.mine), array_agg(k.needs), array_agg(k.id) filter (where k.mine > k.needs)
          into lanes, slots, v_needs, v_less
          from (select a.id, m.mine, least(c.amount, coalesce(g.used, 0)) as needs
                  from conductor.lanes a
                  join conductor.limits c on c.id = a.limit_id
                  left join unnest(p_lanes, p_used) as g(lane, used) on g.lane = a.id
                 cross join lateral (select coalesce((a.holders -> v_me)::integer, 0) as mine) m
                 where a.id = any (p_back)) k;
    end if;
    if v_less is null and cardinality(p_look) = 0 then
        return;
    end if;

    v_locked := array(
        select a.id from conductor.lanes a
         where a.id = any (v_less || p_look) order by a.id for no key update skip locked);
    if v_less is not null then
        with less as (
            update conductor.lanes a
               set holders = case when g.needs = 0 then a.holders - v_me
                                  else a.holders || jsonb_build_object(v_me, g.needs) end
              from unnest(lanes, slots, v_needs) as g(lane, slots, needs)
             where a.id = g.lane and a.id = any (v_locked) and g.slots > g.needs
            returning a.id, g.needs
        )
        select array_agg(g.lane), array_agg(coalesce(l.needs, g.slots)) into lanes, slots
          from unnest(lanes, slots) as g(lane, slots)
          left join less l on l.id = g.lane;
    end if;

    if conductor.examine_lanes(v_locked, conductor.now()) > 0 then
        perform conductor.wake(array[p_queue], false);
    end if;
end
$$;

-- Takes all slots from orchestrators that have ended, and makes the lanes due if they have parked executions.
-- Called by recover and stop_orchestrator, before they lock executions, because this waits for lanes.
-- Locks: lanes (with slots of these orchestrators, waits, by id), queues.idle (if free).
create or replace function conductor.free_lanes(p_orchestrators bigint[]) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_names text[] := array(select o::text from unnest(p_orchestrators) as o);
    v_lanes integer[];
    v_queues integer[];
begin
    v_lanes := array(
        select a.id from conductor.lanes a where a.holders ?| v_names order by a.id for no key update);
    if cardinality(v_lanes) = 0 then
        return;
    end if;
    update conductor.lanes a
       set holders = a.holders - v_names, due_at = coalesce(a.due_at, case when a.parked then conductor.now() end)
     where a.id = any (v_lanes);
    select array_agg(distinct coalesce(t.queue_id, c.queue_id)) into v_queues
      from conductor.lanes a
      left join conductor.tasks t on t.id = a.task_id
      left join conductor.limits c on c.id = a.limit_id
     where a.id = any (v_lanes);
    perform conductor.wake(v_queues, false);
end
$$;
