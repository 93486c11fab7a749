-- Conductor: durable tasks on nothing but Postgres.
--
-- The story. A *task* is a function in somebody's program; it is declared here under its name when
-- the program starts. To *invoke* it is to insert one row into live_executions; from then on the
-- *execution* happens, whatever crashes. A *worker* (one queue in one process) claims rows that are
-- due, runs the handlers, and finishes: the row moves from live_executions to finished_executions.
-- An *orchestrator* is one process with its workers; it renews a lease by heartbeat, and when the
-- lease runs out, any other one gives its executions back.
--
-- The rules.
--   * Every change of state is one function in this schema: one round trip, atomic. psql, triggers
--     and other languages use the same functions as the Rust client.
--   * Every claim of an execution raises its claim number. Whoever writes for an execution names
--     the number; a write with an old number matches no row (fencing).
--   * Live and finished executions are two tables, so that neither claims nor vacuum know how long
--     the history is. A claim changes no indexed column, and finds the room for its row version in
--     the same page (fillfactor), so that it is a HOT update.
--   * What is due is decided by run_at alone: a delayed, sleeping or waiting execution lies behind
--     the end of the index range that claims read.
--   * Time is conductor.now(), the server's clock, which tests may shift. Leases alone use the
--     unshifted clock: they are about processes that live in real time.
--   * No plan depends on statistics. Between bursts the live tables are empty, so autovacuum notes 0 rows in
--     them, and the plans are kept when they are full again. Hot functions plan once (force_generic_plan), and
--     read a table by an index and an array of keys ("l.id = any (p_ids)"), joined to the arrays by hash
--     (enable_nestloop = off), or row by row ("cross join lateral (select ... limit 1)"). The order of joins
--     is never left to the planner. A value of a table that is small is looked up by a scalar subquery.
--   * pg_notify takes a lock on the whole server, so nothing notifies once per execution. A worker
--     that runs out of work sets queues.idle; the next invoke clears it and notifies, once.
--     Messages on the channel "conductor":
--         queue:ID  done:EXECUTION  cancel:EXECUTION  clock:MILLISECONDS  schedules:  events:  version:
--
-- Public functions: invoke, emit, cancel, retry, schedule, unschedule, pause_schedule, resume_schedule,
-- trigger_schedule, pause_queue, resume_queue, why_not_running. A role that may only invoke:
--     grant usage on schema conductor to app;
--     grant execute on function conductor.invoke to app;

set local search_path = pg_catalog, pg_temp;

create table conductor.clock (
    only_row boolean primary key default true check (only_row),
    shift interval not null default '0'
);

insert into conductor.clock (shift) values ('0');

create type conductor.execution_state as enum
    ('pending', 'running', 'suspended', 'completed', 'failed', 'cancelled');

create table conductor.queues (
    id integer generated always as identity primary key,
    name text not null unique check (octet_length(name) between 1 and 100),
    -- A worker of this queue sleeps: whoever invokes next clears this and notifies.
    idle boolean not null default false,
    -- Nothing of it is claimed until somebody resumes it.
    paused boolean not null default false
) with (fillfactor = 50);

create table conductor.tasks (
    id integer generated always as identity primary key,
    name text not null unique check (octet_length(name) between 1 and 100),
    queue_id integer not null references conductor.queues (id),
    -- The package that declares the task, and the file and line.
    package text not null default '',
    place text not null default '',
    docs text not null default '',
    priority integer not null default 0,
    max_attempts integer not null default 3 check (max_attempts > 0),
    backoff_initial interval not null default '15s',
    backoff_max interval not null default '2h',
    jitter double precision not null default 0.1 check (jitter between 0 and 1),
    timeout interval,
    -- When it may run: {"hours": "22:00-06:00", "days": "Mon-Fri", "timezone": "UTC"}; null: always.
    time_window jsonb,
    -- Where the key stands in the payload of which executions run one behind the other; null where they need not.
    ordered_by text[],
    -- Since when it has this one, in real time: a process that is older knows another.
    window_since timestamptz not null default clock_timestamp(),
    keep_completed interval not null default '7 days',
    keep_failed interval not null default '30 days',
    payload_schema jsonb not null default 'true',
    output_schema jsonb not null default 'true',
    declared_at timestamptz not null
);

