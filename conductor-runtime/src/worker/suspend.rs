use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::claim::{Claim, ClaimColumns};
use super::flush::millis;
use crate::context::{Waiting, Wake};

/// Suspensions as the arrays that travel: the executions, and the waits of all of them.
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
        }
    }

    /// Begins the waits of executions that go on; returns which claims still hold, in their order.
    pub(super) async fn write_beside(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Vec<bool>, sqlx::Error> {
        sqlx::query_scalar(
            "select conductor.wait_beside($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
                $16, $17)",
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
        .fetch_one(connection)
        .await
    }

    /// Sent twice, it matches nothing the second time.
    pub(super) async fn write(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query(
            "select conductor.suspend($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
                $17, $18, $19, $20, $21)",
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
        .execute(connection)
        .await
        .map(drop)
    }
}
