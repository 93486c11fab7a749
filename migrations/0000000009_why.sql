-- Why does it not run? What people ask of one execution, and of the queues.
--
-- Everything here only looks, by index, and stops counting at some thousands: a look is as quick
-- beside a million waiting executions as beside ten.

set local search_path = pg_catalog, pg_temp;

create function conductor.moment(p_at timestamptz) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$ select to_char(conductor.shown(p_at) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC' $$;

-- How many due executions of a queue or lane come before this one, at most p_most.
create function conductor.count_before(
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

-- Some of the executions that a worker has claimed of a task, or of one key in its payloads, at most
-- p_most. Whoever runs was due, and stands at the head of its queue or of a lane of its task.
create function conductor.lane_runs(
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

-- The first limit of its task that keeps a due execution waiting, that which it is parked at before
-- others; null where none does.
create function conductor.why_limited(p_id uuid, p_now timestamptz) returns jsonb
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
          -- As conductor.admit names lanes.
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

-- What a suspended execution waits for, the first few; null where nothing is left to wait for.
create function conductor.why_waits(p_id uuid, p_now timestamptz) returns jsonb
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

-- The execution of the same key that has its turn; null where it waits for none.
create function conductor.why_ordered(p_id uuid) returns jsonb
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

-- The ticks behind which this one is queued; null where it is not.
create function conductor.why_queued(p_id uuid) returns jsonb
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

-- Why an execution does not run, or that it does: an object with the reason in one word, a text for
-- people, and what belongs to the reason. Whether a window is open is the workers' to know; where one
-- may matter, it stands beside.
--     select conductor.why_not_running('...') ->> 'text';
create function conductor.why_not_running(execution uuid) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_found jsonb;
    v_by text;
    v_before integer;
    v_hours text;
    l record;
    u record;
begin
    select e.id, e.state, e.run_at, e.claim, e.created_at, e.claimed_at, e.queue_id, e.priority, e.failures, e.crashes, e.postponed,
           left(e.error, 1000) as error, e.orchestrator_id, o.host, o.pid, o.lease_until,
           t.id as task_id, t.name as task, t.max_attempts, t.time_window, q.id as served_queue,
           q.name as queue, q.paused, t.timeout
      into l
      from conductor.live_executions e
      join conductor.tasks t on t.id = e.task_id
      join conductor.queues q on q.id = t.queue_id
      left join conductor.orchestrators o on o.id = e.orchestrator_id
     where e.id = execution;
    if not found then
        select jsonb_build_object(
                   'reason', 'done', 'state', f.state, 'finished_at', conductor.shown(f.finished_at), 'error', left(f.error, 1000),
                   'text', format('it has ended: %s at %s', f.state, conductor.moment(f.finished_at))
                       || coalesce(': ' || left(f.error, 1000), ''))
          into v_found
          from conductor.finished_executions f where f.id = execution;
        return coalesce(v_found, jsonb_build_object(
            'reason', 'unknown',
            'text', 'no execution has this id; finished ones are removed after the task''s `keep`'));
    end if;

    if l.state = 'running' then
        v_by := case when l.pid is null then 'a process that is gone'
                     when l.host = '' then format('process %s', l.pid)
                     else format('process %s on %s', l.pid, l.host) end;
        return jsonb_build_object('since', conductor.shown(l.claimed_at), 'orchestrator', l.orchestrator_id, 'host', l.host, 'pid', l.pid)
            || case when l.lease_until > clock_timestamp()
                    then jsonb_build_object('reason', 'running',
                             'text', format('it is with %s since %s%s', v_by, conductor.moment(l.claimed_at),
                                 -- With a second for its end to be written.
                                 case when v_now > l.claimed_at + l.timeout + interval '1 second'
                                      then format('; its timeout of %s is over, and its handler does not yield: it blocks its thread',
                                                  l.timeout) end))
                    else jsonb_build_object('reason', 'lease_over',
                             'text', format('it was with %s, whose lease is over; a living worker will take it back', v_by))
               end;
    end if;

    if l.state = 'pending' and not l.postponed then
        select n.since, n.times, n.reader, n.reason into u
          from conductor.unreadable n where n.execution_id = l.id and n.left_claim = l.claim;
        if found then
            return jsonb_build_object(
                'reason', 'unreadable', 'error', u.reason, 'since', u.since, 'times', u.times, 'reader', u.reader,
                'run_at', l.run_at,
                'text', format(
                    'waits for a build that can read it; nothing is charged. Of %s: %s; invoked at %s; it is '
                    || 'looked at again at %s and when a process with its task starts',
                    u.reader, u.reason, conductor.moment(l.created_at), conductor.moment(l.run_at)));
        end if;
    end if;

    if l.run_at > v_now then
        if l.state = 'pending' and l.run_at = 'infinity' then
            v_found := conductor.why_queued(l.id);
            if v_found is not null then
                return v_found;
            end if;
        elsif l.state = 'suspended' and not l.postponed then
            v_found := conductor.why_waits(l.id, v_now);
            if v_found is not null then
                return v_found;
            end if;
        elsif l.postponed then
            return jsonb_build_object('reason', 'window', 'opens_at', conductor.shown(l.run_at),
                'text', format('waits for its window, which opens at %s', conductor.moment(l.run_at)));
        elsif l.failures + l.crashes > 0 then
            return jsonb_build_object(
                'reason', 'retry', 'attempt', l.failures + 1, 'max_attempts', l.max_attempts, 'run_at', conductor.shown(l.run_at),
                'error', l.error,
                'text', format('waits until %s for attempt %s of %s', conductor.moment(l.run_at), l.failures + 1,
                               l.max_attempts) || coalesce('; the last one failed: ' || l.error, ''));
        end if;
        return jsonb_build_object('reason', 'later', 'run_at', conductor.shown(nullif(l.run_at, 'infinity')),
            'text', 'is not due before ' || conductor.moment(l.run_at));
    end if;

    v_found := conductor.why_ordered(l.id);
    if v_found is not null then
        return v_found;
    end if;
    if l.paused then
        return jsonb_build_object('reason', 'paused', 'queue', l.queue,
            'text', format('the queue "%s" is paused', l.queue));
    end if;
    if not exists (select from conductor.orchestrators o
                    where l.task_id = any (o.task_ids) and l.served_queue = any (o.queue_ids)
                      and o.lease_until > clock_timestamp()) then
        return jsonb_build_object('reason', 'no_worker', 'task', l.task, 'queue', l.queue,
            'text', format('no living worker has the task "%s" and serves its queue "%s"', l.task, l.queue));
    end if;
    v_found := conductor.why_limited(l.id, v_now);
    if v_found is null then
        v_before := case when l.queue_id = 0 then 0
                         else conductor.count_before(l.queue_id, l.priority, l.run_at, l.id, v_now, 1000) end;
        v_found := jsonb_build_object(
            'reason', 'soon', 'before', v_before,
            'text', 'is due and should start soon; '
                || case v_before when 0 then 'nothing is before it' when 1000 then '1000 or more are before it'
                   when 1 then '1 is before it' else format('%s are before it', v_before) end);
    end if;
    if l.time_window is not null then
        v_hours := concat_ws(' ', l.time_window ->> 'hours', l.time_window ->> 'days', l.time_window ->> 'timezone');
        v_found := v_found || jsonb_build_object('window', l.time_window, 'now', v_now,
            'text', format('%s; it runs within %s only', v_found ->> 'text', v_hours));
    end if;
    return v_found;
end
$$;

-- All queues, with what is due in them, what runs, and what waits for a limit, each counted up to
-- p_most; and how many living processes serve them.
create function conductor.queue_counts(p_most integer)
returns table (name text, paused boolean, waiting bigint, running bigint, parked bigint, workers bigint)
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
begin
    return query
    select q.name, q.paused, c.waiting, c.running, c.parked,
           (select count(*) from conductor.orchestrators o
             where q.id = any (o.queue_ids) and o.lease_until > clock_timestamp())
      from conductor.queues q
     cross join lateral (
           select least(count(*) filter (where k.lane is null and k.state <> 'running'), p_most) as waiting,
                  least(count(*) filter (where k.state = 'running'), p_most) as running,
                  least(count(*) filter (where k.lane is not null and k.state <> 'running'), p_most) as parked
             from ((select null::integer as lane, d.state
                      from conductor.priorities(q.id) as p
                     cross join lateral (
                           select l.state from conductor.live_executions l
                            where l.queue_id = q.id and l.priority = p and l.run_at <= v_now
                            order by l.run_at, l.id limit 2 * p_most) d
                     limit 2 * p_most)
                   union all
                   (select a.id, d.state
                      from (select c.id from conductor.tasks t
                              join conductor.limits c on c.task_id = t.id and c.shared_id is null
                             where t.queue_id = q.id
                            union all
                            select c.id from conductor.limits c where c.task_id is null and c.queue_id = q.id) m
                      join conductor.lanes a on a.limit_id = m.id
                     cross join lateral (
                           select l.state from conductor.live_executions l
                            where l.queue_id = -a.id limit 2 * p_most) d
                     limit 2 * p_most)
                   union all
                   (select 0, d.state
                      from conductor.tasks t
                     cross join lateral (
                           select l.state from conductor.live_executions l
                            where l.task_id = t.id and l.queue_id = 0
                            order by l.task_id, l.order_key, l.created_at, l.id limit 2 * p_most) d
                     where t.queue_id = q.id
                     limit 2 * p_most)) k) c
     order by q.name;
end
$$;

revoke execute on all functions in schema conductor from public;
