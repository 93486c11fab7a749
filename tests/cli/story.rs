//! `show`: the whole story of an execution, however odd its parts are.

use std::sync::Arc;
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Status, StepKey};
use serde_json::{Value, json};
use uuid::Uuid;

use super::program::Program;
use crate::support::{Gate, eventually, info, narrow, start_with};

const HOUR: Duration = Duration::from_secs(60 * 60);

#[task(name = "story.leaf", retry(max_attempts = 1))]
async fn story_leaf(_ctx: &TaskContext, n: i64) -> anyhow::Result<i64> {
    anyhow::ensure!(n != 107, "seven is not allowed");
    Ok(n * 2)
}

#[task(name = "story.middle")]
async fn story_middle(ctx: &TaskContext) -> anyhow::Result<i64> {
    Ok(ctx.invoke::<StoryLeaf>("leaf", StoryLeaf { n: 4 }).await?)
}

#[task(
    name = "story.whole",
    retry(max_attempts = 3, backoff = "1m..1m", jitter = 0)
)]
async fn story_whole(ctx: &TaskContext, who: String) -> anyhow::Result<u32> {
    let account = format!("account of {who}");
    ctx.step("open", || async { anyhow::Ok(account) }).await?;
    anyhow::ensure!(ctx.attempt() > 1, "the line\nis busy");
    ctx.sleep("pause", HOUR).await?;
    ctx.invoke::<StoryMiddle>("middle", ()).await?;
    let parts = (0..200).map(|n| StoryLeaf { n });
    assert!(ctx.invoke_all::<StoryLeaf>("parts", parts).await.is_err());
    Ok(ctx.attempt())
}

#[task(name = "story.far", queue = "story-far")]
async fn story_far(_ctx: &TaskContext) -> anyhow::Result<()> {
    Ok(())
}

#[task(name = "story.parent")]
async fn story_parent(ctx: &TaskContext) -> anyhow::Result<()> {
    let far = ctx.invoke::<StoryFar>("far away", ()).timeout(HOUR);
    let parts = ctx.invoke_all::<StoryFar>("many", (0..9).map(drop));
    let (far, parts) = tokio::join!(far, parts);
    far?;
    parts?;
    Ok(())
}

#[task(name = "story.gated", timeout = "30m")]
async fn story_gated(ctx: &TaskContext) -> anyhow::Result<()> {
    ctx.state::<Arc<Gate>>().pass().await;
    Ok(())
}

fn shown(program: &Program, id: Uuid) -> String {
    program.ok(&["show", &id.to_string()])
}

fn whole(program: &Program, id: Uuid) -> Value {
    serde_json::from_str(&program.ok(&["show", &id.to_string(), "--json"])).unwrap()
}

/// The lines between this section's name and the next one on its level.
fn section<'s>(story: &'s str, name: &str) -> Vec<&'s str> {
    let inside = |line: &&str| line.starts_with("│ ") || line.starts_with("  ");
    let mut lines = story.lines();
    lines.find(|line| line.trim_start_matches(['├', '└', ' ']).starts_with(name));
    lines.take_while(inside).collect()
}

#[track_caller]
fn says(lines: &[&str], texts: &[&str]) {
    let found = lines
        .iter()
        .any(|line| texts.iter().all(|text| line.contains(text)));
    assert!(found, "{texts:?} in no line of {lines:#?}");
}

