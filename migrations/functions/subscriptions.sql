-- Declares the subscriptions of a program that starts, and the events that it knows. Subscriptions of these
-- crates (p_owners) that it does not declare are removed, unless the task is not one of its own (p_tasks) and a
-- living process has it.
-- Locks: the declarations of subscriptions (advisory, waits), subscriptions (inserts, waits), event_types
--   (inserts, waits, by name).
create or replace function conductor.declare_subscriptions(
    p_owners text[], p_tasks integer[], p_subscriptions jsonb, p_events jsonb) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform conductor.wait_for_lock(hashtextextended('conductor.declare_subscriptions', 0), false, 'the lock of the declarations of subscriptions');
    delete from conductor.subscriptions s
     using conductor.tasks t
     where t.id = s.task_id and s.owner = any (p_owners)
       and not exists (select from jsonb_to_recordset(p_subscriptions) as d(task text, event text, n integer)
                        where d.task = t.name and d.event = s.event and d.n = s.n)
       and (t.id = any (p_tasks)
            or not exists (select from conductor.orchestrators o
                            where t.id = any (o.task_ids) and o.lease_until > clock_timestamp()));
    insert into conductor.subscriptions as s (task_id, event, n, filter, event_version, owner)
    select t.id, d.event, d.n, nullif(d.filter, 'null'), d.event_version, d.owner
      from jsonb_to_recordset(p_subscriptions) as d(
           task text, event text, n integer, filter jsonb, event_version integer, owner text)
      join conductor.tasks t on t.name = d.task
     order by t.id, d.event, d.n
        on conflict (task_id, event, n) do update
       set filter = excluded.filter, event_version = excluded.event_version, owner = excluded.owner
     where (s.filter, s.event_version, s.owner)
           is distinct from (excluded.filter, excluded.event_version, excluded.owner);

    insert into conductor.event_types as e (name, version, package, place, docs, schema, keep_ms)
    select d.name, d.version, d.package, d.place, d.docs, d.schema, d.keep_ms
      from jsonb_to_recordset(p_events) as d(
           name text, version integer, package text, place text, docs text, schema jsonb, keep_ms bigint)
     order by d.name
        on conflict (name) do update
       set version = excluded.version, package = excluded.package, place = excluded.place,
           docs = excluded.docs, schema = excluded.schema, keep_ms = excluded.keep_ms
     where (e.version, e.package, e.place, e.docs, e.schema, e.keep_ms)
           is distinct from
           (excluded.version, excluded.package, excluded.place, excluded.docs, excluded.schema, excluded.keep_ms);
end
$$;

-- Requests, before an event is emitted, that its effects are noted. Called by clients (`emit --wait`).
-- Locks: event_watches (inserts).
create or replace function conductor.watch_event(p_id uuid) returns void
language sql volatile security definer set search_path = pg_catalog, pg_temp
as $$
    insert into conductor.event_watches (event_id) values (p_id) on conflict (event_id) do nothing
$$;

-- Returns what a watched event has done so far. done is true if that is all: the event is in the log, and all
-- executions that were waiting when it came have been looked at. Called by clients (`emit --wait`).
create or replace function conductor.event_effect(
    p_id uuid, out done boolean, out started uuid[], out woken uuid[])
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select exists (select from conductor.events e where e.id = p_id)
               and not exists (select from conductor.event_deliveries d where d.event_id = p_id)
               and not exists (select from conductor.event_revisits r where r.event_id = p_id),
           coalesce(w.started, '{}'), coalesce(w.woken, '{}')
      from (select) o
      left join conductor.event_watches w on w.event_id = p_id
$$;

-- Returns how long events of a name are kept.
create or replace function conductor.event_keep(p_name text) returns interval
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select coalesce((select t.keep_ms from conductor.event_types t where t.name = p_name) * interval '1 ms',
                    interval '7 days')
$$;
