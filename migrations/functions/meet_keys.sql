-- Replaces the payload, the time and the priority of executions that have not started. Executions that this
-- call has made itself (p_firsts), now or before its answer was lost, stay as they are, unless several calls
-- have the same key. Called by meet_keys, which has locked the executions. Returns the queues in which
-- something may be due. The settings of the caller are in force here, so each kind of join is switched on or
-- off.
-- Locks: as pass_turns.
create or replace function conductor.replace(
    p_ids uuid[], p_firsts uuid[], p_calls bigint[], p_payloads text[], p_run_at timestamptz[], p_wait_ms bigint[],
    p_max_wait_ms bigint[], p_priorities integer[], p_begun timestamptz) returns integer[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set enable_hashjoin = on set jit = off
as $$
declare
    -- For calls that have waited for a lock, the times count from now.
    v_now timestamptz := conductor.now();
    v_queues integer[];
    -- The ordered executions, with the keys of their old payloads.
    v_ordered uuid[];
    v_tasks integer[];
    v_order_keys text[];
begin
    select array_agg(o.id), array_agg(o.task_id), array_agg(o.order_key) into v_ordered, v_tasks, v_order_keys
      from (select l.id, l.task_id, l.order_key from conductor.live_executions l where l.id = any (p_ids) offset 0) o
     where o.order_key is not null;
    -- An execution that waits for a limit or its turn is examined again, because the new payload may have
    -- another key.
    with replaced as (
        update conductor.live_executions l
           set payload = k.payload::json, bytes = octet_length(k.payload), priority = coalesce(k.priority, l.priority),
               queue_id = (select t.queue_id from conductor.tasks t where t.id = l.task_id),
               order_key = conductor.order_key(
                   (select t.ordered_by from conductor.tasks t where t.id = l.task_id), k.payload::json),
               -- The first of the calls has made the execution.
               run_at = coalesce(k.run_at, least(v_now + k.wait_ms * interval '1 ms',
                                                 l.created_at + k.max_wait_ms * interval '1 ms'), l.run_at),
               postponed = l.postponed and k.run_at is null and k.wait_ms is null
          from unnest(p_ids, p_firsts, p_calls, p_payloads, p_run_at, p_wait_ms, p_max_wait_ms, p_priorities)
               as k(id, first, calls, payload, run_at, wait_ms, max_wait_ms, priority)
         where l.id = any (p_ids) and l.id = k.id
           and (l.id <> k.first or k.calls > 1 and l.created_at = p_begun)
        returning l.queue_id, l.run_at
    )
    select array_agg(distinct r.queue_id) filter (where r.run_at < v_now + interval '1s')
      into v_queues
      from replaced r;
    if v_ordered is not null then
        select array_agg(g.id), array_agg(g.task_id), array_agg(g.key) into v_ordered, v_tasks, v_order_keys
          from unnest(v_ordered, v_tasks, v_order_keys) as g(id, task_id, key)
          join (select l.id, l.order_key from conductor.live_executions l where l.id = any (p_ids) offset 0) o
            on o.id = g.id and o.order_key is distinct from g.key;
        v_queues := v_queues || conductor.pass_turns(v_ordered, v_tasks, v_order_keys);
    end if;
    return v_queues;
end
$$;

-- Returns what calls amount to, one element for each key, in the order of the keys: of several calls with one key the
-- last one counts. firsts are the first calls of the keys, calls is how many there are. Called by meet_keys, which
-- describes the arguments and under whose settings it runs.
create or replace function conductor.fold_calls(
    p_ids uuid[], p_tasks text[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[],
    p_priorities integer[], p_keys text[], p_debounce_ms bigint[], p_max_wait_ms bigint[],
    out task_ids integer[], out debounced boolean[], out keys text[], out firsts uuid[], out calls bigint[],
    out payloads text[], out run_at timestamptz[], out wait_ms bigint[], out max_wait_ms bigint[], out priorities integer[])
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    select array_agg(s.task_id), array_agg(s.key), array_agg(s.first), array_agg(s.calls),
           array_agg(s.payload), array_agg(s.run_at), array_agg(s.wait_ms), array_agg(s.priority),
           array_agg(s.debounced), array_agg(s.max_wait_ms)
      into task_ids, keys, firsts, calls, payloads, run_at, wait_ms, priorities, debounced, max_wait_ms
      from (select c.task_id, c.key, count(*) as calls,
                   (array_agg(c.id order by c.n))[1] as first,
                   (array_agg(c.payload order by c.n desc))[1] as payload,
                   (array_agg(c.run_at order by c.n desc) filter (where c.timed))[1] as run_at,
                   (array_agg(c.wait_ms order by c.n desc) filter (where c.timed))[1] as wait_ms,
                   (array_agg(c.max_wait_ms order by c.n desc) filter (where c.timed))[1] as max_wait_ms,
                   (array_agg(c.priority order by c.n desc) filter (where c.priority is not null))[1] as priority,
                   c.debounced
              from (select g.n, g.id, t.id as task_id, coalesce(g.key, '') collate "C" as key, g.payload,
                           g.run_at, coalesce(g.debounce_ms, g.delay_ms) as wait_ms, g.priority,
                           coalesce(g.debounce_ms, g.delay_ms) is not null or g.run_at is not null as timed,
                           g.debounce_ms is not null as debounced, g.max_wait_ms
                      from unnest(p_ids, p_tasks, p_payloads, p_run_at, p_delay_ms, p_priorities, p_keys,
                                  p_debounce_ms, p_max_wait_ms) with ordinality
                           as g(id, task, payload, run_at, delay_ms, priority, key, debounce_ms, max_wait_ms, n)
                      join conductor.tasks t on t.name = g.task) c
             group by c.task_id, c.debounced, c.key
             order by c.task_id, c.debounced, c.key) s;
end
$$;

-- Locks the executions of these keys that have not started, and returns them in locked; in owners also those that have
-- started. Called by meet_keys, under whose settings it runs. Fails with CD006, with the execution's id as detail, if
-- another session has the execution of a key.
-- Locks: live_executions (waits if there is only one key; then those of all keys, in this order, if free).
create or replace function conductor.hold_keyed(
    p_tasks integer[], p_debounced boolean[], p_keys text[], out locked uuid[], out owners uuid[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_missing integer;
    v_busy uuid;
begin
    -- Only one row may be waited for. With several keys, a row that a worker has just claimed would stay locked
    -- here during the wait for the next one, while the worker ends the executions in another order.
    if cardinality(p_keys) = 1 then
        perform from conductor.live_executions l
          where l.holds_key and l.task_id = p_tasks[1] and l.debounced = p_debounced[1]
            and l.dedupe_key = p_keys[1] and l.claim = 0 and l.state = 'pending'
            for no key update;
    end if;
    locked := array(
        select o.id
          from unnest(p_tasks, p_debounced, p_keys) with ordinality as k(task_id, debounced, key, n)
          left join lateral (
               select l.id from conductor.live_executions l
                where l.holds_key and l.task_id = k.task_id and l.debounced = k.debounced
                  and l.dedupe_key = k.key and l.claim = 0 and l.state = 'pending'
                  for no key update skip locked) o on true
         order by k.n);
    owners := array(
        select coalesce(k.locked, o.id)
          from unnest(p_tasks, p_debounced, p_keys, locked) with ordinality
               as k(task_id, debounced, key, locked, n)
          left join lateral (
               select l.id from conductor.live_executions l
                where l.holds_key and l.task_id = k.task_id and l.debounced = k.debounced
                  and l.dedupe_key = k.key and (l.claim > 0 or l.state <> 'pending')
                limit 1) o on true
         order by k.n);
    v_missing := array_position(owners, null);
    if v_missing is not null then
        select l.id into v_busy from conductor.live_executions l
         where l.holds_key and l.task_id = p_tasks[v_missing] and l.debounced = p_debounced[v_missing]
           and l.dedupe_key = p_keys[v_missing];
        raise exception 'somebody else has the execution of a key' using errcode = 'CD006',
            detail = coalesce(v_busy::text, '');
    end if;
end
$$;

-- Answers calls whose keys are not all free: an execution that has not started is replaced, one that has
-- started is returned. If several calls have one key, the last one counts, as if they had come one by one; the
-- first of them may have been made by this transaction, at p_begun. Called by check_and_meet_keys. Returns the answers
-- as invoke_many, and the queues to wake. Fails with CD006, with the execution's id as detail, if another
-- session has it.
-- Locks: live_executions (waits if there is only one key; then those of all keys, by task and key, if free), as
--   replace, replacements (inserts, by id; not in a user's transaction).
create or replace function conductor.meet_keys(
    p_ids uuid[], p_tasks text[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[],
    p_priorities integer[], p_in_transaction boolean, p_keys text[], p_debounce_ms bigint[], p_max_wait_ms bigint[],
    p_begun timestamptz,
    out ids uuid[], out came_of text[], out queues integer[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off
as $$
declare
    v_key record;
    v_held record;
begin
    v_key := conductor.fold_calls(
        p_ids => p_ids, p_tasks => p_tasks, p_payloads => p_payloads, p_run_at => p_run_at, p_delay_ms => p_delay_ms,
        p_priorities => p_priorities, p_keys => p_keys, p_debounce_ms => p_debounce_ms, p_max_wait_ms => p_max_wait_ms);
    v_held := conductor.hold_keyed(v_key.task_ids, v_key.debounced, v_key.keys);
    queues := conductor.replace(
        p_ids => v_held.locked, p_firsts => v_key.firsts, p_calls => v_key.calls, p_payloads => v_key.payloads,
        p_run_at => v_key.run_at, p_wait_ms => v_key.wait_ms, p_max_wait_ms => v_key.max_wait_ms,
        p_priorities => v_key.priorities, p_begun => p_begun);

    select array_agg(v_held.owners[c.key_n] order by c.n),
           array_agg(case when c.id = v_held.owners[c.key_n] then 'created'
                          when v_held.locked[c.key_n] is not null then 'replaced'
                          else 'existing' end order by c.n)
      into ids, came_of
      from (select g.n, g.id,
                   dense_rank() over (order by t.id, g.debounce_ms is not null,
                                               coalesce(g.key, '') collate "C") as key_n
              from unnest(p_ids, p_tasks, p_keys, p_debounce_ms) with ordinality
                   as g(id, task, key, debounce_ms, n)
              join conductor.tasks t on t.name = g.task) c;
    if not p_in_transaction then
        insert into conductor.replacements (id, execution_id, replaced_at)
        select g.id, g.execution_id, clock_timestamp()
          from unnest(p_ids, ids, came_of) as g(id, execution_id, came_of)
         where g.came_of = 'replaced'
         order by g.id
            on conflict (id) do nothing;
    end if;
end
$$;
