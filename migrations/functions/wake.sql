-- Returns whether a user's transaction may notify. A transaction that has notified cannot be prepared for a
-- two-phase commit. So if the server takes part in two-phase commits (max_prepared_transactions), it must not
-- notify, and orchestrators find what was done there by looking once a second. The setting conductor.notify
-- overrides this: on, off or auto.
create or replace function conductor.may_notify() returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return case current_setting('conductor.notify', true)
                when 'on' then true when 'off' then false
                else current_setting('max_prepared_transactions') = '0' end;
end
$$;

-- Wakes the workers of these queues: those that sleep, or all with p_always. p_always is for invokes in users'
-- transactions, which must not lock the row of a queue, nor rely on a flag that may change before they commit.
-- Called by most functions that make executions due.
-- Locks: queues.idle (if free; nothing with p_always).
create or replace function conductor.wake(p_queues integer[], p_always boolean) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
    v_idle integer[];
begin
    if p_always then
        if conductor.may_notify() then
            perform pg_notify('conductor', 'queue:' || q) from unnest(p_queues) as q;
        end if;
    else
        v_idle := array(select q.id from conductor.queues q where q.id = any (p_queues) and q.idle);
        if cardinality(v_idle) > 0 then
            perform pg_notify('conductor', 'queue:' || q) from unnest(v_idle) as q;
            -- If a user's open transaction has locked the row, by a cancel or a pause, the flag stays set.
            update conductor.queues q set idle = false
             where q.id = any (array(select o.id from conductor.queues o
                                      where o.id = any (v_idle) for no key update skip locked));
        end if;
    end if;
end
$$;
