-- Gives back executions whose data this process cannot read, charges nothing, and notes the reason. While a
-- living process with the task has not tried, an execution is due again soon; then at growing intervals, and
-- when a process with its task starts (look_again). Called by workers. Returns the number of executions.
-- Locks: orchestrators (its own row, for key share, waits), as lock_parents, live_executions (waits, by id),
--   unreadable (inserts, by id), as give_back.
create or replace function conductor.leave_unreadable(
    p_orchestrator bigint, p_ids uuid[], p_claims integer[], p_reasons text[],
    p_orchestrators bigint[] default null) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '1s'
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_reader text;
    v_held uuid[];
    v_rests jsonb;
begin
    select 'process ' || o.pid || case when o.host <> '' then ' on ' || o.host else '' end
      into v_reader from conductor.orchestrators o where o.id = p_orchestrator for key share;
    perform conductor.lock_parents(p_ids);
    v_held := array(
        select l.id from conductor.live_executions l
          join unnest(p_ids, p_claims, p_orchestrators) as o(id, claim, orchestrator)
            on o.id = l.id and o.claim = l.claim
           and (o.orchestrator is null or o.orchestrator = l.orchestrator_id)
         where l.state = 'running' and l.id = any (p_ids)
           order by l.id for no key update of l);
    if cardinality(v_held) = 0 then
        return 0;
    end if;
    -- One claim and one return: the number has grown by two since the last note.
    insert into conductor.unreadable as u (
           execution_id, task_id, left_claim, times, run_at, since, noted_at, tried, reader, reason)
    select l.id, l.task_id, l.claim + 1, 1, l.run_at, v_now, clock_timestamp(), array[p_orchestrator],
           coalesce(v_reader, 'a process that is gone'), left(o.reason, 4000)
      from conductor.live_executions l
      join unnest(p_ids, p_claims, p_reasons, p_orchestrators) as o(id, claim, reason, orchestrator)
        on o.id = l.id and o.claim = l.claim and (o.orchestrator is null or o.orchestrator = l.orchestrator_id)
     where l.id = any (v_held)
     order by l.id
        on conflict (execution_id) do update
       set left_claim = excluded.left_claim, noted_at = excluded.noted_at, reader = excluded.reader,
           reason = excluded.reason,
           times = case when u.left_claim = excluded.left_claim - 2 then u.times + 1 else 1 end,
           run_at = case when u.left_claim = excluded.left_claim - 2 then u.run_at else excluded.run_at end,
           since = case when u.left_claim = excluded.left_claim - 2 then u.since else excluded.since end,
           tried = case when u.left_claim = excluded.left_claim - 2
                        then array(select o.id from conductor.orchestrators o where o.id = any (u.tried || excluded.tried))
                        else excluded.tried end;
    perform conductor.give_back(v_held, null);
    -- If a task has very many, each is tried less often: about 20 a second in all, for up to 12,000, beyond
    -- which they are not counted.
    v_rests := (select jsonb_object_agg(c.task_id, c.count / 20)
                  from (select distinct u.task_id from conductor.unreadable u where u.execution_id = any (v_held)) g
                 cross join lateral (
                       select g.task_id, count(*) as count
                         from (select from conductor.unreadable n where n.task_id = g.task_id limit 12000) n) c);
    update conductor.live_executions l
       set run_at = v_now + interval '1 s' * case
               when exists (select from conductor.orchestrators o
                             where l.task_id = any (o.task_ids) and o.id <> all (u.tried)
                               and o.lease_until > clock_timestamp() and o.drain_for is null)
               then least(0.1 * power(2, least(u.times - 1, 6)), 5)
               else greatest(least(power(2, least(u.times - 1, 6)), 60), (v_rests ->> u.task_id::text)::integer) end
      from conductor.unreadable u
     where l.id = any (v_held) and l.state = 'pending' and u.execution_id = l.id and u.execution_id = any (v_held);
    return cardinality(v_held);
end
$$;

-- Removes notes of executions that have continued or ended, at most p_limit. A note that counts is renewed
-- while a process with its task lives. Called by prune. Returns the number of notes that were removed.
-- Locks: unreadable (waits).
create or replace function conductor.prune_unreadable(p_limit integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_nestloop = off set enable_mergejoin = off set jit = off
as $$
declare
    v_ids uuid[];
    v_claims integer[];
    v_live uuid[];
    v_count integer;
begin
    select array_agg(n.execution_id), array_agg(n.left_claim) into v_ids, v_claims
      from (select u.execution_id, u.left_claim from conductor.unreadable u
             where u.noted_at < clock_timestamp() - interval '10 minutes'
             order by u.execution_id
             limit p_limit) n;
    if v_ids is null then
        return 0;
    end if;
    v_live := array(
        select l.id from conductor.live_executions l
          join unnest(v_ids, v_claims) as n(id, claim) on n.id = l.id and n.claim = l.claim
         where l.id = any (v_ids) and l.state = 'pending');
    -- A note that no process renews now is not examined again before the others.
    update conductor.unreadable u set noted_at = clock_timestamp() where u.execution_id = any (v_live);
    delete from conductor.unreadable u
     where u.execution_id = any (v_ids) and u.execution_id <> all (v_live)
       and u.noted_at < clock_timestamp() - interval '10 minutes';
    get diagnostics v_count = row_count;
    return v_count;
end
$$;
