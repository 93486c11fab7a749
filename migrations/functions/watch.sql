-- Returns the state and the outcome of an execution. If it has not ended, its end will be notified. Called by
-- clients that wait.
-- Locks: live_executions (one row, waits).
create or replace function conductor.watch(p_id uuid)
returns table (state text, task text, output text, error text)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
    -- Written only once, because a client that waits asks each second.
    update conductor.live_executions l set watched = true where l.id = p_id and not l.watched;
    -- A new statement, which sees an outcome that was committed while the update waited for it.
    return query
    select l.state::text, t.name, null::text, null::text
      from conductor.live_executions l
      join conductor.tasks t on t.id = l.task_id
     where l.id = p_id;
    if not found then
        return query
        select f.state::text, t.name, f.output::text, f.error
          from conductor.finished_executions f
          join conductor.tasks t on t.id = f.task_id
         where f.id = p_id;
    end if;
end
$$;
