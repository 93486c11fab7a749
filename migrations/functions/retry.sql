-- Copies to a repeat (p_to) what the ended execution that it repeats (p_from) had: records, sleeps, and the
-- waits for children that still run. The time between the end and the repeat is added to the deadlines of these
-- waits. Called by retry. The repeat is not visible to other sessions yet.
-- Locks: live_executions (children that run, waits, by id), waits and steps (new rows).
create or replace function conductor.take_over(p_from uuid, p_to uuid) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_ended timestamptz := (select f.finished_at from conductor.finished_executions f where f.id = p_from);
    v_children uuid[];
begin
    -- If a child ends meanwhile, its outcome is among the records of the ended execution, which are copied
    -- below. A detached child continues after its deadline.
    v_children := array(
        select l.id from conductor.live_executions l
         where l.id = any (array(
               select w.child_id from conductor.waits w where w.execution_id = p_from and w.child_id is not null
               union all
               select conductor.as_uuid(conductor.json_field(s.value, 'id')) from conductor.steps s
                where s.execution_id = p_from and s.kind = 'invoke'
                  and conductor.json_field(s.value, 'state') = 'timed_out'))
           and not l.cancelled
         order by l.id for no key update);
    update conductor.live_executions l set parent_id = p_to where l.id = any (v_children);
    insert into conductor.waits (execution_id, key, kind, group_key, wake_at, child_id, input)
    select p_to, w.key, w.kind, w.group_key,
           case when w.child_id is null then w.wake_at else w.wake_at + (v_now - v_ended) end, w.child_id, w.input
      from conductor.waits w
     where w.execution_id = p_from and (w.kind = 'sleep' or w.child_id = any (v_children));
    insert into conductor.waits (execution_id, key, kind, group_key, wake_at, child_id, input)
    select p_to, s.key, s.kind, split_part(s.key, chr(31), 1), v_now + (s.ended_at - l.created_at), l.id,
           s.input
      from conductor.steps s
     cross join lateral (
           select o.id, o.created_at from conductor.live_executions o
            where o.id = conductor.as_uuid(conductor.json_field(s.value, 'id')) and o.id = any (v_children) limit 1) l
     where s.execution_id = p_from and s.kind = 'invoke'
       and conductor.json_field(s.value, 'state') = 'timed_out';
    insert into conductor.steps (
           execution_id, key, kind, value, recorded_at, ended_at, event_id, event_at, event_filter, input)
    select p_to, s.key, s.kind, s.value, s.recorded_at, s.ended_at, s.event_id, s.event_at, s.event_filter,
           s.input
      from conductor.steps s
     where s.execution_id = p_from
       -- A child that did not complete is tried again, and so is a wait for an event or a row that did not
       -- come.
       and case when s.kind = 'invoke' then conductor.json_field(s.value, 'state') = 'completed'
                when s.kind in ('event', 'row') then conductor.json_field(s.value, 'event') is not null else true end;
end
$$;

-- Retries an execution, and returns the id under which it runs. A pending execution is due now and keeps its
-- id. A final state never changes, so a failed or cancelled execution is repeated by a new execution with the
-- same payload and the recorded steps; if it was repeated before, the new one continues where the last repeat
-- ended. If a repeat has not ended, returns that one. Returns null if the execution is unknown, running,
-- suspended or completed, also if a repeat of it has completed. Public.
-- Locks: live_executions (one row, if it is pending, waits); otherwise the repeats of this execution (advisory,
--   waits), finished_executions (one row, waits), live_executions (new row), as take_over.
create or replace function conductor.retry(execution uuid) returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_queue integer;
    v_id uuid;
    v_origin uuid;
    v_last uuid;
begin
    update conductor.live_executions l set run_at = v_now
     where l.id = execution and l.state = 'pending'
    returning l.id, l.queue_id into v_id, v_queue;
    if not found then
        -- The first execution of all repeats is named, so that idempotency keys stay the same.
        select coalesce(f.retry_of, f.id) into v_origin from conductor.finished_executions f where f.id = execution;
        if not found then
            return null;
        end if;
        -- If two calls ask for a repeat, of whichever of the executions, there is one repeat: the second waits
        -- for the first.
        perform conductor.wait_for_lock(
            hashtextextended('conductor.retry ' || v_origin, 0), false, 'the lock of the repeats of this execution');
        select l.id into v_id from conductor.live_executions l where l.retry_of = v_origin;
        if found then
            return v_id;
        end if;
        v_last := coalesce((select f.id from conductor.finished_executions f
                             where f.retry_of = v_origin order by f.id desc limit 1), execution);
        -- Its records must stay until they are copied.
        perform from conductor.finished_executions f where f.id = v_last for no key update;
        -- As if it had been claimed before, so that its steps are loaded.
        insert into conductor.live_executions as l (
               id, run_at, created_at, parent_id, retry_of, queue_id, task_id, priority, claim, order_key, trigger,
               payload, bytes)
        select conductor.uuid7(), v_now, v_now, f.parent_id, v_origin, t.queue_id, f.task_id,
               f.priority, 1, conductor.order_key(t.ordered_by, f.payload), f.trigger, f.payload,
               octet_length(f.payload::text)
          from conductor.finished_executions f
          join conductor.tasks t on t.id = f.task_id
         where f.id = v_last and f.state in ('failed', 'cancelled')
        returning l.id, l.queue_id into v_id, v_queue;
        if v_id is not null then
            perform conductor.take_over(v_last, v_id);
        end if;
    end if;
    if v_id is not null then
        perform conductor.wake(array[v_queue], true);
    end if;
    return v_id;
end
$$;
