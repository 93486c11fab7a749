-- Ends the turns of these executions, which have ended or have another key than this one now. The next
-- execution of each key returns to the queue of its task; also if the turn was free, because one of these
-- executions may have been the next to have it. Called by complete, conclude, replace and revive_turns. Waits
-- only for turns, which claims lock for a moment. Returns the queues to wake.
-- Locks: for each task and key, in order: turns (waits), live_executions (the next one, if free), deferred
--   (inserts).
create or replace function conductor.pass_turns(p_ids uuid[], p_tasks integer[], p_keys text[]) returns integer[]
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
        -- A statement of its own, which sees what was set aside until the lock was granted.
        select l.id into v_next from conductor.live_executions l
         where l.task_id = v_key.task_id and l.order_key = v_key.key and l.queue_id = 0
         order by l.created_at, l.id limit 1
           for no key update skip locked;
        if not found then
            -- Another session has locked all that are set aside.
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

-- Returns whether one of these executions has a turn that another session has locked, so that its end would
-- wait. Called by cancel_free.
-- Locks: turns (if free).
create or replace function conductor.is_turn_locked(p_ids uuid[]) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
    return cardinality(array(
               select t.execution_id from conductor.turns t where t.execution_id = any (p_ids) for update skip locked))
         < (select count(*) from conductor.turns t where t.execution_id = any (p_ids));
end
$$;

-- Brings back the first execution of each key that was set aside although no execution has the turn, or one
-- that has ended. Only transactions at repeatable read and serializable leave such keys, because they do not
-- see what claims do at the same time. A chore of the orchestrators. Returns the number of keys.
-- Locks: for each task and key, in order: turns (waits), as pass_turns, queues.idle (if free).
create or replace function conductor.revive_turns() returns integer
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

-- Brings back executions that were set aside to wait for a turn, and that were locked when the turn came. Those
-- that are still locked stay. Called by do_deferred. Returns how many are done.
-- Locks: live_executions (if free), queues.idle (if free), deferred (rows that the caller has locked).
create or replace function conductor.come_back(p_ids uuid[]) returns integer
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