create table conductor.orchestrators (
    number bigint generated always as identity,
    -- Of the milliseconds of its start: a server that lost the latest rows (a standby that took over, a crash without
    -- synchronous commit) counts from an older number, and must not give one's id to another. Numbers below 2^53, as
    -- JSON has them, until the year 2248.
    id bigint primary key generated always as (
        (floor(extract(epoch from started_at - timestamptz '1970-01-01 00:00:00+00') * 1000)::bigint << 10)
        + number % 1024) stored,
    host text not null,
    pid integer not null,
    queue_ids integer[] not null,
    task_ids integer[] not null,
    -- The static schedules that its code declares.
    schedule_ids bigint[] not null default '{}',
    -- The newest migration that its program knows.
    version integer not null default 0,
    -- It is to end, as a breaking migration of this number is to be applied.
    drain_for integer,
    started_at timestamptz not null,
    -- Real time, not conductor.now().
    lease_until timestamptz not null,
    -- How long it lasts, so that one which ends later than that is seen to be of a wrong clock.
    lease interval not null default '15 s',
    -- By queue: claims with a lower number come too late, as their worker has given up on them.
    fences jsonb not null default '{}'
) with (fillfactor = 50);

-- A breaking migration that waits for older processes to end: until then none may start. Who waits
-- renews this all the time, so that it is over by itself when he dies.
create table conductor.upgrade (
    only_row boolean primary key default true check (only_row),
    version integer not null,
    -- Real time, not conductor.now().
    until timestamptz not null
);

-- What one process of the cluster does at a time, whichever comes first.
create table conductor.chores (
    name text primary key,
    -- Real time, not conductor.now().
    due_at timestamptz not null,
    -- How far ahead that may be.
    every interval not null default '1 day',
    -- Up to where it has come, where it is done in portions.
    position uuid
) with (fillfactor = 50);

insert into conductor.chores (name, due_at)
select c.name, clock_timestamp() from unnest(array['prune', 'orphans', 'sweep', 'times']) as c(name);

create table conductor.live_executions (
    id uuid primary key,
    run_at timestamptz not null,
    created_at timestamptz not null,
    claimed_at timestamptz,
    -- Who runs it; null unless running.
    orchestrator_id bigint,
    -- The execution that invoked this one and waits for it, and under which key.
    parent_id uuid,
    parent_key text,
    -- The execution that this one repeats, by conductor.retry.
    retry_of uuid,
    -- The task's queue, or -lane where it waits for a limit, or 0 where it waits for its turn (0000000008_limits.sql).
    -- By a check and not by "not null", of which the planner would make use (see live_executions_due).
    queue_id integer check (queue_id is not null),
    task_id integer not null,
    priority integer not null,
    -- The fencing token: grows with every claim and every loss of one.
    claim integer not null default 0,
    -- The claim that was the last one to end in a suspension.
    suspended_claim integer not null default 0,
    -- How many records the run met that ended in it; and how many runs in a row met nothing of what they had waited
    -- for, with a key of that. Null where the last one did.
    met integer,
    astray integer,
    astray_key text,
    -- Attempts that failed by themselves, and attempts that died with their process.
    failures integer not null default 0,
    crashes integer not null default 0,
    -- Those of the crashes behind which it has got on: it has suspended, or recorded a step since.
    forgiven integer not null default 0,
    state conductor.execution_state not null default 'pending',
    -- Somebody waits for the outcome and wants a notification.
    watched boolean not null default false,
    cancelled boolean not null default false,
    -- Not cancelled with its parent.
    detached boolean not null default false,
    -- How often in a row a child's end has woken it although it waited for more.
    partial_wakes integer not null default 0,
    -- What the payload adds to an answer: a claim must know it without reading the payload. At most 128 MiB, with
    -- which a claim can still bring it beside all its records; whoever takes a payload sees to that. Every
    -- statement that writes a payload writes it: a generated column and a constraint cost each insert 12 us.
    bytes integer not null default 0,
    cancel_reason text,
    -- run_at is the opening of the task's window.
    postponed boolean not null default false,
    -- It is the one that its dedupe_key stands for. A debounced one is that until a worker claims it,
    -- so that the next call makes another.
    holds_key boolean not null default false,
    debounced boolean not null default false,
    -- Who may not have a second one that has not started; '' where it is debounced without a key.
    dedupe_key text collate "C",
    -- Those of one task with the same one run one behind the other (conductor.turns); null: it waits for no other.
    order_key text collate "C",
    -- What started it, where it was not an invoke: {"kind": "schedule", "name": ..., "scheduled_at": ...}
    trigger json,
    -- json and not jsonb: values must come back exactly as they were written.
    payload json not null,
    -- The text of the last failure.
    error text
) with (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.2,
    autovacuum_analyze_scale_factor = 0.2,
    autovacuum_vacuum_cost_delay = 0
);

