-- Conductor: durable tasks on nothing but Postgres. This file has the tables of tasks, executions and
-- schedules; 002_limits.sql has those of limits, 003_events.sql those of events, 004_rows.sql those of row
-- changes.
--
-- A *task* is a function of a program. When a worker starts, it declares its tasks here, by their names
-- (tasks). To *invoke* a task is to insert one row into live_executions. From then on this *execution* runs
-- until it has an outcome, whatever crashes in between. A *worker* serves one queue in one process: it *claims*
-- executions that are due, runs their handlers, and writes the outcomes. An execution that ends moves from
-- live_executions to finished_executions. The workers of one process belong to an *orchestrator*, which has a
-- lease and renews it by heartbeats. If the lease expires, any other orchestrator gives the executions back,
-- and they are claimed again.
--
-- A handler that must wait does not occupy its worker. The execution is *suspended*, the table waits has what
-- it waits for, and later its handler runs again from the top. Each *step* that it has done is recorded in the
-- table steps, and is not done again.
--
-- docs/lifecycle.md has all states and what changes them. docs/locks.md has the order in which rows are locked.
--
-- The rules of this schema:
--
--   * Each change of state is one function: one round trip, atomic. Clients in Rust, psql, triggers and other
--     languages call the same functions.
--   * Each claim of an execution raises the number of its claim. A write for an execution names this number and
--     the orchestrator. It matches no row if the execution was claimed again or given back meanwhile (fencing).
--   * Live and finished executions are two tables, so that the length of the history slows down neither claims
--     nor vacuum. A claim changes no indexed column, and there is room for the new version of the row in the
--     same page (fillfactor), so it is a HOT update.
--   * Whether an execution is due depends on run_at alone. Delayed, sleeping and waiting executions lie behind
--     the end of the index range that claims read.
--   * The time is conductor.now(): the server's clock, which tests may shift. Leases use the clock itself,
--     because processes live in real time. So do some other columns, which are marked as real time.
--   * No plan depends on statistics. Between bursts the live tables are empty, so autovacuum notes 0 rows in
--     them, and plans are kept when the tables are full again. So hot functions plan once (force_generic_plan).
--     They read a table by an index and an array of keys ("l.id = any (p_ids)"), joined to the arrays by hash
--     (enable_nestloop = off), or row by row ("cross join lateral (select ... limit 1)"). The planner never
--     chooses the order of joins. Values of small tables are looked up by scalar subqueries.
--   * pg_notify takes a lock on the whole server, so there is no notification for each execution. A worker that
--     has nothing to do sets queues.idle. The next invoke clears the flag and notifies, once.
--
-- Messages on the channel "conductor":
--
--     queue:ID              something is due in the queue, or it was paused or resumed
--     done:EXECUTION        an execution with `watched` has ended
--     cancel:EXECUTION      a running execution was cancelled
--     clock:MILLISECONDS    a test has set the shift of the clock
--     schedules:            a schedule was made, changed or resumed
--     events:               there are events to be dispatched
--     version:MIGRATION     processes that do not know this breaking migration must end
--
-- Public functions: invoke, emit, cancel, retry, schedule, unschedule, pause_schedule, resume_schedule,
-- trigger_schedule, pause_queue, resume_queue, why_not_running. A role that may only invoke needs:
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
    -- A worker of this queue sleeps. The next invoke clears this and notifies.
    idle boolean not null default false,
    -- Nothing in this queue is claimed until it is resumed.
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
    -- When it may run: {"hours": "22:00-06:00", "days": "Mon-Fri", "timezone": "UTC"}. Null: always.
    time_window jsonb,
    -- The place in the payload of the key of which executions run one after the other. Null: they need not.
    ordered_by text[],
    -- When this window was declared, in real time. A process that is older may know another window.
    window_since timestamptz not null default clock_timestamp(),
    keep_completed interval not null default '7 days',
    keep_failed interval not null default '30 days',
    payload_schema jsonb not null default 'true',
    output_schema jsonb not null default 'true',
    declared_at timestamptz not null
);

