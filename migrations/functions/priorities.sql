-- Returns the priorities that are in use in a queue, the highest first, with one index probe for each.
create or replace function conductor.priorities(p_queue integer) returns setof integer
language plpgsql stable set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_priority integer;
begin
    select l.priority into v_priority from conductor.live_executions l
     where l.queue_id = p_queue
     order by l.priority desc limit 1;
    while v_priority is not null loop
        return next v_priority;
        select l.priority into v_priority from conductor.live_executions l
         where l.queue_id = p_queue and l.priority < v_priority
         order by l.priority desc limit 1;
    end loop;
end
$$;
