-- Row changes: inserts, updates and deletes of the user's tables that start executions and end waits.
--
-- A table that somebody wants to hear of has one trigger an operation (conductor_insert,
-- conductor_update, conductor_delete), for each statement, with transition tables. It is always the same:
-- what is to be done is data, rows of row_triggers (tasks) and row_watches (waits), so that a deploy which
-- changes columns, filters or tasks needs no lock on the user's table. Executions are inserted in the
-- user's own statement, one insert a task for each 8 MiB of its changes, and commit or vanish with it.
-- For waits each change is put into the inbox of events, under a name that nobody else can emit, and the
-- rest is that of 0000000010_events.sql.
--
-- The trigger runs with the rights of this schema's owner, as whoever writes the table need not know
-- this schema. So nothing that others have defined may be evaluated in it (row_value), and only the owner
-- can put it on a table, or install_row_trigger for who may make triggers there. Names of columns are the
-- only text that becomes SQL, each by format('%I') and only where the table has it; filters are data. A
-- fault in here is noted in row_faults and never breaks the user's statement. The changed rows are read once a
-- task, by a query that is planned for each statement; what is done with them has plans that stay
-- (take_changes).

set local search_path = pg_catalog, pg_temp;

-- Which changes start executions of which tasks.
create table conductor.row_triggers (
    task_id integer not null references conductor.tasks (id) on delete cascade,
    -- By name in a dump, by number else: it stays with a table that is renamed.
    relation regclass not null,
    op text not null check (op in ('insert', 'update', 'delete')),
    -- The columns that the task reads.
    columns text[] not null,
    -- An update counts where the value of one of these changed; null: every update.
    changed text[],
    -- Over {"old": ..., "new": ...}; null: all of them.
    filter jsonb,
    -- Whose code declares it, as with schedules.
    owner text not null,
    primary key (task_id, relation, op)
);

create index row_triggers_relation on conductor.row_triggers (relation, op);

-- Which changes are put into the log of events, as executions wait for them, or did.
create table conductor.row_watches (
    -- The event's name, which says all the rest.
    event text collate "C" primary key,
    relation regclass not null,
    op text not null check (op in ('insert', 'update', 'delete')),
    columns text[] not null,
    changed text[],
    -- To the hour.
    used_at timestamptz not null
);

create index row_watches_relation on conductor.row_watches (relation, op);

-- How often the rules of a table and operation have changed. What began before a change, at a level whose
-- snapshot is that of the whole transaction, finds it out here (see_row_rules).
create table conductor.row_rules (
    relation regclass not null,
    op text not null,
    version bigint not null,
    primary key (relation, op)
);

-- Faults of the trigger, a few rows each: whoever meets one while another transaction has the row makes
-- one more, up to a limit, so that nobody waits.
create table conductor.row_faults (
    id bigint primary key generated always as identity,
    relation regclass not null,
    op text not null,
    -- Null where it was a watch.
    task_id integer,
    code text not null,
    message text not null,
    times bigint not null,
    first_at timestamptz not null,
    last_at timestamptz not null
) with (fillfactor = 50);

create index row_faults_of on conductor.row_faults (relation, op, task_id);

