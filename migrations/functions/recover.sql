-- Locks those of these executions that run and that no other session has locked, and returns them. If an
-- execution will end, because it was cancelled or may have crashed too often (p_max_crashes; null: crashes do
-- not count), its parent is locked first, as by all functions that end a child. If another session has locked
-- the parent, the child is not returned. Called by recover, recover_orphans, stop_orchestrator, disown and
-- do_deferred. Waits for nothing.
-- Locks: live_executions (parents, by id, if free; then the executions, by id, if free).
create or replace function conductor.lock_held(p_ids uuid[], p_max_crashes integer) returns uuid[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_nestloop = off
set enable_hashjoin = on set jit = off
as $$
declare
    v_most integer := coalesce(p_max_crashes, 2147483647);
    v_of uuid[];
    v_parents uuid[];
    v_ids uuid[];
begin
    v_of := array(
        select l.parent_id from conductor.live_executions l
         where l.id = any (p_ids) and l.parent_key is not null and (l.cancelled or l.crashes + 1 >= v_most));
    v_parents := array(
        select p.id from conductor.live_executions p
         where p.id = any (v_of) order by p.id for no key update skip locked);
    v_ids := array(
        select l.id from conductor.live_executions l
         where l.id = any (p_ids) and l.state = 'running' order by l.id for no key update skip locked);
    -- A statement of its own: a cancel may have committed before the lock was granted.
    v_of := array(
        select l.parent_id from conductor.live_executions l
         where l.id = any (v_ids) and l.parent_key is not null and (l.cancelled or l.crashes + 1 >= v_most));
    -- The parents that exist and that this session has not locked.
    v_of := array(
        select p.id from conductor.live_executions p where p.id = any (v_of)
        except select id from unnest(v_parents) as id);
    if cardinality(v_of) = 0 then
        return v_ids;
    end if;
    return array(
        select l.id from conductor.live_executions l
         where l.id = any (v_ids)
           and not (coalesce(l.parent_id = any (v_of), false) and l.parent_key is not null
                    and (l.cancelled or l.crashes + 1 >= v_most)));
end
$$;

-- Locks the parents of executions that will end, because they were cancelled or are in p_ending: parents before
-- children, everywhere. Called by release, postpone, leave_unreadable and suspend, before they lock the
-- executions.
-- Locks: live_executions (parents, waits, by id).
create or replace function conductor.lock_parents(p_ids uuid[], p_ending uuid[] default '{}') returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_parents uuid[] := array(
        select l.parent_id from conductor.live_executions l
         where l.id = any (p_ids) and (l.cancelled or l.id = any (p_ending)) and l.parent_key is not null);
begin
    if cardinality(v_parents) > 0 then
        perform from conductor.live_executions p where p.id = any (v_parents) order by p.id for no key update;
    end if;
end
$$;

-- Notes the executions that are in p_held but not in p_free, so that do_deferred gives them back when they are
-- free, with a crash charged or not. Another session has locked them, and their orchestrator has ended. Called
-- by recover, recover_orphans and stop_orchestrator.
-- Locks: deferred (inserts).
create or replace function conductor.defer_orphans(p_held uuid[], p_free uuid[], p_charged boolean) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_nestloop = off
set enable_hashjoin = on set jit = off
as $$
declare
    v_locked uuid[];
begin
    if cardinality(p_free) = cardinality(p_held) then
        return;
    end if;
    v_locked := array(select id from unnest(p_held) as id except select id from unnest(p_free) as id);
    insert into conductor.deferred (execution_id, what, claim)
    select l.id, case when p_charged then 'orphan' else 'disown' end, l.claim
      from conductor.live_executions l
     where l.id = any (v_locked) and l.state = 'running'
       and not exists (select from conductor.orchestrators o where o.id = l.orchestrator_id)
        on conflict do nothing;
end
$$;

-- Removes orchestrators whose lease has ended, and gives back what they held. An execution whose process has
-- died p_max_crashes times fails, because it probably kills the process. Executions that another session has
-- locked are given back when they are free, and the others do not wait for them. Called by orchestrators at
-- each heartbeat, and by retire. Returns the number of executions that were given back.
-- Locks: orchestrators (with an ended lease, if free), as free_lanes, as drop_retired_schedules, as lock_held,
--   deferred (inserts), as give_back.
create or replace function conductor.recover(p_max_crashes integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_dead bigint[];
    v_held uuid[];
    v_free uuid[];
    v_ids uuid[];
begin
    -- Most calls end here, and lock nothing.
    perform from conductor.orchestrators o where o.lease_until < clock_timestamp();
    if not found then
        return 0;
    end if;
    with expired as (
        select o.id from conductor.orchestrators o
         where o.lease_until < clock_timestamp()
           for update skip locked
    ), buried as (
        delete from conductor.orchestrators o using expired e where o.id = e.id returning o.id
    )
    select array_agg(b.id) into v_dead from buried b;
    if v_dead is null then
        return 0;
    end if;
    perform conductor.free_lanes(v_dead);
    perform conductor.drop_retired_schedules();
    v_held := array(
        select l.id from conductor.live_executions l where l.state = 'running' and l.orchestrator_id = any (v_dead));
    v_free := conductor.lock_held(v_held, p_max_crashes);
    v_ids := array(
        select l.id from conductor.live_executions l
         where l.id = any (v_free) and l.orchestrator_id = any (v_dead));
    perform conductor.defer_orphans(v_held, v_free, true);
    return conductor.give_back(v_ids, p_max_crashes);
end
$$;

-- Gives back executions that run under an orchestrator that does not exist, which should never happen. It reads
-- the whole table, so it is a chore of once an hour. Also calls heal_executions. Called by orchestrators.
-- Returns the number of executions that were given back.
-- Locks: as lock_held, as heal_executions, deferred (inserts), as give_back.
create or replace function conductor.recover_orphans(p_max_crashes integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp set jit = off
as $$
declare
    v_held uuid[] := array(
        select l.id from conductor.live_executions l
         where l.state = 'running'
           and not exists (select from conductor.orchestrators o where o.id = l.orchestrator_id));
    v_free uuid[] := conductor.lock_held(v_held, p_max_crashes);
    v_ids uuid[] := array(
        select l.id from conductor.live_executions l
         where l.id = any (v_free)
           and not exists (select from conductor.orchestrators o where o.id = l.orchestrator_id));
begin
    perform conductor.heal_executions();
    perform conductor.defer_orphans(v_held, v_free, true);
    return conductor.give_back(v_ids, p_max_crashes);
end
$$;

-- Removes an orchestrator that ends in order, and gives back what it still holds, without a charge. What runs
-- was due, so the part of its queues that is due is read, with an hour to spare for a clock that was set back.
-- Called by orchestrators.
-- Locks: orchestrators (its own row, waits), as free_lanes, as drop_retired_schedules, as lock_held, deferred
--   (inserts), as give_back.
create or replace function conductor.stop_orchestrator(p_orchestrator bigint) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_until timestamptz := conductor.now() + interval '1 hour';
    v_queues integer[];
    v_held uuid[];
    v_free uuid[];
    v_ids uuid[];
begin
    delete from conductor.orchestrators o where o.id = p_orchestrator returning o.queue_ids into v_queues;
    v_queues := v_queues || array(
        select -a.id from conductor.lanes a where a.holders ? p_orchestrator::text);
    perform conductor.free_lanes(array[p_orchestrator]);
    perform conductor.drop_retired_schedules();
    v_held := array(
        select held.id
          from unnest(v_queues) as q, conductor.priorities(q) as p,
               lateral (select l.id from conductor.live_executions l
                         where l.queue_id = q and l.priority = p and l.run_at <= v_until
                           and l.state = 'running' and l.orchestrator_id = p_orchestrator) held);
    v_free := conductor.lock_held(v_held, null);
    v_ids := array(
        select l.id from conductor.live_executions l
         where l.id = any (v_free) and l.orchestrator_id = p_orchestrator);
    perform conductor.defer_orphans(v_held, v_free, false);
    perform conductor.give_back(v_ids, null);
end
$$;
