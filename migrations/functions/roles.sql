-- Roles, for databases in which not every user is the owner.
--
-- conductor_client invokes, emits, cancels, retries and reads. Each of its changes goes through a function that
-- checks its arguments. conductor_worker works: it reads and writes the tables of executions and calls the
-- functions, but owns nothing and cannot change the schema. It changes declarations (tasks, limits, schedules,
-- subscriptions, row triggers) only through functions. SECURITY.md has all rights. Both are roles of the whole
-- server, without login; the role of an application becomes a member:  grant conductor_client to app;
--
-- Conductor works without them. `migrate --roles` makes them, and each migration grants existing roles the
-- rights on what it adds.

-- Gives those of the two roles that exist exactly their rights on this schema. Called by migrations and
-- create_roles.
create or replace function conductor.grant_roles() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_function regprocedure;
begin
    if exists (select from pg_roles where rolname = 'conductor_client') then
        revoke all on all tables in schema conductor from conductor_client;
        revoke all on all functions in schema conductor from conductor_client;
        grant usage on schema conductor to conductor_client;
        grant select on all tables in schema conductor to conductor_client;
        for v_function in
            select p.oid::regprocedure from pg_proc p
             where p.pronamespace = 'conductor'::regnamespace
               and p.proname in ('invoke', 'invoke_many', 'emit', 'emit_many', 'watch_event', 'event_effect', 'cancel', 'retry', 'watch',
                                 'declare_missing', 'why_not_running', 'now', 'is_plain', 'json_field', 'careful_field',
                                 'as_uuid', 'shown')
        loop
            execute format('grant execute on function %s to conductor_client', v_function);
        end loop;
    end if;
    if exists (select from pg_roles where rolname = 'conductor_worker') then
        revoke all on all tables in schema conductor from conductor_worker;
        revoke all on all functions in schema conductor from conductor_worker;
        grant usage on schema conductor to conductor_worker;
        grant select, insert, update, delete on all tables in schema conductor to conductor_worker;
        revoke insert, update, delete on table conductor.migrations, conductor.function_set, conductor.clock, conductor.tasks, conductor.limits,
               conductor.schedules, conductor.subscriptions, conductor.event_types, conductor.row_triggers,
               conductor.row_watches, conductor.row_rules from conductor_worker;
        grant execute on all functions in schema conductor to conductor_worker;
        revoke execute on function conductor.advance_clock(interval), conductor.grant_roles(),
               conductor.create_roles(), conductor.rows_changed(), conductor.number_lane(),
               conductor.make_row_trigger(regclass, text) from conductor_worker;
    end if;
end
$$;

-- Makes those of the two roles that do not exist, and gives both their rights. The caller must be able to
-- create roles and must own the schema. Called by `migrate --roles`.
create or replace function conductor.create_roles() returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_role text;
begin
    foreach v_role in array array['conductor_client', 'conductor_worker'] loop
        begin
            if not exists (select from pg_roles where rolname = v_role) then
                execute format('create role %I nologin', v_role);
            end if;
        exception when duplicate_object or unique_violation then
            null; -- Another database of this server has just made it.
        end;
    end loop;
    perform conductor.grant_roles();
end
$$;
