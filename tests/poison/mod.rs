//! G22 and G4: whatever JSON is in a row, it is refused where it comes in, or ends alone.

mod claims;
mod entries;
mod events;
mod readers;
mod records;
mod sql_calls;

use std::borrow::Cow;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

/// JSON that is passed on as it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
struct Raw(Box<RawValue>);

impl JsonSchema for Raw {
    fn schema_name() -> Cow<'static, str> {
        "Raw".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
        Schema::default()
    }
}

fn raw(json: &str) -> Raw {
    Raw(RawValue::from_string(json.to_owned()).unwrap())
}

/// Other fields are not looked at.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Parcel {
    tenant: String,
}

#[task(name = "poison-keyed", concurrency(limit = 2, key = payload.tenant))]
async fn poison_keyed(_ctx: &TaskContext, payload: Parcel) -> anyhow::Result<String> {
    Ok(payload.tenant)
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Letter {
    tenant: String,
    team: String,
}

#[task(
    name = "poison-twice",
    concurrency(limit = 2, key = payload.tenant),
    rate_limit("1000/1s", key = payload.team)
)]
async fn poison_twice(_ctx: &TaskContext, payload: Letter) -> anyhow::Result<String> {
    Ok(payload.team)
}

#[task(name = "poison-whole", concurrency = 2)]
async fn poison_whole(_ctx: &TaskContext, payload: Raw) -> anyhow::Result<usize> {
    Ok(payload.0.get().len())
}

#[task(name = "poison-plain")]
async fn poison_plain(_ctx: &TaskContext, payload: Raw) -> anyhow::Result<usize> {
    Ok(payload.0.get().len())
}

#[task(name = "poison-gives", retry(max_attempts = 1))]
async fn poison_gives(_ctx: &TaskContext, json: String) -> anyhow::Result<Raw> {
    Ok(raw(&json))
}

#[task(name = "poison-parent", retry(max_attempts = 1))]
async fn poison_parent(ctx: &TaskContext, json: String) -> anyhow::Result<usize> {
    let given = ctx
        .invoke::<PoisonGives>("child", PoisonGives { json })
        .await?;
    anyhow::bail!("after its child, which gave {} bytes", given.0.get().len())
}

#[task(name = "poison-steps", retry(max_attempts = 1))]
async fn poison_steps(ctx: &TaskContext, json: String) -> anyhow::Result<usize> {
    let given: Raw = ctx
        .step("gives", || async { anyhow::Ok(raw(&json)) })
        .await?;
    Ok(given.0.get().len())
}

/// What the type json holds and its functions do not read; as SQL that gives a text.
const UNREADABLE: &[&str] = &[
    r#"'{"tenant":"a","team":"b","note":"\ud83d"}'"#,
    r#"'{"tenant":"a","team":"b","note":"\ude00\ud83d"}'"#,
    r#"'{"tenant":"\ud83d","team":"\ud83d"}'"#,
    r#"'{"tenant":"a","team":"b","no\u0000te":1}'"#,
    r#"'{"tenant":"a","team":"b","note":"\u0000' || repeat('x', 100000) || '"}'"#,
];

/// What may be read in some way, and is nothing that a program gives.
const ODD: &[&str] = &[
    r#"'{"tenant":"a","team":"b","n":' || repeat('9', 1000000) || '}'"#,
    r#"'{"tenant":"a","team":"b","n":1e400000}'"#,
    r#"'{"tenant":"a","team":"b","n":-1e-400000}'"#,
    r#"'{"tenant":"a","team":"b","n":' || repeat('[', 3000) || repeat(']', 3000) || '}'"#,
    r#"'{"tenant":"a","team":"b","tenant":"c"}'"#,
    r#"'{"tenant":"a","team":"b","' || repeat('k', 1000000) || '":1}'"#,
    r#"'{"tenant":"' || repeat('t', 1000000) || '","team":"b"}'"#,
    r#"'{"tenant":{"a":[1]},"team":null}'"#,
    r#"'{"":"","state":7,"id":{},"event":"------------------------------------","emitted_at":"never","filter":1.5}'"#,
    r#"'[[],{}]'"#,
    r#"'null'"#,
    r#"'"text"'"#,
    r#"'1e5'"#,
];

fn poisons() -> impl Iterator<Item = &'static str> {
    UNREADABLE.iter().chain(ODD).copied()
}

/// Makes the tasks known.
async fn declared(test: &TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    Ok(())
}

/// Puts a due execution into the table, past all checks.
async fn put(test: &TestConductor, task: &str, json: &str) -> anyhow::Result<Uuid> {
    let sql = format!(
        "insert into conductor.live_executions (id, run_at, created_at, queue_id, task_id, priority, payload)
         select conductor.uuid7(), '2020-01-01', '2020-01-01', t.queue_id, t.id, 5, ({json})::json
           from conductor.tasks t where t.name = $1
         returning id"
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(task)
        .fetch_one(test.pool())
        .await?)
}
