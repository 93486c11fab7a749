//! What live executions have stored, for a check that reads all of it. Rows are streamed, so their size does not
//! matter. No function of the library is called, because roles that may only read run checks.

use futures_util::stream::BoxStream;
use sqlx::PgConnection;
use uuid::Uuid;

use super::columns::columns;

columns! {
    /// A live execution.
    pub struct Live {
        /// Its id.
        pub id: Uuid,
        /// Its task.
        pub task: String,
        /// What started it, as JSON.
        pub trigger: Option<String>,
        /// The payload as JSON.
        pub payload: String,
    }

    /// A record or a wait of an execution.
    pub struct Stored {
        /// The execution.
        pub execution_id: Uuid,
        /// The key.
        pub key: String,
        /// The kind.
        pub kind: String,
        /// The value as JSON, of those kinds that can be read without the handler; `None` for a wait.
        pub value: Option<String>,
        /// The task of the child whose end this is, if its execution still exists.
        pub child: Option<String>,
        /// The name of the event that came, if it is still in the log.
        pub event: Option<String>,
    }
}

/// Returns whether no live execution has a later id.
pub async fn is_last(connection: &mut PgConnection, id: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "select not exists (select from conductor.live_executions l where l.id > $1)",
    )
    .bind(id)
    .fetch_one(connection)
    .await
}

/// Returns the next `limit` live executions after this id, in the order of ids.
pub fn live(
    connection: &mut PgConnection,
    after: Uuid,
    limit: i64,
) -> BoxStream<'_, Result<Live, sqlx::Error>> {
    sqlx::query_as(
        "select l.id, t.name as task, l.trigger::text as trigger, l.payload::text as payload
               from conductor.live_executions l
               join conductor.tasks t on t.id = l.task_id
              where l.id > $1
              order by l.id
              limit $2",
    )
    .bind(after)
    .bind(limit)
    .fetch(connection)
}

/// Returns the records and waits of these executions, in no order.
pub fn stored(
    connection: &mut PgConnection,
    ids: Vec<Uuid>,
) -> BoxStream<'_, Result<Stored, sqlx::Error>> {
    sqlx::query_as(
            "select s.execution_id, s.key, s.kind,
                    case when s.kind in ('invoke', 'event', 'emit', 'race', 'new input') then s.value::text end as value,
                    case when s.kind = 'invoke' then
                        (select t.name from conductor.finished_executions f
                           join conductor.tasks t on t.id = f.task_id
                          where f.id = substring(s.value::text from $2)::uuid)
                    end as child,
                    case when s.kind = 'event' then
                        (select e.name from conductor.events e
                          where e.id = substring(s.value::text from $3)::uuid)
                    end as event
               from conductor.steps s
              where s.execution_id = any ($1)
             union all
             select w.execution_id, w.key, w.kind, null, null, null
               from conductor.waits w
              where w.execution_id = any ($1)",
    )
    .bind(ids)
    .bind(id_at("id"))
    .bind(id_at("event"))
    .fetch(connection)
}

/// Returns a pattern for the id at the beginning of a record. Nothing else of the record is parsed, because Postgres
/// may not be able to.
fn id_at(field: &str) -> String {
    format!(r#"^\s*\{{\s*"{field}"\s*:\s*"([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})""#)
}
