//! G9: no event is lost, each comes once, in order; emit and wait cannot miss one another.

use std::collections::BTreeSet;
use std::time::Duration;

use conductor::prelude::*;
use conductor::testing::TestConductor;
use conductor::{Error, EventDefinition, Field, Status, Trigger};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::Connection;
use uuid::Uuid;

use crate::support::{count, eventually, number, run_sql, session, start_with};

const HOUR: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Said {
    n: i64,
    to: Option<String>,
}

const N: Field<Said, i64> = Field::new(&["n"]);
const TO: Field<Said, Option<String>> = Field::new(&["to"]);

impl Event for Said {
    const NAME: &'static str = "g9.said \"it's\"; drop table conductor.events; --";
}

fn said(n: i64) -> Said {
    Said { n, to: None }
}

/// Waits for so many events of a sort; gives their numbers.
#[task(name = "g9.listen", retry(max_attempts = 1))]
async fn g9_listen(ctx: &TaskContext, times: u32, least: i64) -> anyhow::Result<Vec<i64>> {
    let mut heard = Vec::new();
    for time in 0..times {
        let event = ctx
            .wait_for_event::<Said>(format!("event {time}"))
            .when(N.ge(least))
            .await?;
        heard.push(event.n);
    }
    Ok(heard)
}

fn listen(times: u32) -> G9Listen {
    G9Listen { times, least: 0 }
}

async fn waiting(test: &TestConductor, waits: i64) {
    let sql = "select count(*) from conductor.waits w
                 join conductor.live_executions l on l.id = w.execution_id and l.state = 'suspended'
                where w.kind = 'event'";
    eventually("waits", || async { number(test, sql).await == waits }).await;
}

#[conductor::test]
async fn an_event_between_the_invoke_and_the_wait_is_seen(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.emit(said(0)).await?;
    let run = test.invoke::<G9Listen>(listen(2)).await?;
    // No worker lives yet.
    test.emit(said(1)).await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Suspended);
    // No worker lives any more.
    test.emit(said(2)).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, [1, 2]);
    Ok(())
}

