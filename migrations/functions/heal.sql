-- Corrects times that lie further ahead than they can, because they were written while the server's clock was
-- ahead: leases, chores, uses of row watches, throttles and lanes. No lease ends by this: a living process
-- renews it, and a dead one keeps it for as long as a lease lasts. A chore of the orchestrators, once a minute.
-- Returns one line for the log for each correction. Usually it finds nothing, and locks nothing.
-- Locks: orchestrators (if free, by id), chores (if free, by name; then the row "orphans", waits), row_watches
--   (waits), throttles (if free), as heal_lanes.
create or replace function conductor.heal_times() returns setof text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set jit = off
set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_real timestamptz := clock_timestamp();
    v_now timestamptz := conductor.now();
    v_row record;
begin
    for v_row in
        update conductor.orchestrators o set lease_until = v_real + o.lease
          from (select k.id, k.lease_until as was from conductor.orchestrators k
                 where k.lease_until > v_real + k.lease + interval '1 s'
                 order by k.id for no key update skip locked) far
         where o.id = far.id
        returning o.id, o.host, o.pid, far.was
    loop
        return next format('the lease of process %s on %s lasted until %s', v_row.pid, v_row.host, v_row.was);
    end loop;
    for v_row in
        update conductor.chores c set due_at = v_real
          from (select k.name, k.due_at as was from conductor.chores k
                 where k.due_at > v_real + k.every + interval '1 s'
                 order by k.name for no key update skip locked) far
         where c.name = far.name
        returning c.name, far.was
    loop
        -- That chore corrects what was written to executions meanwhile.
        update conductor.chores c set due_at = v_real where c.name = 'orphans' and c.due_at > v_real;
        return next format('the chore %s was due at %s', v_row.name, v_row.was);
    end loop;
    for v_row in
        update conductor.row_watches w set used_at = v_now
         where w.used_at > v_now + interval '1 minute'
        returning w.event
    loop
        return next format('the watch %s was used later than now', v_row.event);
    end loop;
    for v_row in
        delete from conductor.throttles s
         using (select k.task_id, k.key, k.until as was
                  from (select m.task_id, m.key from conductor.throttles m order by m.until desc limit 100) m
                  join conductor.throttles k on k.task_id = m.task_id and k.key = m.key
                 where k.until > v_now + k.lasts + interval '1 s'
                 order by k.task_id, k.key for update of k skip locked) far
         where s.task_id = far.task_id and s.key = far.key
        returning s.task_id, s.key, far.was
    loop
        return next format('the slot "%s" of a throttle lasted until %s', v_row.key, v_row.was);
    end loop;
    return query select conductor.heal_lanes();
end
$$;

-- Corrects executions that are due later than they can be, because they failed or were created while the clock
-- was ahead: they are due as long from now as they were from then. Of new executions only those that were due
-- within a day are changed; one with a later time of its own keeps it. Reads the whole table. Called by
-- recover_orphans. Returns the number of executions that were changed.
-- Locks: live_executions (if free, by id).
create or replace function conductor.heal_executions() returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_ids uuid[];
    v_count integer;
begin
    v_ids := array(
        select l.id from conductor.live_executions l
         where l.state = 'pending' and l.run_at > v_now + interval '1 minute' and l.run_at < 'infinity'
           and (l.created_at > v_now + interval '1 minute'
                or l.failures > 0
                   and exists (select from conductor.failures f
                                where f.execution_id = l.id and f.failed_at > v_now + interval '1 minute')));
    -- Only these are locked: a retry may rightly be due in hours.
    v_ids := array(
        select l.id from conductor.live_executions l
         where l.id = any (v_ids) order by l.id for no key update skip locked);
    update conductor.live_executions l
       set run_at = v_now + (l.run_at - far.at), created_at = least(l.created_at, v_now), postponed = false
      from (select k.id, coalesce(
                   (select max(f.failed_at) from conductor.failures f where f.execution_id = k.id), k.created_at) as at
              from conductor.live_executions k where k.id = any (v_ids)) far
     where l.id = any (v_ids) and l.id = far.id and far.at > v_now + interval '1 minute'
       and l.run_at between far.at and far.at + case when l.failures > 0 then interval '100 years' else interval '1 day' end;
    get diagnostics v_count = row_count;
    return v_count;
end
$$;
