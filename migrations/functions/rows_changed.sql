-- Applies a rule to changes: makes an execution for each change that passes the filter, or puts each change
-- into the inbox of events. Called by rows_changed. It is a function of its own so that its plans live as long
-- as the session. Returns whether there was such a change.
-- Locks: event_inbox or live_executions (new rows).
create or replace function conductor.take_changes(
    p_rule conductor.row_rule, p_changes json[], p_trigger json, p_now timestamptz, p_ticks bigint, p_end text)
    returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan set jit = off
as $$
declare
    v_changes json[] := p_changes;
    v_path text[];
begin
    if p_rule.filter is not null then
        -- With `offset 0`, what the filter reads is made once, and not at each place of as_jsonb.
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
        -- As a variable: with a subquery as argument, order_key would be called for each row (4 us).
        v_path := (select t.ordered_by from conductor.tasks t where t.id = p_rule.task_id);
        insert into conductor.live_executions (
               id, run_at, created_at, queue_id, task_id, priority, order_key, trigger, payload, bytes)
        select conductor.change_id(p_ticks, g.n, p_end), p_now, p_now, p_rule.queue_id, p_rule.task_id,
               p_rule.priority, conductor.order_key(v_path, g.change), p_trigger, g.change, octet_length(g.change::text)
          from unnest(v_changes) with ordinality as g(change, n);
    end if;
    return true;
end
$$;

-- Applies all rules of a table and operation to the changes of a statement (tables/004_rows.sql). The one
-- trigger function. A rule that fails is noted in row_faults and does not break the statement.
-- Locks: as see_row_rules (at repeatable read and serializable), event_inbox and live_executions (new rows),
--   row_faults (if free).
create or replace function conductor.rows_changed() returns trigger
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp
set timezone = 'UTC' set datestyle = 'ISO' set intervalstyle = 'postgres' set bytea_output = 'hex'
set extra_float_digits = 1 set jit = off
as $$
declare
    c_longest constant integer := 128 * 1024 * 1024;
    -- So many bytes of changes are held at once, plus the change that exceeds the number.
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
    -- The changes for the current rule, their size, and whether the rule has taken one.
    v_changes json[];
    v_bytes integer;
    v_taken boolean;
    v_queues integer[];
    v_watched boolean;
    -- The rules that have failed, the current rule, and its task.
    v_failed text[] := '{}';
    v_at text;
    v_task integer;
begin
    -- One subtransaction for all rules, because each statement of the user pays for it. If a rule fails,
    -- everything is done again without it.
    loop
        begin
            v_at := null;
            v_task := null;
            v_queues := null;
            v_watched := false;
            -- Finds statements that changed nothing, and updates whose rows are not all in pairs: the update
            -- has moved a row to another partition, and there a trigger of the user has dropped it.
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
            -- The user's transaction is lost in any case. It must know that a retry helps.
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
