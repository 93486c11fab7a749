-- Ends fields that no wait has asked for as long as the events of their name are kept, at least a day. Removes
-- ended fields once no event is left that was noted by them. Called by prune_events.
-- Locks: for each name: the event name (exclusive, tries), event_paths (waits).
create or replace function conductor.end_event_paths() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_now timestamptz := conductor.now();
    v_path record;
    v_before timestamptz;
begin
    for v_path in
        select p.name, p.path, p.used_at, p.ended_at from conductor.event_paths p
         where p.used_at < v_now - interval '1 day'
         order by p.name, p.path
    loop
        v_before := least(v_now - conductor.event_keep(v_path.name), v_now - interval '1 day');
        continue when coalesce(v_path.ended_at, v_path.used_at) >= v_before;
        -- A session that is about to wait, or that writes events, has the lock. It is not waited for.
        continue when not pg_try_advisory_xact_lock(hashtextextended('conductor.event ' || v_path.name, 0));
        if v_path.ended_at is null then
            update conductor.event_paths p
               set used_at = case when w.waits then v_now else p.used_at end,
                   ended_at = case when w.waits then null else v_now end
              from (select exists (select from conductor.waits o
                                    where o.event_name = v_path.name and o.event_name <> ''
                                      and o.event_path = v_path.path) as waits) w
             where p.name = v_path.name and p.path = v_path.path and p.used_at = v_path.used_at;
        else
            delete from conductor.event_paths p
             where p.name = v_path.name and p.path = v_path.path and p.ended_at = v_path.ended_at
               and (select true from conductor.events e
                     where e.name = v_path.name and e.emitted_at <= v_path.ended_at limit 1) is null;
        end if;
    end loop;
end
$$;

-- Removes events that are older than their retention: of each name the oldest first, at most p_limit. Also
-- removes the notes of watch_event after an hour. Called by prune. Returns the number of events of the name of
-- which most were removed.
-- Locks: for each name: events (if free), event_fields (waits); then event_watches (waits), as end_event_paths.
create or replace function conductor.prune_events(p_limit integer) returns integer
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
as $$
declare
    v_name text collate "C" := '';
    v_before timestamptz;
    v_noted boolean;
    v_count integer;
    v_most integer := 0;
begin
    loop
        select e.name into v_name from conductor.events e where e.name > v_name order by e.name limit 1;
        exit when not found;
        v_before := conductor.now() - conductor.event_keep(v_name);
        v_noted := exists (select from conductor.event_paths p where p.name = v_name);
        with old as (
            select e.id, e.name, e.emitted_at, e.seq,
                   case when v_noted then array(select conductor.noted_hashes(e.name, conductor.as_jsonb(e.payload))) end as hashes
              from conductor.events e
             where e.name = v_name and e.emitted_at < v_before
             order by e.emitted_at, e.seq
             limit p_limit
               for update skip locked
        ), fields as (
            delete from conductor.event_fields f
             where f.ctid = any (array(
                   select k.ctid from old o
                    cross join lateral unnest(o.hashes) as h(hash)
                    cross join lateral (
                          select i.ctid from conductor.event_fields i
                           where i.name = o.name and i.hash = h.hash and i.emitted_at = o.emitted_at
                             and i.seq = o.seq limit 1) k))
        )
        delete from conductor.events e using old o where e.id = o.id;
        get diagnostics v_count = row_count;
        v_most := greatest(v_most, v_count);
    end loop;
    delete from conductor.event_watches w where w.watched_at < clock_timestamp() - interval '1 hour';
    perform conductor.end_event_paths();
    return v_most;
end
$$;
