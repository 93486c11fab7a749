-- Who may do what, for databases where not everybody is the owner.
--
-- conductor_client invokes, emits, cancels, retries, and reads; every change goes through functions that
-- check what they are given. conductor_worker works: it reads and writes the tables of what runs and calls
-- the functions, but owns nothing and cannot change the schema; what is declared (tasks, limits, schedules,
-- subscriptions, row triggers) it changes by functions only. SECURITY.md has all of it. Both are roles without login, of the whole
-- server; an application's role becomes a member:  grant conductor_client to app;
--
-- Nothing needs them. They are made by `migrate --roles`, and a migration gives what it brings to those
-- that are there.

set local search_path = pg_catalog, pg_temp;

-- Gives the roles that exist their rights on this schema, no more and no less.
create function conductor.grant_roles() returns void
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
        revoke insert, update, delete on table conductor.migrations, conductor.clock, conductor.tasks, conductor.limits,
               conductor.schedules, conductor.subscriptions, conductor.event_types, conductor.row_triggers,
               conductor.row_watches, conductor.row_rules from conductor_worker;
        grant execute on all functions in schema conductor to conductor_worker;
        revoke execute on function conductor.advance_clock(interval), conductor.grant_roles(),
               conductor.create_roles(), conductor.rows_changed(), conductor.number_lane(),
               conductor.make_row_trigger(regclass, text) from conductor_worker;
    end if;
end
$$;

-- Makes the two roles where they are missing, and gives them their rights. The caller may create roles
-- and owns the schema.
create function conductor.create_roles() returns void
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

revoke execute on all functions in schema conductor from public;