-- The order of claims. No claim changes any of these columns.
--
-- The predicate is true of every row, and is implied only by a condition on queue_id: so the planner cannot
-- use this index for look-ups by id, which it takes for as cheap as those by the primary key while
-- pg_class.reltuples is 0, as after each vacuum that meets an idle queue. Each would walk the whole index.
create index live_executions_due on conductor.live_executions (queue_id, priority desc, run_at, id)
 where queue_id is not null;

-- The arbiter of dedupe keys. Those without one are not in it, and claims leave it alone but for
-- debounced ones.
create unique index live_executions_key on conductor.live_executions (task_id, debounced, dedupe_key)
 where holds_key;

-- One repeat at a time.
create unique index live_executions_retry on conductor.live_executions (retry_of) where retry_of is not null;
create index live_executions_parent on conductor.live_executions (parent_id) where parent_id is not null;

-- The order of turns.
create index live_executions_order on conductor.live_executions (task_id, order_key, created_at, id)
 where order_key is not null;

-- Those that wait for their turn, which are set aside.
create index live_executions_aside on conductor.live_executions (task_id, order_key, created_at, id) where queue_id = 0;

-- For those who look whether a running one was cancelled.
create index live_executions_cancelled on conductor.live_executions (id) where cancelled;

create table conductor.finished_executions (
    id uuid primary key,
    created_at timestamptz not null,
    -- Null where it was cancelled before any worker had it.
    claimed_at timestamptz,
    finished_at timestamptz not null,
    -- When the pruner may remove it.
    expires_at timestamptz not null,
    parent_id uuid,
    retry_of uuid,
    queue_id integer not null,
    task_id integer not null,
    priority integer not null,
    claim integer not null,
    failures integer not null,
    crashes integer not null,
    state conductor.execution_state not null check (state in ('completed', 'failed', 'cancelled')),
    dedupe_key text collate "C",
    trigger json,
    payload json not null,
    -- Of one that has failed, the code and the details of its error, where it has some.
    output json,
    error text
) with (
    -- What is appended, and removed at the other end: vacuumed in small pieces, so that the pruner does
    -- not walk over what it has removed, and the room is used again.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 1
);

create index finished_executions_expiry on conductor.finished_executions (expires_at);
-- The repeats of one, the last of which the next one goes on from.
create index finished_executions_retry on conductor.finished_executions (retry_of, id) where retry_of is not null;

-- For those who look for what went wrong. Not for what was completed, which is most of it and must cost no more.
create index finished_executions_ended_badly on conductor.finished_executions (state, id)
 where state in ('failed', 'cancelled');

-- The slots of throttled invokes: what the first one made, and until when it is the only one.
create table conductor.throttles (
    task_id integer not null,
    -- '' where the slot is the task's own.
    key text collate "C" not null,
    execution_id uuid not null,
    until timestamptz not null,
    lasts interval not null,
    primary key (task_id, key)
) with (fillfactor = 80);

create index throttles_until on conductor.throttles (until);

-- Invokes that replaced the payload of an execution, so that one that is sent again after its
-- connection broke does not replace a later one; kept for an hour.
create table conductor.replacements (
    id uuid primary key,
    execution_id uuid not null,
    -- Real time, not conductor.now().
    replaced_at timestamptz not null
);

