-- Inserts the executions of the calls whose keys are free, the first call of each key. With p_look it leaves out calls
-- whose execution exists or has ended. Called by invoke_keyed, which describes the arguments and under whose settings
-- it runs. Returns the new executions, and the queues in which something is due.
-- Locks: live_executions (inserts, by task and key).
create or replace function conductor.insert_keyed(
    p_ids uuid[], p_tasks text[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[],
    p_priorities integer[], p_keys text[], p_debounce_ms bigint[], p_max_wait_ms bigint[], p_begun timestamptz,
    p_look boolean, out made uuid[], out queues integer[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    with inserted as (
        insert into conductor.live_executions as l (
               id, run_at, created_at, queue_id, task_id, priority, holds_key, debounced, dedupe_key, order_key,
               payload, bytes)
        select distinct on (t.id, g.debounce_ms is not null, coalesce(g.key, '') collate "C")
               g.id, coalesce(g.run_at, p_begun + coalesce(g.debounce_ms, g.delay_ms) * interval '1 ms', p_begun),
               p_begun, t.queue_id, t.id, coalesce(g.priority, t.priority), true, g.debounce_ms is not null,
               coalesce(g.key, '') collate "C", conductor.order_key(t.ordered_by, g.payload::json),
               g.payload::json, octet_length(g.payload)
          from unnest(p_ids, p_tasks, p_payloads, p_run_at, p_delay_ms, p_priorities, p_keys, p_debounce_ms,
                      p_max_wait_ms) with ordinality
               as g(id, task, payload, run_at, delay_ms, priority, key, debounce_ms, max_wait_ms, n)
          join conductor.tasks t on t.name = g.task
         where conductor.is_invoke(g.id, g.payload, g.run_at, g.delay_ms)
           and conductor.is_keyed(g.key, g.run_at, g.delay_ms, null, g.debounce_ms, g.max_wait_ms)
           -- An execution that exists or has ended is from the same call. Both are looked up in one
           -- snapshot, because an execution may be on its way from one table to the other.
           and (not p_look
                or (select true from conductor.live_executions l where l.id = g.id limit 1) is null
                   and (select true from conductor.finished_executions f where f.id = g.id limit 1) is null)
         order by t.id, g.debounce_ms is not null, coalesce(g.key, '') collate "C", g.n
            on conflict (task_id, debounced, dedupe_key) where holds_key do nothing
        returning l.id, l.queue_id, l.run_at
    )
    select array_agg(i.id), array_agg(distinct i.queue_id) filter (where i.run_at < p_begun + interval '1s')
      into made, queues
      from inserted i;
end
$$;

-- Answers calls of which only p_made have a new execution: refuses what cannot be stored, then goes on as meet_keys.
-- Called by invoke_keyed, which describes the arguments and under whose settings it runs. Fails with CD007 if one of
-- the other executions exists, so that the call was sent before.
-- Locks: as meet_keys.
create or replace function conductor.check_and_meet_keys(
    p_ids uuid[], p_tasks text[], p_payloads text[], p_run_at timestamptz[], p_delay_ms bigint[],
    p_priorities integer[], p_in_transaction boolean, p_keys text[], p_debounce_ms bigint[], p_max_wait_ms bigint[],
    p_begun timestamptz, p_made uuid[],
    out ids uuid[], out came_of text[], out queues integer[])
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_met record;
begin
    perform conductor.refuse_keyed(
        p_ids => p_ids, p_payloads => p_payloads, p_run_at => p_run_at, p_delay_ms => p_delay_ms,
        p_keys => p_keys, p_throttle_ms => array_fill(null::bigint, array[cardinality(p_ids)]),
        p_debounce_ms => p_debounce_ms, p_max_wait_ms => p_max_wait_ms);
    perform conductor.refuse_unknown(p_tasks);
    if conductor.are_there(array(select id from unnest(p_ids) as id
                                  where p_made is null or id <> all (p_made))) then
        raise exception using errcode = 'CD007';
    end if;
    v_met := conductor.meet_keys(
        p_ids => p_ids, p_tasks => p_tasks, p_payloads => p_payloads, p_run_at => p_run_at,
        p_delay_ms => p_delay_ms, p_priorities => p_priorities, p_in_transaction => p_in_transaction,
        p_keys => p_keys, p_debounce_ms => p_debounce_ms, p_max_wait_ms => p_max_wait_ms, p_begun => p_begun);
    ids := v_met.ids;
    came_of := v_met.came_of;
    queues := v_met.queues;
end
$$;

-- Invokes calls that each have a dedupe key or are debounced, and none of which is throttled. Called by
-- invoke_with_keys and invoke_mixed. Returns as invoke_many.
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
    v_new record;
    v_met record;
    v_queues integer[];
    v_busy text;
begin
    for v_round in 1 .. 1000 loop
        begin
            v_new := conductor.insert_keyed(
                p_ids => p_ids, p_tasks => p_tasks, p_payloads => p_payloads, p_run_at => p_run_at,
                p_delay_ms => p_delay_ms, p_priorities => p_priorities, p_keys => p_keys, p_debounce_ms => p_debounce_ms,
                p_max_wait_ms => p_max_wait_ms, p_begun => v_begun, p_look => v_known or v_round > 1);
            v_queues := v_new.queues;
            exit when cardinality(v_new.made) = cardinality(p_ids);
            v_met := conductor.check_and_meet_keys(
                p_ids => p_ids, p_tasks => p_tasks, p_payloads => p_payloads, p_run_at => p_run_at,
                p_delay_ms => p_delay_ms, p_priorities => p_priorities, p_in_transaction => p_in_transaction,
                p_keys => p_keys, p_debounce_ms => p_debounce_ms, p_max_wait_ms => p_max_wait_ms, p_begun => v_begun,
                p_made => v_new.made);
            ids := v_met.ids;
            came_of := v_met.came_of;
            v_queues := v_queues || v_met.queues;
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
        when unique_violation then
            -- A call that was sent before was claimed meanwhile and has released its key (debounce): the next round sees it.
            if v_round > 2 then raise; end if;
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

-- Invokes once with a dedupe key that no execution holds, as most calls with a key do, and so without the joins and
-- the savepoint of invoke_keyed. Called by invoke_many, whose settings are in force here. Returns false and has done
-- nothing if the key is in use, the execution is known, or the call is not valid: invoke_with_keys finds out which.
-- Locks: live_executions (inserts), queues.idle (if free; not in a user's transaction).
create or replace function conductor.invoke_one_keyed(
    p_id uuid, p_task text, p_payload text, p_run_at timestamptz, p_delay_ms bigint, p_priority integer,
    p_in_transaction boolean, p_key text) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := (select clock_timestamp() + c.shift from conductor.clock c where c.only_row);
    v_queue integer;
    v_due boolean;
begin
    insert into conductor.live_executions as l (
           id, run_at, created_at, queue_id, task_id, priority, holds_key, dedupe_key, order_key, payload, bytes)
    select p_id, coalesce(p_run_at, v_now + p_delay_ms * interval '1 ms', v_now), v_now,
           t.queue_id, t.id, coalesce(p_priority, t.priority), true, p_key,
           conductor.order_key(t.ordered_by, p_payload::json), p_payload::json, octet_length(p_payload)
      from conductor.tasks t
     where t.name = p_task
       and conductor.is_invoke(p_id, p_payload, p_run_at, p_delay_ms)
       and octet_length(p_key) between 1 and 200
       -- An execution that exists or has ended is from the same call.
       and (select true from conductor.live_executions o where o.id = p_id limit 1) is null
       and (select true from conductor.finished_executions f where f.id = p_id limit 1) is null
        on conflict (task_id, debounced, dedupe_key) where holds_key do nothing
    returning l.queue_id, l.run_at < v_now + interval '1s' into v_queue, v_due;
    if v_queue is null then
        return false;
    end if;
    if v_due and (p_in_transaction or exists (select from conductor.queues q where q.id = v_queue and q.idle)) then
        perform conductor.wake(array[v_queue], p_in_transaction);
    end if;
    return true;
end
$$;
