//! The tables of these tests, and the tasks that listen to them.

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{ExecutionInfo, Filter, Registry, RowOp, Status, Trigger};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::support::run_sql;

pub const TABLES: &str = r#"
    create table users (id bigint primary key, email text not null, plan text, secret text);
    create table keyless (n integer, t text);
    create table parted (id integer not null, region text not null, v text, primary key (id, region))
        partition by list (region);
    create table parted_a partition of parted for values in ('a');
    create table parted_b partition of parted for values in ('b');
    create table children (id integer primary key, user_id bigint references users on delete cascade on update cascade);
    create schema "Odd Schema";
    create table "Odd Schema"."x""; drop table conductor.tasks; --" ("y""; drop table conductor.steps; --" text, "N n" integer);
    create table "Mixed" (id integer);
    create type mood as enum ('sad', 'ok');
    create table kinds (
        id integer primary key, j jsonb, jj json, b bytea, n numeric, at timestamptz, a integer[], m mood, f float8,
        d date, u uuid, t text);
    create table followed (id integer primary key, n integer);
    create table follows (at bigint generated always as identity, id integer, n integer);
"#;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct User {
    pub id: i64,
    pub email: String,
    pub plan: Option<String>,
}

/// Says what it was told.
#[task(
    linked = false,
    name = "rows.audit",
    on_insert("public.users"),
    on_update("public.users", columns = [email]),
    on_delete("public.users")
)]
async fn audit(ctx: &TaskContext, payload: RowChange<User>) -> anyhow::Result<String> {
    let Trigger::Row { table, op } = ctx.trigger() else {
        anyhow::bail!("started by {:?}", ctx.trigger());
    };
    assert_eq!((table.as_str(), *op), ("public.users", payload.op));
    let email = |user: &Option<User>| user.as_ref().map_or("-".to_owned(), |u| u.email.clone());
    Ok(format!(
        "{op} {} {}",
        email(&payload.old),
        email(&payload.new)
    ))
}

#[task(
    linked = false,
    name = "rows.upgraded",
    on_update("users", when = new.plan == "pro" && old.plan != new.plan, row = User)
)]
async fn upgraded(_ctx: &TaskContext, user: i64) -> anyhow::Result<i64> {
    Ok(user)
}

impl From<RowChange<User>> for Upgraded {
    fn from(change: RowChange<User>) -> Self {
        Self {
            user: change.into_row().map_or(0, |user| user.id),
        }
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct KeylessRow {
    n: i32,
    t: String,
}

#[task(linked = false, name = "rows.keyless", on_update("keyless"))]
async fn keyless(_ctx: &TaskContext, payload: RowChange<KeylessRow>) -> anyhow::Result<String> {
    let (old, new) = (payload.old.unwrap(), payload.new.unwrap());
    Ok(format!("{}{} {}{}", old.n, old.t, new.n, new.t))
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct PartedRow {
    id: i32,
    region: String,
    v: Option<String>,
}

#[task(
    linked = false,
    name = "rows.parted",
    on_insert("parted"),
    on_update("parted"),
    on_delete("parted")
)]
async fn parted(_ctx: &TaskContext, payload: RowChange<PartedRow>) -> anyhow::Result<String> {
    let side = |row: &Option<PartedRow>| {
        row.as_ref()
            .map_or("-".to_owned(), |p| format!("{}{}", p.id, p.region))
    };
    Ok(format!(
        "{} {} {}",
        payload.op,
        side(&payload.old),
        side(&payload.new)
    ))
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Child {
    user_id: Option<i64>,
}

#[task(
    linked = false,
    name = "rows.children",
    on_update("children"),
    on_delete("children")
)]
async fn children(_ctx: &TaskContext, payload: RowChange<Child>) -> anyhow::Result<String> {
    let user = |child: &Option<Child>| child.as_ref().and_then(|c| c.user_id).unwrap_or(-1);
    Ok(format!(
        "{} {} {}",
        payload.op,
        user(&payload.old),
        user(&payload.new)
    ))
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Odd {
    #[serde(rename = "y\"; drop table conductor.steps; --")]
    y: String,
    #[serde(rename = "N n")]
    n: Option<i32>,
}

#[task(
    linked = false,
    name = "rows.odd'; drop table conductor.tasks; --",
    on_insert("\"Odd Schema\".\"x\"\"; drop table conductor.tasks; --\""),
    on_update(
        "\"Odd Schema\".\"x\"\"; drop table conductor.tasks; --\"",
        columns = ["y\"; drop table conductor.steps; --"],
    ),
    marker = OddTask
)]
async fn odd(_ctx: &TaskContext, payload: RowChange<Odd>) -> anyhow::Result<String> {
    Ok(payload.into_row().unwrap().y)
}

