use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use conductor::testing::TestConductor;

use super::interpreter::Seen;
use super::oracle::{End, Expected, Oracle, Times};
use crate::support::number;

struct Ended {
    path: String,
    state: String,
    failures: i32,
    output: Option<String>,
    error: Option<String>,
}

type EndedRow = (String, String, i32, Option<String>, Option<String>);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = self.output.as_deref().or(self.error.as_deref());
        let told = told.unwrap_or_default();
        write!(
            f,
            "{} {} after {} failures: {told}",
            self.path, self.state, self.failures
        )
    }
}

/// What differs from the model.
pub async fn differences(
    test: &TestConductor,
    oracle: &Oracle,
    crashed: bool,
) -> anyhow::Result<Vec<String>> {
    let executions: Vec<EndedRow> = sqlx::query_as(
        "select payload ->> 'path' as path, state, failures, output::text as output, error
           from conductor.executions where task = 'model.run' order by id",
    )
    .fetch_all(test.pool())
    .await?;
    let executions = executions.into_iter();
    let executions: Vec<Ended> = executions
        .map(|(path, state, failures, output, error)| Ended {
            path,
            state,
            failures,
            output,
            error,
        })
        .collect();
    let rows: Vec<(String, i64, i64)> =
        sqlx::query_as("select name, number, trace from effects order by number")
            .fetch_all(test.pool())
            .await?;
    let mut effects: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
    for (name, number, trace) in &rows {
        effects.entry(name).or_default().push((*number, *trace));
    }

    let mut found = Vec::new();
    let mut paths = BTreeSet::new();
    for ended in &executions {
        if !paths.insert(&ended.path) {
            found.push(format!("{} was made twice", ended.path));
        }
        match oracle.executions.get(&ended.path) {
            None => found.push(format!("should not be: {ended}")),
            Some(expected) => found.extend(judged(ended, expected, oracle)?),
        }
        for (name, number) in seen(ended)?.numbers {
            let made = effects.get(name.as_str());
            if !made.is_some_and(|made| made.iter().any(|(n, _)| *n == number)) {
                found.push(format!("{} has {number} of {name}, not made", ended.path));
            }
        }
    }
    for (path, expected) in &oracle.executions {
        if expected.certain && !paths.contains(path) {
            found.push(format!("never was: {path}, {expected:?}"));
        }
    }
    for (name, expected) in &oracle.effects {
        let times = effects.get(name.as_str()).map_or(0, Vec::len);
        if !allowed(expected, times, crashed) {
            found.push(format!("{name} happened {times} times: {expected:?}"));
        }
    }
    for (name, made) in &effects {
        if !oracle.effects.contains_key(*name) {
            found.push(format!("{name} should not happen"));
        }
        if made.iter().any(|(_, trace)| *trace != made[0].1) {
            found.push(format!("before {name}, a replay saw something else"));
        }
    }
    for (what, query) in [
        ("alive", "select count(*) from conductor.live_executions"),
        (
            "children awaited",
            "select count(*) from conductor.waits where child_id is not null",
        ),
        (
            "waits of nobody",
            "select count(*) from conductor.waits w where not exists
                (select from conductor.finished_executions f where f.id = w.execution_id)",
        ),
        (
            "changes of a final state",
            "select count(*) from violations",
        ),
    ] {
        let left = number(test, query).await;
        if left > 0 {
            found.push(format!("{what}: {left}"));
        }
    }
    Ok(found)
}

fn seen(ended: &Ended) -> anyhow::Result<Seen> {
    let output = ended.output.as_deref();
    Ok(output.map_or(Ok(Seen::default()), serde_json::from_str)?)
}

fn judged(
    ended: &Ended,
    expected: &Expected<Option<End>>,
    oracle: &Oracle,
) -> anyhow::Result<Option<String>> {
    let failures = ended.failures.unsigned_abs();
    let end = match ended.state.as_str() {
        "completed" => End::Completed {
            value: seen(ended)?.value,
            failures,
        },
        "failed" => End::Failed { failures },
        "cancelled" => End::Cancelled,
        _ => return Ok(Some(format!("has not ended: {ended}"))),
    };
    let shielded = oracle
        .detached
        .iter()
        .any(|path| ended.path.starts_with(path.as_str()));
    let cancelled_from_above = !expected.certain && !shielded && end == End::Cancelled;
    let right = cancelled_from_above || expected.what.is_none_or(|what| what == end);
    Ok((!right).then(|| format!("{ended}, but {expected:?}")))
}

fn allowed(expected: &Expected<Times>, times: usize, crashed: bool) -> bool {
    let enough = times > 0 || !expected.certain;
    let too_many = match expected.what {
        Times::Once => times > 1,
        Times::OnceUnlessCrashed => times > 1 && !crashed,
        Times::Some => false,
    };
    enough && !too_many
}
