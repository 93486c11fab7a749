-- Limits: how many executions of a task, or of one key in its payloads, run at once, and how many
-- start in an interval.
--
-- A *lane* is what one limit allows for one key: the task's whole, or one tenant. A worker takes
-- *slots* of a lane when it claims, runs at most so many of the lane's executions at once, and gives
-- back with a later round trip what it needs no longer. So a slot is not written per execution: a
-- worker that holds five slots and quick handlers claims hundreds for them, and in a deep backlog it
-- keeps its slots from one claim to the next. Slots belong to an orchestrator, and end with its lease.
--
-- An orchestrator's slots are changed by itself alone, one claim at a time, while it lives. So what fits
-- in them needs no lock; whoever wants more of them, parks, or gives back locks the lane.
--
-- What is due and finds its lane full is *parked*: it moves to the queue -lane, out of the way of
-- all others, and keeps its order there. Parked executions are claimed by those who hold the lane's
-- slots, or, where it has due_at, by any worker from then on. The one rule: a lane with parked
-- executions has somebody with slots, or due_at.
--
-- Nobody waits for a lane's lock while it holds anything else: claims skip lanes that are locked, or that
-- somebody else is making.
--
-- *Turns* are for tasks that are ordered by a key (tasks.ordered_by): of the executions with one key, the first that was
-- invoked has the turn, from its first claim to its end, over sleeps, failed attempts and crashes. A claim that meets
-- another one sets it aside in the queue 0; the end of the one before brings it back. Both lock the row of the turn: a
-- claim tries, an end waits. The one rule: where nobody has the turn of a key, one of those that wait for it is in the
-- queue of its task, or noted in conductor.deferred; a claim that meets it gives the turn to the first of them.
--
-- Where one row decides, "select true ... limit 1" stands for exists, which the planner may turn into a
-- pass over all that is parked.

set local search_path = pg_catalog, pg_temp;

-- A limit with a name is *shared*: tasks of one queue fill the same lanes. One row without a task is the limit itself, to
-- which its lanes belong, with the amount that was declared last; each task has one that points to it, with the place of
-- the key in its own payload. (By queue, as whoever claims from a lane must be able to run what stands first in it.)
create table conductor.limits (
    id integer generated always as identity primary key,
    task_id integer references conductor.tasks (id) on delete cascade,
    -- '' where it is not shared.
    name text collate "C" not null default '',
    shared_id integer references conductor.limits (id),
    -- Of the shared limit itself.
    queue_id integer check ((queue_id is null) = (task_id is not null)),
    -- How many at once, or how many starts per interval.
    kind text not null check (kind in ('concurrency', 'rate')),
    -- Where the key stands in the payload; empty for the whole task.
    path text[] not null,
    amount integer not null check (amount > 0),
    per interval check ((kind = 'rate') = (per is not null) and per > '0'),
    -- How many starts of a rate may come at once, after it has rested.
    burst integer not null default 1 check (burst between 1 and amount and (kind = 'rate' or burst = 1)),
    constraint limits_task unique (task_id, kind, name, path),
    check (task_id is null or (shared_id is null) = (name = ''))
);

create unique index limits_shared on conductor.limits (queue_id, kind, name) where task_id is null;
create index limits_members on conductor.limits (shared_id) where shared_id is not null;

create table conductor.lanes (
    -- Begins again behind the last number there is (conductor.number_lane): -id is the number of a queue.
    id integer generated always as identity (cycle) primary key,
    limit_id integer not null,
    -- The task, or -limit_id of a shared limit.
    task_id integer not null,
    key text not null,
    -- Slots by orchestrator: {"17": 5}
    holders jsonb not null default '{}',
    -- The next start at the even distances of a rate; null where there was none yet. With a burst it may come
    -- earlier, by conductor.rate_lead.
    next_at timestamptz,
    -- Something may be parked here.
    parked boolean not null default false,
    due_at timestamptz check (parked or due_at is null),
    constraint lanes_key unique (limit_id, key)
) with (fillfactor = 50);

create index lanes_due on conductor.lanes (task_id, due_at) where due_at is not null;
create index lanes_parked on conductor.lanes (task_id) where parked;

-- A lane takes the next number that none has: where each key is met once there are many lanes in a year.
create function conductor.number_lane() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    -- On a table of somebody else's, "new.id" might be of a type with casts of his, and this runs as the owner.
    if tg_relid <> 'conductor.lanes'::regclass then
        raise exception 'this trigger belongs to conductor.lanes' using errcode = 'CD002';
    end if;
    while exists (select from conductor.lanes a where a.id = new.id) loop
        new.id := nextval(pg_get_serial_sequence('conductor.lanes', 'id'));
    end loop;
    return new;
