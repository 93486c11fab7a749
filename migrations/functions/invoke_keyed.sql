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

-- Answers calls whose keys are not all free: an execution that has not started is replaced, one that has
-- started is returned. If several calls have one key, the last one counts, as if they had come one by one; the
-- first of them may have been made by this transaction, at p_begun. Called by invoke_keyed. Returns the answers
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
    -- One element for each key, in the order of the keys: what its calls amount to, ...
    v_task_ids integer[];
    v_debounced boolean[];
    v_keys text[];
    v_firsts uuid[];
    v_calls bigint[];
    v_payloads text[];
    v_run_at timestamptz[];
    v_wait_ms bigint[];
    v_max_wait_ms bigint[];
    v_priorities integer[];
    -- ... the execution that has not started, which this transaction has locked, ...
    v_locked uuid[];
    -- ... and that execution, or else the one that has started.
    v_found uuid[];
    v_missing integer;
    v_busy uuid;
begin
    select array_agg(s.task_id), array_agg(s.key), array_agg(s.first), array_agg(s.calls),
           array_agg(s.payload), array_agg(s.run_at), array_agg(s.wait_ms), array_agg(s.priority),
           array_agg(s.debounced), array_agg(s.max_wait_ms)
      into v_task_ids, v_keys, v_firsts, v_calls, v_payloads, v_run_at, v_wait_ms, v_priorities, v_debounced,
           v_max_wait_ms
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

    -- Only one row may be waited for. With several keys, a row that a worker has just claimed would stay locked
    -- here during the wait for the next one, while the worker ends the executions in another order.
    if cardinality(v_keys) = 1 then
        perform from conductor.live_executions l
          where l.holds_key and l.task_id = v_task_ids[1] and l.debounced = v_debounced[1]
            and l.dedupe_key = v_keys[1] and l.claim = 0 and l.state = 'pending'
            for no key update;
    end if;
    v_locked := array(
        select o.id
          from unnest(v_task_ids, v_debounced, v_keys) with ordinality as k(task_id, debounced, key, n)
          left join lateral (
               select l.id from conductor.live_executions l
                where l.holds_key and l.task_id = k.task_id and l.debounced = k.debounced
                  and l.dedupe_key = k.key and l.claim = 0 and l.state = 'pending'
                  for no key update skip locked) o on true
         order by k.n);
    v_found := array(
        select coalesce(k.locked, o.id)
          from unnest(v_task_ids, v_debounced, v_keys, v_locked) with ordinality
               as k(task_id, debounced, key, locked, n)
          left join lateral (
               select l.id from conductor.live_executions l
                where l.holds_key and l.task_id = k.task_id and l.debounced = k.debounced
                  and l.dedupe_key = k.key and (l.claim > 0 or l.state <> 'pending')
                limit 1) o on true
         order by k.n);
    v_missing := array_position(v_found, null);
    if v_missing is not null then
        select l.id into v_busy from conductor.live_executions l
         where l.holds_key and l.task_id = v_task_ids[v_missing] and l.debounced = v_debounced[v_missing]
           and l.dedupe_key = v_keys[v_missing];
        raise exception 'somebody else has the execution of a key' using errcode = 'CD006',
            detail = coalesce(v_busy::text, '');
    end if;

    queues := conductor.replace(
        p_ids => v_locked, p_firsts => v_firsts, p_calls => v_calls, p_payloads => v_payloads, p_run_at => v_run_at,
        p_wait_ms => v_wait_ms, p_max_wait_ms => v_max_wait_ms, p_priorities => v_priorities, p_begun => p_begun);

    select array_agg(v_found[c.key_n] order by c.n),
           array_agg(case when c.id = v_found[c.key_n] then 'created'
                          when v_locked[c.key_n] is not null then 'replaced'
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

-- Invokes calls that each have a dedupe key or are debounced, and none of which is throttled. Called by
-- invoke_many and invoke_mixed. Returns as invoke_many.
--
-- Usually no key is in use, and the first statement does everything. It inserts in the order of the keys and
-- locks no existing row. Only then existing rows are locked, again in the order of the keys, so that two
-- batches with the same keys wait in one direction. Executions that have started are not locked, so that no
-- worker waits for an invoke. If another session has an execution, or it has ended meanwhile, everything is
-- undone: the call then waits without any lock, and starts again.
-- Locks: live_executions (inserts, by task and key), as meet_keys, queues.idle (if free; not in a user's
--   transaction). If another session has an execution: live_executions (this one alone, waits), then again.
create or replace function conductor.invoke_keyed(
    p_ids uuid[], p_tasks text[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[],
    p_priorities integer[], p_in_transaction boolean, p_keys text[], p_debounce_ms bigint[], p_max_wait_ms bigint[],
    out ids uuid[], out came_of text[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    -- As conductor.now(), and without the call.
    v_begun timestamptz := (select clock_timestamp() + c.shift from conductor.clock c where c.only_row);
    v_first uuid := (select g.id from unnest(p_ids) as g(id) order by g.id limit 1);
    -- As in invoke_new. Both are looked up in one snapshot, because an execution may be on its way from one table to the
    -- other.
    v_known boolean := current_setting('transaction_isolation') = 'serializable'
                    or exists (select from conductor.finished_executions f where f.id >= v_first)
                    or exists (select from conductor.live_executions l where l.id >= v_first);
    v_made uuid[];
    v_queues integer[];
    v_due integer[];
    v_busy text;
begin
    for v_round in 1 .. 1000 loop
        begin
            with given as (
                select distinct on (t.id, g.debounce_ms is not null, coalesce(g.key, '') collate "C")
                       g.id, t.id as task_id, t.queue_id, g.debounce_ms is not null as debounced,
                       coalesce(g.key, '') collate "C" as key,
                       coalesce(g.run_at, v_begun + coalesce(g.debounce_ms, g.delay_ms) * interval '1 ms', v_begun) as run_at,
                       coalesce(g.priority, t.priority) as priority, g.payload::json as payload,
                       octet_length(g.payload) as bytes, conductor.order_key(t.ordered_by, g.payload::json) as order_key
                  from unnest(p_ids, p_tasks, p_payloads, p_run_at, p_delay_ms, p_priorities, p_keys, p_debounce_ms,
                              p_max_wait_ms) with ordinality
                       as g(id, task, payload, run_at, delay_ms, priority, key, debounce_ms, max_wait_ms, n)
                  join conductor.tasks t on t.name = g.task
                 where conductor.is_invoke(g.id, g.payload, g.run_at, g.delay_ms)
                   and conductor.is_keyed(g.key, g.run_at, g.delay_ms, null, g.debounce_ms, g.max_wait_ms)
                   -- An execution that exists or has ended is from the same call. Both are looked up in one
                   -- snapshot, because an execution may be on its way from one table to the other.
                   and (not v_known and v_round = 1
                        or (select true from conductor.live_executions l where l.id = g.id limit 1) is null
                           and (select true from conductor.finished_executions f where f.id = g.id limit 1) is null)
                 order by t.id, g.debounce_ms is not null, coalesce(g.key, '') collate "C", g.n
            ), inserted as (
                insert into conductor.live_executions as l (
                       id, run_at, created_at, queue_id, task_id, priority, holds_key, debounced, dedupe_key, order_key,
                       payload, bytes)
                select g.id, g.run_at, v_begun, g.queue_id, g.task_id, g.priority, true, g.debounced, g.key,
                       g.order_key, g.payload, g.bytes
                  from given g
                 order by g.task_id, g.debounced, g.key
                    on conflict do nothing
                returning l.id, l.queue_id, l.run_at
            )
            select array_agg(i.id), array_agg(distinct i.queue_id) filter (where i.run_at < v_begun + interval '1s')
              into v_made, v_queues
              from inserted i;
            exit when cardinality(v_made) = cardinality(p_ids);

            perform conductor.refuse_keyed(
                p_ids => p_ids, p_payloads => p_payloads, p_run_at => p_run_at, p_delay_ms => p_delay_ms,
                p_keys => p_keys, p_throttle_ms => array_fill(null::bigint, array[cardinality(p_ids)]),
                p_debounce_ms => p_debounce_ms, p_max_wait_ms => p_max_wait_ms);
            perform conductor.refuse_unknown(p_tasks);
            if conductor.are_there(array(select id from unnest(p_ids) as id
                                          where v_made is null or id <> all (v_made))) then
                raise exception using errcode = 'CD007';
            end if;
            select m.ids, m.came_of, m.queues into ids, came_of, v_due
              from conductor.meet_keys(
                  p_ids => p_ids, p_tasks => p_tasks, p_payloads => p_payloads, p_run_at => p_run_at,
                  p_delay_ms => p_delay_ms, p_priorities => p_priorities, p_in_transaction => p_in_transaction,
                  p_keys => p_keys, p_debounce_ms => p_debounce_ms, p_max_wait_ms => p_max_wait_ms, p_begun => v_begun) m;
            v_queues := v_queues || v_due;
            exit;
        exception when sqlstate 'CD007' then
            select m.ids, m.came_of into ids, came_of
              from conductor.invoke_mixed(
                  p_ids => p_ids, p_tasks => p_tasks, p_payloads => p_payloads, p_run_at => p_run_at,
                  p_delay_ms => p_delay_ms, p_priorities => p_priorities, p_in_transaction => p_in_transaction,
                  p_again => true, p_keys => p_keys,
                  p_throttle_ms => array_fill(null::bigint, array[cardinality(p_ids)]),
                  p_debounce_ms => p_debounce_ms, p_max_wait_ms => p_max_wait_ms) m;
            return;
        when sqlstate 'CD006' then
            if v_round = 1000 then
                raise exception 'a dedupe key changes hands too often; try again' using errcode = '40001';
            end if;
            get stacked diagnostics v_busy = pg_exception_detail;
        end;
        begin
            perform from conductor.live_executions l where l.id = nullif(v_busy, '')::uuid for no key update;
            raise exception using errcode = 'CD006';
        exception when sqlstate 'CD006' then
            null;
        end;
    end loop;
    -- The flag is looked at behind the insert, as in invoke_new.
    if v_queues is not null
       and (p_in_transaction or exists (select from conductor.queues q where q.id = any (v_queues) and q.idle)) then
        perform conductor.wake(v_queues, p_in_transaction);
    end if;
end
$$;
