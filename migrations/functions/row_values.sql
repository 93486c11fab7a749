-- Notes a fault of the trigger, for people: in the row of this fault that no other session has locked, or in a
-- new one, up to 100 rows for each table and operation. Never fails the user's statement, except with
-- serialization_failure. Called by rows_changed.
-- Locks: row_faults (if free, or a new row).
create or replace function conductor.note_row_fault(
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

-- Returns an expression that makes a value ready for JSON without calling anything that a role other than
-- superusers and the owner of this schema has defined. JSON takes values by their type's cast to json, if there
-- is one, and the owner of a type can define that cast. So a value of a foreign type is taken by the type's
-- output function, which that role cannot define: as text, and an array as an array of texts. Values of
-- built-in types, and of the owner's own types, are taken as they are. Called by row_columns.
create or replace function conductor.row_value(p_value text, p_type oid) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
    v_type record;
    v_text text;
begin
    -- FirstNormalObjectId: initdb has made everything below.
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
    -- Not "is null", which is also true for a row of nulls.
    return format('case when num_nulls(%s) = 0 then %s end', p_value, v_text);
end
$$;

-- Returns columns of a table as a select list, either as JSON takes them or unchanged. Fails if the table does
-- not have a column: "r.name" would be a call of a function, name(r). Called by rows_query.
create or replace function conductor.row_columns(p_relation oid, p_columns text[], p_json boolean) returns text
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
                 -- A built-in type, as in row_value, but without the call: each statement of the user pays for
                 -- it.
                 when v_column.type < 16384 then v_column.value || ' as ' || quote_ident(v_column.name)
                 else format('%s as %I', conductor.row_value(v_column.value, v_column.type), v_column.name) end);
    end loop;
    return v_list;
end
$$;

-- Returns a query on the transition tables that returns, for each change, what a task or a wait receives: the
-- operation, and the old and the new row as JSON of these columns. The two tables of an update have its rows in
-- the same order, so they are paired by position, also if the key changes. With p_key they are paired by these
-- columns instead. Called by rows_changed.
create or replace function conductor.rows_query(
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
                  -- By their bytes: every type has this comparison, and no operator of the user's is called.
                  case when v_changed is null then '' else 'where n.d *<> o.d' end,
                  case when p_key is null then 'order by o.i' else '' end);
end
$$;