end
$$;

create trigger number_lane before insert on conductor.lanes for each row execute function conductor.number_lane();

-- How long before its time an execution is claimed that a rate allows; its worker starts it then.
create function conductor.rate_horizon() returns interval
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select interval '100 ms' $$;

-- How long before its even distance a start may come: so many starts as a burst has come together after a
-- rest, and any interval has at most amount + burst - 1 of them. (The generic cell rate algorithm: next_at is
-- its theoretical arrival time, this its tolerance.)
create function conductor.rate_lead(p_amount integer, p_per interval, p_burst integer) returns interval
language sql immutable parallel safe
return p_per / p_amount * (p_burst - 1);

-- Brings what is parked in these lanes, of these tasks or of all, back into the queue of its task. The caller has locked
-- the lanes: who parks there now has ended when the lock comes. What somebody else has locked comes back by
-- conductor.revive_lanes.
create function conductor.empty_lanes(p_lanes integer[], p_tasks integer[]) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
    update conductor.live_executions l set queue_id = t.queue_id
      from conductor.tasks t
     where l.id = any (array(
           select o.id from conductor.live_executions o
            where o.queue_id = any (array(select -lane from unnest(p_lanes) as lane)) and o.state <> 'running'
              and (p_tasks is null or o.task_id = any (p_tasks))
              for no key update skip locked))
       and t.id = l.task_id
$$;

