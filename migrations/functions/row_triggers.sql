-- Returns the trigger of an operation, or nulls if the table does not have it.
create or replace function conductor.row_trigger(p_relation regclass, p_op text, out name text, out enabled boolean)
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select t.tgname, t.tgenabled in ('O', 'A')
      from pg_trigger t
     where t.tgrelid = p_relation and t.tgfoid = 'conductor.rows_changed()'::regprocedure
       and not t.tgisinternal
       -- TRIGGER_TYPE_INSERT, _DELETE, _UPDATE.
       and t.tgtype & case p_op when 'insert' then 4 when 'delete' then 8 when 'update' then 16 else 0 end <> 0
     order by t.tgenabled in ('O', 'A') desc
     limit 1;
$$;

-- Returns the statement that makes the trigger of an operation, or null if p_op is not an operation. Called by
-- make_row_trigger and the command line.
create or replace function conductor.row_trigger_sql(p_relation regclass, p_op text) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select format(
        'create trigger %I after %s on %I.%I referencing %s for each statement execute function conductor.rows_changed()',
        'conductor_' || p_op, p_op, n.nspname, c.relname,
        case p_op when 'insert' then 'new table as new_rows' when 'delete' then 'old table as old_rows'
                  else 'old table as old_rows new table as new_rows' end)
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     where c.oid = p_relation and p_op in ('insert', 'update', 'delete');
$$;

-- Returns all tables and operations that a task or a wait listens to, or that have the trigger. For people, and
-- for the command `check`.
create or replace function conductor.list_row_triggers()
returns table (
    relation regclass, table_name text, op text, tasks text[], watches text[], trigger_name text, enabled boolean)
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select k.relation, coalesce(format('%I.%I', n.nspname, c.relname), k.relation::text), k.op,
           array(select t.name from conductor.row_triggers r join conductor.tasks t on t.id = r.task_id
                  where r.relation = k.relation and r.op = k.op order by t.name),
           array(select w.event from conductor.row_watches w
                  where w.relation = k.relation and w.op = k.op order by w.event),
           g.name, coalesce(g.enabled, false)
      from (select r.relation, r.op from conductor.row_triggers r
             union
            select w.relation, w.op from conductor.row_watches w
             union
            select t.tgrelid::regclass, o.op
              from pg_trigger t
              join (values ('insert', 4), ('delete', 8), ('update', 16)) as o(op, bit) on t.tgtype & o.bit <> 0
             where t.tgfoid = 'conductor.rows_changed()'::regprocedure and not t.tgisinternal) k
      left join pg_class c on c.oid = k.relation
      left join pg_namespace n on n.oid = c.relnamespace
     cross join lateral conductor.row_trigger(k.relation, k.op) g
     order by 2, 3;
$$;

-- Returns the faults of triggers, the latest first. For people.
create or replace function conductor.list_row_faults()
returns table (
    table_name text, op text, task text, code text, message text, times bigint, first_at timestamptz,
    last_at timestamptz)
language sql stable set search_path = pg_catalog, pg_temp
as $$
    select coalesce(format('%I.%I', n.nspname, c.relname), f.relation::text), f.op, t.name, f.code,
           (array_agg(f.message order by f.last_at desc))[1], sum(f.times)::bigint, min(f.first_at), max(f.last_at)
      from conductor.row_faults f
      left join pg_class c on c.oid = f.relation
      left join pg_namespace n on n.oid = c.relnamespace
      left join conductor.tasks t on t.id = f.task_id
     group by f.relation, n.nspname, c.relname, f.op, t.name, f.code
     order by max(f.last_at) desc;
$$;

-- Fails with CD002 if the trigger cannot be on this table: a table of the system or of Conductor, a temporary
-- table, or a view.
create or replace function conductor.check_row_table(p_relation regclass, p_op text) returns void
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    if p_op is null or p_op not in ('insert', 'update', 'delete') then
        raise exception 'a change is an insert, an update or a delete, not "%"', p_op using errcode = 'CD002';
    end if;
    perform from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.oid = p_relation and c.relkind in ('r', 'p') and c.relpersistence <> 't'
        and n.nspname not in ('conductor', 'information_schema') and n.nspname !~ '^pg_';
    if not found then
        raise exception '% is no table whose rows can be listened to', p_relation
            using errcode = 'CD002', hint = 'Name an ordinary or partitioned table of your own.';
    end if;
end
$$;

-- Returns the role that has called a function that runs with its owner's rights.
create or replace function conductor.caller() returns name
language sql stable set search_path = pg_catalog, pg_temp
as $$ select case current_setting('role') when 'none' then session_user else current_setting('role')::name end $$;