#[conductor::test]
async fn an_event_wakes_who_waits(test: TestConductor) -> anyhow::Result<()> {
    let worker = start_with(&test, 4, ()).await?;
    let run = test.invoke::<G9Listen>(listen(1)).await?;
    waiting(&test, 1).await;
    test.emit(said(7)).await?;
    assert_eq!(run.result().await?, [7]);
    // Said in SQL, and dispatched by the orchestrator.
    let run = test.invoke::<G9Listen>(listen(1)).await?;
    waiting(&test, 1).await;
    sqlx::query("select conductor.emit($1, '{\"n\": 8}')")
        .bind(Said::NAME)
        .execute(test.pool())
        .await?;
    assert_eq!(run.result().await?, [8]);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn an_event_that_commits_late_is_seen_and_blocks_nobody(
    test: TestConductor,
) -> anyhow::Result<()> {
    let worker = start_with(&test, 4, ()).await?;
    let mut slow = test.pool().begin().await?;
    // Before the execution was created, but it counts from its commit on.
    test.emit(said(1)).in_transaction(&mut slow).await?;
    let run = test.invoke::<G9Listen>(listen(2)).await?;
    waiting(&test, 1).await;
    test.emit(said(2)).await?;
    eventually("the second wait", || async {
        let steps = "select count(*) from conductor.steps where kind = 'event'";
        number(&test, steps).await == 1
    })
    .await;
    slow.commit().await?;
    assert_eq!(run.result().await?, [2, 1]);

    let mut undone = test.pool().begin().await?;
    test.emit(said(3)).in_transaction(&mut undone).await?;
    undone.rollback().await?;
    let run = test.invoke::<G9Listen>(listen(1)).await?;
    test.emit(said(4)).await?;
    assert_eq!(run.result().await?, [4]);
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn one_emitted_beside_commits_is_in_the_log_at_once(
    test: TestConductor,
) -> anyhow::Result<()> {
    let others: Vec<_> = (0..3)
        .map(|_| {
            let conductor = (*test).clone();
            tokio::spawn(async move {
                loop {
                    let mut tx = conductor.pool().begin().await?;
                    conductor.emit(said(0)).in_transaction(&mut tx).await?;
                    tx.commit().await?;
                }
                #[allow(unreachable_code)]
                anyhow::Ok(())
            })
        })
        .collect();
    eventually("the others", || async {
        number(&test, "select count(*) from conductor.event_inbox").await > 0
    })
    .await;
    for n in 1..100 {
        let id = test.emit(said(n)).await?;
        let there = "select exists (select from conductor.events where id = $1)";
        let there: bool = sqlx::query_scalar(there)
            .bind(id)
            .fetch_one(test.pool())
            .await?;
        assert!(there, "event {n}");
    }
    for other in others {
        assert!(!other.is_finished());
        other.abort();
    }
    Ok(())
}

#[conductor::test]
async fn fifty_emitters_and_repeated_waits_give_each_event_once_in_order(
    test: TestConductor,
) -> anyhow::Result<()> {
    let worker = start_with(&test, 8, ()).await?;
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(test.invoke::<G9Listen>(listen(100)).await?);
    }
    let emitters = (0..50).map(|n| {
        let conductor = Conductor::from_pool(test.pool().clone());
        async move {
            conductor.emit(said(n)).await?;
            if n % 2 == 0 {
                let mut tx = conductor.pool().begin().await?;
                conductor.emit(said(n + 50)).in_transaction(&mut tx).await?;
                tx.commit().await?;
            } else {
                conductor.emit(said(n + 50)).await?;
            }
            anyhow::Ok(())
        }
    });
    let emitters: Vec<_> = emitters.map(tokio::spawn).collect();
    for emitter in emitters {
        emitter.await??;
    }
    for run in runs {
        let heard = run.result().await?;
        assert_eq!(heard.iter().collect::<BTreeSet<_>>().len(), 100);
        let log: Vec<i64> = sqlx::query_scalar(
            "select (payload->>'n')::bigint from conductor.events order by emitted_at, seq",
        )
        .fetch_all(test.pool())
        .await?;
        assert_eq!(heard, log);
        for n in 0..50 {
            let at = |n| heard.iter().position(|heard| *heard == n);
            assert!(
                at(n) < at(n + 50),
                "an emitter's events have changed places"
            );
        }
    }
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn thousands_wait_for_one_event(test: TestConductor) -> anyhow::Result<()> {
    const MANY: usize = 2000;
    let batch = test.invoke_batch::<G9Listen>((0..MANY).map(|_| listen(1)));
    batch.await?;
    test.drain().await?;
    assert_eq!(count(&test, "state = 'suspended'").await?, MANY as i64);
    // The second event comes while most have not been looked at for the first one.
    let began = std::time::Instant::now();
    test.emit(said(1)).await?;
    let emitted = began.elapsed();
    test.emit(said(2)).await?;
    test.drain().await?;
    let woken = began.elapsed();
    println!("{MANY} waiters: emit {emitted:?}, all done {woken:?}");
    assert_eq!(
        count(&test, "state = 'completed' and output::text = '[1]'").await?,
        MANY as i64
    );
    assert_eq!(
        number(&test, "select count(*) from conductor.waits").await,
        0
    );
    assert_eq!(
        number(&test, "select count(*) from conductor.event_deliveries").await,
        0
    );
    Ok(())
}

#[task(name = "g9.either", retry(max_attempts = 1))]
async fn g9_either(ctx: &TaskContext) -> anyhow::Result<String> {
    let event = ctx.wait_for_event::<Said>("wait").timeout(HOUR).await;
    // A replay must see the same.
    ctx.sleep("a while", HOUR).await?;
    Ok(match event {
        Ok(event) => format!("heard {}", event.n),
        Err(Error::NoEvent { key, .. }) => format!("nothing in {key}"),
        Err(other) => return Err(other.into()),
    })
}

#[conductor::test]
async fn a_timeout_is_an_error_and_is_recorded(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G9Either>(()).await?;
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    test.emit(said(1)).await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, "nothing in wait");

    let run = test.invoke::<G9Either>(()).await?;
    test.drain().await?;
    // In time, although nobody lived to see it.
    run_sql(
        &test,
        "select conductor.emit(name, '{\"n\": 5}') from conductor.events",
    )
    .await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, "heard 5");
    Ok(())
}

