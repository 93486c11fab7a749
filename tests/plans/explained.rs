//! What the server says of the statements inside of our functions: their plans, with what they have read.

use std::fmt;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// The texts of the notices that come while its guard lives.
#[derive(Clone, Default)]
struct Notices(Arc<Mutex<Vec<String>>>);

struct Message<'n>(&'n Notices);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0.0.lock().unwrap().push(format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.0.0.lock().unwrap().push(value.to_owned());
        }
    }
}

impl<S: tracing::Subscriber> Layer<S> for Notices {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "sqlx::postgres::notice" {
            event.record(&mut Message(self));
        }
    }
}

/// One read of a table in a plan.
pub struct Read {
    pub table: String,
    pub node: String,
    pub index: Option<String>,
    /// Rows that it gave or threw away.
    pub rows: f64,
    pub query: String,
}

impl fmt::Display for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            table,
            node,
            rows,
            query,
            ..
        } = self;
        let index = self.index.as_deref().unwrap_or("no index");
        write!(
            f,
            "{node} of {table} by {index} read {rows} rows in {query}"
        )
    }
}

/// What a session tells of its statements.
pub struct Explained {
    pub reads: Vec<Read>,
    /// The most that one statement of a function has read.
    pub blocks: u64,
}

/// Makes a session tell the plan of each statement; false where its role may not.
pub async fn tell_plans(session: &mut PgConnection) -> bool {
    let settings = "load 'auto_explain';
         set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
         set auto_explain.log_analyze = on; set auto_explain.log_buffers = on;
         set auto_explain.log_timing = off; set auto_explain.log_format = json;
         set auto_explain.log_level = notice; set client_min_messages = notice";
    session.execute(settings).await.is_ok()
}

/// Runs statements, and gives what they and all within them have read.
pub async fn explained(session: &mut PgConnection, sql: &str) -> anyhow::Result<Explained> {
    let work = session.execute(AssertSqlSafe(sql.to_owned()));
    let (done, explained) = told(work).await?;
    done?;
    Ok(explained)
}

/// Does something with sessions that tell their plans; its value, and what has been read.
pub async fn told<T>(work: impl Future<Output = T>) -> anyhow::Result<(T, Explained)> {
    let notices = Notices::default();
    let subscriber = tracing_subscriber::registry().with(notices.clone());
    let done = {
        let _guard = tracing::subscriber::set_default(subscriber);
        work.await
    };
    let mut explained = Explained {
        reads: Vec::new(),
        blocks: 0,
    };
    for notice in notices.0.lock().unwrap().iter() {
        let Some((_, json)) = notice.split_once("plan:\n") else {
            continue;
        };
        let plan: Value = serde_json::from_str(json)?;
        let query = plan["Query Text"].as_str().unwrap_or_default();
        explained.blocks = explained.blocks.max(blocks(&plan["Plan"]));
        walk(&plan["Plan"], query, &mut explained.reads);
    }
    Ok((done, explained))
}

fn blocks(node: &Value) -> u64 {
    ["Shared Hit Blocks", "Shared Read Blocks"]
        .iter()
        .filter_map(|name| node[*name].as_u64())
        .sum()
}

fn walk(node: &Value, query: &str, reads: &mut Vec<Read>) {
    let number = |name: &str| node[name].as_f64().unwrap_or_default();
    if let Some(table) = node["Relation Name"].as_str() {
        let thrown = number("Rows Removed by Filter") + number("Rows Removed by Index Recheck");
        reads.push(Read {
            table: table.to_owned(),
            node: node["Node Type"].as_str().unwrap_or_default().to_owned(),
            index: node["Index Name"].as_str().map(str::to_owned),
            rows: (number("Actual Rows") + thrown) * number("Actual Loops"),
            query: query.split_whitespace().collect::<Vec<_>>().join(" "),
        });
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        walk(child, query, reads);
    }
}