-- Makes the trigger of an operation, for a caller who may make triggers on the table. Only the owner of this
-- schema may use the trigger's function, so the owner makes the trigger. Called by install_row_trigger and
-- watch_rows.
-- Locks: the user's table (share row exclusive, waits).
create or replace function conductor.make_row_trigger(p_relation regclass, p_op text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    perform conductor.check_row_table(p_relation, p_op);
    if not has_table_privilege(conductor.caller(), p_relation, 'trigger') then
        raise exception 'permission denied for table %', p_relation using errcode = 'insufficient_privilege';
    elsif not has_table_privilege(current_user, p_relation, 'trigger') then
        raise exception 'permission denied for table % to %, who owns the schema conductor', p_relation, current_user
            using errcode = 'insufficient_privilege';
    end if;
    execute conductor.row_trigger_sql(p_relation, p_op);
end
$$;

-- Makes the trigger of an operation if the table does not have it. Waits at most p_patience for the lock of the
-- table, because sessions that write the table wait behind this one. Called by orchestrators when they start.
-- Locks: the declarations of row triggers (advisory, waits), as make_row_trigger.
create or replace function conductor.install_row_trigger(p_relation regclass, p_op text, p_patience interval) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
begin
    perform conductor.wait_for_lock(hashtextextended('conductor.row_triggers', 0), false, 'the lock of the triggers of row changes');
    if (select r.name from conductor.row_trigger(p_relation, p_op) r) is null then
        perform set_config('lock_timeout', ceil(extract(epoch from p_patience) * 1000)::text, true);
        perform conductor.make_row_trigger(p_relation, p_op);
    end if;
end
$$;

-- Drops the trigger of an operation if no task and no wait needs it. A chore of the orchestrators. Returns
-- false if a lock was not free in time, or if another role owns the table.
-- Locks: the declarations of row triggers (advisory, waits), the user's table (access exclusive, waits
--   p_patience).
create or replace function conductor.remove_row_trigger(p_relation regclass, p_op text, p_patience interval) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_name text;
begin
    perform conductor.wait_for_lock(hashtextextended('conductor.row_triggers', 0), false, 'the lock of the triggers of row changes');
    if exists (select from conductor.row_triggers r where r.relation = p_relation and r.op = p_op)
       or exists (select from conductor.row_watches w where w.relation = p_relation and w.op = p_op) then
        return true;
    end if;
    select r.name into v_name from conductor.row_trigger(p_relation, p_op) r;
    if v_name is null then
        return true;
    end if;
    perform set_config('lock_timeout', ceil(extract(epoch from p_patience) * 1000)::text, true);
    execute (select format('drop trigger %I on %I.%I', v_name, n.nspname, c.relname)
               from pg_class c join pg_namespace n on n.oid = c.relnamespace
              where c.oid = p_relation);
    return true;
exception when lock_not_available or insufficient_privilege then
    return false;
end
$$;

-- Declares the row changes to which a program that starts listens. Rules of these crates (p_owners) that it
-- does not declare are removed, unless the task is not one of its own (p_tasks) and a living process has it.
-- Locks: the declarations of row triggers (advisory, waits), row_triggers (inserts, waits), as
--   row_rules_have_changed.
create or replace function conductor.declare_row_triggers(p_owners text[], p_tasks integer[], p_rules jsonb) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
as $$
declare
    v_relations regclass[];
    v_ops text[];
begin
    perform conductor.wait_for_lock(hashtextextended('conductor.row_triggers', 0), false, 'the lock of the triggers of row changes');
    perform conductor.check_row_table(d.relation::regclass, d.op)
       from jsonb_to_recordset(p_rules) as d(relation oid, op text);
    delete from conductor.row_triggers r
     using conductor.tasks t
     where t.id = r.task_id and r.owner = any (p_owners)
       and not exists (select from jsonb_to_recordset(p_rules) as d(task text, relation oid, op text)
                        where d.task = t.name and d.relation = r.relation and d.op = r.op)
       and (t.id = any (p_tasks)
            or not exists (select from conductor.orchestrators o
                            where t.id = any (o.task_ids) and o.lease_until > clock_timestamp()));
    with changed as (
        insert into conductor.row_triggers as r (task_id, relation, op, columns, changed, filter, owner)
        select t.id, d.relation::regclass, d.op, d.columns, d.changed, nullif(d.filter, 'null'), d.owner
          from jsonb_to_recordset(p_rules) as d(
               task text, relation oid, op text, columns text[], changed text[], filter jsonb, owner text)
          join conductor.tasks t on t.name = d.task
         order by t.id, d.relation, d.op
            on conflict (task_id, relation, op) do update
           set columns = excluded.columns, changed = excluded.changed, filter = excluded.filter, owner = excluded.owner
         where (r.columns, r.changed, r.filter, r.owner)
               is distinct from (excluded.columns, excluded.changed, excluded.filter, excluded.owner)
        returning r.relation, r.op)
    select array_agg(c.relation), array_agg(c.op) into v_relations, v_ops from changed c;
    perform conductor.row_rules_have_changed(v_relations, v_ops);
end
$$;
