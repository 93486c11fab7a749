-- Locks those of these names whose locks are free, at most 16, and returns them. If none is free, waits at most
-- 250 ms for the first one, because other sessions may hold each of the locks for moments. Called by dispatch.
-- Locks: event names (exclusive; tries; waits for the first one if none is free).
create or replace function conductor.try_lock_events(p_names text[]) returns text[]
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '250ms'
as $$
declare
    v_name text;
    v_names text[] := '{}';
begin
    foreach v_name in array p_names loop
        if pg_try_advisory_xact_lock(hashtextextended('conductor.event ' || v_name, 0)) then
            v_names := v_names || v_name;
            exit when cardinality(v_names) >= 16;
        end if;
    end loop;
    if cardinality(v_names) = 0 and cardinality(p_names) > 0 then
        begin
            perform conductor.lock_events(p_names[1:1], true);
            v_names := p_names[1:1];
        exception when lock_not_available then
            null;
        end;
    end if;
    return v_names;
end
$$;

-- Returns the names of which something is to be dispatched. Names whose oldest event has waited longest come
-- first, so that busy names do not hold up the others; names with events in the inbox come before names with
-- deliveries only. Goes from name to name, so that no number of events of one name hides another name. Looks at
-- p_limit names, and also at the names of the first p_limit events, at most 100. Called by dispatch.
create or replace function conductor.waiting_names(p_limit integer) returns text[]
language plpgsql stable set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_names text[];
begin
    v_names := array(
        with recursive names as (
            (select b.name, b.n from conductor.event_inbox b order by b.name, b.n limit 1)
            union all
            select o.name, o.n from names a
             cross join lateral (
                   select b.name, b.n from conductor.event_inbox b
                    where b.name > a.name order by b.name, b.n limit 1) o
        )
        select i.name
          from ((select a.name, a.n from names a limit p_limit)
                union all
                (select b.name, b.n from conductor.event_inbox b order by b.n limit least(p_limit, 100))) i
         group by i.name order by min(i.n));
    return v_names || array(
        with recursive names as (
            (select b.name, b.seq from conductor.event_deliveries b order by b.name, b.seq limit 1)
            union all
            select o.name, o.seq from names a
             cross join lateral (
                   select b.name, b.seq from conductor.event_deliveries b
                    where b.name > a.name order by b.name, b.seq limit 1) o
        )
        select d.name
          from ((select a.name, a.seq from names a limit p_limit)
                union all
                (select b.name, b.seq from conductor.event_deliveries b order by b.seq limit least(p_limit, 100))) d
         where d.name <> all (v_names)
         group by d.name order by min(d.seq));
end
$$;

-- Moves events that were emitted in transactions from the inbox into the log, and continues deliveries: for at
-- most 16 names, p_limit events and p_limit waits of each. Called by orchestrators. Returns true if nothing is
-- left, false if there is more to do, and null if other sessions have held the locks of all names, so that the
-- caller tries again later.
-- Locks: as try_lock_events, as revisit, as take_inbox, as publish, as deliver.
create or replace function conductor.dispatch(p_limit integer) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_names text[];
    v_name text;
    v_ids uuid[];
    v_of text[];
    v_payloads text[];
    v_put_at timestamptz[];
    v_done boolean := true;
    v_none boolean;
    v_revisited boolean := true;
begin
    v_names := conductor.waiting_names(p_limit);
    v_none := cardinality(v_names) = 0;
    -- Names whose lock is taken are handled by the other session, or stay for the next call. Before revisit,
    -- which locks executions, because this may wait for a moment.
    v_names := conductor.try_lock_events(v_names);
    if exists (select from conductor.event_revisits r) then
        v_revisited := conductor.revisit(p_limit);
    end if;
    if v_none then
        return v_revisited;
    elsif cardinality(v_names) = 0 then
        return case when v_revisited then null else false end;
    end if;
    select t.ids, t.names, t.payloads, t.put_at into v_ids, v_of, v_payloads, v_put_at
      from conductor.take_inbox(v_names, p_limit, 16 * 1024 * 1024) t;
    if v_ids is not null then
        perform conductor.publish(v_ids, v_of, v_payloads, v_put_at);
    end if;
    foreach v_name in array v_names loop
        v_done := conductor.deliver(v_name, p_limit) and v_done;
    end loop;
    return v_done and v_revisited
       and not exists (select from conductor.event_inbox i)
       and not exists (select from conductor.event_deliveries d);
end
$$;
