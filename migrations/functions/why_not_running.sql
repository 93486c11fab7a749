-- Why an execution does not run, and what queues do.
--
-- Everything here only reads, by index, and stops counting at a few thousand rows. With a million waiting
-- executions it is as fast as with ten.

-- Returns how an execution has ended, or that none has this id. Called by why_not_running, under whose settings it
-- runs.
create or replace function conductor.why_done(p_id uuid) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    v_found jsonb;
begin
    select jsonb_build_object(
               'reason', 'done', 'state', f.state, 'finished_at', conductor.shown(f.finished_at), 'error', left(f.error, 1000),
               'text', format('it has ended: %s at %s', f.state, conductor.moment(f.finished_at))
                   || coalesce(': ' || left(f.error, 1000), ''))
      into v_found
      from conductor.finished_executions f where f.id = p_id;
    return coalesce(v_found, jsonb_build_object(
        'reason', 'unknown',
        'text', 'no execution has this id; finished ones are removed after the task''s `keep`'));
end
$$;

-- Returns which process has a running execution, and whether that process still lives. Called by why_not_running,
-- under whose settings it runs.
create or replace function conductor.why_running(p_id uuid, p_now timestamptz) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    v_by text;
    l record;
begin
    select e.claimed_at, e.orchestrator_id, o.host, o.pid, o.lease_until, t.timeout
      into l
      from conductor.live_executions e
      join conductor.tasks t on t.id = e.task_id
      left join conductor.orchestrators o on o.id = e.orchestrator_id
     where e.id = p_id;
    v_by := case when l.pid is null then 'a process that is gone'
                 when l.host = '' then format('process %s', l.pid)
                 else format('process %s on %s', l.pid, l.host) end;
    return jsonb_build_object('since', conductor.shown(l.claimed_at), 'orchestrator', l.orchestrator_id, 'host', l.host, 'pid', l.pid)
        || case when l.lease_until > clock_timestamp()
                then jsonb_build_object('reason', 'running',
                         'text', format('it is with %s since %s%s', v_by, conductor.moment(l.claimed_at),
                             -- One second is added, in which its end is written.
                             case when p_now > l.claimed_at + l.timeout + interval '1 second'
                                  then format('; its timeout of %s is over, and its handler does not yield: it blocks its thread',
                                              l.timeout) end))
                else jsonb_build_object('reason', 'lease_over',
                         'text', format('it was with %s, whose lease is over; a living worker will take it back', v_by))
           end;
end
$$;

-- Returns why a pending execution could not be read, or null if no process has reported that. Called by
-- why_not_running, under whose settings it runs.
create or replace function conductor.why_unreadable(p_id uuid) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    u record;
begin
    select n.since, n.times, n.reader, n.reason, l.run_at, l.created_at into u
      from conductor.live_executions l
      join conductor.unreadable n on n.execution_id = l.id and n.left_claim = l.claim
     where l.id = p_id;
    if not found then
        return null;
    end if;
    return jsonb_build_object(
        'reason', 'unreadable', 'error', u.reason, 'since', u.since, 'times', u.times, 'reader', u.reader,
        'run_at', u.run_at,
        'text', format(
            'waits for a build that can read it; nothing is charged. Of %s: %s; invoked at %s; it is '
            || 'looked at again at %s and when a process with its task starts',
            u.reader, u.reason, conductor.moment(u.created_at), conductor.moment(u.run_at)));
end
$$;

-- Returns why an execution is not due yet. Called by why_not_running, under whose settings it runs.
create or replace function conductor.why_later(p_id uuid, p_now timestamptz) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    v_found jsonb;
    l record;
begin
    select e.state, e.run_at, e.failures, e.crashes, e.postponed, left(e.error, 1000) as error, t.max_attempts
      into l
      from conductor.live_executions e
      join conductor.tasks t on t.id = e.task_id
     where e.id = p_id;
    if l.state = 'pending' and l.run_at = 'infinity' then
        v_found := conductor.why_queued(p_id);
    elsif l.state = 'suspended' and not l.postponed then
        v_found := conductor.why_waits(p_id, p_now);
    elsif l.postponed then
        v_found := jsonb_build_object('reason', 'window', 'opens_at', conductor.shown(l.run_at),
            'text', format('waits for its window, which opens at %s', conductor.moment(l.run_at)));
    elsif l.failures + l.crashes > 0 then
        v_found := jsonb_build_object(
            'reason', 'retry', 'attempt', l.failures + 1, 'max_attempts', l.max_attempts, 'run_at', conductor.shown(l.run_at),
            'error', l.error,
            'text', format('waits until %s for attempt %s of %s', conductor.moment(l.run_at), l.failures + 1,
                           l.max_attempts) || coalesce('; the last one failed: ' || l.error, ''));
    end if;
    return coalesce(v_found, jsonb_build_object(
        'reason', 'later', 'run_at', conductor.shown(nullif(l.run_at, 'infinity')),
        'text', 'is not due before ' || conductor.moment(l.run_at)));
end
$$;

-- Returns what keeps an execution waiting that is due: another one of its key, a paused queue, a missing worker, a
-- limit, or only what is before it. Called by why_not_running, under whose settings it runs.
create or replace function conductor.why_due(p_id uuid, p_now timestamptz) returns jsonb
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    v_found jsonb := conductor.why_ordered(p_id);
    v_before integer;
    v_hours text;
    l record;
begin
    if v_found is not null then
        return v_found;
    end if;
    select e.id, e.run_at, e.queue_id, e.priority, t.id as task_id, t.name as task, t.time_window, q.id as served_queue,
           q.name as queue, q.paused
      into l
      from conductor.live_executions e
      join conductor.tasks t on t.id = e.task_id
      join conductor.queues q on q.id = t.queue_id
     where e.id = p_id;
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
    v_found := conductor.why_limited(l.id, p_now);
    if v_found is null then
        v_before := case when l.queue_id = 0 then 0
                         else conductor.count_before(l.queue_id, l.priority, l.run_at, l.id, p_now, 1000) end;
        v_found := jsonb_build_object(
            'reason', 'soon', 'before', v_before,
            'text', 'is due and should start soon; '
                || case v_before when 0 then 'nothing is before it' when 1000 then '1000 or more are before it'
                   when 1 then '1 is before it' else format('%s are before it', v_before) end);
    end if;
    if l.time_window is not null then
        v_hours := concat_ws(' ', l.time_window ->> 'hours', l.time_window ->> 'days', l.time_window ->> 'timezone');
        v_found := v_found || jsonb_build_object('window', l.time_window, 'now', p_now,
            'text', format('%s; it runs within %s only', v_found ->> 'text', v_hours));
    end if;
    return v_found;
end
$$;

-- Returns why an execution does not run, or that it does: a JSON object with the reason as one word, a text for
-- people, and details. Only workers know whether a window is open, so if the task has a window, it is added.
-- Public.
--     select conductor.why_not_running('...') ->> 'text';
create or replace function conductor.why_not_running(execution uuid) returns jsonb
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_found jsonb;
    l record;
begin
    select e.state, e.run_at, e.postponed into l from conductor.live_executions e where e.id = execution;
    if not found then
        return conductor.why_done(execution);
    elsif l.state = 'running' then
        return conductor.why_running(execution, v_now);
    elsif l.state = 'pending' and not l.postponed then
        v_found := conductor.why_unreadable(execution);
        if v_found is not null then
            return v_found;
        end if;
    end if;
    return case when l.run_at > v_now then conductor.why_later(execution, v_now) else conductor.why_due(execution, v_now) end;
end
$$;