-- One row a failed attempt, for the people who ask what happened.
create table conductor.failures (
    execution_id uuid not null,
    attempt integer not null,
    failed_at timestamptz not null,
    error text not null,
    primary key (execution_id, attempt)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1);

-- The memo: what a step gave stays what it gave. Fenced by the claim that wrote it. A child's
-- outcome stands here too, written by the child's end.
create table conductor.steps (
    execution_id uuid not null,
    key text not null,
    kind text not null,
    value json not null,
    recorded_at timestamptz not null,
    -- When what it records was over, where that is not recorded_at: an event was emitted, a deadline had passed.
    ended_at timestamptz,
    -- Of what came to a wait: the claim at that time. What came since the last suspension no run has judged;
    -- what came before it, the handler has had. Null where it has had it in any case.
    claim integer,
    -- Of an event that came to a wait, as whoever looks for the next one must not read the payloads: its id, when
    -- it was emitted, and conductor.filter_number of the wait, while all that this let through before was had.
    event_id uuid,
    event_at timestamptz,
    event_filter bigint,
    -- As of live_executions: the sum says what all records of an execution add to an answer, with what stands
    -- around a value in it.
    bytes integer not null generated always as (octet_length(value::text) + octet_length(key) + 60) stored,
    primary key (execution_id, key)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1);

