-- Limits: how many executions of a task, or of one key in its payloads, run at once, or start in an interval.
-- And turns: executions of one key that run one after the other.
--
-- A *lane* is what one limit allows for one key: for the whole task, or for one tenant, for example. A worker
-- takes *slots* of a lane when it claims, runs at most that many executions of the lane at once, and returns
-- the slots that it no longer needs with a later round trip. So slots are not written for each execution: with
-- five slots and quick handlers a worker claims hundreds of executions, and in a deep backlog it keeps its
-- slots from claim to claim. Slots belong to an orchestrator, and end with its lease.
--
-- While an orchestrator lives, only its own claims change its slots, one claim at a time. So executions that
-- fit into its slots need no lock. A claim that needs more slots, parks executions or returns slots locks the
-- lane.
--
-- An execution that is due and finds its lane full is *parked*: it moves to the queue -lane, where it is not in
-- the way of others, and keeps its order there. Parked executions are claimed by workers that have slots in the
-- lane, and, once the lane's due_at has come, by any worker. The one rule: if a lane has parked executions, an
-- orchestrator has slots there, or due_at is set.
--
-- No claim waits for a lane: it leaves out lanes that another session has locked or is making. Functions that
-- do wait for lanes take them before they lock executions.
--
-- *Turns* are for tasks that are ordered by a key (tasks.ordered_by). Of the executions with one key, the first
-- that was invoked has the turn, from its first claim to its end: also during sleeps, and after failed attempts
-- and crashes. A claim sets the others of the key aside in queue 0, and the end of the one that has the turn
-- brings the next one back. Both lock the row of the turn: a claim tries, an end waits. The one rule: if
-- executions of a key wait and none has the turn, one of them is in the queue of its task, or is noted in
-- conductor.deferred. The claim that meets it gives the turn to the first of them.
--
-- If one row decides, the functions use "select true ... limit 1" and not exists, which the planner may turn
-- into a scan of everything that is parked.

set local search_path = pg_catalog, pg_temp;

-- A limit with a name is *shared*: several tasks of one queue fill the same lanes. A row without a task is the
-- limit itself: the lanes belong to it, and it has the amount that was declared last. Each task has a row that
-- points to it, and that has the place of the key in the payload of this task. (The tasks have one queue,
-- because a worker that claims from a lane must be able to run what comes first in it.)
create table conductor.limits (
    id integer generated always as identity primary key,
    task_id integer references conductor.tasks (id) on delete cascade,
    -- '' if it is not shared.
    name text collate "C" not null default '',
    shared_id integer references conductor.limits (id),
    -- Set for the shared limit itself.
    queue_id integer check ((queue_id is null) = (task_id is not null)),
    -- How many run at once, or how many start in an interval.
    kind text not null check (kind in ('concurrency', 'rate')),
    -- The place of the key in the payload. Empty for the whole task.
    path text[] not null,
    amount integer not null check (amount > 0),
    per interval check ((kind = 'rate') = (per is not null) and per > '0'),
    -- How many starts of a rate may come together after a rest.
    burst integer not null default 1 check (burst between 1 and amount and (kind = 'rate' or burst = 1)),
    constraint limits_task unique (task_id, kind, name, path),
    check (task_id is null or (shared_id is null) = (name = ''))
);

create unique index limits_shared on conductor.limits (queue_id, kind, name) where task_id is null;
create index limits_members on conductor.limits (shared_id) where shared_id is not null;

create table conductor.lanes (
    -- Starts again after the last number (conductor.number_lane), because -id is the number of a queue.
    id integer generated always as identity (cycle) primary key,
    limit_id integer not null,
    -- The task, or -limit_id of a shared limit.
    task_id integer not null,
    key text not null,
    -- The slots of each orchestrator: {"17": 5}
    holders jsonb not null default '{}',
    -- The next start at the even distances of a rate. Null if nothing has started yet. With a burst a start may
    -- come earlier, by conductor.rate_lead.
    next_at timestamptz,
    -- Something may be parked here.
    parked boolean not null default false,
    due_at timestamptz check (parked or due_at is null),
    constraint lanes_key unique (limit_id, key)
) with (fillfactor = 50);

create index lanes_due on conductor.lanes (task_id, due_at) where due_at is not null;
create index lanes_parked on conductor.lanes (task_id) where parked;
