-- Sets whether a queue is paused, and notifies its workers. Called by pause_queue and resume_queue. Returns
-- false if no queue has this name.
-- Locks: queues (one row, waits).
create or replace function conductor.set_paused(p_queue text, p_paused boolean) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_queue integer;
begin
    update conductor.queues q set paused = p_paused where q.name = p_queue returning q.id into v_queue;
    if not found then
        return false;
    end if;
    if coalesce(current_setting('conductor.notify', true), '') <> 'off' then
        perform pg_notify('conductor', 'queue:' || v_queue);
    end if;
    return true;
end
$$;

-- Pauses a queue: nothing in it is claimed until it is resumed. What runs continues. What was claimed and has
-- not started is given back by the workers, which are notified. Returns false if no queue has this name.
-- Public.
-- Locks: queues (one row, waits).
create or replace function conductor.pause_queue(queue text) returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select conductor.set_paused(queue, true) $$;

-- Resumes a paused queue. Returns false if no queue has this name. Public.
-- Locks: queues (one row, waits).
create or replace function conductor.resume_queue(queue text) returns boolean
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$ select conductor.set_paused(queue, false) $$;
