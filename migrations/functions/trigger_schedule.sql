-- Invokes now what a schedule would invoke, in addition to its ticks. If the code computes the payload, it must
-- be passed, with the time for which it was computed. Returns the execution's id, or null if there is no such
-- schedule. Public.
-- Locks: live_executions (new row).
create or replace function conductor.trigger_schedule(
    task text, name text, payload json default null, scheduled_at timestamptz default null) returns uuid
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := conductor.now();
    v_id uuid := conductor.uuid7();
    v_queue integer;
    v_payload json;
    v_found record;
begin
    select s.id, s.task_id, s.name, s.dynamic, s.payload into v_found
      from conductor.schedules s
      join conductor.tasks t on t.id = s.task_id
     where t.name = trigger_schedule.task and s.name = trigger_schedule.name
     order by s.dynamic desc limit 1;
    if not found then
        return null;
    end if;
    perform conductor.check_payload(trigger_schedule.payload);
    if scheduled_at not between '0001-01-01 00:00:00+00' and '9999-12-31 23:59:59.999999+00' then
        raise exception 'scheduled_at % lies outside the years 1 to 9999', scheduled_at using errcode = 'CD002';
    end if;
    v_payload := coalesce(trigger_schedule.payload, v_found.payload);
    if v_payload is null then
        raise exception 'the payload of schedule "%" of task "%" is computed by its program', name, task
            using errcode = 'CD002', hint = 'Give a payload, or use the program''s own command line.';
    end if;
    insert into conductor.live_executions as l (
           id, run_at, created_at, queue_id, task_id, priority, order_key, payload, bytes, trigger)
    select v_id, v_now, v_now, t.queue_id, t.id, t.priority, conductor.order_key(t.ordered_by, v_payload), v_payload, octet_length(v_payload::text),
           json_build_object('kind', 'schedule', 'name', v_found.name,
                             'scheduled_at', coalesce(trigger_schedule.scheduled_at, v_now))
      from conductor.tasks t where t.id = v_found.task_id
    returning l.queue_id into v_queue;
    perform conductor.wake(array[v_queue], true);
    return v_id;
end
$$;