create table conductor.orchestrators (
    number bigint generated always as identity,
    -- Made of the milliseconds of the start, because a server that has lost its latest commits (a standby took
    -- over, or a crash without synchronous commit) counts on from an older number, and must not give the id of
    -- one orchestrator to another. Below 2^53, the largest integer of JSON, until the year 2248.
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
    -- It must end, because a breaking migration of this number is to be applied.
    drain_for integer,
    started_at timestamptz not null,
    -- Real time, not conductor.now().
    lease_until timestamptz not null,
    -- The length of the lease: a lease that ends later than that from now was written by a wrong clock.
    lease interval not null default '15 s',
    -- For each queue: requests with a lower number claim nothing, because their worker has given up on them.
    fences jsonb not null default '{}'
) with (fillfactor = 50);

-- A breaking migration that waits for older processes to end. Until then no older process can start. The
-- process that waits renews this again and again, so it expires by itself if that process dies.
create table conductor.upgrade (
    only_row boolean primary key default true check (only_row),
    version integer not null,
    -- Real time, not conductor.now().
    until timestamptz not null
);

-- The chores that one process of the cluster does at a time: the first one that finds a chore due.
create table conductor.chores (
    name text primary key,
    -- Real time, not conductor.now().
    due_at timestamptz not null,
    -- How far ahead due_at may be.
    every interval not null default '1 day',
    -- How far the chore has come, if it is done in portions.
    position uuid
) with (fillfactor = 50);

insert into conductor.chores (name, due_at)
select c.name, clock_timestamp() + c.wait
  from (values ('prune', interval '1 minute'), ('orphans', '0'), ('sweep', '0'), ('times', '0')) as c(name, wait);

