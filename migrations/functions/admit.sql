-- Returns which lanes these executions need: for each limit of each execution its number in the order of p_ids, the
-- limit and the key, which it reads from the payload. Called by admit, under whose settings it runs.
create or replace function conductor.wanted_lanes(
    p_ids uuid[], out numbers bigint[], out limits integer[], out keys text[])
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    select array_agg(k.n), array_agg(k.limit_id), array_agg(k.key) into numbers, limits, keys
      from (select i.n, coalesce(c.shared_id, c.id) as limit_id,
                   case when o.key is null then '' when octet_length(o.key) > 200 then md5(o.key) else o.key end as key
              from unnest(p_ids) with ordinality as i(id, n)
              join conductor.live_executions l on l.id = i.id and l.id = any (p_ids)
              join conductor.limits c on c.task_id = l.task_id
             cross join lateral (
                   select case when cardinality(c.path) > 0 then coalesce(conductor.lane_key(l.payload, c.path), 'null') end as key) o
             order by i.n) k;
end
$$;

-- Makes those of these lanes that have no id in p_ids, with the slots that are needed at once. Returns ids and mine as
-- they are then, and in made the new lanes. If another session is making a lane, or has just made it, it still has no
-- id. Called by admit, under whose settings it runs.
-- Locks: lanes (tries one of 16 advisory locks per limit, then inserts).
create or replace function conductor.make_lanes(
    p_orchestrator bigint, p_limits integer[], p_keys text[], p_ids integer[], p_kinds text[], p_free integer[],
    p_counts integer[], p_mine integer[], p_left integer, out ids integer[], out mine integer[], out made integer[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_me text := p_orchestrator::text;
begin
    -- If another session inserts here, it may wait for an insert of this one. So this one does not wait: the
    -- executions stay for the next claim.
    with made as (
        insert into conductor.lanes (limit_id, task_id, key, holders)
        select g.limit_id, coalesce(c.task_id, -c.id), g.key,
               case when g.kind = 'concurrency' then jsonb_build_object(v_me, least(g.free, g.count, p_left)) else '{}' end
          from unnest(p_limits, p_keys, p_ids, p_kinds, p_free, p_counts)
               as g(limit_id, key, lane, kind, free, count)
          join conductor.limits c on c.id = g.limit_id
         where g.lane is null
           and pg_try_advisory_xact_lock(hashtext('conductor.lanes'), g.limit_id * 16 + (hashtext(g.key) & 15))
         order by g.limit_id, g.key
            on conflict on constraint lanes_key do nothing
        returning id, limit_id, key, coalesce((holders -> v_me)::integer, 0) as mine
    )
    select array_agg(coalesce(g.lane, m.id) order by g.n), array_agg(coalesce(m.mine, g.mine) order by g.n),
           coalesce(array_agg(m.id) filter (where m.id is not null), '{}')
      into ids, mine, made
      from unnest(p_limits, p_keys, p_ids, p_mine) with ordinality as g(limit_id, key, lane, mine, n)
      left join made m on m.limit_id = g.limit_id and m.key = g.key;
end
$$;

-- Writes into the lanes that are locked what starts and what is parked there, and returns the slots of the orchestrator
-- as admit, which describes the results. The arrays from p_ids to p_last have one element for each lane: p_taken
-- executions start there, and p_last is the place of the last of them. p_locked are the lanes that are locked, p_busy
-- those that another session has locked, and p_full those that are full. Called by admit, under whose settings it runs.
-- Locks: lanes (that the caller holds).
create or replace function conductor.take_lanes(
    p_orchestrator bigint, p_ids integer[], p_limits integer[], p_keys text[], p_kinds text[], p_mine integer[],
    p_free integer[], p_held integer[], p_bases timestamptz[], p_steps interval[], p_taken integer[], p_last bigint[],
    p_locked integer[], p_busy integer[], p_full integer[], p_lanes integer[], p_used integer[],
    out held integer[], out used integer[], out grown integer[], out slots integer[], out grown_limits integer[],
    out grown_keys text[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_me text := p_orchestrator::text;
begin
    if p_locked <> '{}' then
        update conductor.lanes a
           set holders = case when t.slots > t.mine then a.holders || jsonb_build_object(v_me, t.slots)
                              else a.holders end,
               -- If executions are only parked here, none starts.
               next_at = case when t.kind = 'rate' then coalesce(t.base + t.last * t.step, a.next_at) end,
               parked = a.parked or t.is_full
          from (select k.lane, k.kind, k.mine, k.base, k.step, k.taken, k.last, f.lane is not null as is_full,
                       case when k.kind = 'concurrency' then least(k.free, k.used + k.taken) else 0 end as slots
                  from unnest(p_ids, p_kinds, p_mine, p_free, p_held, p_taken, p_bases,
                              p_steps, p_last)
                       as k(lane, kind, mine, free, used, taken, base, step, last)
                  left join unnest(p_full) as f(lane) on f.lane = k.lane) t
         where a.id = t.lane and a.id = any (p_locked)
           and (t.slots > t.mine or t.is_full and not a.parked or t.kind = 'rate' and t.taken > 0);
    end if;
    select array_agg(k.lane) filter (where k.slots > k.known), array_agg(k.slots) filter (where k.slots > k.known),
           array_agg(k.limit_id) filter (where k.slots > k.known), array_agg(k.key) filter (where k.slots > k.known),
           array_agg(k.lane), array_agg(k.used)
      into grown, slots, grown_limits, grown_keys, held, used
      from (select t.lane, t.limit_id, t.key, t.used + t.taken as used,
                   -- A lane that another session has locked gave no new slots.
                   case when b.lane is null then greatest(t.mine, least(t.free, t.used + t.taken)) else t.mine end as slots,
                   case when p.lane is null then 0 else t.mine end as known
              from unnest(p_ids, p_limits, p_keys, p_kinds, p_held, p_taken, p_mine,
                          p_free)
                   as t(lane, limit_id, key, kind, used, taken, mine, free)
              left join unnest(p_lanes) as p(lane) on p.lane = t.lane
              left join unnest(p_busy) as b(lane) on b.lane = t.lane
             where t.kind = 'concurrency'
            union all
            select p.lane, null, null, p.used, 0, 0
              from unnest(p_lanes, p_used) as p(lane, used)
              left join unnest(p_ids) as t(lane) on t.lane = p.lane
             where t.lane is null) k;
    held := coalesce(held, '{}');
    used := coalesce(used, '{}');
end
$$;

-- Decides which of these executions their limits let start, at most p_left, and parks those whose lanes are
-- full. Called by claim, which has locked the executions and claims the ones that are returned.
--
-- Arguments: p_ids has the executions in the order of claims, p_of their tasks. p_keys has the keys of their
-- limits if all limits with a key have it at one place in the payload; otherwise it is null, and the keys are
-- read from the payloads. p_most is the number of executions that the worker can run at once. p_used is the
-- number of executions that the orchestrator holds in each of p_lanes, including those that this transaction
-- has claimed. Per slot of a task in p_tasks, p_ahead executions may be claimed; of other tasks one.
--
-- Returns, for the executions that may start: ids; their lanes, in one_lane if each has at most one and all
-- fit, otherwise as text in lanes; and in starts the milliseconds until a rate lets them start. moved is the
-- number of parked executions, and full_lanes has the lanes in which something was parked. busy is true if
-- another session has locked a lane or is making it; its executions stay where they are. held and used are
-- p_lanes and p_used as they are now. grown, slots, grown_limits and grown_keys describe the lanes in which the
-- orchestrator has slots that it does not know of.
-- Locks: as make_lanes, lanes (if free, by id).
create or replace function conductor.admit(
    p_orchestrator bigint, p_ids uuid[], p_of integer[], p_keys text[], p_left integer, p_now timestamptz,
    p_most integer, p_lanes integer[], p_used integer[], p_tasks integer[], p_ahead integer[],
    out ids uuid[], out one_lane integer[], out lanes text[], out starts integer[], out moved integer, out busy boolean,
    out held integer[], out used integer[], out grown integer[], out slots integer[], out grown_limits integer[],
    out grown_keys text[], out full_lanes integer[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
-- The planner takes every array for a short one, so nested loops are off. Tables are read by arrays of keys.
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = on set enable_nestloop = off set jit = off
as $$
declare
    v_me text := p_orchestrator::text;
    v_horizon interval := conductor.rate_horizon();
    -- One element for each limit of each execution.
    v_rows bigint[];
    v_limits integer[];
    v_keys text[];
    v_lanes integer[];
    -- One element for each lane.
    v_lane_limits integer[];
    v_lane_keys text[];
    v_ids integer[];
    v_counts integer[];
    v_kinds text[];
    v_mine integer[];
    v_free integer[];
    v_used integer[];
    v_rooms integer[];
    v_bases timestamptz[];
    v_steps interval[];
    v_leads interval[];
    -- Lanes that did not exist. This transaction has made them.
    v_made integer[];
    -- Lanes to be locked, and lanes that are locked.
    v_need integer[];
    v_locked integer[];
    v_taken integer[];
    v_last bigint[];
    v_parked uuid[];
    v_full integer[];
    v_slots record;
    v_all_fit boolean;
begin
    moved := 0;
    busy := false;
    held := p_lanes;
    used := p_used;
    if p_keys is not null then
        select array_agg(k.n), array_agg(k.limit_id), array_agg(k.key) into v_rows, v_limits, v_keys
          from (select i.n, coalesce(c.shared_id, c.id) as limit_id,
                       case when cardinality(c.path) = 0 then '' when i.key is null then 'null'
                            when octet_length(i.key) > 200 then md5(i.key) else i.key end as key
                  from unnest(p_of, p_keys) with ordinality as i(task_id, key, n)
                  join conductor.limits c on c.task_id = i.task_id
                 order by i.n) k;
    else
        select w.numbers, w.limits, w.keys into v_rows, v_limits, v_keys from conductor.wanted_lanes(p_ids) w;
    end if;
    if v_rows is null then
        ids := p_ids[1:p_left];
        return;
    end if;

    -- Reads the lanes again after it has locked some, because only then they are certain, and after another
    -- session has made one of them.
    loop
        with seen as materialized (
            select d.limit_id, d.key, d.count, o.id, o.next_at, coalesce((o.holders -> v_me)::integer, 0) as mine,
                   case when o.holders is null or o.holders - v_me = '{}' then 0
                        else (select sum(h.value::integer) from jsonb_each(o.holders - v_me) as h) end::integer as others
              from (select g.limit_id, g.key, count(*)::integer as count
                      from unnest(v_limits, v_keys) as g(limit_id, key) group by g.limit_id, g.key) d
              left join lateral (
                   select a.id, a.next_at, a.holders from conductor.lanes a
                    where a.limit_id = d.limit_id and a.key = d.key limit 1) o on true
        )
        select array_agg(k.limit_id), array_agg(k.key), array_agg(k.id), array_agg(k.count), array_agg(k.kind),
               array_agg(k.mine), array_agg(k.free), array_agg(k.used), array_agg(k.room), array_agg(k.base),
               array_agg(k.step), array_agg(k.lead),
               array_agg(k.id) filter (where k.kind = 'rate' or k.count > k.room
                                             or k.mine < least(k.free, k.used + k.count))
          into v_lane_limits, v_lane_keys, v_ids, v_counts, v_kinds, v_mine, v_free, v_used, v_rooms, v_bases,
               v_steps, v_leads, v_need
          from (select o.limit_id, o.key, o.id, o.count, c.kind, o.mine, f.free, coalesce(u.used, 0) as used,
                       greatest(o.next_at, p_now) as base, c.per / c.amount as step, r.lead,
                       case when c.kind = 'concurrency' then f.free * coalesce(q.ahead, 1) - coalesce(u.used, 0)
                            when o.next_at > p_now + v_horizon + r.lead then 0
                            else 1 + floor(extract(epoch from p_now + v_horizon + r.lead - greatest(o.next_at, p_now))
                                           / extract(epoch from c.per / c.amount)) end::integer as room
                  from seen o
                  join conductor.limits c on c.id = o.limit_id
                  left join unnest(p_lanes, p_used) as u(lane, used) on u.lane = o.id
                  left join unnest(p_tasks, p_ahead) as q(task_id, ahead) on q.task_id = c.task_id
                 cross join lateral (
                       select greatest(0, least(p_most, c.amount - o.others))::integer as free) f
                 cross join lateral (select conductor.rate_lead(c.amount, c.per, c.burst) as lead) r) k;
        if v_made is null and array_position(v_ids, null) is not null then
            select m.ids, m.mine, m.made into v_ids, v_mine, v_made
              from conductor.make_lanes(
                  p_orchestrator => p_orchestrator, p_limits => v_lane_limits, p_keys => v_lane_keys, p_ids => v_ids,
                  p_kinds => v_kinds, p_free => v_free, p_counts => v_counts, p_mine => v_mine, p_left => p_left) m;
            v_need := array_remove(v_need, null);
            -- Another session is making one, or has just made it.
            continue when array_position(v_ids, null) is not null;
        end if;
        exit when coalesce(v_need, '{}') = '{}' or v_locked is not null;
        v_locked := array(
            select a.id from conductor.lanes a where a.id = any (v_need) order by a.id for no key update skip locked);
    end loop;
    if v_ids is null then
        -- Their limits have been removed.
        ids := p_ids[1:p_left];
        return;
    end if;
    v_locked := coalesce(v_locked, '{}') || v_made;
    if cardinality(v_ids) = 1 then
        v_lanes := array_fill(v_ids[1], array[cardinality(v_rows)]);
    else
        select array_agg(s.lane) into v_lanes
          from (select k.lane
                  from unnest(v_limits, v_keys) with ordinality as g(limit_id, key, n)
                  left join unnest(v_lane_limits, v_lane_keys, v_ids) as k(limit_id, key, lane)
                    on k.limit_id = g.limit_id and k.key = g.key
                 order by g.n) s;
    end if;
    v_need := array(select lane from unnest(v_need) as lane except select lane from unnest(v_locked) as lane);

    -- Usually all fit, and each has one limit. Otherwise the place of each execution in its lanes decides.
    v_all_fit := cardinality(p_ids) <= p_left and v_need = '{}' and 'rate' <> all (v_kinds)
        and not exists (select from unnest(v_counts, v_rooms) as k(count, room) where k.count > k.room)
        and (v_lane_limits[1] = all (v_lane_limits)
             or not exists (select from unnest(v_rows) as n group by n having count(*) > 1));
    if v_all_fit then
        ids := p_ids;
        v_taken := v_counts;
        one_lane := case when cardinality(v_rows) = cardinality(p_ids) then v_lanes else array(
            select g.lane from unnest(p_ids) with ordinality as i(id, n)
              left join unnest(v_rows, v_lanes) as g(n, lane) on g.n = i.n
             order by i.n) end;
    else
        select r.ids, r.lanes, r.starts, r.busy, r.full_lanes, r.parked, r.full_of, r.taken, r.last
          into ids, lanes, starts, busy, full_lanes, v_parked, v_full, v_taken, v_last
          from conductor.rank_in_lanes(
              p_ids => p_ids, p_left => p_left, p_now => p_now, p_numbers => v_rows, p_lanes => v_lanes,
              p_lane_ids => v_ids, p_rooms => v_rooms, p_kinds => v_kinds, p_bases => v_bases, p_steps => v_steps,
              p_leads => v_leads, p_busy => v_need) r;
    end if;

    v_slots := conductor.take_lanes(
        p_orchestrator => p_orchestrator, p_ids => v_ids, p_limits => v_lane_limits, p_keys => v_lane_keys,
        p_kinds => v_kinds, p_mine => v_mine, p_free => v_free, p_held => v_used, p_bases => v_bases,
        p_steps => v_steps, p_taken => v_taken, p_last => v_last, p_locked => v_locked, p_busy => v_need,
        p_full => full_lanes, p_lanes => p_lanes, p_used => p_used);
    held := v_slots.held;
    used := v_slots.used;
    grown := v_slots.grown;
    slots := v_slots.slots;
    grown_limits := v_slots.grown_limits;
    grown_keys := v_slots.grown_keys;
    if v_parked is not null then
        update conductor.live_executions l set queue_id = -g.lane
          from unnest(v_parked, v_full) as g(id, lane)
         where l.id = g.id and l.id = any (v_parked) and l.queue_id is distinct from -g.lane;
        get diagnostics moved = row_count;
    end if;
end
$$;
