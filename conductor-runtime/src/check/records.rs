//! Reads what live executions have stored, as the code of this binary would read it.

use std::collections::{BTreeMap, HashMap};

use conductor_postgres::store::records::{self, Live, Stored};
use futures_util::TryStreamExt;
use serde::Deserialize;
use serde_json::value::RawValue;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Bound, Finding, Report};
use crate::context::{KINDS, NEW_INPUT};
use crate::error::Result;
use crate::registry::Registry;
use crate::task::{TaskDefinition, Trigger};
use crate::unreadable::read;
use crate::worker::converted;

/// Executions per statement.
const PORTION: i64 = 500;

/// What could not be read: for each kind the number and the first one.
#[derive(Default)]
struct Unreadable {
    payloads: BTreeMap<&'static str, (u64, Uuid, String)>,
    records: BTreeMap<(&'static str, String), (u64, Uuid, String, String)>,
    /// Executions in which a call was given something else than when it was recorded, with the call's key.
    new_inputs: BTreeMap<&'static str, (u64, Uuid, String)>,
}

pub(super) async fn look(
    registry: &Registry,
    connection: &mut PgConnection,
    bound: Bound,
    progress: &mut (dyn FnMut(u64) + Send),
    report: &mut Report,
) -> Result<()> {
    let mut unreadable = Unreadable::default();
    let mut after = Uuid::nil();
    let mut tasks: HashMap<Uuid, &'static TaskDefinition> = HashMap::new();
    loop {
        let left = bound.executions - report.executions;
        let portion = PORTION.min(i64::try_from(left).unwrap_or(i64::MAX));
        if portion == 0 || bound.is_over() {
            report.complete = records::is_last(connection, after).await?;
            break;
        }
        tasks.clear();
        let mut seen = 0;
        let mut rows = records::live(connection, after, portion);
        while let Some(live) = rows.try_next().await? {
            seen += 1;
            after = live.id;
            // Executions of other programs are read by those programs.
            if let Some(task) = registry.get(&live.task) {
                unreadable.payload(task, &live);
                tasks.insert(live.id, task);
            }
        }
        drop(rows);
        if seen == 0 {
            break;
        }
        report.executions += seen;
        report.records += unreadable.records_of(registry, connection, &tasks).await?;
        progress(report.executions);
    }
    unreadable.tell(&mut report.findings);
    Ok(())
}

impl Unreadable {
    fn payload(&mut self, task: &'static TaskDefinition, live: &Live) {
        let trigger = Trigger::read(live.trigger.as_deref());
        let error = match converted(task, &trigger, live.trigger.as_deref(), &live.payload) {
            Ok(payload) => {
                let payload = payload.as_deref().unwrap_or(&live.payload);
                task.check_payload(payload).err()
            }
            Err(error) => Some(format!("{error:#}")),
        };
        if let Some(error) = error {
            let first = self.payloads.entry(task.name);
            first.or_insert((0, live.id, error)).0 += 1;
        }
    }

    /// Reads the records and waits of these executions, and returns their number.
    async fn records_of(
        &mut self,
        registry: &Registry,
        connection: &mut PgConnection,
        tasks: &HashMap<Uuid, &'static TaskDefinition>,
    ) -> Result<u64> {
        let ids: Vec<Uuid> = tasks.keys().copied().collect();
        let mut rows = records::stored(connection, ids);
        let mut seen = 0;
        while let Some(stored) = rows.try_next().await? {
            seen += 1;
            let Some(task) = tasks.get(&stored.execution_id) else {
                continue;
            };
            if stored.kind == NEW_INPUT {
                let key = stored.value.unwrap_or_default();
                let key = serde_json::from_str(&key).unwrap_or(key);
                let first = (0, stored.execution_id, key);
                self.new_inputs.entry(task.name).or_insert(first).0 += 1;
                continue;
            }
            if let Err(error) = readable(registry, &stored) {
                let sort = (task.name, stored.kind);
                let first = (0, stored.execution_id, stored.key, error);
                self.records.entry(sort).or_insert(first).0 += 1;
            }
        }
        Ok(seen)
    }

    fn tell(self, findings: &mut Vec<Finding>) {
        let payloads = self.payloads.into_iter();
        findings.extend(
            payloads.map(|(task, (executions, execution, error))| Finding::Payload {
                task: task.to_owned(),
                executions,
                execution,
                error,
            }),
        );
        let new_inputs = self.new_inputs.into_iter();
        findings.extend(
            new_inputs.map(|(task, (executions, execution, key))| Finding::NewInput {
                task: task.to_owned(),
                executions,
                execution,
                key,
            }),
        );
        let records = self.records.into_iter();
        findings.extend(
            records.map(
                |((task, step), (records, execution, key, error))| Finding::Record {
                    task: task.to_owned(),
                    step,
                    records,
                    execution,
                    key,
                    error,
                },
            ),
        );
    }
}

/// The recorded end of a child, or a recorded event.
#[derive(Deserialize)]
struct Came<'r> {
    state: Option<&'r str>,
    #[serde(borrow)]
    output: Option<&'r RawValue>,
    event: Option<Uuid>,
    #[serde(borrow)]
    payload: Option<&'r RawValue>,
}

fn readable(registry: &Registry, stored: &Stored) -> std::result::Result<(), String> {
    if !KINDS.contains(&stored.kind.as_str()) {
        return Err("this program knows no such kind".to_owned());
    }
    let Some(value) = stored.value.as_deref() else {
        return Ok(());
    };
    match stored.kind.as_str() {
        "emit" => read::<Uuid>(value).map(drop).map_err(Into::into),
        "race" => read::<usize>(value).map(drop).map_err(Into::into),
        _ => {
            let came: Came<'_> = read(value)?;
            let json = |value: Option<&RawValue>| value.map_or("null", RawValue::get).to_owned();
            if came.state == Some("completed")
                && let Some(task) = stored.child.as_deref().and_then(|name| registry.get(name))
            {
                return task.check_output(&json(came.output));
            }
            let event = stored.event.as_deref();
            if came.event.is_some()
                && let Some(event) = event.and_then(|name| registry.get_event(name))
            {
                return (event.check)(&json(came.payload));
            }
            Ok(())
        }
    }
}