#[conductor::test]
async fn a_story_is_told_from_the_invoke_to_the_end(test: TestConductor) -> anyhow::Result<()> {
    let program = Program::on(&test);
    let who = "Alice".to_owned();
    let run = test.invoke::<StoryWhole>(StoryWhole { who }).await?;
    test.drain().await?;
    let story = shown(&program, run.id());
    says(&section(&story, "attempts"), &["1  "]);
    says(&section(&story, "attempts"), &["is busy"]);
    assert!(story.contains(r#"payload  {"who":"Alice"}"#), "{story}");
    says(
        &section(&story, "steps"),
        &["step", "open", "\"account of Alice\""],
    );
    assert!(
        story.contains("waits    for its next attempt, due in "),
        "{story}"
    );
    assert!(story.contains("1 of 3 failed"), "{story}");

    test.advance(Duration::from_secs(60)).await?;
    test.drain().await?;
    let story = shown(&program, run.id());
    says(
        &section(&story, "waits"),
        &["pause", "asleep until 20", "(in "],
    );

    test.advance(HOUR).await?;
    test.drain().await?;
    let story = shown(&program, run.id());
    assert_eq!(story.lines().last(), Some("└ output   2"), "{story}");
    let steps = section(&story, "steps");
    let (open, pause, middle) = ("open", "pause  ", "middle");
    for (line, key) in steps.iter().zip([open, pause, middle, "parts[0]"]) {
        assert!(line.contains(key), "{key} in {steps:#?}");
    }
    says(&steps, &["sleep", "pause", "over"]);
    says(&steps, &["invoke", "middle", "8"]);
    says(&steps, &["parts[4]", "8"]);
    says(&steps, &["… and 195 more"]);
    assert_eq!(steps.len(), 9, "{steps:#?}");
    let children = section(&story, "children");
    // The one that did not complete comes before the others are cut.
    says(
        &children,
        &["parts[107]", "story.leaf", "failed", "seven is not allowed"],
    );
    says(&children, &["parts[3]", "completed"]);
    says(&children, &["… and 195 more: 195 completed"]);
    says(&children, &["│ │ └ leaf", "story.leaf", "completed"]);
    assert_eq!(children.len(), 8, "{children:#?}");

    let object = whole(&program, run.id());
    assert_eq!(object["output"], 2);
    assert_eq!(object["steps"].as_array().unwrap().len(), 202);
    assert_eq!(object["children"].as_array().unwrap().len(), 201);
    assert_eq!(object["steps"][0]["value"], "account of Alice");
    assert_eq!(object["waits"][0]["key"], "pause");
    assert_eq!(object["parent"], Value::Null);
    let failed = &object["children"].as_array().unwrap()[108];
    assert_eq!(
        (&failed["key"], &failed["part"]),
        (&json!("parts"), &json!(107))
    );
    assert_eq!(
        (&failed["task"], &failed["state"]),
        (&json!("story.leaf"), &json!("failed"))
    );

    let told = test.story(run.id()).await?.unwrap();
    let keys: Vec<&StepKey> = told.steps[2..].iter().map(|step| &step.key).collect();
    assert!(keys.iter().all(|key| key.name == "parts"), "{keys:?}");
    let child = Uuid::parse_str(failed["id"].as_str().unwrap())?;
    let child = shown(&program, child);
    assert!(
        child.contains(&format!("parent   story.whole {}", run.id())),
        "{child}"
    );
    assert!(test.story(Uuid::now_v7()).await?.is_none());
    Ok(())
}

#[conductor::test]
async fn a_child_that_nobody_serves_is_named(test: TestConductor) -> anyhow::Result<()> {
    let program = Program::on(&test);
    let run = test.invoke::<StoryParent>(()).await?;
    let nobody =
        "why      no living worker has the task \"story.parent\" and serves its queue \"default\"";
    assert!(shown(&program, run.id()).contains(nobody));
    let worker = test
        .orchestrator()
        .only_workers([narrow(1)])
        .allow_unserved_queues();
    let worker = worker.build()?.start().await?;
    eventually("suspended", || async {
        run.status()
            .await
            .is_ok_and(|status| status == Status::Suspended)
    })
    .await;
    let story = shown(&program, run.id());
    let waits = section(&story, "waits");
    let nobody = "for its child story.far, pending: none of the running workers has this task";
    says(
        &waits,
        &["far away", nobody, "; at most until 20", "(in 59m)"],
    );
    says(&waits, &["many[4]", nobody]);
    says(&waits, &["… and 4 more"]);
    assert!(!story.contains("and then for a worker"), "{story}");
    says(
        &section(&story, "children"),
        &["many[0]", "pending", "none of the running"],
    );
    worker.stop().await?;
    says(
        &section(&shown(&program, run.id()), "waits"),
        &["and then for a worker: none"],
    );
    Ok(())
}

#[conductor::test]
async fn a_cancelled_one_tells_why(test: TestConductor) -> anyhow::Result<()> {
    let program = Program::on(&test);
    let who = "Bob".to_owned();
    let run = test.invoke::<StoryWhole>(StoryWhole { who }).await?;
    test.drain().await?;
    test.advance(Duration::from_secs(60)).await?;
    test.drain().await?;
    assert!(test.cancel(run.id()).reason("no longer wanted").await?);
    let story = shown(&program, run.id());
    assert_eq!(
        story.lines().last(),
        Some("└ reason   no longer wanted"),
        "{story}"
    );
    says(&section(&story, "steps"), &["pause", "cut short"]);
    assert!(!story.contains("waits"), "{story}");
    let object = whole(&program, run.id());
    assert_eq!(object["cancel_reason"], "no longer wanted");
    Ok(())
}

#[conductor::test]
async fn a_running_one_tells_who_runs_it_and_whether_it_is_stuck(
    test: TestConductor,
) -> anyhow::Result<()> {
    let program = Program::on(&test);
    let gate = Gate::new();
    let worker = start_with(&test, 1, gate.clone()).await?;
    let run = test.invoke::<StoryGated>(()).await?;
    eventually("running", || async {
        info(&test, run.id()).await.unwrap().state == Status::Running
    })
    .await;
    let pid = std::process::id();
    let story = shown(&program, run.id());
    assert!(
        story.contains(&format!("runs     by process {pid}")),
        "{story}"
    );
    assert!(!story.contains("stuck?"), "{story}");
    let told = test.story(run.id()).await?.unwrap();
    let process = told.runner.unwrap().process.unwrap();
    assert!(process.lease_left.num_seconds() > 0, "{process:?}");
    test.cancel(run.id()).reason("in the way").await?;
    let story = shown(&program, run.id());
    assert!(
        story.contains("asked for, ends with this attempt: in the way"),
        "{story}"
    );
    gate.open(1);
    run.result().await.unwrap_err();
    worker.stop().await?;

    let run = test.invoke::<StoryGated>(()).await?;
    sqlx::query(
        "with dead as (
             insert into conductor.orchestrators (host, pid, queue_ids, task_ids, started_at, lease_until)
             values ('web-1', 4711, '{}', '{}', now(), clock_timestamp() - interval '20 s') returning id)
         update conductor.live_executions
            set state = 'running', claim = 1, claimed_at = conductor.now() - interval '3 h', orchestrator_id = dead.id
           from dead",
    )
    .execute(test.pool())
    .await?;
    let story = shown(&program, run.id());
    for text in [
        "by process 4711 on web-1, for 3h",
        "lease is over since 20s",
        "2h longer than its timeout of 30m",
    ] {
        assert!(story.contains(text), "{text:?} in {story}");
    }
    assert_eq!(whole(&program, run.id())["runner"]["host"], "web-1");
    sqlx::query("delete from conductor.orchestrators")
        .execute(test.pool())
        .await?;
    assert!(shown(&program, run.id()).contains("by a process that is gone"));
    Ok(())
}

#[conductor::test]
async fn a_long_story_is_cut_and_the_removed_are_named(test: TestConductor) -> anyhow::Result<()> {
    let program = Program::on(&test);
    let run = test.invoke::<StoryGated>(()).await?;
    let (parent, child) = (Uuid::now_v7(), Uuid::now_v7());
    sqlx::query("update conductor.live_executions set parent_id = $1")
        .bind(parent)
        .execute(test.pool())
        .await?;
    sqlx::query(
        "insert into conductor.steps (execution_id, key, kind, value, recorded_at)
         select $1, 'item ' || n, 'step', to_json(n), now() + n * interval '1 ms'
           from generate_series(1, 150) n
         union all
         select $1, 'child', 'invoke', json_build_object('id', $2, 'state', 'timed_out'), now() - interval '1 ms'",
    )
    .bind(run.id())
    .bind(child)
    .execute(test.pool())
    .await?;
    let story = shown(&program, run.id());
    let steps = section(&story, "steps");
    assert_eq!(steps.len(), 101, "{steps:#?}");
    assert!(
        steps[0].contains("child") && steps[0].ends_with("timed out"),
        "{steps:#?}"
    );
    assert!(steps[50].ends_with("… and 51 more"), "{steps:#?}");
    assert!(steps[100].contains("item 150 "), "{steps:#?}");
    let removed = ["child", &child.to_string(), "timed out", "removed since"];
    says(&section(&story, "children"), &removed);
    assert!(
        story.contains(&format!("parent   {parent}, removed since")),
        "{story}"
    );
    let object = whole(&program, run.id());
    assert_eq!(object["parent"]["id"], json!(parent));
    assert_eq!(object["children"][0]["state"], Value::Null);
    assert_eq!(object["children"][0]["recorded"], "timed_out");
    Ok(())
}

#[conductor::test]
async fn a_handler_that_does_not_do_the_same_is_named(test: TestConductor) -> anyhow::Result<()> {
    let program = Program::on(&test);
    let run = test.invoke::<StoryGated>(()).await?;
    assert!(!shown(&program, run.id()).contains("changed"));
    sqlx::query(
        "insert into conductor.steps (execution_id, key, kind, value, recorded_at)
         values ($1, chr(31), 'new input', '\"book 0\"', now())",
    )
    .bind(run.id())
    .execute(test.pool())
    .await?;
    let story = shown(&program, run.id());
    assert!(
        story.contains("changed  a later run called \"book 0\" with something else"),
        "{story}"
    );
    assert!(section(&story, "steps").is_empty(), "{story}");
    assert_eq!(whole(&program, run.id())["new_input"], json!("book 0"));
    Ok(())
}

#[conductor::test]
async fn hostile_keys_and_values_are_harmless(test: TestConductor) -> anyhow::Result<()> {
    let program = Program::on(&test);
    let run = test
        .invoke::<StoryWhole>(StoryWhole {
            who: "x".repeat(1 << 20),
        })
        .await?;
    let odd = "\u{1b}[31m\"quoted\"\n\u{202e}漢字\u{9b}2J\r🦀";
    let values = [
        json!(odd).to_string(),
        format!("\"\u{9b}31m{}\"", "字".repeat(1 << 18)),
        "18446744073709551616.10".to_owned(),
        "null".to_owned(),
    ];
    for (n, value) in values.iter().enumerate() {
        sqlx::query(
            "insert into conductor.steps (execution_id, key, kind, value, recorded_at)
             values ($1, $2, $3, $4::json, now())",
        )
        .bind(run.id())
        .bind(format!("{n} {odd}\u{1f}x"))
        .bind(if n == 3 { "invoke" } else { odd })
        .bind(value)
        .execute(test.pool())
        .await?;
    }
    sqlx::query(
        "insert into conductor.waits (execution_id, key, kind, group_key) values ($1, $2, $2, $2)",
    )
    .bind(run.id())
    .bind(odd)
    .execute(test.pool())
    .await?;
    sqlx::query("insert into conductor.failures values ($1, 1, now(), $2)")
        .bind(run.id())
        .bind(odd.repeat(10_000))
        .execute(test.pool())
        .await?;
    sqlx::query("update conductor.live_executions set failures = 1, error = $1")
        .bind(odd)
        .execute(test.pool())
        .await?;
    let story = shown(&program, run.id());
    let harmless = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
    assert!(story.chars().all(harmless), "{story:?}");
    assert!(
        story.lines().all(|line| line.chars().count() < 300),
        "{story}"
    );
    assert!(story.lines().count() < 100, "{story}");
    says(&section(&story, "steps"), &["18446744073709551616.10"]);
    assert!(story.contains("cut; --json shows all of it"), "{story}");

    let json = program.ok(&["show", &run.id().to_string(), "--json"]);
    assert!(json.chars().all(harmless));
    assert!(json.contains("18446744073709551616.10"));
    let object: Value = serde_json::from_str(&json)?;
    assert_eq!(object["steps"][0]["value"], odd);
    assert_eq!(
        object["steps"][1]["value"]
            .as_str()
            .unwrap()
            .chars()
            .count(),
        4 + (1 << 18)
    );
    Ok(())
}
