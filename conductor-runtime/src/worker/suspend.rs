use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::claim::{Claim, ClaimColumns};
use super::flush::millis;
use crate::context::{Waiting, Wake};

/// Suspensions as the columns of a statement: the executions, and the waits of all of them.
#[derive(Debug, Default)]
pub(super) struct Suspensions<'o> {
    pub(super) ids: Vec<Uuid>,
    claims: ClaimColumns,
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
    withdrawn_of: Vec<Uuid>,
    withdrawn: Vec<&'o str>,
    had_of: Vec<Uuid>,
    had: Vec<&'o str>,
    met: Vec<i32>,
    astray: Vec<Option<&'o str>>,
}

impl<'o> Suspensions<'o> {
    pub(super) fn add(&mut self, id: Uuid, claim: Claim, waiting: &'o Waiting) {
        self.ids.push(id);
        self.claims.push(claim);
        self.met
            .push(i32::try_from(waiting.met).unwrap_or(i32::MAX));
        self.astray.push(waiting.astray.as_deref());
        for key in &waiting.withdrawn {
            self.withdrawn_of.push(id);
            self.withdrawn.push(key);
        }
        for key in &waiting.had {
            self.had_of.push(id);
            self.had.push(key);
        }
        for (key, wait) in &waiting.waits {
            let (wake_ms, wake_at) = match wait.wake() {
                Some(Wake::In(duration)) => (Some(millis(duration)), None),
                Some(Wake::At(at)) => (None, Some(at)),
                None => (None, None),
            };
            let child = wait.child.as_ref();
            self.executions.push(id);
            self.keys.push(key);
            self.kinds.push(wait.kind);
            self.groups.push(&wait.group);
            self.wake_ms.push(wake_ms);
            self.wake_at.push(wake_at);
            self.children.push(child.map(|child| child.id));
            self.tasks.push(child.map(|child| child.task));
            self.payloads
                .push(child.map(|child| child.payload.as_str()));
            self.detached
                .push(child.is_some_and(|child| child.detached));
            let event = wait.event.as_ref();
            self.events.push(event.map(|event| event.name.as_ref()));
            self.filters
                .push(event.and_then(|event| event.filter.as_deref()));
            self.inputs.push(wait.input.map(|input| input.0));
        }
    }

    /// Begins the waits of executions that continue; returns which claims are still held, in their
    /// order.
    pub(super) async fn write_beside(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Vec<bool>, sqlx::Error> {
        sqlx::query_scalar(
            "select conductor.wait_beside(
                p_ids => $1, p_claims => $2, p_executions => $3, p_keys => $4, p_kinds => $5,
                p_groups => $6, p_wake_ms => $7, p_wake_at => $8, p_children => $9, p_tasks => $10,
                p_payloads => $11, p_detached => $12, p_events => $13, p_filters => $14,
                p_withdrawn_of => $15, p_withdrawn => $16, p_orchestrators => $17, p_inputs => $18)",
        )
        .bind(&self.ids)
        .bind(&self.claims.numbers)
        .bind(&self.executions)
        .bind(&self.keys)
        .bind(&self.kinds)
        .bind(&self.groups)
        .bind(&self.wake_ms)
        .bind(&self.wake_at)
        .bind(&self.children)
        .bind(&self.tasks)
        .bind(&self.payloads)
        .bind(&self.detached)
        .bind(&self.events)
        .bind(&self.filters)
        .bind(&self.withdrawn_of)
        .bind(&self.withdrawn)
        .bind(&self.claims.orchestrators)
        .bind(&self.inputs)
        .fetch_one(connection)
        .await
    }

    /// Suspends the executions. Sent a second time, it matches nothing.
    pub(super) async fn write(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query(
            "select conductor.suspend(
                p_ids => $1, p_claims => $2, p_executions => $3, p_keys => $4, p_kinds => $5,
                p_groups => $6, p_wake_ms => $7, p_wake_at => $8, p_children => $9, p_tasks => $10,
                p_payloads => $11, p_detached => $12, p_events => $13, p_filters => $14,
                p_withdrawn_of => $15, p_withdrawn => $16, p_orchestrators => $17, p_met => $18,
                p_astray => $19, p_had_of => $20, p_had => $21, p_inputs => $22)",
        )
        .bind(&self.ids)
        .bind(&self.claims.numbers)
        .bind(&self.executions)
        .bind(&self.keys)
        .bind(&self.kinds)
        .bind(&self.groups)
        .bind(&self.wake_ms)
        .bind(&self.wake_at)
        .bind(&self.children)
        .bind(&self.tasks)
        .bind(&self.payloads)
        .bind(&self.detached)
        .bind(&self.events)
        .bind(&self.filters)
        .bind(&self.withdrawn_of)
        .bind(&self.withdrawn)
        .bind(&self.claims.orchestrators)
        .bind(&self.met)
        .bind(&self.astray)
        .bind(&self.had_of)
        .bind(&self.had)
        .bind(&self.inputs)
        .execute(connection)
        .await
        .map(drop)
    }
}
