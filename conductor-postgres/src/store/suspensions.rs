//! Waits that begin, either with the suspension of their execution or beside its running step.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::claim::{Claim, ClaimColumns};
use super::columns::columns;
use crate::{Alone, Database};

/// Suspensions as the columns of a statement: the executions, and the waits of all of them.
#[derive(Debug, Default)]
pub struct Suspensions<'o> {
    /// The executions, each with its claim, the number of records that it met, and the key of a record that its code
    /// no longer asked for.
    pub ids: Vec<Uuid>,
    /// See [`ids`](Self::ids).
    pub claims: ClaimColumns,
    /// See [`ids`](Self::ids).
    pub met: Vec<i32>,
    /// See [`ids`](Self::ids).
    pub astray: Vec<Option<&'o str>>,
    /// One for each wait.
    pub waits: WaitColumns<'o>,
    /// Waits that the handler no longer has: their executions and keys.
    pub withdrawn: KeyColumns<'o>,
    /// Waits whose results the handler has had: their executions and keys.
    pub had: KeyColumns<'o>,
}

/// Keys, each of an execution.
#[derive(Debug, Default)]
pub struct KeyColumns<'o> {
    /// The executions.
    pub of: Vec<Uuid>,
    /// The keys, in the same order.
    pub keys: Vec<&'o str>,
}

impl<'o> KeyColumns<'o> {
    /// Adds a key of an execution.
    pub fn push(&mut self, of: Uuid, key: &'o str) {
        self.of.push(of);
        self.keys.push(key);
    }
}

/// One wait.
#[derive(Debug)]
pub struct NewWait<'o> {
    /// The execution that waits.
    pub execution: Uuid,
    /// Its key in the execution.
    pub key: &'o str,
    /// What is waited for: a sleep, a child, an event.
    pub kind: &'o str,
    /// Waits of one group end together.
    pub group: &'o str,
    /// After how many milliseconds it ends, if after a duration.
    pub wake_ms: Option<i64>,
    /// When it ends, if at a time.
    pub wake_at: Option<DateTime<Utc>>,
    /// The child to start, if it is one.
    pub child: Option<NewChild<'o>>,
    /// The event's name and filter, if it is one.
    pub event: Option<(&'o str, Option<&'o str>)>,
    /// The fingerprint of its input.
    pub input: Option<i32>,
}

/// A child execution that a wait starts.
#[derive(Debug)]
pub struct NewChild<'o> {
    /// Its id.
    pub id: Uuid,
    /// Its task.
    pub task: &'o str,
    /// Its payload as JSON.
    pub payload: &'o str,
    /// Whether it goes on if its parent is cancelled.
    pub detached: bool,
}

/// Waits as the columns of a statement.
#[derive(Debug, Default)]
pub struct WaitColumns<'o> {
    executions: Vec<Uuid>,
    keys: Vec<&'o str>,
    kinds: Vec<&'o str>,
    groups: Vec<&'o str>,
    wake_ms: Vec<Option<i64>>,
    wake_at: Vec<Option<DateTime<Utc>>>,
    children: Vec<Option<Uuid>>,
    tasks: Vec<Option<&'o str>>,
    payloads: Vec<Option<&'o str>>,
    detached: Vec<bool>,
    events: Vec<Option<&'o str>>,
    filters: Vec<Option<&'o str>>,
    inputs: Vec<Option<i32>>,
}

impl<'o> WaitColumns<'o> {
    /// Adds a wait.
    pub fn push(&mut self, wait: NewWait<'o>) {
        let child = wait.child.as_ref();
        self.executions.push(wait.execution);
        self.keys.push(wait.key);
        self.kinds.push(wait.kind);
        self.groups.push(wait.group);
        self.wake_ms.push(wait.wake_ms);
        self.wake_at.push(wait.wake_at);
        self.children.push(child.map(|child| child.id));
        self.tasks.push(child.map(|child| child.task));
        self.payloads.push(child.map(|child| child.payload));
        (self.detached).push(child.is_some_and(|child| child.detached));
        self.events.push(wait.event.map(|(name, _)| name));
        (self.filters).push(wait.event.and_then(|(_, filter)| filter));
        self.inputs.push(wait.input);
    }
}

