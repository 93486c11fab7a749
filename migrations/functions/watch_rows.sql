-- Makes changes of rows enter the log of events, and returns the name of these events, and in installed whether
-- the table has the trigger. With p_ddl a missing trigger is made. Called by workers when a handler waits for a
-- row.
--
-- Once this has committed, each change that commits later is seen: writers that began before were waited for,
-- and a transaction with an older snapshot that writes the table later must be tried again.
-- Locks: nothing if the watch was used within the last hour. Otherwise the declarations of row triggers
--   (advisory, waits), row_watches (one row, inserts, waits), the user's table (share row exclusive, waits
--   p_patience; not if the watch is known), as row_rules_have_changed.
create or replace function conductor.watch_rows(
    p_relation regclass, p_op text, p_columns text[], p_changed text[], p_ddl boolean, p_patience interval,
    out event text, out installed boolean)
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := conductor.now();
    v_fresh boolean;
begin
    perform conductor.check_row_table(p_relation, p_op);
    select format('conductor:%s %I.%I (%s)', p_op, n.nspname, c.relname,
                  (select string_agg(format('%I', g), ', ') from unnest(p_columns) as g))
           || coalesce((select ' of (' || string_agg(format('%I', g), ', ') || ')' from unnest(p_changed) as g), '')
      into event
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.oid = p_relation;
    installed := (select r.name from conductor.row_trigger(p_relation, p_op) r) is not null;
    if installed and exists (
           select from conductor.row_watches w
            where w.event = watch_rows.event and w.relation = p_relation and w.used_at > v_now - interval '1 hour') then
        return;
    end if;
    perform conductor.wait_for_lock(hashtextextended('conductor.row_triggers', 0), false, 'the lock of the triggers of row changes');
    -- Another session may have made it meanwhile.
    installed := (select r.name from conductor.row_trigger(p_relation, p_op) r) is not null;
    perform from conductor.row_watches w where w.event = watch_rows.event and w.relation = p_relation for update;
    v_fresh := not found;
    insert into conductor.row_watches as w (event, relation, op, columns, changed, used_at)
    values (watch_rows.event, p_relation, p_op, p_columns, p_changed, v_now)
        on conflict on constraint row_watches_pkey do update
       set relation = excluded.relation, used_at = excluded.used_at;
    perform set_config('lock_timeout', ceil(extract(epoch from p_patience) * 1000)::text, true);
    if p_ddl and not installed then
        perform conductor.make_row_trigger(p_relation, p_op);
        installed := true;
    elsif v_fresh and has_table_privilege(conductor.caller(), p_relation, 'update, delete, truncate')
          and has_table_privilege(p_relation, 'update, delete, truncate') then
        execute (select format('lock table only %I.%I in share row exclusive mode', n.nspname, c.relname)
                   from pg_class c join pg_namespace n on n.oid = c.relnamespace
                  where c.oid = p_relation);
    end if;
    if v_fresh then
        perform conductor.row_rules_have_changed(array[p_relation], array[p_op]);
    end if;
end
$$;

-- Removes watches that no wait has used for seven days, faults that are as old, and rules of tables that no
-- longer exist. A chore of the orchestrators.
-- Locks: row_watches, row_faults, row_rules (waits).
create or replace function conductor.prune_row_watches() returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    delete from conductor.row_watches w
     where w.used_at < conductor.now() - interval '7 days'
       and not exists (select from conductor.waits o where o.event_name = w.event and o.event_name <> '');
    delete from conductor.row_faults f where f.last_at < conductor.now() - interval '7 days';
    delete from conductor.row_rules r where not exists (select from pg_class c where c.oid = r.relation);
end
$$;
