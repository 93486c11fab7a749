-- Cancels an execution that has not ended, and with cascade also its children, except detached ones. Returns
-- false if there is no such execution. A running handler is notified; whatever it returns, it ends as
-- cancelled. Public.
-- Locks: live_executions (the parent, the execution, then its tree level by level, by id; waits), as conclude.
create or replace function conductor.cancel(execution uuid, reason text default null, cascade boolean default true)
returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_found boolean;
    v_rest uuid[];
    v_level uuid[] := array[execution];
    v_tree uuid[] := '{}';
begin
    -- Parents before children, everywhere. The outermost parent is informed of this end.
    perform from conductor.live_executions p
     where p.id = (select l.parent_id from conductor.live_executions l
                    where l.id = execution and l.parent_key is not null)
       for no key update;
    -- Each level is locked before its children are looked for: an execution that is being suspended has made
    -- its children when the lock is granted.
    loop
        v_level := array(
            select l.id from conductor.live_executions l where l.id = any (v_level) order by l.id for no key update);
        v_tree := v_tree || v_level;
        exit when not cascade or cardinality(v_level) = 0;
        v_level := array(
            select c.id from conductor.live_executions c
             where c.parent_id = any (v_level) and c.parent_id is not null and not c.detached
               and c.id <> all (v_tree));
    end loop;
    with cancelled as (
        update conductor.live_executions l
           set cancelled = true,
               cancel_reason = coalesce(l.cancel_reason, reason,
                                        case when l.id <> execution then 'its parent was cancelled' end)
         where l.id = any (v_tree)
        returning l.id, l.state
    ), told as (
        select count(pg_notify('conductor', 'cancel:' || c.id)) as n from cancelled c
         where c.state = 'running' and coalesce(current_setting('conductor.notify', true), '') <> 'off'
    )
    select bool_or(c.id = execution), array_agg(c.id) filter (where c.state <> 'running')
      into v_found, v_rest
      from cancelled c cross join told;
    if v_rest is not null then
        perform conductor.conclude(v_rest, 'cancelled', null);
    end if;
    return coalesce(v_found, false);
end
$$;