/// Suspends executions. Sent a second time, it matches nothing.
pub async fn suspend(
    connection: &mut PgConnection,
    suspended: &Suspensions<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "select conductor.suspend(
            p_ids => $1, p_claims => $2, p_executions => $3, p_keys => $4, p_kinds => $5,
            p_groups => $6, p_wake_ms => $7, p_wake_at => $8, p_children => $9, p_tasks => $10,
            p_payloads => $11, p_detached => $12, p_events => $13, p_filters => $14,
            p_withdrawn_of => $15, p_withdrawn => $16, p_orchestrators => $17, p_met => $18,
            p_astray => $19, p_had_of => $20, p_had => $21, p_inputs => $22)",
    )
    .bind(&suspended.ids)
    .bind(&suspended.claims.numbers)
    .bind(&suspended.waits.executions)
    .bind(&suspended.waits.keys)
    .bind(&suspended.waits.kinds)
    .bind(&suspended.waits.groups)
    .bind(&suspended.waits.wake_ms)
    .bind(&suspended.waits.wake_at)
    .bind(&suspended.waits.children)
    .bind(&suspended.waits.tasks)
    .bind(&suspended.waits.payloads)
    .bind(&suspended.waits.detached)
    .bind(&suspended.waits.events)
    .bind(&suspended.waits.filters)
    .bind(&suspended.withdrawn.of)
    .bind(&suspended.withdrawn.keys)
    .bind(&suspended.claims.orchestrators)
    .bind(&suspended.met)
    .bind(&suspended.astray)
    .bind(&suspended.had.of)
    .bind(&suspended.had.keys)
    .bind(&suspended.waits.inputs)
    .execute(connection)
    .await
    .map(drop)
}

/// Begins the waits of executions that continue. Returns which claims are still held, in their order.
pub async fn wait_beside(
    connection: &mut PgConnection,
    begun: &Suspensions<'_>,
) -> Result<Vec<bool>, sqlx::Error> {
    sqlx::query_scalar(
        "select conductor.wait_beside(
            p_ids => $1, p_claims => $2, p_executions => $3, p_keys => $4, p_kinds => $5,
            p_groups => $6, p_wake_ms => $7, p_wake_at => $8, p_children => $9, p_tasks => $10,
            p_payloads => $11, p_detached => $12, p_events => $13, p_filters => $14,
            p_withdrawn_of => $15, p_withdrawn => $16, p_orchestrators => $17, p_inputs => $18)",
    )
    .bind(&begun.ids)
    .bind(&begun.claims.numbers)
    .bind(&begun.waits.executions)
    .bind(&begun.waits.keys)
    .bind(&begun.waits.kinds)
    .bind(&begun.waits.groups)
    .bind(&begun.waits.wake_ms)
    .bind(&begun.waits.wake_at)
    .bind(&begun.waits.children)
    .bind(&begun.waits.tasks)
    .bind(&begun.waits.payloads)
    .bind(&begun.waits.detached)
    .bind(&begun.waits.events)
    .bind(&begun.waits.filters)
    .bind(&begun.withdrawn.of)
    .bind(&begun.withdrawn.keys)
    .bind(&begun.claims.orchestrators)
    .bind(&begun.waits.inputs)
    .fetch_one(connection)
    .await
}

columns! {
    /// The state of a wait beside a running step.
    pub struct WaitState {
        /// The execution that waits.
        pub execution_id: Uuid,
        /// The key of the wait.
        pub key: String,
        /// What came, as JSON.
        pub value: Option<String>,
        /// When it came, in microseconds of the database's clock.
        pub at: Option<i64>,
        /// How long until the deadline, in milliseconds.
        pub left_ms: Option<i64>,
    }
}

/// Returns the state of these waits, whose executions run under these claims.
pub async fn look_beside(
    database: &Database,
    executions: &[(Uuid, Claim)],
    waits: &KeyColumns<'_>,
) -> Result<Vec<WaitState>, sqlx::Error> {
    let ids: Vec<Uuid> = executions.iter().map(|(id, _)| *id).collect();
    let claims: ClaimColumns = executions.iter().map(|(_, claim)| *claim).collect();
    sqlx::query_as("select * from conductor.look_beside($1, $2, $3, $4, $5)")
        .bind(&ids)
        .bind(&claims.numbers)
        .bind(&waits.of)
        .bind(&waits.keys)
        .bind(&claims.orchestrators)
        .all(database)
        .await
}
