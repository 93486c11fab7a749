-- Returns a time as text for people, in UTC.
create or replace function conductor.moment(p_at timestamptz) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select to_char(conductor.shown(p_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC' $$;

-- Returns how many due executions of a queue or lane come before this one, at most p_most. Called by
-- why_not_running and why_limited.
create or replace function conductor.count_before(
    p_queue integer, p_priority integer, p_run_at timestamptz, p_id uuid, p_now timestamptz, p_most integer)
returns integer
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
    return (
        select count(*)
          from (select from conductor.priorities(p_queue) as p
                 cross join lateral (
                       select l.id from conductor.live_executions l
                        where l.queue_id = p_queue and l.priority = p
                          and (l.run_at, l.id) < (
                                case when p > p_priority then p_now else p_run_at end,
                                case when p > p_priority then 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid
                                     else p_id end)
                          and l.state in ('pending', 'suspended')
                        order by l.run_at, l.id
                        limit p_most) o
                 where p >= p_priority
                 limit p_most) counted);
end
$$;

-- Returns at most p_most claimed executions of a task, or of one key in its payloads. What runs was due, so it
-- is at the head of its queue or of a lane of its task. Called by why_limited.
create or replace function conductor.lane_runs(
    p_task integer, p_path text[], p_key text, p_now timestamptz, p_most integer) returns uuid[]
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_queues integer[];
begin
    v_queues := array(select t.queue_id from conductor.tasks t where t.id = p_task) || array(
        select -a.id
          from conductor.limits c
          join conductor.lanes a on a.limit_id = coalesce(c.shared_id, c.id)
         where c.task_id = p_task and a.holders <> '{}'
         limit 200);
    return array(
        select o.id
          from (select h.*
                  from unnest(v_queues) as q
                 cross join lateral conductor.priorities(q) as p
                 cross join lateral (
                       select l.id, l.task_id, l.state, l.payload from conductor.live_executions l
                        where l.queue_id = q and l.priority = p and l.run_at <= p_now
                        order by l.run_at, l.id
                        limit 1000) h
                 limit 20000) o
         where o.state = 'running' and o.task_id = p_task
           and (cardinality(p_path) = 0 or coalesce(conductor.lane_key(o.payload, p_path), 'null') = p_key)
         limit p_most);
end
$$;

-- Returns the first limit that keeps a due execution waiting, that of its lane before others, or null if none
-- does. Called by why_not_running.
create or replace function conductor.why_limited(p_id uuid, p_now timestamptz) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_runs uuid[];
    v_before integer;
    v_of text;
    o record;
begin
    for o in
        select c.kind, c.name, c.shared_id, c.path, c.amount, c.per, c.burst, a.id as lane,
               case when c.kind = 'rate' then a.next_at - conductor.rate_lead(c.amount, c.per, c.burst) end as next_at, k.key, h.held, t.name as task,
               l.task_id, l.priority, l.run_at, l.queue_id
          from conductor.live_executions l
          join conductor.tasks t on t.id = l.task_id
          join conductor.limits c on c.task_id = l.task_id
         cross join lateral (select coalesce(conductor.lane_key(l.payload, c.path), 'null') as key) k
          -- The key as admit names lanes.
          join conductor.lanes a on a.limit_id = coalesce(c.shared_id, c.id)
           and a.key = case when cardinality(c.path) = 0 then '' when octet_length(k.key) > 200 then md5(k.key)
                            else k.key end
         cross join lateral (
               select coalesce(sum(s.value::integer), 0)::integer as held
                 from jsonb_each(a.holders) as s) h
         where l.id = p_id
         order by a.id = -l.queue_id desc, c.id
    loop
        v_of := case when o.name = '' then format('of task "%s"', o.task)
                     else format('of the tasks that share "%s"', o.name) end
            || case when cardinality(o.path) > 0
                    then format(' with payload.%s = "%s"', array_to_string(o.path, '.'), left(ltrim(o.key, chr(1)), 100)) else '' end;
        if o.kind = 'concurrency' and o.held >= o.amount then
            v_runs := array(
                select r.id from conductor.limits m, unnest(conductor.lane_runs(m.task_id, m.path, o.key, p_now, 10)) as r(id)
                 where case when o.shared_id is null then m.task_id = o.task_id and m.kind = o.kind and m.path = o.path and m.name = ''
                            else m.shared_id = o.shared_id end
                 limit 10);
            return jsonb_build_object(
                'reason', 'limit', 'amount', o.amount, 'held', o.held, 'executions', v_runs,
                'key', case when cardinality(o.path) > 0 then jsonb_build_object(
                           'field', array_to_string(o.path, '.'), 'value', left(ltrim(o.key, chr(1)), 1000)) end,
                'text', format('waits for a slot: %s %s may run at once, and all slots are taken', o.amount, v_of)
                    || case cardinality(v_runs) when 0 then ''
                       else ', by ' || array_to_string(v_runs[1:3], ', ')
                            || case when cardinality(v_runs) > 3 then ' and others' else '' end end);
        elsif o.kind = 'rate' and o.next_at > p_now + conductor.rate_horizon() then
            v_before := conductor.count_before(-o.lane, o.priority, o.run_at, p_id, p_now, 1000);
            return jsonb_build_object(
                'reason', 'rate', 'amount', o.amount, 'per_ms', floor(extract(epoch from o.per) * 1000)::bigint,
                'burst', o.burst, 'next_at', o.next_at, 'before', v_before,
                'key', case when cardinality(o.path) > 0 then jsonb_build_object(
                           'field', array_to_string(o.path, '.'), 'value', left(ltrim(o.key, chr(1)), 1000)) end,
                'text', format('waits for its rate: %s in %s s %s may start%s, and the next one may at %s',
                               o.amount, extract(epoch from o.per)::float8, v_of,
                               case when o.burst > 1 then format(', %s at once after a rest', o.burst) end,
                               conductor.moment(o.next_at))
                    || case v_before when 0 then '' when 1000 then '; 1000 or more are before it'
                       else format('; %s before it', v_before) end);
        end if;
    end loop;
    return null;
end
$$;

-- Returns what a suspended execution waits for, at most ten waits, or null if nothing is left to wait for.
-- Called by why_not_running.
create or replace function conductor.why_waits(p_id uuid, p_now timestamptz) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_waits jsonb;
    v_text text;
    v_count integer;
begin
    select count(*) into v_count
      from (select from conductor.waits w
             where w.execution_id = p_id and (w.child_id is not null or w.wake_at is null or w.wake_at > p_now)
             limit 1000) counted;
    if v_count = 0 then
        return null;
    end if;
    select jsonb_agg(jsonb_build_object('key', o.key, 'kind', o.kind, 'wake_at', conductor.shown(o.wake_at), 'child', o.child_id,
                                        'task', o.task, 'state', o.state, 'event', o.event_name) order by o.key),
           string_agg(case when o.child_id is not null
                           then format('its child %s (%s)', o.child_id, coalesce(o.task || ', ' || o.state, 'gone'))
                           when o.kind = 'row'
                           then concat_ws(' ', case when o.matching then 'a matching'
                                                    when o.event_name like 'conductor:delete %' then 'a'
                                                    else 'an' end,
                                          substr(o.event_name, length('conductor:') + 1))
                           when o.event_name is not null
                           then format('%s event "%s"', case when o.matching then 'a matching' else 'an' end,
                                       o.event_name)
                           else o.kind end
                      || case when o.wake_at is null then '' when coalesce(o.child_id::text, o.event_name) is null
                              then ' until ' || conductor.moment(o.wake_at)
                              else ', at most until ' || conductor.moment(o.wake_at) end,
                      ', ' order by o.key) filter (where o.n <= 3)
      into v_waits, v_text
      from (select w.key, w.kind, w.wake_at, w.child_id, w.event_name, w.matching, t.name as task,
                   c.state::text as state, row_number() over (order by w.key) as n
              from (select f.key, f.kind, f.wake_at, f.child_id, f.event_name, f.event_filter is not null as matching
                      from conductor.waits f
                     where f.execution_id = p_id
                       and (f.child_id is not null or f.wake_at is null or f.wake_at > p_now)
                     order by f.key limit 10) w
              left join conductor.live_executions c on c.id = w.child_id
              left join conductor.tasks t on t.id = c.task_id) o;
    return jsonb_build_object(
        'reason', 'waits', 'waits', v_waits, 'count', v_count,
        'text', 'waits for ' || v_text
            || case when v_count = 1000 then ' and 1000 or more others'
                    when v_count > 3 then format(' and %s more', v_count - 3) else '' end);
end
$$;

-- Returns the execution of the same key that has the turn, or null if this one does not wait for a turn. Called
-- by why_not_running.
create or replace function conductor.why_ordered(p_id uuid) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_field text;
    v_value text;
    v_turn uuid;
    v_before integer;
begin
    select array_to_string(t.ordered_by, '.'), left(conductor.lane_key(l.payload, t.ordered_by), 1000), o.execution_id, b.count
      into v_field, v_value, v_turn, v_before
      from conductor.live_executions l
      join conductor.tasks t on t.id = l.task_id
     cross join lateral (
           select u.execution_id from conductor.turns u
            where u.task_id = l.task_id and u.key = l.order_key and u.execution_id <> l.id limit 1) o
     cross join lateral (
           select count(*) from (
                  select from conductor.live_executions k
                   where k.task_id = l.task_id and k.order_key = l.order_key and (k.created_at, k.id) < (l.created_at, l.id)
                   limit 1000) f) b
     where l.id = p_id and l.order_key is not null;
    if not found then
        return null;
    end if;
    return jsonb_build_object(
        'reason', 'turn', 'execution', v_turn, 'before', v_before,
        'key', jsonb_build_object('field', coalesce(v_field, ''), 'value', coalesce(v_value, 'null')),
        'text', format('waits for its turn: %s is before it, of those with the same %s', v_turn, coalesce(v_field, 'key'))
            || case when v_before <= 1 then '' when v_before < 1000 then format(', and %s in all', v_before)
                    else ', and 1000 or more in all' end);
end
$$;

-- Returns the ticks behind which this execution is queued, or null if it is not queued. Called by
-- why_not_running.
create or replace function conductor.why_queued(p_id uuid) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_first uuid;
    v_before integer;
begin
    select count(*), (array_agg(o.execution_id order by o.number))[1] into v_before, v_first
      from (select b.execution_id, b.number
              from conductor.queued_ticks q
             cross join lateral (
                   select w.execution_id, w.number from conductor.queued_ticks w
                    where w.schedule_id = q.schedule_id and w.number < q.number
                      and (select true from conductor.live_executions l where l.id = w.execution_id limit 1)
                    order by w.number limit 1000) b
             where q.execution_id = p_id) o;
    if v_before = 0 then
        return null;
    end if;
    return jsonb_build_object(
        'reason', 'tick_before', 'execution', v_first, 'before', v_before,
        'text', case v_before when 1 then 'waits for the tick before it, as they must not overlap: '
                     else format('waits for the %s ticks before it, as they must not overlap; the first is ',
                                 case v_before when 1000 then '1000 or more' else v_before::text end) end || v_first);
end
$$;