/// Wants nothing of the row; the table was created with a capital letter.
#[task(linked = false, name = "rows.mixed", on_insert("public.Mixed"))]
async fn mixed(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Kind {
    pub id: i32,
    pub j: Option<serde_json::Value>,
    pub b: Option<String>,
    pub n: Option<f64>,
    pub at: Option<String>,
    pub a: Option<Vec<i32>>,
    pub m: Option<String>,
    pub f: Option<f64>,
    pub d: Option<String>,
    pub u: Option<String>,
}

#[task(linked = false, name = "rows.kinds", on_insert("kinds", when = m == "ok"), retry(max_attempts = 3))]
async fn kinds(_ctx: &TaskContext, payload: RowChange<Kind>) -> anyhow::Result<Kind> {
    Ok(payload.new.unwrap())
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct RawRow {
    id: i32,
    jj: Option<serde_json::Value>,
}

/// A filter on a column that filters cannot read everything of.
#[task(linked = false, name = "rows.raw", on_insert("kinds", when = id > 0))]
async fn raw(_ctx: &TaskContext, payload: RowChange<RawRow>) -> anyhow::Result<i32> {
    Ok(payload.new.unwrap().id)
}

pub(super) fn add(registry: Registry) -> Registry {
    registry
        .task::<Audit>()
        .task::<Upgraded>()
        .task::<Keyless>()
        .task::<Parted>()
        .task::<Children>()
        .task::<OddTask>()
        .task::<Mixed>()
        .task::<Kinds>()
        .task::<Raw>()
}

/// A database with the tables, and the triggers that a first start makes.
pub async fn prepared(test: &TestConductor) -> anyhow::Result<()> {
    run_sql(test, TABLES).await?;
    test.drain().await?;
    Ok(())
}

pub async fn of_task(test: &TestConductor, task: &str) -> anyhow::Result<Vec<ExecutionInfo>> {
    let filter = Filter {
        task: Some(task.to_owned()),
        ..Filter::default()
    };
    let mut found = Vec::new();
    for execution in test.list(&filter).await? {
        found.push(test.find(execution.id).await?.unwrap());
    }
    found.sort_by_key(|info| info.id);
    Ok(found)
}

/// Runs what is due; the outputs of a task's executions, in the order in which they were made.
pub async fn outputs(test: &TestConductor, task: &str) -> anyhow::Result<Vec<String>> {
    test.drain().await?;
    let mut outputs = Vec::new();
    for info in of_task(test, task).await? {
        assert_eq!(info.state, Status::Completed, "{:?}", info.error);
        let json = info.output.unwrap();
        outputs.push(json.get().trim_matches('"').to_owned());
    }
    Ok(outputs)
}

/// The triggers that are there, as `table op`.
pub async fn installed(test: &TestConductor) -> anyhow::Result<Vec<String>> {
    let triggers = test.row_triggers().await?;
    let installed = triggers.iter().filter(|trigger| trigger.installed);
    Ok(installed
        .map(|trigger| format!("{} {}", trigger.table, trigger.op))
        .collect())
}

pub const OPS: [RowOp; 3] = [RowOp::Insert, RowOp::Update, RowOp::Delete];