-- Takes over the limits of the tasks that a program declares. What a limit had parked that is gone
-- goes back to its queue; where one has changed, somebody looks at what is parked.
create function conductor.declare_limits(p_tasks jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := conductor.now();
    v_gone integer[];
    v_changed integer[];
    v_shared integer[];
    -- Tasks that share one no longer, and the limits that they have left.
    v_leavers integer[];
    v_left integer[];
    v_lanes integer[];
    v_queues integer[];
begin
    with shared as (
        insert into conductor.limits as c (queue_id, kind, name, path, amount, per, burst)
        select distinct on (t.queue_id, g.kind, g.name)
               t.queue_id, g.kind, g.name, '{}', g.amount, g.per_ms * interval '1 ms', coalesce(g.burst, 1)
          from jsonb_to_recordset(p_tasks) as d(name text, limits jsonb)
          join conductor.tasks t on t.name = d.name
         cross join lateral jsonb_to_recordset(d.limits)
               as g(kind text, name text, amount integer, per_ms float8, burst integer)
         where g.name <> ''
         order by t.queue_id, g.kind, g.name
            on conflict (queue_id, kind, name) where task_id is null do update
           set amount = excluded.amount, per = excluded.per, burst = excluded.burst
         where (c.amount, c.per, c.burst) is distinct from (excluded.amount, excluded.per, excluded.burst)
        returning c.id
    )
    select array(select s.id from shared s) into v_shared;
    with given as materialized (
        select t.id as task_id, g.kind, coalesce(g.name, '') as name, g.path, g.amount,
               g.per_ms * interval '1 ms' as per, coalesce(g.burst, 1) as burst,
               (select s.id from conductor.limits s
                 where s.task_id is null and s.queue_id = t.queue_id and s.kind = g.kind and s.name = g.name) as shared_id
          from jsonb_to_recordset(p_tasks) as d(name text, limits jsonb)
          join conductor.tasks t on t.name = d.name
         cross join lateral jsonb_to_recordset(d.limits)
               as g(kind text, name text, path text[], amount integer, per_ms float8, burst integer)
    ), gone as (
        delete from conductor.limits c
         using jsonb_to_recordset(p_tasks) as d(name text), conductor.tasks t
         where t.name = d.name and c.task_id = t.id
           and not exists (select from given g
                            where (g.task_id, g.kind, g.name, g.path) = (c.task_id, c.kind, c.name, c.path)
                              and g.shared_id is not distinct from c.shared_id)
        returning c.id, c.task_id, c.shared_id
    )
    select array(select g.id from gone g where g.shared_id is null),
           array(select g.task_id from gone g where g.shared_id is not null),
           array(select g.shared_id from gone g where g.shared_id is not null)
      into v_gone, v_leavers, v_left;
    with written as (
        insert into conductor.limits as c (task_id, kind, name, shared_id, path, amount, per, burst)
        select t.id, g.kind, coalesce(g.name, ''),
               (select s.id from conductor.limits s
                 where s.task_id is null and s.queue_id = t.queue_id and s.kind = g.kind and s.name = g.name),
               g.path, g.amount, g.per_ms * interval '1 ms', coalesce(g.burst, 1)
          from jsonb_to_recordset(p_tasks) as d(name text, limits jsonb)
          join conductor.tasks t on t.name = d.name
         cross join lateral jsonb_to_recordset(d.limits)
               as g(kind text, name text, path text[], amount integer, per_ms float8, burst integer)
         order by 1, 2, 3, 5
            on conflict on constraint limits_task do update
           set amount = excluded.amount, per = excluded.per, burst = excluded.burst
         where (c.amount, c.per, c.burst) is distinct from (excluded.amount, excluded.per, excluded.burst)
        returning c.id
    )
    select v_shared || array(select w.id from written w) into v_changed;
    if cardinality(v_left) > 0 then
        -- Locked first: who begins to share one now has ended when the lock comes.
        perform from conductor.limits c where c.id = any (v_left) order by c.id for update;
        with gone as (
            delete from conductor.limits c
             where c.id = any (v_left) and not exists (select from conductor.limits m where m.shared_id = c.id)
            returning c.id
        )
        select v_gone || array(select g.id from gone g) into v_gone;
    end if;

    if cardinality(v_gone || v_left) > 0 then
        -- Locked first, all in one order: who parks in one of them now has ended when the lock comes.
        perform from conductor.lanes a where a.limit_id = any (v_gone || v_left) order by a.id for update;
        v_lanes := array(
            select a.id from conductor.lanes a where a.limit_id = any (v_left) and a.limit_id <> all (v_gone));
        perform conductor.empty_lanes(v_lanes, v_leavers);
        v_lanes := array(select a.id from conductor.lanes a where a.limit_id = any (v_gone));
        perform conductor.empty_lanes(v_lanes, null);
        delete from conductor.lanes a where a.id = any (v_lanes);
    end if;
    if cardinality(v_changed) > 0 then
        -- What the old rate had let start holds no more back than a full burst of the new one would.
        update conductor.lanes a
           set due_at = case when a.parked then v_now else a.due_at end,
               next_at = case when c.kind = 'rate'
                              then least(a.next_at, v_now + conductor.rate_lead(c.amount, c.per, c.burst) + c.per / c.amount)
                              else a.next_at end
          from conductor.limits c
         where a.limit_id = any (v_changed) and c.id = a.limit_id and (a.parked or c.kind = 'rate');
    end if;
    if cardinality(v_gone || v_changed || v_left) > 0 then
        select array_agg(distinct t.queue_id) into v_queues
          from jsonb_to_recordset(p_tasks) as d(name text) join conductor.tasks t on t.name = d.name;
        perform conductor.wake(v_queues, false);
    end if;
end
$$;

-- Lanes of which a worker may claim what is parked there: those in which it has slots, and those that
-- are due; and about how many of each. Those of which it can have none are only to be looked at.
create function conductor.open_lanes(
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

-- The highest priority that is parked in these lanes, below p_below.
create function conductor.lane_priority(p_lanes integer[], p_below integer) returns integer
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

-- Gives back to their queue what is parked in the due lanes of tasks whose window is closed: it waits
-- for the window now. Among p_tasks are lanes' owners, too.
create function conductor.unpark(p_tasks integer[], p_limit integer) returns void
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
        -- Others may share it.
        if v_count = 0 and (select true from conductor.live_executions k
                             where k.queue_id = -v_lane.id and k.task_id <> all (p_tasks) limit 1) is null then
            update conductor.lanes a set due_at = null, parked = false where a.id = v_lane.id;
        end if;
    end loop;
end
$$;

-- When the first lane of these tasks is due.
create function conductor.next_lane(p_tasks integer[]) returns timestamptz
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

-- The lanes of these executions, where each limited one is in a lane of p_lanes: its worker has slots and
-- room there, so nothing else need be looked at. Else null. Of a task in p_plain there is
-- one limit, in p_limits; the keys are as lanes have them.
create function conductor.roomy_lanes(
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

-- Which of these executions, in this order, their limits let go, at most p_left; they are claimed
-- next by the caller, who has locked them and names the tasks (p_of) and, where all limits that have a
-- key have it at one place, the keys; else p_keys is null. Of the others those are parked whose lanes
-- are full; those with a lane that somebody else has locked stay where they are (busy). What this
-- orchestrator holds already, this transaction included, is p_used by p_lanes. Gives that again as it
-- is now, the lanes in which it has slots that it does not know of, with their limits and keys, and
-- those in which something was parked.
-- Per slot of a task in p_tasks, p_ahead executions may be claimed; of others one.
create function conductor.admit(
    p_orchestrator bigint, p_ids uuid[], p_of integer[], p_keys text[], p_left integer, p_now timestamptz,
    p_most integer, p_lanes integer[], p_used integer[], p_tasks integer[], p_ahead integer[],
    out ids uuid[], out one_lane integer[], out lanes text[], out starts integer[], out moved integer, out busy boolean,
    out held integer[], out used integer[], out grown integer[], out slots integer[], out grown_limits integer[],
    out grown_keys text[], out full_lanes integer[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
-- The planner takes every array for a short one: its joins must not be nested loops. Tables are read
-- by arrays of keys.
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = on set enable_nestloop = off set jit = off
as $$
declare
    v_me text := p_orchestrator::text;
    v_horizon interval := conductor.rate_horizon();
    -- One for each limit of each execution.
    v_rows bigint[];
    v_limits integer[];
    v_keys text[];
    v_lanes integer[];
    -- One for each lane.
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
    -- Those that were not there, which are ours.
    v_made integer[];
    -- Those to be locked, and those that were.
    v_need integer[];
    v_locked integer[];
    v_taken integer[];
    v_last bigint[];
    v_fits boolean[];
    v_parked uuid[];
    v_full integer[];
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
        select array_agg(k.n), array_agg(k.limit_id), array_agg(k.key) into v_rows, v_limits, v_keys
          from (select i.n, coalesce(c.shared_id, c.id) as limit_id,
                       case when o.key is null then '' when octet_length(o.key) > 200 then md5(o.key) else o.key end as key
                  from unnest(p_ids) with ordinality as i(id, n)
                  join conductor.live_executions l on l.id = i.id and l.id = any (p_ids)
                  join conductor.limits c on c.task_id = l.task_id
                 cross join lateral (
                       select case when cardinality(c.path) > 0 then coalesce(conductor.lane_key(l.payload, c.path), 'null') end as key) o
                 order by i.n) k;
    end if;
    if v_rows is null then
        ids := p_ids[1:p_left];
        return;
    end if;

    -- Again where some must be locked, as what they are is certain then, and where somebody else makes one.
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
            -- With the slots that are needed at once. Who would wait for another one's insert, which may wait
            -- for this one's, leaves it for the next claim.
            with made as (
                insert into conductor.lanes (limit_id, task_id, key, holders)
                select g.limit_id, coalesce(c.task_id, -c.id), g.key,
                       case when g.kind = 'concurrency' then jsonb_build_object(v_me, least(g.free, g.count, p_left)) else '{}' end
                  from unnest(v_lane_limits, v_lane_keys, v_ids, v_kinds, v_free, v_counts)
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
              into v_ids, v_mine, v_made
              from unnest(v_lane_limits, v_lane_keys, v_ids, v_mine) with ordinality as g(limit_id, key, lane, mine, n)
              left join made m on m.limit_id = g.limit_id and m.key = g.key;
            v_need := array_remove(v_need, null);
            -- Somebody else makes one, or has just made it.
            continue when array_position(v_ids, null) is not null;
        end if;
        exit when coalesce(v_need, '{}') = '{}' or v_locked is not null;
        v_locked := array(
            select a.id from conductor.lanes a where a.id = any (v_need) order by a.id for no key update skip locked);
    end loop;
    if v_ids is null then
        -- Their limits are gone since.
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

    -- Most often all fit, by one limit each; else each one's place in its lanes decides.
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
        with place as (
            select g.n, g.lane, case when b.lane is null then k.room end as room, k.kind, k.base, k.step, k.lead,
                   row_number() over (partition by g.lane order by g.n) as place
              from unnest(v_rows, v_lanes) as g(n, lane)
              left join unnest(v_ids, v_rooms, v_kinds, v_bases, v_steps, v_leads)
                     as k(lane, room, kind, base, step, lead)
                on k.lane = g.lane
              left join unnest(v_need) as b(lane) on b.lane = g.lane
        ), verdict as (
            select p.n, bool_or(p.room is null) as busy, bool_and(p.room is not null and p.place <= p.room) as fits,
                   min(p.lane) filter (where p.place > p.room) as lane,
                   array_agg(p.lane) filter (where p.kind = 'concurrency') as lanes,
                   max(case when p.kind = 'rate' then greatest(p_now, p.base + (p.place - 1) * p.step - p.lead) end)
                       as start_at
              from place p
             group by p.n
        ), ranked as (
            select i.id, i.n, v.busy, v.lane, v.lanes, v.start_at, v.n is null or v.fits as fits,
                   row_number() over (partition by v.n is null or v.fits order by i.n) as rank
              from unnest(p_ids) with ordinality as i(id, n)
              left join verdict v on v.n = i.n
        )
        select array_agg(r.id) filter (where r.goes), array_agg(r.lanes::text) filter (where r.goes),
               array_agg(ceil(extract(epoch from r.start_at - p_now) * 1000)::integer) filter (where r.goes),
               array_agg(r.goes),
               array_agg(r.id) filter (where r.lane is not null and not r.busy),
               array_agg(r.lane) filter (where r.lane is not null and not r.busy),
               coalesce(bool_or(r.busy), false)
          into ids, lanes, starts, v_fits, v_parked, v_full, busy
          from (select o.id, o.busy, o.lane, o.lanes, o.start_at, o.fits and o.rank <= p_left as goes
                  from ranked o order by o.n) r;
        ids := coalesce(ids, '{}');
        full_lanes := array(select distinct lane from unnest(v_full) as lane);
        select array_agg(coalesce(o.count, 0) order by k.n), array_agg(o.last order by k.n)
          into v_taken, v_last
          from unnest(v_ids) with ordinality as k(lane, n)
          left join (select p.lane, count(*) filter (where v_fits[p.n]) as count,
                            max(p.place) filter (where v_fits[p.n]) as last
                       from (select g.lane, g.n, row_number() over (partition by g.lane order by g.n) as place
                               from unnest(v_rows, v_lanes) as g(n, lane)) p
                      group by p.lane) o on o.lane = k.lane;
    end if;

    if v_locked <> '{}' then
        update conductor.lanes a
           set holders = case when t.slots > t.mine then a.holders || jsonb_build_object(v_me, t.slots)
                              else a.holders end,
               -- Where it is only parked in, nothing starts.
               next_at = case when t.kind = 'rate' then coalesce(t.base + t.last * t.step, a.next_at) end,
               parked = a.parked or t.is_full
          from (select k.lane, k.kind, k.mine, k.base, k.step, k.taken, k.last, f.lane is not null as is_full,
                       case when k.kind = 'concurrency' then least(k.free, k.used + k.taken) else 0 end as slots
                  from unnest(v_ids, v_kinds, v_mine, v_free, v_used, v_taken, v_bases, v_steps, v_last)
                       as k(lane, kind, mine, free, used, taken, base, step, last)
                  left join unnest(full_lanes) as f(lane) on f.lane = k.lane) t
         where a.id = t.lane and a.id = any (v_locked)
           and (t.slots > t.mine or t.is_full and not a.parked or t.kind = 'rate' and t.taken > 0);
    end if;
    select array_agg(k.lane) filter (where k.slots > k.known), array_agg(k.slots) filter (where k.slots > k.known),
           array_agg(k.limit_id) filter (where k.slots > k.known), array_agg(k.key) filter (where k.slots > k.known),
           array_agg(k.lane), array_agg(k.used)
      into grown, slots, grown_limits, grown_keys, held, used
      from (select t.lane, t.limit_id, t.key, t.used + t.taken as used,
                   -- In one that others have locked there was nothing to be had.
                   case when b.lane is null then greatest(t.mine, least(t.free, t.used + t.taken)) else t.mine end as slots,
                   case when p.lane is null then 0 else t.mine end as known
              from unnest(v_ids, v_lane_limits, v_lane_keys, v_kinds, v_used, v_taken, v_mine, v_free)
                   as t(lane, limit_id, key, kind, used, taken, mine, free)
              left join unnest(p_lanes) as p(lane) on p.lane = t.lane
              left join unnest(v_need) as b(lane) on b.lane = t.lane
             where t.kind = 'concurrency'
            union all
            select p.lane, null, null, p.used, 0, 0
              from unnest(p_lanes, p_used) as p(lane, used)
              left join unnest(v_ids) as t(lane) on t.lane = p.lane
             where t.lane is null) k;
    held := coalesce(held, '{}');
    used := coalesce(used, '{}');

    if v_parked is not null then
        update conductor.live_executions l set queue_id = -g.lane
          from unnest(v_parked, v_full) as g(id, lane)
         where l.id = g.id and l.id = any (v_parked) and l.queue_id is distinct from -g.lane;
        get diagnostics moved = row_count;
    end if;
end
$$;

-- Which of these executions, which the caller has locked, have their turn or need none, with what else it knows of them, in
-- their order. Of the others those are set aside (moved: how many) whose key's turn somebody has. Those whose key somebody
-- else claims or ends just now stay where they are (busy: how many), or, with p_all, are set aside too and noted, so that
-- a chore brings them back. Locks turns, and the right to give new ones; waits for nothing.
create function conductor.take_turns(
    p_ids uuid[], p_of integer[], p_keys text[], p_all boolean default false,
    out ids uuid[], out "of" integer[], out keys text[], out moved integer, out busy integer)
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = on set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    -- One for each execution that is ordered.
    v_ids uuid[];
    v_tasks integer[];
    v_keys text[];
    -- One for each key of theirs whose turn is locked, or given here: who has it.
    v_turn_tasks integer[];
    v_turn_keys text[];
    v_turns uuid[];
    v_free_tasks integer[];
    v_free_keys text[];
    v_new_tasks integer[];
    v_new_keys text[];
    v_new uuid[];
    v_queues integer[];
    v_aside uuid[];
    v_busy uuid[];
begin
    -- With an offset, so that the index of those that are ordered is not taken for that of the ids.
    select array_agg(o.id), array_agg(o.task_id), array_agg(o.order_key) into v_ids, v_tasks, v_keys
      from (select l.id, l.task_id, l.order_key from conductor.live_executions l where l.id = any (p_ids) offset 0) o
     where o.order_key is not null;
    -- An end of the one that has it waits for this lock, and sees then what was set aside.
    select array_agg(o.task_id), array_agg(o.key), array_agg(o.execution_id)
      into v_turn_tasks, v_turn_keys, v_turns
      from (select distinct g.task_id, g.key from unnest(v_tasks, v_keys) as g(task_id, key)) d
     cross join lateral (
           select t.task_id, t.key, t.execution_id from conductor.turns t
            where t.task_id = d.task_id and t.key = d.key limit 1 for no key update skip locked) o;

    -- New ones are given by one claim at a time.
    select array_agg(f.task_id), array_agg(f.key) into v_free_tasks, v_free_keys
      from (select d.task_id, d.key
              from (select g.task_id, g.key from unnest(v_tasks, v_keys) as g(task_id, key)
                    except
                    select h.task_id, h.key from unnest(v_turn_tasks, v_turn_keys) as h(task_id, key)) d
             where (select true from conductor.turns t where t.task_id = d.task_id and t.key = d.key limit 1) is null
            offset 0) f
     where pg_try_advisory_xact_lock(hashtext('conductor.turns'), hashtext(f.task_id || ' ' || f.key) & 511);
    if v_free_keys is not null then
        -- To the first there is, locked, so that it does not end meanwhile nor get another key.
        with first as materialized (
            select g.task_id, g.key, f.id
              from unnest(v_free_tasks, v_free_keys) as g(task_id, key)
             cross join lateral (
                   select l.id from conductor.live_executions l
                    where l.task_id = g.task_id and l.order_key = g.key
                    order by l.created_at, l.id limit 1) f
        ), held as materialized (
            select l.id, l.queue_id, l.order_key from conductor.live_executions l
             where l.id = any (array(select f.id from first f)) for no key update skip locked
        ), given as (
            insert into conductor.turns as t (task_id, key, execution_id)
            select f.task_id, f.key, f.id from first f join held h on h.id = f.id and h.order_key = f.key
                on conflict do nothing
            returning t.task_id, t.key, t.execution_id
        ), back as (
            update conductor.live_executions l
               set queue_id = (select t.queue_id from conductor.tasks t where t.id = l.task_id)
             where l.id = any (array(select h.id from held h where h.queue_id = 0))
            returning l.queue_id
        )
        select array_agg(g.task_id), array_agg(g.key), array_agg(g.execution_id),
               (select array_agg(distinct b.queue_id) from back b)
          into v_new_tasks, v_new_keys, v_new, v_queues
          from given g;
        v_turn_tasks := v_turn_tasks || v_new_tasks;
        v_turn_keys := v_turn_keys || v_new_keys;
        v_turns := v_turns || v_new;
        if v_queues is not null then
            perform conductor.wake(v_queues, false);
        end if;
    end if;

    select coalesce(array_agg(o.id order by o.n) filter (where o.goes), '{}'),
           array_agg(o.of order by o.n) filter (where o.goes), array_agg(o.key order by o.n) filter (where o.goes),
           array_agg(o.id) filter (where not o.goes and o.turn is not null),
           array_agg(o.id) filter (where not o.goes and o.turn is null)
      into ids, "of", keys, v_aside, v_busy
      from (select g.n, g.id, g.of, g.key, t.turn, k.id is null or coalesce(t.turn = g.id, false) as goes
              from unnest(p_ids, p_of, p_keys) with ordinality as g(id, of, key, n)
              left join unnest(v_ids, v_tasks, v_keys) as k(id, task_id, key) on k.id = g.id
              left join unnest(v_turn_tasks, v_turn_keys, v_turns) as t(task_id, key, turn)
                on t.task_id = k.task_id and t.key = k.key) o;
    busy := coalesce(cardinality(v_busy), 0);
    if p_all and busy > 0 then
        insert into conductor.deferred (execution_id, what)
        select id, 'turn' from unnest(v_busy) as id on conflict do nothing;
        v_aside := v_aside || v_busy;
    end if;
    moved := 0;
    if v_aside is not null then
        update conductor.live_executions l set queue_id = 0 where l.id = any (v_aside) and l.queue_id <> 0;
        get diagnostics moved = row_count;
    end if;
end
$$;

-- Ends the turns of these executions, which have ended or have another key now than this one: the next of their keys comes
-- back into the queue of its task, as it does where the turn was free and one of these would have been the next to have
-- it. Waits for the locks of turns, which claims have for a moment, and for nothing else. Returns the queues to wake.
create function conductor.pass_turns(p_ids uuid[], p_tasks integer[], p_keys text[]) returns integer[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_nestloop = on set enable_mergejoin = off set jit = off
as $$
declare
    v_key record;
    v_holder uuid;
    v_next uuid;
    v_queue integer;
    v_queues integer[];
begin
    for v_key in
        select distinct g.task_id, g.key from unnest(p_tasks, p_keys) as g(task_id, key) order by g.task_id, g.key
    loop
        select t.execution_id into v_holder from conductor.turns t
         where t.task_id = v_key.task_id and t.key = v_key.key;
        if found then
            continue when v_holder <> all (p_ids)
                       or (select l.order_key from conductor.live_executions l where l.id = v_holder) = v_key.key;
            delete from conductor.turns t
             where t.task_id = v_key.task_id and t.key = v_key.key and t.execution_id = v_holder;
        end if;
        -- In a statement of its own, which sees what was set aside up to the lock.
        select l.id into v_next from conductor.live_executions l
         where l.task_id = v_key.task_id and l.order_key = v_key.key and l.queue_id = 0
         order by l.created_at, l.id limit 1
           for no key update skip locked;
        if not found then
            -- Somebody's open transaction has all that there are.
            insert into conductor.deferred (execution_id, what)
            select l.id, 'turn' from conductor.live_executions l
             where l.task_id = v_key.task_id and l.order_key = v_key.key and l.queue_id = 0
             order by l.created_at, l.id limit 1000
                on conflict do nothing;
            continue;
        end if;
        update conductor.live_executions l
           set queue_id = (select t.queue_id from conductor.tasks t where t.id = l.task_id)
         where l.id = v_next
        returning l.queue_id into v_queue;
        v_queues := v_queues || v_queue;
    end loop;
    return v_queues;
end
$$;

-- Whether one of these executions has a turn that somebody has locked, so that its end would wait.
create function conductor.is_turn_locked(p_ids uuid[]) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
    return cardinality(array(
               select t.execution_id from conductor.turns t where t.execution_id = any (p_ids) for update skip locked))
         < (select count(*) from conductor.turns t where t.execution_id = any (p_ids));
end
$$;

-- Where nobody has the turn of a key for which some were set aside, or one that has ended, the first comes back: no way
-- leads there but a transaction at the levels repeatable read and serializable, which does not see what claims do beside
-- it. How many.
create function conductor.revive_turns() returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_task integer;
    v_key text collate "C";
    v_holder uuid;
    v_count integer := 0;
begin
    loop
        select l.task_id, l.order_key into v_task, v_key from conductor.live_executions l
         where l.queue_id = 0 and (l.task_id, l.order_key) > (coalesce(v_task, -2147483648), coalesce(v_key, ''))
         order by l.task_id, l.order_key limit 1;
        exit when not found;
        select t.execution_id into v_holder from conductor.turns t where t.task_id = v_task and t.key = v_key;
        if not found
           or (select l.order_key from conductor.live_executions l where l.id = v_holder) is distinct from v_key then
            delete from conductor.turns t where t.task_id = v_task and t.key = v_key and t.execution_id = v_holder;
            perform conductor.wake(conductor.pass_turns('{}', array[v_task], array[v_key]), false);
            v_count := v_count + 1;
        end if;
    end loop;
    return v_count;
end
$$;

-- Brings back what was set aside to wait for a turn and was locked when that came; those that are still locked stay.
-- How many are done with.
create function conductor.come_back(p_ids uuid[]) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_free uuid[];
    v_queues integer[];
    v_count integer;
begin
    v_free := array(
        select l.id from conductor.live_executions l where l.id = any (p_ids) for no key update skip locked);
    with back as (
        update conductor.live_executions l
           set queue_id = (select t.queue_id from conductor.tasks t where t.id = l.task_id)
         where l.id = any (v_free) and l.queue_id = 0
        returning l.queue_id
    )
    select array_agg(distinct b.queue_id) into v_queues from back b;
    if v_queues is not null then
        perform conductor.wake(v_queues, false);
    end if;
    delete from conductor.deferred d
     where d.what = 'turn' and d.execution_id = any (p_ids)
       and (d.execution_id = any (v_free)
            or (select true from conductor.live_executions l where l.id = d.execution_id limit 1) is null);
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- The end of a round trip: in the lanes p_back this orchestrator gives back the slots that it does not
-- use (p_used by p_lanes). Lanes with parked executions that nobody will bring on become due; p_look
-- are those that the trip has looked into. Gives the slots that it has now in p_back.
create function conductor.close_lanes(
    p_orchestrator bigint, p_queue integer, p_lanes integer[], p_used integer[], p_back integer[], p_look integer[],
    out lanes integer[], out slots integer[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = on set enable_nestloop = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_me text := p_orchestrator::text;
    v_needs integer[];
    v_less integer[];
    v_locked integer[];
    v_due integer;
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

    with seen as (
        select a.id, a.due_at as old, k.parked,
               case when not k.parked then null
                    when c.kind = 'rate' then greatest(a.next_at - conductor.rate_lead(c.amount, c.per, c.burst)
                                                    - conductor.rate_horizon() / 2, v_now)
                    when c.amount > (select coalesce(sum(h.value::integer), 0) from jsonb_each(a.holders) as h)
                    then v_now
               end as due
          from conductor.lanes a
          join conductor.limits c on c.id = a.limit_id
         cross join lateral (
               select coalesce((select true from conductor.live_executions l
                                 where l.queue_id = -a.id and l.state in ('pending', 'suspended') limit 1), false)
                      as parked) k
         where a.id = any (v_locked) and a.parked
    ), noted as (
        update conductor.lanes a set due_at = s.due, parked = s.parked
          from seen s
         where a.id = s.id and a.id = any (v_locked) and (s.due is distinct from s.old or not s.parked)
           -- One that was due already stays so at its old time.
           and not coalesce(s.due <= v_now and s.old <= v_now, false)
        returning a.due_at
    )
    select count(*) into v_due from noted n where n.due_at <= v_now;
    if v_due > 0 then
        perform conductor.wake(array[p_queue], false);
    end if;
end
$$;

-- Takes all slots from orchestrators, and lets somebody look at what is parked there. A lane is
-- waited for, so this comes before any lock on executions.
create function conductor.free_lanes(p_orchestrators bigint[]) returns void
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

-- Lanes whose next start, or next look, lies further ahead than the slowest rate of their task allows, as a
-- clock was wrong. The bound is part of the range that is read: of those rightly ahead there may be one a key.
create function conductor.heal_lanes() returns setof text
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

-- Lets somebody look at lanes with parked executions that nobody has slots of, and gives back what is
-- parked under a limit that is gone: no way leads there, but a claim that met a deploy.
create function conductor.revive_lanes() returns void
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

-- Removes lanes that nothing uses, at most p_limit; how many.
create function conductor.prune_lanes(p_limit integer) returns integer
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

revoke execute on all functions in schema conductor from public;
