-- Returns the time by which everything is decided: the server's clock, plus the shift that tests have set
-- (conductor.clock). In plpgsql, which keeps its plan; a function in SQL is planned at each call.
create or replace function conductor.now() returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return (select clock_timestamp() + c.shift from conductor.clock c where c.only_row);
end
$$;

-- Moves the one virtual clock, for tests, and notifies the running processes. The chore "prune" becomes due, so
-- that everything whose time is over is removed at once.
-- Locks: clock (its row, waits), chores (one row, waits).
create or replace function conductor.advance_clock(p_by interval) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_shift interval;
begin
    update conductor.clock set shift = shift + p_by returning shift into v_shift;
    update conductor.chores set due_at = clock_timestamp() where name = 'prune';
    perform pg_notify('conductor', 'clock:' || floor(extract(epoch from v_shift) * 1000)::bigint);
end
$$;
