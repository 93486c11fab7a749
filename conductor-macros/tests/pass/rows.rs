//! Row changes and the tasks that they start.
use conductor::__private::{TaskDefinition, inventory};
use conductor::prelude::*;

#[derive(Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct User {
    id: i64,
    email: String,
    plan: Option<String>,
    r#type: Option<String>,
    address: Address,
}

#[derive(Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Address {
    city: String,
}

const MANY: i64 = 3;

#[task(
    on_insert("public.users"),
    on_update("public.users", columns = [email, "E-Mail", r#type], when = new.plan == "pro" && old.plan != new.plan),
    on_delete("public.\"Users\"", when = id > MANY || r#type.is_none()),
    cron("@daily", payload = RowChange { op: conductor::RowOp::Insert, old: None, new: None }),
)]
async fn audit(ctx: &TaskContext, payload: RowChange<User>) -> anyhow::Result<()> {
    Ok(())
}

#[task(on_insert("users", row = User, when = new.address.city == "Berlin"))]
async fn count(ctx: &TaskContext, user: i64) -> anyhow::Result<()> {
    Ok(())
}

impl From<RowChange<User>> for Count {
    fn from(change: RowChange<User>) -> Self {
        Self {
            user: change.into_row().map_or(0, |user| user.id),
        }
    }
}

/// Wants to know that something happened, and no more.
#[task(on_delete = "users")]
async fn ping(ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

type Change = RowChange<User>;

#[task(on_insert("users"), batch(max_size = 10))]
async fn together(ctx: &BatchContext, items: Vec<Change>) -> anyhow::Result<()> {
    Ok(())
}

fn task(name: &str) -> &'static TaskDefinition {
    inventory::iter::<TaskDefinition>()
        .find(|task| task.name == name && task.place.file == file!())
        .unwrap()
}

fn filter(name: &str, index: usize) -> String {
    (task(name).row_triggers[index].filter.unwrap())().to_string()
}

#[test]
fn holds() {
    let audit = task("audit").row_triggers;
    assert_eq!(
        (audit.len(), audit[0].table, audit[1].columns),
        (3, "public.users", &["email", "E-Mail", "type"][..])
    );
    assert_eq!(
        filter("audit", 1),
        concat!(
            r#"{"of":[{"op":"eq","path":["new","plan"],"value":"pro"},"#,
            r#"{"op":"differs","other":["new","plan"],"path":["old","plan"]}],"op":"and"}"#
        )
    );
    assert_eq!(
        filter("audit", 2),
        r#"{"of":[{"op":"gt","path":["old","id"],"value":3},{"op":"null","path":["old","type"]}],"op":"or"}"#
    );
    assert_eq!(
        filter("count", 0),
        r#"{"op":"eq","path":["new","address","city"],"value":"Berlin"}"#
    );
    let change = r#"{"op":"insert","old":null,"new":{"id":7,"email":"a","plan":null,"type":null,"address":{"city":"b"}}}"#;
    assert_eq!(
        (task("count").row_triggers[0].convert)(change).unwrap(),
        r#"{"user":7}"#
    );
    let wrong =
        (task("count").row_triggers[0].convert)(r#"{"op":"insert","old":null,"new":{"id":"x"}}"#);
    assert!(wrong.unwrap_err().to_string().contains("the row as a User"));
    assert_eq!(
        (task("ping").row_triggers[0].convert)(r#"{"op":"delete","old":{},"new":null}"#).unwrap(),
        "null"
    );
    assert_eq!(task("together").row_triggers.len(), 1);
}
