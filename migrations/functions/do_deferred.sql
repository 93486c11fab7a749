-- Cancels children that their parents no longer wait for, with their own children, and without waiting for a
-- lock: a claim that meets them must not wait. Detached children are left alone. Called by settle and
-- do_deferred. Returns the children that were not cancelled, because another session has locked a row that this
-- needs.
-- Locks: live_executions (the tree of each child level by level, by id, if free), as is_turn_locked, as cancel.
create or replace function conductor.cancel_free(p_ids uuid[]) returns uuid[]
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_reason constant text := 'its parent did not wait any longer';
    v_id uuid;
    v_level uuid[];
    v_locked uuid[];
    v_tree uuid[];
    v_left uuid[] := '{}';
begin
    for v_id in
        select c.id from conductor.live_executions c
         where c.id = any (p_ids) and not c.detached order by c.id
    loop
        -- As in cancel, each level is locked before the next one is looked for. The caller holds the parent, or
        -- it has ended.
        v_level := array[v_id];
        v_tree := '{}';
        loop
            v_locked := array(
                select l.id from conductor.live_executions l
                 where l.id = any (v_level) order by l.id for no key update skip locked);
            exit when cardinality(v_locked)
                < (select count(*) from conductor.live_executions l where l.id = any (v_level));
            v_tree := v_tree || v_locked;
            v_level := array(
                select c.id from conductor.live_executions c
                 where c.parent_id = any (v_locked) and c.parent_id is not null and not c.detached
                   and c.id <> all (v_tree));
            exit when cardinality(v_level) = 0;
        end loop;
        if cardinality(v_level) > 0 or conductor.is_turn_locked(v_tree) then
            v_left := v_left || v_id;
        else
            perform conductor.cancel(v_id, v_reason);
        end if;
    end loop;
    return v_left;
end
$$;

-- Does what was deferred for executions that were locked, if they are free now, at most p_limit of each kind.
-- Waits for no execution. Called by orchestrators at each heartbeat. Returns how many are done.
-- Locks: deferred (if free), live_executions (parents, by id, if free), as cancel_free, as come_back, as
--   lock_held, as give_back.
create or replace function conductor.do_deferred(p_limit integer, p_max_crashes integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set jit = off
as $$
declare
    v_late uuid[];
    v_left uuid[];
    v_held uuid[];
    v_claims integer[];
    v_free uuid[];
    v_what text;
    v_most integer;
    v_count integer := 0;
begin
    if not exists (select from conductor.deferred d) then
        return 0;
    end if;
    -- In random order: executions that stay locked must not block the others for ever.
    v_late := array(
        select d.execution_id from conductor.deferred d
         where d.what = 'cancel' order by random() limit p_limit for update skip locked);
    if cardinality(v_late) > 0 then
        -- Parents first, as everywhere. If another session has locked the parent, the child stays.
        v_free := array(
            select p.id from conductor.live_executions p
             where p.id = any (array(select c.parent_id from conductor.live_executions c where c.id = any (v_late)))
             order by p.id for no key update skip locked);
        v_left := array(
            select c.id from conductor.live_executions c
             where c.id = any (v_late) and c.parent_id <> all (v_free)
               and exists (select from conductor.live_executions p where p.id = c.parent_id));
        v_left := v_left || conductor.cancel_free(array(select id from unnest(v_late) as id except select id from unnest(v_left) as id));
        delete from conductor.deferred d
         where d.what = 'cancel' and d.execution_id = any (v_late) and d.execution_id <> all (v_left);
        get diagnostics v_count = row_count;
    end if;

    v_late := array(
        select d.execution_id from conductor.deferred d
         where d.what = 'turn' order by random() limit p_limit for update skip locked);
    if cardinality(v_late) > 0 then
        v_count := v_count + conductor.come_back(v_late);
    end if;

    foreach v_what in array array['disown', 'orphan'] loop
        v_most := case when v_what = 'orphan' then p_max_crashes end;
        select array_agg(d.execution_id), array_agg(d.claim) into v_held, v_claims
          from (select g.execution_id, g.claim from conductor.deferred g
                 where g.what = v_what order by random() limit p_limit for update skip locked) d;
        continue when v_held is null;
        v_free := conductor.lock_held(v_held, v_most);
        v_free := array(
            select l.id from conductor.live_executions l
              join unnest(v_held, v_claims) as g(id, claim) on g.id = l.id and g.claim = l.claim
             where l.id = any (v_free));
        v_count := v_count + conductor.give_back(v_free, v_most);
        delete from conductor.deferred d
         using unnest(v_held, v_claims) as g(id, claim)
         where d.what = v_what and d.execution_id = g.id and d.claim = g.claim
           and not exists (select from conductor.live_executions l
                            where l.id = g.id and l.claim = g.claim and l.state = 'running');
    end loop;
    return v_count;
end
$$;