#[conductor::test]
async fn an_event_that_came_in_time_ends_a_wait_that_has_not_heard_of_it(
    test: TestConductor,
) -> anyhow::Result<()> {
    let run = test.invoke::<G9Either>(()).await?;
    let late = test.invoke::<G9Either>(()).await?;
    test.drain().await?;
    // In the log, and on its way to those who wait; that it is lost on the way stands for one that is
    // slower than the deadline.
    let publish =
        "select conductor.publish(array[conductor.uuid7()], array[w.event_name], array[$1])
                     from (select distinct event_name from conductor.waits where event_name is not null) w";
    for (by, payload) in [(HOUR / 2, r#"{"n": 6}"#), (HOUR, r#"{"n": 7}"#)] {
        test.advance(by).await?;
        sqlx::query(publish)
            .bind(payload)
            .execute(test.pool())
            .await?;
        run_sql(&test, "delete from conductor.event_deliveries").await?;
    }
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, "heard 6");
    assert_eq!(late.result().await?, "heard 6");
    let run = test.invoke::<G9Either>(()).await?;
    test.drain().await?;
    test.advance(HOUR + HOUR / 2).await?;
    sqlx::query(publish)
        .bind(r#"{"n": 8}"#)
        .execute(test.pool())
        .await?;
    run_sql(&test, "delete from conductor.event_deliveries").await?;
    test.drain().await?;
    test.advance(HOUR).await?;
    test.drain().await?;
    assert_eq!(run.result().await?, "nothing in wait");
    Ok(())
}

#[task(name = "g9.both", retry(max_attempts = 1))]
async fn g9_both(ctx: &TaskContext) -> anyhow::Result<(i64, i64, i64)> {
    let wait = |key: &str| ctx.wait_for_event::<Said>(key.to_owned());
    let (a, b, c) = tokio::try_join!(wait("a"), wait("b"), wait("c").when(TO.eq("c\"'--")))?;
    Ok((a.n, b.n, c.n))
}

#[conductor::test]
async fn branches_share_the_events(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G9Both>(()).await?;
    test.drain().await?;
    test.emit(said(1)).await?;
    test.drain().await?;
    test.emit(said(2)).await?;
    for to in ["c", "c\"'--"] {
        let to = Some(to.to_owned());
        test.emit(Said { n: 3, to }).await?;
    }
    test.drain().await?;
    assert_eq!(run.result().await?, (1, 2, 3));
    Ok(())
}

#[conductor::test]
async fn a_value_of_another_type_is_no_match_and_no_error(
    test: TestConductor,
) -> anyhow::Result<()> {
    let run = test.invoke::<G9Listen>(listen(1)).await?;
    test.drain().await?;
    for payload in [r#"{"n": "9"}"#, r#"{"n": [1]}"#, "7", "null", r#"{"n": 4}"#] {
        sqlx::query("select conductor.emit($1, $2::jsonb)")
            .bind(Said::NAME)
            .bind(payload)
            .execute(test.pool())
            .await?;
    }
    test.drain().await?;
    assert_eq!(run.result().await?, [4]);
    Ok(())
}

#[conductor::test]
async fn one_that_waits_can_be_cancelled(test: TestConductor) -> anyhow::Result<()> {
    let run = test.invoke::<G9Listen>(listen(1)).await?;
    let other = test.invoke::<G9Listen>(listen(1)).await?;
    test.drain().await?;
    assert!(test.cancel(run.id()).await?);
    test.emit(said(1)).await?;
    test.drain().await?;
    assert_eq!(run.status().await?, Status::Cancelled);
    assert_eq!(other.result().await?, [1]);
    assert_eq!(
        number(&test, "select count(*) from conductor.waits").await,
        0
    );
    Ok(())
}

#[task(name = "g9.announce", retry(max_attempts = 1))]
async fn g9_announce(ctx: &TaskContext) -> anyhow::Result<Uuid> {
    let id = ctx.emit("announce", said(11)).await?;
    ctx.sleep("a while", HOUR).await?;
    Ok(id)
}

#[conductor::test]
async fn a_replay_does_not_emit_again(test: TestConductor) -> anyhow::Result<()> {
    let listener = test.invoke::<G9Listen>(listen(1)).await?;
    let run = test.invoke::<G9Announce>(()).await?;
    test.drain().await?;
    assert_eq!(listener.result().await?, [11]);
    test.advance(HOUR).await?;
    test.drain().await?;
    let emitted: Vec<Uuid> = sqlx::query_scalar("select id from conductor.events")
        .fetch_all(test.pool())
        .await?;
    assert_eq!(emitted, [run.result().await?]);
    Ok(())
}

/// What `#[task(event(…))]` writes.
struct G9Welcome;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Welcome {
    number: i64,
}

impl From<Said> for Welcome {
    fn from(said: Said) -> Self {
        Self { number: said.n }
    }
}

impl Task for G9Welcome {
    type Payload = Welcome;
    type Output = (i64, Uuid);
    const NAME: &'static str = "g9.welcome";
}

impl conductor::__private::Handler for G9Welcome {
    async fn call(ctx: &TaskContext, payload: Welcome) -> anyhow::Result<(i64, Uuid)> {
        match ctx.trigger() {
            Trigger::Event { event_id, name, .. } if name == Said::NAME => {
                Ok((payload.number, *event_id))
            }
            other => anyhow::bail!("started by {other:?}"),
        }
    }
}

const PLACE: conductor::__private::Place = conductor::__private::Place {
    file: file!(),
    line: line!(),
};

conductor::__private::inventory::submit! {
    conductor::TaskDefinition::of::<G9Welcome>(PLACE, "conductor", module_path!()).subscriptions(&[
        conductor::SubscriptionDefinition::of::<G9Welcome, Said>()
            .when(|| N.gt(100).and(TO.eq("welcome")).to_json()),
        conductor::SubscriptionDefinition::of::<G9Welcome, Said>()
            .when(|| TO.is_in(["welcome", "all"]).to_json()),
    ])
}

conductor::__private::inventory::submit! {
    EventDefinition::of::<Said>(PLACE, "conductor").docs("Somebody says something.")
}

#[conductor::test]
async fn a_matching_event_makes_one_execution_of_a_subscribed_task(
    test: TestConductor,
) -> anyhow::Result<()> {
    test.drain().await?;
    let to = |to: &str| Some(to.to_owned());
    // Both filters let it through.
    let id = test
        .emit(Said {
            n: 101,
            to: to("welcome"),
        })
        .await?;
    test.emit(Said {
        n: 102,
        to: to("nobody"),
    })
    .await?;
    test.emit(said(103)).await?;
    let mut tx = test.pool().begin().await?;
    let second = test
        .emit(Said {
            n: 1,
            to: to("all"),
        })
        .in_transaction(&mut tx)
        .await?;
    assert_eq!(count(&test, "task = 'g9.welcome'").await?, 1);
    tx.commit().await?;
    test.drain().await?;
    let outputs: Vec<String> = sqlx::query_scalar(
        "select output::text from conductor.executions where task = 'g9.welcome' order by created_at",
    )
    .fetch_all(test.pool())
    .await?;
    assert_eq!(
        outputs,
        [format!("[101,\"{id}\"]"), format!("[1,\"{second}\"]")]
    );
    Ok(())
}

#[conductor::test]
async fn a_deploy_leaves_the_subscriptions_of_others(test: TestConductor) -> anyhow::Result<()> {
    test.drain().await?;
    run_sql(
        &test,
        "insert into conductor.subscriptions (task_id, event, n, event_version, owner)
         select t.id, 'e', o.n, 1, o.owner
           from conductor.tasks t,
                (select 7 as n, 'other/other' as owner
                  union all
                (select 8, s.owner from conductor.subscriptions s
                   join conductor.tasks k on k.id = s.task_id and k.name = 'g9.welcome'
                  limit 1)) o
          where t.name = 'g9.welcome'",
    )
    .await?;
    test.drain().await?;
    let left = "select count(*) from conductor.subscriptions where event = 'e' and n = 7";
    let gone = "select count(*) from conductor.subscriptions where event = 'e' and n = 8";
    assert_eq!(
        (number(&test, left).await, number(&test, gone).await),
        (1, 0)
    );
    assert_eq!(
        number(
            &test,
            "select count(*) from conductor.subscriptions s
               join conductor.tasks t on t.id = s.task_id and t.name like 'g9.%'"
        )
        .await,
        3
    );
    Ok(())
}

#[conductor::test]
async fn a_broken_connection_neither_loses_nor_repeats(test: TestConductor) -> anyhow::Result<()> {
    let worker = start_with(&test, 4, ()).await?;
    let run = test.invoke::<G9Listen>(listen(60)).await?;
    let mut killer = session(&test).await?;
    for n in 0..60 {
        if n % 20 == 10 {
            crate::support::kill_sessions(&mut killer).await?;
        }
        test.emit(said(n)).await?;
    }
    assert_eq!(run.result().await?, (0..60).collect::<Vec<_>>());
    killer.close().await?;
    worker.stop().await?;
    Ok(())
}

#[conductor::test]
async fn old_events_are_pruned(test: TestConductor) -> anyhow::Result<()> {
    test.emit(said(1)).await?;
    test.advance(HOUR * 24 * 6).await?;
    test.emit(said(2)).await?;
    run_sql(&test, "select conductor.prune(100)").await?;
    assert_eq!(
        number(&test, "select count(*) from conductor.events").await,
        2
    );
    test.advance(HOUR * 25).await?;
    run_sql(&test, "select conductor.prune(100)").await?;
    assert_eq!(
        number(&test, "select count(*) from conductor.events").await,
        1
    );
    Ok(())
}