create table conductor.live_executions (
    id uuid primary key,
    run_at timestamptz not null,
    created_at timestamptz not null,
    claimed_at timestamptz,
    -- The orchestrator that runs it. Null unless running.
    orchestrator_id bigint,
    -- The execution that invoked this one and waits for it, and the key of that call.
    parent_id uuid,
    parent_key text,
    -- The execution that this one repeats, by conductor.retry.
    retry_of uuid,
    -- The queue of its task; or -lane if it waits for a limit; or 0 if it waits for its turn (002_limits.sql).
    -- A check and not "not null", which the planner would use to drop conditions (see live_executions_due).
    queue_id integer check (queue_id is not null),
    task_id integer not null,
    priority integer not null,
    -- The fencing token. It grows with each claim, and each time a claim is lost.
    claim integer not null default 0,
    -- The last claim that ended in a suspension.
    suspended_claim integer not null default 0,
    -- The number of records that the last suspended run used; the number of runs in a row that used nothing of
    -- what they had waited for; and a key of that. The last two are null if the last run did use it.
    met integer,
    astray integer,
    astray_key text,
    -- Attempts that failed, and attempts whose process died.
    failures integer not null default 0,
    crashes integer not null default 0,
    -- The crashes that no longer count, because the execution has suspended or recorded a step since.
    forgiven integer not null default 0,
    state conductor.execution_state not null default 'pending',
    -- A client waits for the outcome, and needs a notification.
    watched boolean not null default false,
    cancelled boolean not null default false,
    -- Not cancelled with its parent.
    detached boolean not null default false,
    -- How often in a row the end of a child resumed it although it waits for more children.
    partial_wakes integer not null default 0,
    -- The size that the payload adds to the result of a claim, which must know it without reading the payload.
    -- At most 128 MiB, so that one claim can return it beside all records of the execution; the functions that
    -- take payloads check that. Each statement that writes a payload writes this, too: a generated column and a
    -- constraint would cost each insert 12 us.
    bytes integer not null default 0,
    cancel_reason text,
    -- run_at is the opening of its task's window.
    postponed boolean not null default false,
    -- This is the execution that its dedupe_key stands for. A debounced execution releases the key when a
    -- worker claims it, so that the next call makes another one.
    holds_key boolean not null default false,
    debounced boolean not null default false,
    -- A task has at most one unstarted execution with this key. '' if it is debounced without a key.
    dedupe_key text collate "C",
    -- Executions of a task with the same order_key run one after the other (conductor.turns). Null: not
    -- ordered.
    order_key text collate "C",
    -- What started it, if it was not an invoke: {"kind": "schedule", "name": ..., "scheduled_at": ...}
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
-- The predicate is true for each row, and only a condition on queue_id implies it. So the planner cannot use
-- this index to look up ids. It would take it to be as cheap as the primary key while pg_class.reltuples is 0,
-- as it is after each vacuum that meets an idle queue, and each lookup would read the whole index.
create index live_executions_due on conductor.live_executions (queue_id, priority desc, run_at, id)
 where queue_id is not null;

-- The arbiter of dedupe keys. Executions without a key are not in it, and claims change it only for debounced
-- ones.
create unique index live_executions_key on conductor.live_executions (task_id, debounced, dedupe_key)
 where holds_key;

-- One repeat at a time.
create unique index live_executions_retry on conductor.live_executions (retry_of) where retry_of is not null;
create index live_executions_parent on conductor.live_executions (parent_id) where parent_id is not null;

-- The order of turns.
create index live_executions_order on conductor.live_executions (task_id, order_key, created_at, id)
 where order_key is not null;

-- The executions that wait for their turn: they are set aside.
create index live_executions_aside on conductor.live_executions (task_id, order_key, created_at, id) where queue_id = 0;

-- For processes that look for cancelled executions that they run.
create index live_executions_cancelled on conductor.live_executions (id) where cancelled;

-- What a claim may take, with an element for each execution in the arrays: the task, the key of its limit and its
-- size. bytes and count are of all together. is_all says that no more is due, and last is the run_at of the last.
-- limited, again and ordered say whether some have a limit, were claimed before, or have an order.
create type conductor.candidates as (
    ids uuid[], of integer[], keys text[], sizes integer[], bytes bigint, count integer, is_all boolean,
    last timestamptz, limited boolean, again boolean, ordered boolean
);

-- What a claim returns: a row for each execution, and at the end perhaps one without id.
create type conductor.claimed as (
    id uuid, task_id integer, claim integer,
    -- The number of the attempt.
    attempt integer,
    -- Null if Postgres cannot read it for the key of a limit. Then memo has the reason.
    payload text,
    -- Its records, if it was claimed before (conductor.memo).
    memo text,
    origin uuid, parent uuid, trigger text,
    -- The lanes whose slots it needs, and the milliseconds until a rate lets it start. In the row without id, the
    -- lanes in which the worker has the slots that follow.
    lanes integer[],
    slots integer[], lane_limits integer[], lane_keys text[],
    start_ms integer,
    -- Only in the row without id: the time until something is due, and where the next look begins.
    next_due_ms bigint, seen integer[], seen_from timestamptz[]
);

create table conductor.finished_executions (
    id uuid primary key,
    created_at timestamptz not null,
    -- Null if it was cancelled before any claim.
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
    -- If it failed, the code and the details of its error, if there are any.
    output json,
    error text
) with (
    -- Rows are appended, and removed at the other end. Vacuum runs in small pieces, so that the pruner does not
    -- read again what it has removed, and the space is used again.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 1
);

create index finished_executions_expiry on conductor.finished_executions (expires_at);

-- The repeats of an execution. The next repeat continues from the last one.
create index finished_executions_retry on conductor.finished_executions (retry_of, id) where retry_of is not null;

-- For people who look for what went wrong. Without completed executions, which are most of them and must not
-- cost more.
create index finished_executions_ended_badly on conductor.finished_executions (state, id)
 where state in ('failed', 'cancelled');

-- The slots of throttled invokes: the execution that the first call made, and until when no other is made.
create table conductor.throttles (
    task_id integer not null,
    -- '' if there is one slot for the whole task.
    key text collate "C" not null,
    execution_id uuid not null,
    until timestamptz not null,
    lasts interval not null,
    primary key (task_id, key)
) with (fillfactor = 80);

create index throttles_until on conductor.throttles (until);

-- Invokes that replaced the payload of an execution. If one is sent again after its connection broke, it must
-- not replace a later one. Kept for an hour.
create table conductor.replacements (
    id uuid primary key,
    execution_id uuid not null,
    -- Real time, not conductor.now().
    replaced_at timestamptz not null
);

-- One row for each failed attempt, for people who ask what happened.
create table conductor.failures (
    execution_id uuid not null,
    attempt integer not null,
    failed_at timestamptz not null,
    error text not null,
    primary key (execution_id, attempt)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1);

-- The memo: the recorded result of a step never changes. A write is fenced by its claim. The outcome of a child
-- is here, too; the end of the child writes it.
create table conductor.steps (
    execution_id uuid not null,
    key text not null,
    kind text not null,
    value json not null,
    recorded_at timestamptz not null,
    -- When the result came about, if not at recorded_at: an event was emitted, a deadline passed.
    ended_at timestamptz,
    -- For what came to a wait: the claim at that time. What came since the last suspension, no run has seen;
    -- what came earlier, the handler has received. Null if the handler has received it in any case.
    claim integer,
    -- For an event that came to a wait: its id and the time when it was emitted, because the search for the
    -- next event must not read payloads. And conductor.filter_number of the wait, as long as the execution has
    -- received everything that this filter let through earlier.
    event_id uuid,
    event_at timestamptz,
    event_filter bigint,
    -- A fingerprint of what the call was given: the payload of a child, the filter of a wait, an event. A replay
    -- compares it with its own. Null: there is nothing to compare.
    input integer,
    -- As in live_executions: the sum is what all records of an execution add to the result of a claim,
    -- including what surrounds a value there.
    bytes integer not null generated always as (octet_length(value::text) + octet_length(key) + 60) stored,
    primary key (execution_id, key)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1);

-- What an execution waits for. A sleep that is over stays until the execution ends, because it is its own
-- record. A wait for a child is removed when the outcome comes, and a wait that the handler no longer asks for
-- with the next suspension.
create table conductor.waits (
    execution_id uuid not null,
    key text not null,
    kind text not null,
    -- Waits of one group are useful only together: the execution is resumed when none of them is left.
    group_key text not null,
    -- The end of a sleep, or the deadline of a child or an event.
    wake_at timestamptz,
    child_id uuid,
    -- The name of the event, and a filter. A filter that is null takes each event of the name.
    event_name text collate "C",
    event_filter jsonb,
    -- Only events that have this number among the numbers of their fields can match. 0: any event may
    -- (conductor.filter_hash). -1: see below.
    event_hash bigint not null default 0,
    -- The field of that number. Null if there is none.
    event_path text[],
    -- The event up to which it has looked at the log, if it has not reached the end. Until then no event is
    -- delivered to it (event_hash is -1).
    seen_at timestamptz,
    seen_seq bigint,
    -- As in steps.
    input integer,
    primary key (execution_id, key)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Pending executions whose payload or records a worker could not read. They are left for a build that can, and
-- nothing is charged. A note counts as long as the execution has the claim number with which it was left, so no
-- other statement needs to touch it. Notes that no longer count are removed later.
create table conductor.unreadable (
    execution_id uuid primary key,
    task_id integer not null,
    left_claim integer not null,
    -- How often in a row it was left.
    times integer not null,
    -- When it was first due, so that it keeps its place.
    run_at timestamptz not null,
    since timestamptz not null,
    -- Real time, not conductor.now().
    noted_at timestamptz not null,
    -- The living processes that have tried, and the last one of them, for people.
    tried bigint[] not null,
    reader text not null,
    reason text not null
) with (fillfactor = 70);

create index unreadable_task on conductor.unreadable (task_id);

-- Removed executions that still have steps, failures and waits: there were too many for one portion, or they
-- were found without their execution.
create table conductor.remains (
    execution_id uuid primary key
);

-- Tasks that have moved to another queue, and the queue that they left. An invoke in a transaction that was
-- open then still names the old queue, and executions that another session had locked stay there for a while
-- (conductor.follow_moves).
create table conductor.moves (
    task_id integer not null,
    queue_id integer not null,
    -- Real time, not conductor.now().
    moved_at timestamptz not null default clock_timestamp(),
    looked_at timestamptz not null default clock_timestamp(),
    moved_by xid8 not null default pg_current_xact_id(),
    -- The position of the look in the order of claims (null if it has reached the end), and how many rows it
    -- has read.
    at_priority integer,
    at_run_at timestamptz,
    at_id uuid,
    seen bigint not null default 0,
    primary key (task_id, queue_id)
);

-- What is still to be done with executions that an open transaction had locked. A chore does it when they are
-- free (conductor.do_deferred).
create table conductor.deferred (
    execution_id uuid not null,
    -- cancel: its parent no longer waits for it. disown: its process does not know this claim, or has ended.
    -- orphan: its process has died. turn: the execution before it has ended (conductor.pass_turns).
    what text not null check (what in ('cancel', 'disown', 'orphan', 'turn')),
    claim integer not null default 0,
    primary key (execution_id, what, claim)
);

-- With a predicate that only the delivery of events states, like live_executions_due.
create index waits_event on conductor.waits (event_name, event_hash, execution_id, key) where event_name <> '';

-- functions/schedule.sql has the rules.
create table conductor.schedules (
    id bigint generated always as identity primary key,
    task_id integer not null references conductor.tasks (id),
    name text not null,
    -- Made at run time, so that no deploy removes it. Otherwise declared by code.
    dynamic boolean not null,
    -- The package and the crate that declare it: "shop/worker". Empty if it is dynamic.
    owner text not null,
    cron text not null,
    timezone text not null,
    -- The rule until planned_from, if it still owes ticks up to that time.
    former_cron text,
    former_timezone text,
    missed text not null check (missed in ('skip', 'once', 'all')),
    overlap text not null check (overlap in ('allow', 'skip')),
    -- Null if the code computes it from the tick.
    payload json,
    -- Grows with each change and each tick: a write that names an old version matches no row.
    version bigint not null default 0,
    -- The next tick. Null until a worker has computed the first one after planned_from. infinity if none will
    -- come.
    next_at timestamptz,
    planned_from timestamptz not null,
    -- The last tick that made an execution, and that execution.
    last_at timestamptz,
    last_execution uuid,
    paused boolean not null default false,
    -- Why the rule cannot be parsed. The schedule rests until it is changed.
    fault text,
    -- Newer code no longer has it. It is removed when the last process that declares it ends.
    retired boolean not null default false,
    constraint schedules_name unique (task_id, name, dynamic)
) with (fillfactor = 50);

-- Ticks of schedules that miss none and do not overlap (missed = all, overlap = skip). They wait for one
-- another, in their order: the first tick of a schedule runs, and the others are not due (run_at is infinity)
-- until those before them have ended (conductor.release_ticks). Executions of ticks that do not have to wait
-- are not here.
create table conductor.queued_ticks (
    schedule_id bigint not null,
    number bigint generated always as identity,
    execution_id uuid not null unique,
    at timestamptz not null,
    primary key (schedule_id, number)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- The execution of a task and a key that has its turn, from its first claim to its end (002_limits.sql).
create table conductor.turns (
    task_id integer not null,
    key text collate "C" not null,
    execution_id uuid not null unique,
    primary key (task_id, key)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

create index schedules_next on conductor.schedules (next_at) where not paused and fault is null;
create index schedules_retired on conductor.schedules (id) where retired;

-- All executions for people, live and finished, with the same columns.
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
