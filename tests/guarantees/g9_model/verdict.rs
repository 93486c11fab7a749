use std::collections::BTreeMap;

use conductor::testing::TestConductor;
use sqlx::types::Json;

use super::Listener;
use super::emitter::{END, Said, Spoken};
use super::listener::{is_noted, lets_through};

/// Compares what was said with the log, and the log with what was heard.
pub async fn check(
    test: &TestConductor,
    spoken: &[Spoken],
    listeners: &[Listener],
) -> anyhow::Result<()> {
    let log: Vec<Json<Said>> =
        sqlx::query_scalar("select payload from conductor.events where name = $1 order by seq")
            .bind(<Said as conductor::Event>::NAME)
            .fetch_all(test.pool())
            .await?;
    let log: Vec<Said> = log.into_iter().map(|Json(said)| said).collect();
    let mut wrong = whole(&log, spoken);
    for listener in listeners {
        let output: Option<String> =
            sqlx::query_scalar("select output::text from conductor.executions where id = $1")
                .bind(listener.id)
                .fetch_one(test.pool())
                .await?;
        match output.map(|output| serde_json::from_str::<Vec<i64>>(&output)) {
            Some(Ok(heard)) => wrong.extend(amiss(&log, spoken, listener, &heard)),
            other => wrong.push(format!("listener {} ended with {other:?}", listener.id)),
        }
    }
    let noted: Vec<i64> = sqlx::query_scalar(
        "select output::text::bigint from conductor.executions
          where task = 'g9-model.note' and state = 'completed' order by 1",
    )
    .fetch_all(test.pool())
    .await?;
    let mut expected: Vec<i64> = log.iter().filter(|s| is_noted(s)).map(|s| s.n).collect();
    expected.sort_unstable();
    if noted != expected {
        wrong.push(format!("noted {noted:?}, should be {expected:?}"));
    }
    anyhow::ensure!(wrong.is_empty(), "{}\nlog: {log:?}", wrong.join("\n"));
    Ok(())
}

/// The log has what was committed, once each, and what one emitter said directly in its order.
fn whole(log: &[Said], spoken: &[Spoken]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expected: Vec<&Said> = (spoken.iter())
        .filter(|spoken| spoken.over.is_some())
        .map(|spoken| &spoken.event)
        .collect();
    expected.sort_by_key(|said| said.n);
    let mut logged: Vec<&Said> = log.iter().filter(|said| said.n < END).collect();
    logged.sort_by_key(|said| said.n);
    if logged != expected {
        wrong.push(format!("the log should have {expected:?}"));
    }
    let place = |n: i64| log.iter().position(|said| said.n == n);
    let mut last = BTreeMap::new();
    for spoken in spoken.iter().filter(|spoken| spoken.direct) {
        let here = place(spoken.event.n);
        let before = last.insert(spoken.emitter, here);
        if before.is_some_and(|before| before > here) {
            wrong.push(format!("event {} has changed places", spoken.event.n));
        }
    }
    wrong
}

/// What one has heard must be a tail of what its filter lets through: from its creation to the end.
fn amiss(log: &[Said], spoken: &[Spoken], listener: &Listener, heard: &[i64]) -> Option<String> {
    let matching: Vec<i64> = log
        .iter()
        .filter(|said| lets_through(listener.kind, said))
        .map(|said| said.n)
        .collect();
    // Several events say the end; the first is the last that is heard.
    let until = matching.iter().take_while(|n| **n != END).count();
    let matching = &matching[..matching.len().min(until + 1)];
    let of = |n: &i64| spoken.iter().find(|spoken| spoken.event.n == *n);
    let told = |text: &str| {
        Some(format!(
            "kind {} {text}: {heard:?} of {matching:?}",
            listener.kind
        ))
    };
    if heard.last() != Some(&END) {
        return told("did not hear the end");
    }
    let Some(missed) = matching.strip_suffix(heard) else {
        return told("did not hear a tail of what it should");
    };
    if missed
        .iter()
        .filter_map(of)
        .any(|spoken| spoken.began > listener.made)
    {
        return told("missed one that was said after it was there");
    }
    let early =
        |spoken: &Spoken| spoken.direct && spoken.over.is_some_and(|over| over < listener.asked);
    if heard.iter().filter_map(of).any(early) {
        return told("heard one that was said before it was there");
    }
    None
}