create function conductor.note_row_fault(
    p_relation regclass, p_op text, p_task integer, p_code text, p_message text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_now timestamptz := conductor.now();
    v_id bigint;
begin
    select f.id into v_id from conductor.row_faults f
     where f.relation = p_relation and f.op = p_op and f.task_id is not distinct from p_task and f.code = p_code
     limit 1
       for update skip locked;
    if found then
        update conductor.row_faults f set times = f.times + 1, last_at = v_now, message = p_message where f.id = v_id;
    elsif (select count(*) from conductor.row_faults f where f.relation = p_relation and f.op = p_op) < 100 then
        insert into conductor.row_faults (relation, op, task_id, code, message, times, first_at, last_at)
        values (p_relation, p_op, p_task, p_code, left(p_message, 1000), 1, v_now, v_now);
    end if;
exception when serialization_failure then
    raise;
when others then
    raise warning 'conductor could not note a fault of the trigger on %: %', p_relation, sqlerrm;
end
$$;

-- An expression that gives a value for JSON without calling anything that others than superusers and this
-- schema's owner have defined. JSON is made by a type's cast to json where it has one, and who owns the
-- type can make that; so a type of theirs is taken by its output function, which is none of theirs: as
-- text, and its arrays as arrays of texts. What is built in, or the owner's own, is taken as it is.
create function conductor.row_value(p_value text, p_type oid) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    v_type record;
    v_text text;
begin
    -- FirstNormalObjectId: what initdb has made.
    if p_type < 16384 then
        return p_value;
    end if;
    select t.typtype, t.typbasetype, t.typrelid, o.rolsuper or o.rolname = current_user as trusted,
           case when t.typsubscript = 'array_subscript_handler'::regproc then t.typelem else 0 end as element
      into v_type
      from pg_type t join pg_roles o on o.oid = t.typowner
     where t.oid = p_type;
    if v_type.typtype = 'd' then
        return conductor.row_value(p_value, v_type.typbasetype);
    elsif v_type.typtype = 'c' then
        select format('(select row_to_json(f.*) from (select %s) f)',
                      string_agg(format('%s as %I', conductor.row_value(g.field, g.atttypid), g.attname), ', ' order by g.attnum))
          into v_text
          from (select a.attname, a.attnum, a.atttypid, format('(%s).%I', p_value, a.attname) as field
                  from pg_attribute a
                 where a.attrelid = v_type.typrelid and a.attnum > 0 and not a.attisdropped) g
        having bool_or(conductor.row_value(g.field, g.atttypid) <> g.field);
    elsif v_type.element <> 0 then
        if conductor.row_value('v', v_type.element) <> 'v' then
            v_text := format('format(''%%s'', %s)::text[]', p_value);
        end if;
    elsif v_type.trusted is not true then
        v_text := format('format(''%%s'', %s)', p_value);
    end if;
    if v_text is null then
        return p_value;
    end if;
    -- Not "is null", which a row of nulls is too.
    return format('case when num_nulls(%s) = 0 then %s end', p_value, v_text);
end
$$;

-- The columns of a table as they stand in a select list, as JSON reads them or as they are. Only what the
-- table has: "r.name" of anything else would be a call, name(r).
create function conductor.row_columns(p_relation oid, p_columns text[], p_json boolean) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    v_column record;
    v_list text;
begin
    for v_column in
        select g.c as name, format('r.%I', g.c) as value, a.atttypid as type
          from unnest(p_columns) with ordinality as g(c, n)
          left join pg_attribute a on a.attrelid = p_relation and a.attname = g.c and a.attnum > 0 and not a.attisdropped
         order by g.n
    loop
        if v_column.type is null then
            raise exception 'column % of the table % (r) does not exist', v_column.value, p_relation::regclass
                using errcode = 'undefined_column';
        end if;
        v_list := concat_ws(', ', v_list,
            case when not p_json then v_column.value
                 -- What is built in, as row_value says, without the call: each statement of the user's pays for it.
                 when v_column.type < 16384 then v_column.value || ' as ' || quote_ident(v_column.name)
                 else format('%s as %I', conductor.row_value(v_column.value, v_column.type), v_column.name) end);
    end loop;
    return v_list;
end
$$;

-- A query on the transition tables that gives what a task or a wait gets of each change: the operation, and old
-- and new as JSON of these columns. The two tables of an update hold its rows in the same order, which pairs them
-- also where the key changes. With p_key they are paired by these columns instead.
create function conductor.rows_query(
    p_relation oid, p_op text, p_columns text[], p_changed text[], p_key text[]) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    v_columns text := coalesce(conductor.row_columns(p_relation, p_columns, true), '');
    v_changed text := case when p_changed is not null then conductor.row_columns(p_relation, p_changed, false) end;
    v_key text := case when p_key is not null then conductor.row_columns(p_relation, p_key, false) end;
    v_side constant text := 'select %s as i, row_to_json(c.*) as j, row(%s) as d from %I r cross join lateral (select %s) c';
    v_pair text := coalesce('row(' || v_key || ')', 'row_number() over ()');
begin
    if p_op = 'insert' then
        return format('select json_build_object(''op'', ''insert'', ''old'', null, ''new'', row_to_json(c.*))
                         from new_rows r cross join lateral (select %s) c', v_columns);
    elsif p_op = 'delete' then
        return format('select json_build_object(''op'', ''delete'', ''old'', row_to_json(c.*), ''new'', null)
                         from old_rows r cross join lateral (select %s) c', v_columns);
    end if;
    return format('select json_build_object(''op'', ''update'', ''old'', o.j, ''new'', n.j)
                     from (%s) o join (%s) n on n.i %s o.i %s %s',
                  format(v_side, v_pair, coalesce(v_changed, ''), 'old_rows', v_columns),
                  format(v_side, v_pair, coalesce(v_changed, ''), 'new_rows', v_columns),
                  case when p_key is null then '=' else '*=' end,
                  -- By their bytes: every type has that, and no operator of the user's is called.
                  case when v_changed is null then '' else 'where n.d *<> o.d' end,
                  case when p_key is null then 'order by o.i' else '' end);
end
$$;

-- Notes that rules have changed. The last thing that a transaction does: whoever writes the table at such a
-- level waits for it from here on.
create function conductor.row_rules_have_changed(p_relations regclass[], p_ops text[]) returns void
language sql volatile set search_path = pg_catalog, pg_temp
as $$
    insert into conductor.row_rules as r (relation, op, version)
    select distinct g.relation, g.op, 1 from unnest(p_relations, p_ops) as g(relation, op) order by 1, 2
        on conflict (relation, op) do update set version = r.version + 1;
$$;

-- Raises a serialization_failure where this transaction's snapshot is older than the rules: it would not see
-- them, and the change would be lost for who listens. That is what "on conflict do nothing" does when it
-- meets a row that the snapshot does not have. It locks and writes nothing where there is a row, and what it inserts
-- where there is none (a trigger made by hand, for which nothing has been declared) is undone at once.
create function conductor.see_row_rules(p_relation oid, p_op text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
begin
    insert into conductor.row_rules (relation, op, version) values (p_relation, p_op, 0) on conflict do nothing;
    if found then
        raise exception using errcode = 'CD000';
    end if;
exception when sqlstate 'CD000' then
    null;
end
$$;

-- The id of the nth change of a statement: a UUIDv7 as conductor.uuid7 makes it, 1/4096 ms behind the one
-- before. All changes of a statement share their random end.
create function conductor.change_id(p_ticks bigint, p_n bigint, p_end text) returns uuid
language sql immutable parallel safe
return (lpad(to_hex((((p_ticks + p_n) >> 12) << 16) | 28672 | ((p_ticks + p_n) & 4095)), 16, '0') || p_end)::uuid;

-- A rule at work in the trigger.
create type conductor.row_rule as (
    -- What tells it from the others.
    rule text,
    columns text[],
    changed text[],
    filter jsonb,
    -- Null of a wait.
    task_id integer,
    queue_id integer,
    priority integer,
    -- Null of a task.
    event text,
    -- What rows_query makes of it.
    query text
);

-- Does with changes what a rule says: starts an execution for each that its filter takes, or puts each into the
-- inbox of events. Returns whether there was one. It stands apart from the trigger for its plans, which live as long
-- as the session.
create function conductor.take_changes(
    p_rule conductor.row_rule, p_changes json[], p_trigger json, p_now timestamptz, p_ticks bigint, p_end text)
    returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
    v_changes json[] := p_changes;
begin
    if p_rule.filter is not null then
        -- With an offset what the filter reads is made once, and not at each place of as_jsonb.
        v_changes := array(select s.change
                             from (select g.change, conductor.as_jsonb(g.change) as read
                                     from unnest(p_changes) as g(change) offset 0) s
                            where conductor.matches(p_rule.filter, s.read));
    end if;
    if cardinality(v_changes) = 0 then
        return false;
    end if;
    if p_rule.event is not null then
        insert into conductor.event_inbox (id, name, payload, put_at)
        select conductor.change_id(p_ticks, g.n, p_end), p_rule.event, g.change, p_now
          from unnest(v_changes) with ordinality as g(change, n);
    else
        insert into conductor.live_executions (
               id, run_at, created_at, queue_id, task_id, priority, order_key, trigger, payload, bytes)
        select conductor.change_id(p_ticks, g.n, p_end), p_now, p_now, p_rule.queue_id, p_rule.task_id,
               p_rule.priority,
               conductor.order_key(
                   (select t.ordered_by from conductor.tasks t where t.id = p_rule.task_id), g.change), p_trigger, g.change, octet_length(g.change::text)
          from unnest(v_changes) with ordinality as g(change, n);
    end if;
    return true;
end
$$;

-- The one trigger function.
create function conductor.rows_changed() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres' set bytea_output = 'hex'
set extra_float_digits = 1 set jit = off
as $$
declare
    c_longest constant integer := 128 * 1024 * 1024;
    -- So much of a statement's changes is held at once, and the one that passes it.
    c_bytes constant integer := 8 * 1024 * 1024;
    v_ticks bigint := floor(extract(epoch from clock_timestamp()) * 1000 * 4096);
    v_end text := translate(substr(gen_random_uuid()::text, 20), '-', '');
    v_op text := lower(tg_op);
    v_trigger json := json_build_object('kind', 'row', 'op', v_op,
                                        'table', format('%I.%I', tg_table_schema, tg_table_name));
    v_rule conductor.row_rule;
    v_rules conductor.row_rule[];
    v_now timestamptz;
    v_key text[];
    v_count bigint;
    v_change json;
    v_size integer;
    -- Changes for the rule at work, and their bytes; whether it has taken one.
    v_changes json[];
    v_bytes integer;
    v_taken boolean;
    v_queues integer[];
    v_watched boolean;
    -- The rules that have failed; the one at work, and its task.
    v_failed text[] := '{}';
    v_at text;
    v_task integer;
begin
    -- One subtransaction for all rules, as each statement of the user's pays for it. Where a rule fails,
    -- all is done again without it.
    loop
        begin
            v_at := null;
            v_task := null;
            v_queues := null;
            v_watched := false;
            -- A statement that changed nothing, and an update whose rows are not all there in pairs: one that
            -- moves a row to another partition, where a trigger of the user's drops it.
            if tg_op = 'INSERT' then
                if not exists (select from new_rows) then
                    return null;
                end if;
            elsif tg_op = 'DELETE' then
                if not exists (select from old_rows) then
                    return null;
                end if;
            else
                select count(*) into v_count from new_rows;
                if v_count = 0 then
                    return null;
                elsif v_count <> (select count(*) from old_rows) then
                    v_key := coalesce(
                        (select array_agg(a.attname::text) from pg_index i
                           join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
                          where i.indrelid = tg_relid and i.indisprimary), '{}');
                end if;
            end if;

            if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
                perform conductor.see_row_rules(tg_relid, v_op);
            end if;
            -- All queries are made before the first row is written: most rules that fail do so here, and then
            -- nothing is done twice.
            v_now := conductor.now();
            v_rules := '{}';
            for v_rule in
                select 'task ' || r.task_id, r.columns, r.changed, r.filter, r.task_id, t.queue_id, t.priority, null, null
                  from conductor.row_triggers r
                  join conductor.tasks t on t.id = r.task_id
                 where r.relation = tg_relid and r.op = v_op
                union all
                select w.event, w.columns, w.changed, null, null, null, null, w.event, null
                  from conductor.row_watches w
                 where w.relation = tg_relid and w.op = v_op
            loop
                continue when v_rule.rule = any (v_failed);
                v_at := v_rule.rule;
                v_task := v_rule.task_id;
                if v_key = '{}' then
                    raise exception 'the old and the new rows of an update cannot be paired: % has no primary key',
                        tg_relid::regclass;
                end if;
                v_rule.query := conductor.rows_query(tg_relid, v_op, v_rule.columns, v_rule.changed, v_key);
                v_rules := v_rules || v_rule;
            end loop;
            foreach v_rule in array v_rules loop
                v_at := v_rule.rule;
                v_task := v_rule.task_id;
                v_taken := false;
                v_changes := '{}';
                v_bytes := 0;
                for v_change in execute v_rule.query loop
                    v_size := octet_length(v_change::text);
                    if v_size > c_longest then
                        perform conductor.note_row_fault(
                            tg_relid, v_op, v_task, '54000',
                            'a change has more than 128 MiB of JSON and is left out: let the task or the wait read fewer columns');
                        continue;
                    end if;
                    v_changes := v_changes || v_change;
                    v_bytes := v_bytes + v_size;
                    if v_bytes >= c_bytes then
                        v_taken := conductor.take_changes(v_rule, v_changes, v_trigger, v_now, v_ticks, v_end) or v_taken;
                        v_ticks := v_ticks + cardinality(v_changes);
                        v_changes := '{}';
                        v_bytes := 0;
                    end if;
                end loop;
                v_taken := conductor.take_changes(v_rule, v_changes, v_trigger, v_now, v_ticks, v_end) or v_taken;
                v_ticks := v_ticks + cardinality(v_changes);
                if v_taken and v_rule.event is null then
                    v_queues := v_queues || v_rule.queue_id;
                end if;
                v_watched := v_watched or v_taken and v_rule.event is not null;
            end loop;
            v_at := null;
            if v_queues is not null then
                perform conductor.wake((select array_agg(distinct q) from unnest(v_queues) as q), true);
            end if;
            if v_watched and conductor.may_notify() then
                perform pg_notify('conductor', 'events:');
            end if;
            return null;
        exception when serialization_failure then
            -- The user's transaction is lost whatever we do; it has to be told to try again.
            raise;
        when others then
            perform conductor.note_row_fault(tg_relid, v_op, v_task, sqlstate, sqlerrm);
            if v_at is null then
                return null;
            end if;
            v_failed := v_failed || v_at;
        end;
    end loop;
end
$$;

-- The trigger of an operation, where the table has it.
create function conductor.row_trigger(p_relation regclass, p_op text, out name text, out enabled boolean)
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

-- What makes the trigger of an operation; null for a word that is none.
create function conductor.row_trigger_sql(p_relation regclass, p_op text) returns text
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

-- All operations of tables that are wanted or have the trigger, for people and for the command check.
create function conductor.list_row_triggers()
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

-- What went wrong in triggers, the latest first.
create function conductor.list_row_faults()
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

-- What a program's code wants to hear of, at its start; as with conductor.declare_schedules.
create function conductor.declare_row_triggers(p_owners text[], p_tasks integer[], p_rules jsonb) returns void
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

-- Refuses what no trigger of ours belongs on: neither the system's tables, nor temporary ones, nor views.
create function conductor.check_row_table(p_relation regclass, p_op text) returns void
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

-- Who calls, within a function that runs with its owner's rights.
create function conductor.caller() returns name
language sql stable set search_path = pg_catalog, pg_temp
as $$ select case current_setting('role') when 'none' then session_user else current_setting('role')::name end $$;

-- Makes the trigger of an operation, for a caller who may make triggers on the table. The trigger's
-- function is this schema's owner's alone, so it is the owner who makes it.
create function conductor.make_row_trigger(p_relation regclass, p_op text) returns void
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

-- Makes the trigger of an operation, unless the table has it. The lock that this takes makes those who
-- write the table wait, so we wait for it no longer than p_patience.
create function conductor.install_row_trigger(p_relation regclass, p_op text, p_patience interval) returns void
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

-- Drops a trigger that neither a task nor a wait needs. False where the lock was not to be had in time, or
-- the table is not ours.
create function conductor.remove_row_trigger(p_relation regclass, p_op text, p_patience interval) returns boolean
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

-- Lets changes enter the log of events, and gives the name under which they do. With p_ddl the trigger is
-- made where it is missing. When this has committed, every later commit of a change is seen: whoever
-- was writing the table before has been waited for, and what has an older snapshot and writes it later has to
-- try again.
create function conductor.watch_rows(
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
    -- Somebody else may have made it meanwhile.
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

-- Forgets watches that nobody has used for as long as events are kept, faults that are as old, and tables that are gone.
create function conductor.prune_row_watches() returns void
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

revoke execute on all functions in schema conductor from public;
