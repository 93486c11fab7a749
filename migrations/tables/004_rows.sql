-- Row changes: inserts, updates and deletes in users' tables that start executions and end waits.
--
-- A table that is listened to has one trigger for each operation (conductor_insert, conductor_update,
-- conductor_delete). It runs once for each statement, with transition tables. The trigger is always the same.
-- What it does is data: rows of row_triggers (for tasks) and row_watches (for waits). So a deploy that changes
-- columns, filters or tasks needs no lock on the user's table. Executions are inserted in the user's own
-- statement, by one insert per task for each 8 MiB of changes, and they commit or disappear with it. For waits,
-- each change is put into the inbox of events, under a name that no caller can emit; 003_events.sql describes
-- the rest.
--
-- The trigger runs with the rights of the owner of this schema, because a role that writes the table need not
-- have rights on this schema. So it must not evaluate anything that other roles have defined (row_value), and
-- only the owner can put it on a table, or install_row_trigger for a caller that may make triggers there. The
-- only text that becomes SQL are names of columns, each by format('%I') and only if the table has the column.
-- Filters are data. A fault in the trigger is noted in row_faults and never breaks the user's statement. The
-- changed rows are read once for each task, by a query that is planned for each statement. What is done with
-- them has plans that are kept (take_changes).

set local search_path = pg_catalog, pg_temp;

-- The changes that start executions of tasks.
create table conductor.row_triggers (
    task_id integer not null references conductor.tasks (id) on delete cascade,
    -- A name in dumps, otherwise a number: it stays with a table that is renamed.
    relation regclass not null,
    op text not null check (op in ('insert', 'update', 'delete')),
    -- The columns that the task reads.
    columns text[] not null,
    -- An update counts if the value of one of these has changed. Null: each update.
    changed text[],
    -- A filter on {"old": ..., "new": ...}. Null: each change.
    filter jsonb,
    -- The crate that declares it, as in schedules.
    owner text not null,
    primary key (task_id, relation, op)
);

create index row_triggers_relation on conductor.row_triggers (relation, op);

-- The changes that enter the log of events, because executions wait for them or have waited for them.
create table conductor.row_watches (
    -- The name of the event, which contains all the rest.
    event text collate "C" primary key,
    relation regclass not null,
    op text not null check (op in ('insert', 'update', 'delete')),
    columns text[] not null,
    changed text[],
    -- To the hour.
    used_at timestamptz not null
);

create index row_watches_relation on conductor.row_watches (relation, op);

-- How often the rules of a table and operation have changed. A transaction whose snapshot is older than a
-- change, at a level at which it keeps that snapshot, finds that out here (see_row_rules).
create table conductor.row_rules (
    relation regclass not null,
    op text not null,
    version bigint not null,
    primary key (relation, op)
);

-- Faults of the trigger, a few rows for each. If another transaction has locked the row of a fault, a new row
-- is made, up to a limit, so that no user waits.
create table conductor.row_faults (
    id bigint primary key generated always as identity,
    relation regclass not null,
    op text not null,
    -- Null if it was a watch.
    task_id integer,
    code text not null,
    message text not null,
    times bigint not null,
    first_at timestamptz not null,
    last_at timestamptz not null
) with (fillfactor = 50);

create index row_faults_of on conductor.row_faults (relation, op, task_id);

-- A rule while the trigger applies it.
create type conductor.row_rule as (
    -- Identifies the rule.
    rule text,
    columns text[],
    changed text[],
    filter jsonb,
    -- Null for a wait.
    task_id integer,
    queue_id integer,
    priority integer,
    -- Null for a task.
    event text,
    -- The query that rows_query makes of it.
    query text
);