-- What a suspended execution waits for. A sleep that is over stays here until its execution ends, as its
-- time is its record; a child's wait goes when the outcome comes, and what the handler wants no longer
-- with the next suspension.
create table conductor.waits (
    execution_id uuid not null,
    key text not null,
    kind text not null,
    -- Waits of one group are of use only together: the execution is woken when none is left.
    group_key text not null,
    -- The end of a sleep, or the deadline of a child or an event.
    wake_at timestamptz,
    child_id uuid,
    -- The event, and which of that name; null: any.
    event_name text collate "C",
    event_filter jsonb,
    -- Events with this number among those of their fields may match; 0: any may (conductor.filter_hash).
    event_hash bigint not null default 0,
    -- Where that field is; null where there is none.
    event_path text[],
    -- Up to which event it has looked at the log, where it has not come to its end; no event is handed to it
    -- meanwhile (its event_hash is -1).
    seen_at timestamptz,
    seen_seq bigint,
    primary key (execution_id, key)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Pending executions whose payload or records a worker could not read: they are left for a build that
-- can, charged with nothing. A note counts for as long as the execution has the claim number that it was
-- left with, so that nobody else has to touch it; what no longer counts is removed some time later.
create table conductor.unreadable (
    execution_id uuid primary key,
    task_id integer not null,
    left_claim integer not null,
    -- How often in a row it was left.
    times integer not null,
    -- When it was due at first: so it keeps its place.
    run_at timestamptz not null,
    since timestamptz not null,
    -- Real time, not conductor.now().
    noted_at timestamptz not null,
    -- The living processes that have tried, and the last of them, for people.
    tried bigint[] not null,
    reader text not null,
    reason text not null
) with (fillfactor = 70);

create index unreadable_task on conductor.unreadable (task_id);

-- Executions that were removed and whose steps, failures and waits are to follow: they had too many to
-- go in one portion, or were found without their execution.
create table conductor.remains (
    execution_id uuid primary key
);

-- Tasks that have moved to another queue, and from which one: an invoke in a transaction that is open
-- meanwhile still names that one, and what somebody has locked stays there for a while (conductor.follow_moves).
create table conductor.moves (
    task_id integer not null,
    queue_id integer not null,
    -- These in real time, not conductor.now().
    moved_at timestamptz not null default clock_timestamp(),
    looked_at timestamptz not null default clock_timestamp(),
    moved_by xid8 not null default pg_current_xact_id(),
    -- Up to where the look has come in the order of claims; null where it has come to the end. How many
    -- it has seen.
    at_priority integer,
    at_run_at timestamptz,
    at_id uuid,
    seen bigint not null default 0,
    primary key (task_id, queue_id)
);

-- What is still to be done with executions that somebody's open transaction had locked at the time: a
-- chore does it once they are free (conductor.do_deferred).
create table conductor.deferred (
    execution_id uuid not null,
    -- cancel: its parent did not wait any longer. disown: its process does not know of this claim, or has ended.
    -- orphan: its process has died. turn: the one before it has ended (conductor.pass_turns).
    what text not null check (what in ('cancel', 'disown', 'orphan', 'turn')),
    claim integer not null default 0,
    primary key (execution_id, what, claim)
);

-- With a predicate that only the delivery of an event states, as live_executions_due has one.
create index waits_event on conductor.waits (event_name, event_hash, execution_id, key) where event_name <> '';

-- The rules of 0000000007_schedule.sql.
create table conductor.schedules (
    id bigint generated always as identity primary key,
    task_id integer not null references conductor.tasks (id),
    name text not null,
    -- Made at run time, so that no deploy removes it; else declared by code.
    dynamic boolean not null,
    -- Whose code declares it: the package and the crate, "shop/worker"; empty where it is dynamic.
    owner text not null,
    cron text not null,
    timezone text not null,
    -- The rule until planned_from, where ticks of it up to then are still owed.
    former_cron text,
    former_timezone text,
    missed text not null check (missed in ('skip', 'once', 'all')),
    overlap text not null check (overlap in ('allow', 'skip')),
    -- Null where the code computes it from the tick.
    payload json,
    -- Grows with every change and every tick: who writes by an old number writes nothing.
    version bigint not null default 0,
    -- The next tick; null until a worker has computed the first one after planned_from, infinity
    -- where none will come.
    next_at timestamptz,
    planned_from timestamptz not null,
    -- The last tick that made an execution, and which.
    last_at timestamptz,
    last_execution uuid,
    paused boolean not null default false,
    -- Why the rule cannot be read; it rests until it is changed.
    fault text,
    -- Newer code has it no longer: it goes with the last process that declares it.
    retired boolean not null default false,
    constraint schedules_name unique (task_id, name, dynamic)
) with (fillfactor = 50);

-- Ticks of schedules that miss none and do not overlap (missed = all, overlap = skip), which wait for one another, in
-- their order. The first of a schedule runs; the others are due never (run_at is infinity) until those before
-- them have ended (conductor.release_ticks). The executions of ticks that wait for nobody are not here.
create table conductor.queued_ticks (
    schedule_id bigint not null,
    number bigint generated always as identity,
    execution_id uuid not null unique,
    at timestamptz not null,
    primary key (schedule_id, number)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Which execution of a task and a key has its turn, from its first claim to its end (0000000008_limits.sql).
create table conductor.turns (
    task_id integer not null,
    key text collate "C" not null,
    execution_id uuid not null unique,
    primary key (task_id, key)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

create index schedules_next on conductor.schedules (next_at) where not paused and fault is null;
create index schedules_retired on conductor.schedules (id) where retired;

-- Stored JSON is of type json, which holds what its functions refuse to read: U+0000 and halves of surrogate
-- pairs as \u escapes, escapes of characters that the database's encoding lacks, numbers beyond numeric,
-- thousands of levels. One such row must not fail a statement over many, so nothing looks into a column but
-- by the functions below. What is short and has no escapes is read in the caller's plan (these are
-- inlined, hence their form); the rest in a block that catches errors.
create function conductor.is_plain(p_json json) returns boolean
language sql stable parallel safe
return pg_column_size(p_json) < 2000 and pg_column_compression(p_json) is null and strpos(p_json::text, E'\\u') = 0;

-- Why Postgres cannot read it, in its own words; null where it can.
create function conductor.json_fault(p_json json) returns text
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    v_detail text;
begin
    perform p_json #>> '{}';
    perform p_json::jsonb;
    return null;
exception when data_exception or program_limit_exceeded or feature_not_supported then
    get stacked diagnostics v_detail = pg_exception_detail;
    return sqlerrm || coalesce(': ' || nullif(v_detail, ''), '');
end
$$;

create function conductor.careful_jsonb(p_json json) returns jsonb
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    return p_json::jsonb;
exception when data_exception or program_limit_exceeded or feature_not_supported then
    return null;
end
$$;

-- JSON for filters; null where they could not read it.
create function conductor.as_jsonb(p_json json) returns jsonb
language sql stable parallel safe
return case when conductor.is_plain(p_json) and p_json::text !~ '[eE][-+]?[0-9]{5}' then p_json::jsonb
            else conductor.careful_jsonb(p_json) end;

-- The key of executions whose payload cannot be read: they share a lane, and the worker fails them.
create function conductor.unreadable_key() returns text
language sql immutable parallel safe
return chr(1) || 'unreadable';

create function conductor.careful_key(p_json json, p_path text[]) returns text
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
    -- Without a path, too, as it tells whether the payload can be read.
    perform p_json #>> '{}';
    return p_json #>> p_path;
exception when data_exception or program_limit_exceeded or feature_not_supported then
    return conductor.unreadable_key();
end
$$;

-- The key of a limit in a payload.
create function conductor.lane_key(p_json json, p_path text[]) returns text
language sql stable parallel safe
return case when conductor.is_plain(p_json) then p_json #>> p_path else conductor.careful_key(p_json, p_path) end;

-- As it is stored.
create function conductor.short_key(p_key text) returns text
language sql immutable parallel safe
return case when p_key is null then 'null' when octet_length(p_key) > 200 then md5(p_key) else p_key end;

-- The key by which executions of a task are ordered. Inlined.
create function conductor.order_key(p_path text[], p_payload json) returns text
language sql stable parallel safe
return case when p_path is not null then conductor.short_key(conductor.lane_key(p_payload, p_path)) end;

-- A record of ours has what is asked of it in front of what was given to us.
create function conductor.careful_field(p_record json, p_name text) returns text
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
    v_found text[];
begin
    return p_record ->> p_name;
exception when data_exception or program_limit_exceeded or feature_not_supported then
    v_found := regexp_match(left(p_record::text, 1000),
        '^\{(?:"\w+"\s*:\s*(?:"[^"\\]*"|-?\d+|null)\s*,\s*)*"' || p_name || '"\s*:\s*(?:"([^"\\]*)"|(-?\d+))');
    return coalesce(v_found[1], v_found[2]);
end
$$;

-- A field of the record of a step (the end of a child, an event that came), whatever else is in it.
create function conductor.json_field(p_record json, p_name text) returns text
language sql stable parallel safe
return case when conductor.is_plain(p_record) then p_record ->> p_name
            else conductor.careful_field(p_record, p_name) end;

-- A text as an id; null where it is none.
create function conductor.as_uuid(p_text text) returns uuid
language sql immutable parallel safe
return case when p_text ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then p_text::uuid end;

-- A time that clients can hold: those of Rust know the years 1 to 9999.
create function conductor.shown(p_at timestamptz) returns timestamptz
language sql immutable parallel safe
return case when p_at > '9999-12-31 23:59:59.999999+00'::timestamptz then '9999-12-31 23:59:59.999999+00'::timestamptz
            when p_at < '0001-01-01 00:00:00+00'::timestamptz then '0001-01-01 00:00:00+00'::timestamptz
            else p_at end;

-- Both kinds of executions, for people; each with the same columns.
create view conductor.live as
select l.id, t.name as task, q.name as queue, l.state::text as state, l.priority,
       nullif(l.run_at, 'infinity') as run_at, l.created_at,
       l.claimed_at, null::timestamptz as finished_at, l.failures, l.crashes, l.claim, l.orchestrator_id,
       l.parent_id, l.retry_of, l.postponed, nullif(l.dedupe_key, '') as dedupe_key, l.trigger, l.payload,
       null::json as output, l.error, l.cancel_reason, null::json as failure
  from conductor.live_executions l
  join conductor.tasks t on t.id = l.task_id
  join conductor.queues q on q.id = case when l.queue_id <= 0 then t.queue_id else l.queue_id end;

create view conductor.finished as
select f.id, t.name as task, q.name as queue, f.state::text as state, f.priority, null::timestamptz as run_at,
       f.created_at, f.claimed_at, f.finished_at, f.failures, f.crashes, f.claim, null::bigint as orchestrator_id,
       f.parent_id, f.retry_of, false as postponed, nullif(f.dedupe_key, '') as dedupe_key, f.trigger, f.payload,
       case when f.state <> 'failed' then f.output end as output, f.error,
       case when f.state = 'cancelled' then f.error end as cancel_reason,
       case when f.state = 'failed' then f.output end as failure
  from conductor.finished_executions f
  join conductor.tasks t on t.id = f.task_id
  join conductor.queues q on q.id = f.queue_id;

create view conductor.executions as
select * from conductor.live
union all
select * from conductor.finished;

-- In plpgsql, which keeps its plan; a function in SQL is planned anew at each call.
create function conductor.now() returns timestamptz
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
    return (select clock_timestamp() + c.shift from conductor.clock c where c.only_row);
end
$$;

-- Moves the one virtual clock, for tests; running workers are told. What is past its time by it is looked for
-- at once.
create function conductor.advance_clock(p_by interval) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_shift interval;
begin
    update conductor.clock set shift = shift + p_by returning shift into v_shift;
    update conductor.chores set due_at = clock_timestamp() where name = 'prune';
    perform pg_notify('conductor', 'clock:' || floor(extract(epoch from v_shift) * 1000)::bigint);
end
$$;

-- Takes an advisory lock until the end of the transaction. Any role may hold it for any time, so whoever waits
-- is told after some seconds by whom he is kept.
create function conductor.wait_for_lock(p_key bigint, p_shared boolean, p_what text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp set lock_timeout = '10s'
as $$
declare
    v_holders text;
    v_pid integer;
begin
    if p_shared then
        perform pg_advisory_xact_lock_shared(p_key);
    else
        perform pg_advisory_xact_lock(p_key);
    end if;
exception when lock_not_available then
    select string_agg(format('process %s (role %s, application "%s")', k.pid, a.usename, a.application_name), ', '),
           min(k.pid)
      into v_holders, v_pid
      from pg_locks k
      left join pg_stat_activity a on a.pid = k.pid
     where k.locktype = 'advisory' and k.granted and k.objsubid = 1
       and k.database = (select d.oid from pg_database d where d.datname = current_database())
       and k.classid::bigint = (p_key >> 32) & 4294967295 and k.objid::bigint = p_key & 4294967295;
    raise exception '% has not been free for 10 s: %', p_what,
        coalesce(format('%s has it; if that is not to be, end it: select pg_terminate_backend(%s)', v_holders, v_pid),
                 'somebody has had it until now; try again')
        using errcode = 'lock_not_available';
end
$$;

-- A UUIDv7 (RFC 9562): milliseconds, then the fraction of the millisecond, then randomness.
create function conductor.uuid7() returns uuid
language plpgsql volatile set search_path = pg_catalog, pg_temp
as $$
declare
    v_micros bigint := floor(extract(epoch from clock_timestamp()) * 1000000)::bigint;
    v_fraction integer := ((v_micros % 1000) * 4096 / 1000)::integer;
    v_bytes bytea := uuid_send(gen_random_uuid());
begin
    v_bytes := overlay(v_bytes placing substring(int8send(v_micros / 1000) from 3) from 1 for 6);
    v_bytes := set_byte(v_bytes, 6, 112 | (v_fraction >> 8));
    v_bytes := set_byte(v_bytes, 7, v_fraction & 255);
    return encode(v_bytes, 'hex')::uuid;
end
$$;

-- The priorities in use in a queue, the highest first: one index probe each.
create function conductor.priorities(p_queue integer) returns setof integer
language plpgsql stable set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
    v_priority integer;
begin
    select l.priority into v_priority from conductor.live_executions l
     where l.queue_id = p_queue
     order by l.priority desc limit 1;
    while v_priority is not null loop
        return next v_priority;
        select l.priority into v_priority from conductor.live_executions l
         where l.queue_id = p_queue and l.priority < v_priority
         order by l.priority desc limit 1;
    end loop;
end
$$;
