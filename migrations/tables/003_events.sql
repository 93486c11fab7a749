-- Events: facts that start executions and end waits.
--
-- The log (events) is the truth. An event enters it under the lock of its name. The lock orders all events of
-- one name, and with them the executions of the tasks that are subscribed. A session that is about to wait
-- takes the same lock, shared, and then looks into the log in a statement of its own, so that an event and a
-- wait cannot miss each other. Only short transactions hold the lock. An event that is emitted in a user's
-- transaction is in the inbox (event_inbox) until that commits, and then an orchestrator moves it into the log
-- (conductor.dispatch). It counts as emitted from then on, except for deadlines of waits: for these the time
-- counts at which it was put into the inbox.
--
-- Existing waits are ended in portions. A row in event_deliveries has an event whose waits were not all looked
-- at yet, and how far the delivery has come. The next event of the name is delivered after it. An execution
-- receives an event once, for the first of its waits, in the order of keys, whose filter lets it through. A
-- wait for one value of a field is found by a hash of both, so an event looks at the waits that it may end, and
-- not at all waits for its name.
--
-- Locks are taken in this order: names by number, executions by id, waits. A delivery waits for no execution,
-- because it would hold the lock of the name as long as a user's transaction is open.

set local search_path = pg_catalog, pg_temp;

create table conductor.events (
    id uuid primary key,
    -- The order in which events of one name were emitted.
    seq bigint not null generated always as identity,
    name text collate "C" not null,
    payload json not null,
    -- When it entered the log. Not before the previous event of this name.
    emitted_at timestamptz not null,
    -- When it was put into the inbox, which counts for the deadlines of waits. Null if it entered the log at
    -- once.
    put_at timestamptz
);

create index events_name on conductor.events (name, emitted_at, seq);

-- In the order of time, for people who look at the last events.
create index events_emitted on conductor.events (emitted_at, seq);

-- Events that were emitted in transactions that have committed, and that are not in the log yet.
create table conductor.event_inbox (
    n bigint primary key generated always as identity,
    id uuid not null,
    name text collate "C" not null,
    payload json not null,
    -- When emit was called, or the row was changed. Null: when it enters the log.
    put_at timestamptz,
    bytes integer not null generated always as (octet_length(payload::text)) stored,
    constraint payload_has_at_most_128_mib check (bytes <= 128 * 1024 * 1024)
);

create index event_inbox_name on conductor.event_inbox (name, n);

-- Events whose waits have not all been looked at, and the last wait that was.
create table conductor.event_deliveries (
    seq bigint primary key,
    name text collate "C" not null,
    event_id uuid not null,
    after_execution uuid not null default '00000000-0000-0000-0000-000000000000',
    after_key text not null default ''
);

create index event_deliveries_name on conductor.event_deliveries (name, seq);

-- Executions that another session had locked when an event came for which they wait. They look into the log
-- once they are free. Until then no later event of the name is delivered to them.
create table conductor.event_revisits (
    execution_id uuid not null,
    name text collate "C" not null,
    -- The first event that they have missed.
    event_id uuid not null,
    primary key (execution_id, name)
);

-- The fields by which waits have asked for events of a name. Events after this one are in event_fields. A field
-- ends if no wait has asked for it as long as the events of the name are kept (at least a day): later events
-- are not noted by it, and its row is removed with the last event that was.
create table conductor.event_paths (
    name text collate "C" not null,
    path text[] not null,
    from_at timestamptz not null,
    from_seq bigint not null,
    -- When a wait last asked for it, to the hour.
    used_at timestamptz not null,
    ended_at timestamptz,
    primary key (name, path)
);

-- The values of these fields in events, as numbers (conductor.field_hash), so that a wait finds earlier events.
-- Written with the event, and removed with it.
create table conductor.event_fields (
    name text collate "C" not null,
    hash bigint not null,
    emitted_at timestamptz not null,
    seq bigint not null,
    primary key (name, hash, emitted_at, seq)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1);

-- The events that start executions of tasks. If a task has several filters for an event, one match is enough.
create table conductor.subscriptions (
    task_id integer not null references conductor.tasks (id) on delete cascade,
    event text collate "C" not null,
    n integer not null,
    -- Null: each event of the name.
    filter jsonb,
    event_version integer not null,
    -- The crate that declares it, as in schedules.
    owner text not null,
    primary key (task_id, event, n)
);

create index subscriptions_event on conductor.subscriptions (event);

-- What programs know about events, for the command line.
create table conductor.event_types (
    name text collate "C" primary key,
    version integer not null,
    package text not null,
    place text not null,
    docs text not null,
    schema jsonb not null,
    -- How long its events are kept. Null: seven days.
    keep_ms bigint
);

-- Events whose effects a caller has asked for (the command `emit --wait`), and these effects.
create table conductor.event_watches (
    event_id uuid primary key,
    started uuid[] not null default '{}',
    woken uuid[] not null default '{}',
    watched_at timestamptz not null default clock_timestamp()
);
